package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"
)

// pending is a request's place in its connection's queue of answers.
type pending struct {
	// answered flips once: the first of Reply, NoReply and Close wins, so a
	// second answer can never reach another request's slot.
	answered atomic.Bool
	// The rest is guarded by Conn.mu until the writer takes the request.
	ready    bool
	silent   bool
	flexible bool
	parts    []Part
	size     int64 // of the response frame, without the length field
	body     *buffer
	bodyLen  int64 // of the frame, for Conn.held
	charge   int64 // taken from the memory budget
	next     *Request
	header   [9]byte // length, correlation id, empty tag section
}

// Reply answers the request. Parts are the response body; the header is the
// server's work. Payloads are released exactly once, also when the connection
// is gone. A second answer to the same request is dropped.
func (r *Request) Reply(parts ...Part) {
	if !r.answered.CompareAndSwap(false, true) {
		releaseParts(parts)
		return
	}
	size := int64(r.headerLen() - 4)
	for _, p := range parts {
		size += p.size()
	}
	if size > math.MaxInt32 {
		releaseParts(parts)
		r.abandon(fmt.Errorf("response of %d bytes to key %d exceeds the frame format", size, r.Key))
		return
	}
	r.Conn.answer(r, parts, size)
}

// NoReply ends a request that has no response (produce with acks=0), or one
// whose connection is gone.
func (r *Request) NoReply() {
	if r.answered.CompareAndSwap(false, true) {
		r.silent = true
		r.Conn.answer(r, nil, 0)
	}
}

// Close ends the request by closing its connection for the given reason, for
// input that the protocol has no error code for.
func (r *Request) Close(reason error) {
	if r.answered.CompareAndSwap(false, true) {
		r.abandon(reason)
	}
}

// Done is closed when the connection is gone: give up parked work, then call
// NoReply.
func (r *Request) Done() <-chan struct{} { return r.Conn.done }

func (r *Request) abandon(reason error) {
	r.silent = true
	r.Conn.kill(reason)
	r.Conn.answer(r, nil, 0)
}

// headerLen is the length of the response header with the length field.
// ApiVersions never has a tag section there: a client that does not know the
// broker's version yet must be able to read it (KIP-511).
func (r *Request) headerLen() int {
	if r.flexible && r.Key != apiVersionsKey {
		return 9
	}
	return 8
}

// encodeHeader fills and returns the response header.
func (r *Request) encodeHeader() []byte {
	h := r.header[:r.headerLen()]
	binary.BigEndian.PutUint32(h, uint32(r.size))
	binary.BigEndian.PutUint32(h[4:], uint32(r.CorrelationID))
	return h
}

// drop gives back everything that the request holds.
func (r *Request) drop(b *Budget) {
	releaseParts(r.parts)
	r.parts = nil
	r.Body = nil
	r.body.free()
	r.body = nil
	b.release(r.charge)
	r.charge = 0
}

func releaseParts(parts []Part) {
	for i := range parts {
		if p := parts[i].Payload; p != nil {
			parts[i].Payload = nil
			p.Release()
		}
	}
}
