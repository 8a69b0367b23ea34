// Package wire serves length-framed Kafka requests on a connection: limits
// before allocation, pipelining with ordered responses, back-pressure, and
// zero-copy responses.
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

// Part is a piece of a response body: Bytes, or Payload when not nil.
type Part struct {
	Bytes   []byte
	Payload Payload
}

// Handler serves requests. It is called on the connection's reading goroutine,
// one request at a time in order of arrival, and must not block: work that
// waits keeps the Request and answers later. Exactly one of Reply, NoReply or
// Close is called on each request.
type Handler interface{ Serve(r *Request) }

// Request is one request. Body is valid until the request is answered.
//
//	Key, Version, CorrelationID, ClientID  from the header
//	Body                                   what follows the header
//	Conn                                   its connection
type Request struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      string
	Body          []byte
	Conn          *Conn
	pending       // reply slot; owned by the server
}

// Methods provided by the server implementation:
//
//	func (r *Request) Reply(parts ...Part)   // response body after the response header; header is the server's work
//	func (r *Request) NoReply()              // acks=0
//	func (r *Request) Close(reason error)    // close the connection with a logged reason
//	func (r *Request) Done() <-chan struct{} // closed when the connection is gone: give up parked work, then NoReply
//
// Conn carries what authentication and ApiVersions learned:
//
//	Principal, Listener, RemoteAddr string; Internal bool; Peer model.BrokerID (internal only)
//	SetSoftware(name, version string); Software() (name, version string)
//	Session any // handler-owned per-connection state
