package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

// Errors of calls that never reached an answer.
var (
	// ErrClosed: the pool is closed.
	ErrClosed = errors.New("transport: closed")
	// ErrDisconnected: the connection broke before the answer; the peer may
	// or may not have acted.
	ErrDisconnected = errors.New("transport: connection lost")
	// ErrQueueFull: the peer takes requests slower than they are made.
	ErrQueueFull = errors.New("transport: queue to peer is full")
)

// To names a peer: its id and the address of its internal listener. With
// model.NoBroker any broker is accepted at the address.
type To struct {
	ID   model.BrokerID
	Addr string
}

// Dialer opens connections; *net.Dialer is one. Tests inject their own.
type Dialer interface {
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
}

// PeersOptions configure the dialling side. Zero values mean the defaults.
type PeersOptions struct {
	// Identity returns who this broker is now. Safe for concurrent use.
	Identity func() Identity
	Credentials
	Dialer Dialer // default: *net.Dialer

	// Timeouts of calls whose context has no deadline, by class. Default 5 s
	// for Control, 30 s for Fetch, 1 s for the rest.
	Timeouts map[Class]time.Duration
	// DialTimeout bounds dialling plus handshake; default 1 s.
	DialTimeout time.Duration
	// PingInterval is how long a connection of a prompt class may be silent
	// before it is pinged; three silent intervals end it. Default 1 s.
	PingInterval time.Duration
	// MaxBackoff bounds the pause between dials, which doubles from 20 ms
	// and is jittered; default 1 s.
	MaxBackoff time.Duration

	MaxResponseBytes int32 // default 128 MiB
	QueueRequests    int   // per connection; default 256
	QueueBytes       int64 // per connection; default 32 MiB

	// OnRefused is called when a peer's host refuses a connection: evidence
	// that no process of the peer listens at to.Addr. If the peer is known at
	// another address by now, it means nothing. OnUp and OnDown observe connections. They are
	// called outside locks and must not block.
	OnRefused func(to To, class Class)
	OnUp      func(to To, class Class)
	OnDown    func(to To, class Class, err error)
}

func (o *PeersOptions) setDefaults() {
	def(&o.DialTimeout, time.Second)
	def(&o.PingInterval, time.Second)
	def(&o.MaxBackoff, time.Second)
	def(&o.MaxResponseBytes, 128<<20)
	def(&o.QueueRequests, 256)
	def(&o.QueueBytes, 32<<20)
	if o.Dialer == nil {
		o.Dialer = &net.Dialer{KeepAlive: 5 * time.Second}
	}
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func (o *PeersOptions) timeout(class Class) time.Duration {
	if d := o.Timeouts[class]; d > 0 {
		return d
	}
	switch class {
	case Control:
		return 5 * time.Second
	case Fetch:
		return 30 * time.Second
	}
	return time.Second
}

// Peers is a pool of connections to other brokers, one per (peer, class). They
// are opened on demand. Safe for concurrent use.
type Peers struct {
	o      PeersOptions
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	links  map[linkKey]*link
}

type linkKey struct {
	to    To
	class Class
}

// NewPeers returns an empty pool.
func NewPeers(o PeersOptions) *Peers {
	o.setDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	return &Peers{o: o, ctx: ctx, cancel: cancel, links: make(map[linkKey]*link)}
}

// Call sends a request and waits for its answer. For private keys resp is what
// follows the error code, and an error answer is returned as *Error. resp is
// valid until release, which is never nil and must be called once on success.
// Without a deadline in ctx, the class's timeout applies.
func (p *Peers) Call(ctx context.Context, to To, class Class, key, version int16, body ...[]byte) (resp []byte, release func(), err error) {
	l, err := p.link(to, class)
	if err != nil {
		return nil, noRelease, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.o.timeout(class))
		defer cancel()
	}
	a, err := l.call(ctx, key, version, body)
	if err != nil {
		return nil, noRelease, fmt.Errorf("broker %d at %s, %s: %w", to.ID, to.Addr, class, err)
	}
	resp = a.body
	if key >= firstPrivateKey {
		if resp, err = splitAnswer(resp); err != nil {
			a.release()
			return nil, noRelease, err
		}
	}
	return resp, a.release, nil
}

// Send queues a one-way request and reports whether there was room. The answer,
// if the peer sends one, is dropped. body must not change afterwards.
func (p *Peers) Send(to To, class Class, key, version int16, body ...[]byte) bool {
	l, err := p.link(to, class)
	return err == nil && l.send(key, version, body)
}

// Ping asks whether the peer's process answers, on the connection of a class.
func (p *Peers) Ping(ctx context.Context, to To, class Class) error {
	_, release, err := p.Call(ctx, to, class, KeyPing, 0)
	release()
	return err
}

// Forget closes the connections to a broker, at every address.
func (p *Peers) Forget(id model.BrokerID) {
	p.mu.Lock()
	var gone []*link
	for k, l := range p.links {
		if k.to.ID == id {
			gone = append(gone, l)
			delete(p.links, k)
		}
	}
	p.mu.Unlock()
	for _, l := range gone {
		l.cancel()
	}
}

// Close closes every connection, fails what waits, and returns when all
// goroutines have ended.
func (p *Peers) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
}

func (p *Peers) link(to To, class Class) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	k := linkKey{to, class}
	l := p.links[k]
	if l == nil {
		l = newLink(p, k)
		p.links[k] = l
		p.wg.Add(1)
		go l.run()
	}
	return l, nil
}

// breakAll closes every connection to a peer that was found silent on one of
// them: the others would wait for their own, longer limits.
func (p *Peers) breakAll(to To) {
	p.mu.Lock()
	var links []*link
	for k, l := range p.links {
		if k.to == to {
			links = append(links, l)
		}
	}
	p.mu.Unlock()
	for _, l := range links {
		l.breakLive()
	}
}

func noRelease() {}
