package wire

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

// Reasons for closing a connection that are not faults.
var (
	// ErrPeerClosed: the client closed the connection.
	ErrPeerClosed = errors.New("closed by peer")
	// ErrIdle: no request for the idle timeout.
	ErrIdle = errors.New("idle")
	// ErrServerClosed: the server is shutting down.
	ErrServerClosed = errors.New("server closed")
)

// Conn is one client connection. The exported fields are set before the first
// request, or by the handler on the reading goroutine (authentication).
type Conn struct {
	ID         uint64
	Principal  string // "User:ANONYMOUS" until authentication says otherwise
	Listener   string
	RemoteAddr string
	Internal   bool           // accepted on the internal listener
	Peer       model.BrokerID // internal only, after hello; NoBroker before
	Session    any            // owned by the handler

	srv  *Server
	nc   net.Conn
	done chan struct{} // closed once the connection is dead

	loops         atomic.Int32 // of readLoop and writeLoop, those that have ended
	authenticated atomic.Bool
	used          atomic.Bool // a request other than ApiVersions was read
	software      atomic.Pointer[[2]string]
	finish        atomic.Pointer[error] // why Finish was called

	lastClientID string // reader only: the usual client id, to share its string
	largest      int    // reader only: the largest frame received whole

	wakeWriter chan struct{} // capacity 1
	wakeReader chan struct{} // capacity 1

	mu sync.Mutex
	// head…tail are the unanswered or unsent requests in order of arrival.
	// Answers leave in this order only.
	head, tail *Request
	inFlight   int
	// held is the memory of requests in flight: bodies and queued responses.
	held     int64
	readDone bool // the reader has ended; the writer drains and closes
	dead     bool
	reason   error
}

// SetAuthenticated lifts the frame limit for unauthenticated peers.
func (c *Conn) SetAuthenticated() { c.authenticated.Store(true) }

// SetSoftware keeps what ApiVersions told about the client (KIP-511).
func (c *Conn) SetSoftware(name, version string) { c.software.Store(&[2]string{name, version}) }

// Software returns the client's name and version, "" if unknown.
func (c *Conn) Software() (name, version string) {
	if s := c.software.Load(); s != nil {
		return s[0], s[1]
	}
	return "", ""
}

// Done is closed when the connection is dead.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Close closes the connection; reason goes to Options.OnClose.
func (c *Conn) Close(reason error) { c.kill(reason) }

// Reason returns why the connection closed, nil while it is open.
func (c *Conn) Reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// loopEnded forgets the connection once neither loop can touch it: a handler
// that authenticates on the reader may outlast the writer of a connection that
// was cut meanwhile.
func (c *Conn) loopEnded() {
	if c.loops.Add(1) == 2 {
		c.srv.forget(c)
	}
	c.srv.wg.Done()
}

// enqueue gives the request its place in the order of answers.
func (c *Conn) enqueue(r *Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tail == nil {
		c.head = r
	} else {
		c.tail.next = r
	}
	c.tail = r
	c.inFlight++
	c.held += r.bodyLen
}

// answer makes r's response ready, or drops it when the connection is dead.
func (c *Conn) answer(r *Request, parts []Part, size int64) {
	c.mu.Lock()
	r.parts, r.size = parts, size
	if c.dead {
		c.mu.Unlock()
		r.drop(c.srv.o.Budget)
		return
	}
	r.ready = true
	c.held += size
	isHead := c.head == r
	c.mu.Unlock()
	if isHead {
		wake(c.wakeWriter)
	}
}

// kill ends the connection: first reason wins. Answers that are ready are
// dropped here, those still to come when they come.
func (c *Conn) kill(reason error) {
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return
	}
	c.dead, c.reason = true, reason
	queue := c.head
	c.head, c.tail = nil, nil
	var ready *Request // unlink under the lock: an unready one may be dropped at any time after it
	for r := queue; r != nil; {
		next := r.next
		r.next = nil
		if r.ready {
			r.next, ready = ready, r
		}
		r = next
	}
	c.mu.Unlock()
	close(c.done)
	_ = c.nc.Close() // the reason to close is known; a second error adds nothing
	for ready != nil {
		next := ready.next
		ready.drop(c.srv.o.Budget)
		ready = next
	}
}

// drain ends reading; what is in flight is still answered.
func (c *Conn) drain() {
	_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
}

// waitCapacity blocks while the connection has as much in flight as it may.
// It reports false when the connection died or the server drains.
func (c *Conn) waitCapacity() bool {
	o := &c.srv.o
	for {
		c.mu.Lock()
		dead := c.dead
		full := c.inFlight >= o.MaxInFlight || (c.inFlight > 0 && c.held >= o.MaxInFlightBytes)
		c.mu.Unlock()
		if dead {
			return false
		}
		if !full {
			return true
		}
		select {
		case <-c.wakeReader:
		case <-c.done:
		case <-c.srv.draining:
			return false // full, so what it waits for are answers
		}
	}
}

// draining reports that nothing more is read from the connection. A connection
// that has not been used yet is read for Options.DrainGrace longer.
func (c *Conn) draining() bool {
	return c.finish.Load() != nil || c.srv.isDraining() && (c.used.Load() || c.srv.graceOver.Load())
}

func (c *Conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight == 0
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Finish stops reading and closes the connection for the given reason once
// everything in flight has been answered.
func (c *Conn) Finish(reason error) {
	c.finish.CompareAndSwap(nil, &reason)
	c.drain()
}

// Ordinary reports that a connection's reason to close is no fault: the client
// left, was idle, or the server stops.
func Ordinary(reason error) bool {
	return errors.Is(reason, ErrPeerClosed) || errors.Is(reason, ErrIdle) || errors.Is(reason, ErrServerClosed) ||
		errors.Is(reason, syscall.ECONNRESET) || errors.Is(reason, syscall.EPIPE)
}
