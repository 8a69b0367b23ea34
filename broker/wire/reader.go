package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"time"
)

const (
	readBufferBytes = 4 << 10
	// firstChunkBytes is what a body may take before any of it arrived.
	firstChunkBytes = 16 << 10
	// growFactor: memory for a body is at most this many times what arrived,
	// or what the connection delivered before, up to maxTrustBytes.
	growFactor    = 4
	maxTrustBytes = 4 << 20
	// minReadRate is the slowest acceptable sender of a large body, bytes per
	// second, on top of FrameTimeout.
	minReadRate = 256 << 10
)

// PanicError is the reason of a connection whose handler panicked.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("handler panicked: %v", e.Value) }

// readLoop reads and serves requests until the connection ends.
func (c *Conn) readLoop() {
	defer c.loopEnded()
	err := c.serveRequests()
	if err != nil {
		c.kill(err)
	}
	c.mu.Lock()
	c.readDone = true
	c.mu.Unlock()
	wake(c.wakeWriter)
}

// serveRequests returns nil when the connection drains, otherwise why the
// connection must close.
func (c *Conn) serveRequests() error {
	br := bufio.NewReaderSize(c.nc, readBufferBytes)
	for !c.draining() {
		if !c.waitCapacity() {
			return nil
		}
		n, err := c.readLength(br)
		if err != nil {
			return c.unlessDraining(err)
		}
		r := &Request{Conn: c}
		if err := c.readRequest(br, n, r); err != nil {
			r.drop(c.srv.o.Budget)
			return c.unlessDraining(err)
		}
		if r.Key != apiVersionsKey {
			c.used.Store(true)
		}
		c.enqueue(r)
		c.srv.requests.Add(1)
		c.srv.bytesIn.Add(int64(n) + 4)
		if err := c.dispatch(r); err != nil {
			return err
		}
	}
	return nil
}

// unlessDraining ignores what ended reading once the connection drains: what is
// in flight is still answered.
func (c *Conn) unlessDraining(err error) error {
	if c.draining() {
		return nil
	}
	return err
}

// dispatch calls the handler; a panic costs this connection only.
func (c *Conn) dispatch(r *Request) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, debug.Stack()}
			r.Close(err)
		}
	}()
	c.srv.h.Serve(r)
	return nil
}

// readLength waits for a frame and returns its checked length.
func (c *Conn) readLength(br *bufio.Reader) (int, error) {
	for {
		if br.Buffered() < 4 {
			c.setReadDeadline(c.idleTimeout())
		}
		b, err := br.Peek(4)
		if err == nil {
			n := int32(binary.BigEndian.Uint32(b))
			if err := c.checkLength(n, b); err != nil {
				return 0, err
			}
			_, err = br.Discard(4)
			return int(n), err
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !c.draining() && len(b) == 0:
			if c.idle() {
				return 0, ErrIdle
			}
		case errors.Is(err, io.EOF) && len(b) == 0:
			return 0, ErrPeerClosed
		default:
			return 0, readError(err, "request length")
		}
	}
}

func (c *Conn) idleTimeout() time.Duration {
	o := &c.srv.o
	if o.RequireAuth && !c.authenticated.Load() {
		return min(o.IdleTimeout, o.UnauthenticatedTimeout)
	}
	return o.IdleTimeout
}

// checkLength bounds an announced length before it sizes anything, and
// recognises peers that speak another protocol.
func (c *Conn) checkLength(n int32, b []byte) error {
	o := &c.srv.o
	limit := o.MaxRequestBytes
	if o.RequireAuth && !c.authenticated.Load() {
		limit = min(limit, o.MaxUnauthenticatedBytes)
	}
	switch {
	case n >= minRequestBytes && n <= limit:
		return nil
	case b[0] == 0x16 && b[1] == 0x03:
		return errors.New("the peer speaks TLS on a plaintext Kafka port")
	case looksLikeHTTP(string(b)):
		return errors.New("the peer speaks HTTP on the Kafka port")
	case n < minRequestBytes:
		return fmt.Errorf("announced request length %d is below the smallest header", n)
	default:
		return fmt.Errorf("announced request length %d exceeds the limit of %d bytes", n, limit)
	}
}

// minRequestBytes is the shortest header: key, version, correlation id and a
// null client id.
const minRequestBytes = 10

func looksLikeHTTP(s string) bool {
	switch s {
	case "GET ", "POST", "HEAD", "PUT ", "OPTI", "DELE", "CONN", "PATC", "TRAC", "PRI ":
		return true
	}
	return false
}

// readRequest receives a frame of n bytes into r.
func (c *Conn) readRequest(br *bufio.Reader, n int, r *Request) error {
	if err := c.readBody(br, n, r); err != nil {
		return readError(err, "request body")
	}
	c.largest = min(max(c.largest, n), maxTrustBytes)
	r.bodyLen = int64(n)
	id, err := parseHeader(r.body.b[:n], c.srv.o.Flexible, r)
	if err != nil {
		return err
	}
	if string(id) != c.lastClientID { // compares without allocating
		c.lastClientID = string(id)
	}
	r.ClientID = c.lastClientID
	return nil
}

// readBody receives n bytes. Memory, and the charge to the budget, follow what
// arrives: a peer that announces much and sends little holds next to nothing.
func (c *Conn) readBody(br *bufio.Reader, n int, r *Request) error {
	have := min(n, firstChunkBytes)
	r.body = newBuffer(have)
	if err := c.readChunk(br, r.body.b[:have]); err != nil {
		return err
	}
	for have < n {
		size := min(n, max(have*growFactor, c.largest))
		// The wait is bounded: bodies that are each half received would
		// otherwise wait for each other's memory.
		if err := c.charge(r, size, c.srv.o.FrameTimeout); err != nil {
			return err
		}
		grown := newBuffer(size)
		copy(grown.b, r.body.b[:have])
		r.body.free()
		r.body = grown
		if err := c.readChunk(br, grown.b[have:size]); err != nil {
			return err
		}
		have = size
	}
	return c.charge(r, n, 0) // holds only what is complete: may wait as long as it takes
}

// charge brings what r takes from the budget up to size bytes.
func (c *Conn) charge(r *Request, size int, wait time.Duration) error {
	n, err := c.srv.o.Budget.acquire(r.charge, int64(size), c.done, wait)
	r.charge += n
	return err
}

func (c *Conn) readChunk(br *bufio.Reader, b []byte) error {
	if br.Buffered() < len(b) {
		c.setReadDeadline(c.srv.o.FrameTimeout + time.Duration(len(b))*time.Second/minReadRate)
	}
	_, err := io.ReadFull(br, b)
	return err
}

// setReadDeadline arms the deadline, unless the connection drains: that
// deadline lies in the past and must stay there.
func (c *Conn) setReadDeadline(d time.Duration) {
	_ = c.nc.SetReadDeadline(time.Now().Add(d)) // fails only on a closed connection: the read says so
	if c.draining() {
		c.drain()
	}
}

func readError(err error, what string) error {
	switch {
	case errors.Is(err, errNoMemory):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("timed out in the middle of a %s", what)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("closed by peer in the middle of a %s", what)
	case errors.Is(err, net.ErrClosed):
		return ErrServerClosed
	}
	return fmt.Errorf("reading a %s: %w", what, err)
}
