// Package wire serves length-framed Kafka requests on a connection: limits
// before allocation, pipelining with ordered responses, back-pressure, and
// zero-copy responses.
//
// A connection is two goroutines. The reader parses frames and calls the
// Handler in order of arrival; the writer sends answers in that same order,
// whenever they come. A request that waits does not delay the handling of those
// behind it, only their answers, as the protocol demands.
package wire

import "io"

// Payload is a run of bytes that is sent without copying where the connection
// allows it. *segment.Range is one.
type Payload interface {
	Len() int64
	// WriteTo writes exactly Len bytes to w or fails.
	WriteTo(w io.Writer) (int64, error)
	// Release unpins it; called exactly once, also when it was not sent.
	Release()
}

// Part is a piece of a response body: Bytes, or Payload when not nil. Bytes
// belong to the server from Reply until the response has been written.
type Part struct {
	Bytes   []byte
	Payload Payload
}

func (p Part) size() int64 {
	if p.Payload != nil {
		return p.Payload.Len()
	}
	return int64(len(p.Bytes))
}

// Handler serves requests. It is called on the connection's reading goroutine,
// one request at a time in order of arrival, and must not block: work that
// waits keeps the Request and answers later. Exactly one of Reply, NoReply or
// Close is called on each request.
type Handler interface{ Serve(r *Request) }

// HandlerFunc is a function as a Handler.
type HandlerFunc func(r *Request)

// Serve implements Handler.
func (f HandlerFunc) Serve(r *Request) { f(r) }

// Request is one request. Body is valid until the request is answered; what
// outlives the answer must be copied.
type Request struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      string // "" when null; not sanitised
	Body          []byte // what follows the header
	Conn          *Conn
	pending       // reply slot; owned by the server
}
