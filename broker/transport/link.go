package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tailrace/tailrace/broker/wire"
)

// answer is a response, or why there is none.
type answer struct {
	body []byte
	buf  wire.Buffer
	err  error
}

func (a *answer) release() { a.buf.Free() }

// outgoing is a request on its way to the writer.
type outgoing struct {
	header []byte
	body   [][]byte
	size   int64
}

// link keeps one connection to a peer open while there is demand for it.
//
// Requests wait in queue, which survives reconnection only for requests made
// while no connection was up: those in flight when a connection breaks fail.
type link struct {
	p      *Peers
	key    linkKey
	ctx    context.Context
	cancel context.CancelFunc
	queue  chan outgoing
	demand chan struct{} // capacity 1: someone wants the connection

	queuedBytes atomic.Int64

	mu sync.Mutex
	// pending are calls that wait for an answer, by correlation id.
	pending map[int32]pendingCall
	next    int32
	live    net.Conn // nil: none
	// down is why there is no connection; nil while connected, connecting or
	// about to.
	down error
}

type pendingCall struct {
	ch       chan answer // capacity 1; nil: the answer is dropped
	flexible bool
}

func newLink(p *Peers, k linkKey) *link {
	ctx, cancel := context.WithCancel(p.ctx)
	return &link{
		p: p, key: k, ctx: ctx, cancel: cancel,
		queue:   make(chan outgoing, p.o.QueueRequests),
		demand:  make(chan struct{}, 1),
		pending: make(map[int32]pendingCall),
	}
}

// call sends a request and waits for the answer.
func (l *link) call(ctx context.Context, key, version int16, body [][]byte) (answer, error) {
	ch := make(chan answer, 1)
	corr, flexible, err := l.register(ch, key, version)
	if err != nil {
		l.want() // for the next call
		return answer{}, err
	}
	if !l.enqueue(encodeRequest(key, version, corr, flexible, body)) {
		l.unregister(corr, ch)
		return answer{}, ErrQueueFull
	}
	l.want()
	select {
	case a := <-ch:
		return a, a.err
	case <-ctx.Done():
		l.unregister(corr, ch)
		return answer{}, ctx.Err()
	case <-l.ctx.Done():
		l.unregister(corr, ch)
		return answer{}, ErrClosed
	}
}

// send queues a one-way request.
func (l *link) send(key, version int16, body [][]byte) bool {
	l.mu.Lock()
	down := l.down
	l.next++
	corr := l.next
	l.mu.Unlock()
	sent := down == nil && l.enqueue(encodeRequest(key, version, corr, wire.KafkaFlexible(key, version), body))
	l.want()
	return sent
}

func (l *link) register(ch chan answer, key, version int16) (corr int32, flexible bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return 0, false, l.down
	}
	l.next++
	flexible = wire.KafkaFlexible(key, version)
	l.pending[l.next] = pendingCall{ch, flexible}
	return l.next, flexible, nil
}

// unregister gives up a call; an answer that raced with it is released.
func (l *link) unregister(corr int32, ch chan answer) {
	l.mu.Lock()
	delete(l.pending, corr)
	l.mu.Unlock()
	select {
	case a := <-ch:
		a.release()
	default:
	}
}

func (l *link) enqueue(r outgoing) bool {
	if n := l.queuedBytes.Add(r.size); n > l.p.o.QueueBytes && n > r.size {
		l.queuedBytes.Add(-r.size)
		return false
	}
	select {
	case l.queue <- r:
		return true
	default:
		l.queuedBytes.Add(-r.size)
		return false
	}
}

// want asks for a connection. It comes after what the connection is wanted for:
// a dial that fails in between fails only what it sees.
func (l *link) want() {
	select {
	case l.demand <- struct{}{}:
	default:
	}
}

// run dials on demand and serves the connection until the link ends.
func (l *link) run() {
	defer l.p.wg.Done()
	defer l.end(ErrClosed)
	var backoff time.Duration
	for {
		select {
		case <-l.demand:
		case <-l.ctx.Done():
			return
		}
		nc, err := l.dial()
		if err == nil {
			up := time.Now()
			err = l.converse(nc)
			if time.Since(up) >= l.p.o.MaxBackoff { // else it is part of the trouble
				backoff = 0
			}
			l.want() // redial at once: a refusal is evidence of death
		}
		if l.ctx.Err() != nil {
			return
		}
		l.failAll(err, backoff > 0)
		if !l.pause(backoff) {
			return
		}
		l.setDown(nil)
		backoff = min(max(2*backoff, 20*time.Millisecond), l.p.o.MaxBackoff)
	}
}

// pause waits d, jittered by half.
func (l *link) pause(d time.Duration) bool {
	if d == 0 {
		return true
	}
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// converse runs one connection to its end and returns why it ended.
func (l *link) converse(nc net.Conn) error {
	if f := l.p.o.OnUp; f != nil {
		f(l.key.to, l.key.class)
	}
	l.setLive(nc)
	err := newConn(l, nc).run()
	l.setLive(nil)
	if errors.Is(err, errSilent) {
		l.p.breakAll(l.key.to)
	}
	if f := l.p.o.OnDown; f != nil {
		f(l.key.to, l.key.class, err)
	}
	return fmt.Errorf("%w: %w", ErrDisconnected, err)
}

// dial opens and authenticates a connection.
func (l *link) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.ctx, l.p.o.DialTimeout)
	defer cancel()
	nc, err := l.p.o.Dialer.DialContext(ctx, "tcp", l.key.to.Addr)
	if err != nil {
		if f := l.p.o.OnRefused; f != nil && errors.Is(err, syscall.ECONNREFUSED) {
			f(l.key.to, l.key.class)
		}
		return nil, err
	}
	if err := l.handshake(ctx, nc); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return nc, nil
}

func (l *link) setDown(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = err
}

func (l *link) setLive(nc net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live = nc
}

func (l *link) breakLive() {
	l.mu.Lock()
	nc := l.live
	l.mu.Unlock()
	if nc != nil {
		_ = nc.Close() // the reader reports the end
	}
}

// failAll fails what waits for an answer and empties the queue. With refuse,
// calls fail at once until the next dial.
func (l *link) failAll(err error, refuse bool) {
	l.mu.Lock()
	calls := l.pending
	l.pending = make(map[int32]pendingCall)
	if refuse {
		l.down = err
	}
	l.mu.Unlock()
	for len(l.queue) > 0 {
		select {
		case r := <-l.queue:
			l.queuedBytes.Add(-r.size)
		default:
		}
	}
	for _, c := range calls {
		if c.ch != nil {
			c.ch <- answer{err: err}
		}
	}
}

func (l *link) end(err error) {
	l.cancel()
	l.failAll(err, true)
}

// encodeRequest builds the frame's header: length, request header v1 or v2
// with a null client id.
func encodeRequest(key, version int16, corr int32, flexible bool, body [][]byte) outgoing {
	b := make([]byte, 4, 15)
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(corr))
	b = append(b, 0xff, 0xff)
	if flexible {
		b = append(b, 0)
	}
	size := int64(len(b))
	for _, p := range body {
		size += int64(len(p))
	}
	binary.BigEndian.PutUint32(b, uint32(size-4))
	return outgoing{b, body, size}
}
