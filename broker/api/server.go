package api

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/broker/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Options of a Server. The zero value is usable.
type Options struct {
	// Authorizer is asked for every request; nil is AllowAll.
	Authorizer Authorizer
	// FetchSessions bounds the incremental fetch sessions (KIP-227).
	// Default 1000, as max.incremental.fetch.session.cache.slots.
	FetchSessions int
	// AdminRequests bounds the administrative requests served at once; more
	// wait in order of arrival until their timeout. Default 16.
	AdminRequests int
	// FetchMaxBytes bounds a consumer's fetch response. Default 55 MiB, as
	// fetch.max.bytes.
	FetchMaxBytes int
}

func (o *Options) ensureDefaults() {
	if o.Authorizer == nil {
		o.Authorizer = AllowAll{}
	}
	if o.FetchSessions <= 0 {
		o.FetchSessions = 1000
	}
	if o.AdminRequests <= 0 {
		o.AdminRequests = 16
	}
	if o.FetchMaxBytes <= 0 {
		o.FetchMaxBytes = 55 << 20
	}
}

// Server answers requests. It is a wire.Handler.
type Server struct {
	b        Backend
	opts     Options
	sessions *sessionCache
	fetches  fetchRegistry
	admin    chan struct{} // slots of administrative requests
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// New returns a server over b.
func New(b Backend, o Options) *Server {
	o.ensureDefaults()
	s := &Server{b: b, opts: o, sessions: newSessionCache(o.FetchSessions), admin: make(chan struct{}, o.AdminRequests)}
	s.fetches.set = make(map[*fetchCall]struct{})
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close gives up what still waits (answering it with an error) and returns
// when no goroutine of the server is left. The listeners must be closed first.
func (s *Server) Close() {
	s.cancel()
	s.fetches.drain()
	s.sessions.close()
	s.running.Wait()
}

// Stats are figures for metrics.
type Stats struct {
	FetchSessions int // incremental fetch sessions
	Partitions    int // in those sessions
	Fetches       int // fetch requests that are not answered
}

// Stats returns the figures of the moment.
func (s *Server) Stats() (st Stats) {
	s.sessions.mu.Lock()
	st.FetchSessions, st.Partitions = len(s.sessions.byID), s.sessions.entries
	s.sessions.mu.Unlock()
	s.fetches.mu.Lock()
	st.Fetches = len(s.fetches.set)
	s.fetches.mu.Unlock()
	return st
}

// responder is the part of wire.Request that answers.
type responder interface {
	Reply(parts ...wire.Part)
	NoReply()
	Close(reason error)
	Done() <-chan struct{}
	Detach()
}

// call is one request on its way through the server.
type call struct {
	s        *Server
	key      *Key
	version  int16
	clientID string
	body     []byte
	peer     Peer
	conn     *wire.Conn // nil in tests
	out      responder
	answered atomic.Bool // exactly one answer; guards against a panic after it
}

// Serve implements wire.Handler.
func (s *Server) Serve(r *wire.Request) {
	c := &call{s: s, version: r.Version, clientID: r.ClientID, body: r.Body, conn: r.Conn, out: r}
	if r.Conn != nil {
		c.peer = Peer{Principal: r.Conn.Principal, Listener: r.Conn.Listener, Remote: r.Conn.RemoteAddr,
			Internal: r.Conn.Internal, Broker: int32(r.Conn.Peer)}
	}
	s.serve(c, r.Key)
}

func (s *Server) serve(c *call, key int16) {
	c.key = Lookup(key)
	defer c.recoverPanic()
	if err := s.admit(c, key); err != nil {
		s.b.Event(Event{Kind: eventKind(err), Key: key, Version: c.version, Remote: c.peer.Remote, Client: c.clientID, Err: err})
		c.close(err)
		return
	}
	if c.key.Key == apiVersionsKey && c.version > c.key.Max {
		apiVersionsUnsupported(c)
		return
	}
	c.key.handle(c)
}

// ErrRefused is wrapped by refusals for who asks or what is asked, rather than
// for its bytes.
var ErrRefused = errors.New("request refused")

// admit decides whether a handler sees the request. Whatever it refuses closes
// the connection: Kafka's protocol has no error that fits every response.
func (s *Server) admit(c *call, key int16) error {
	k := c.key
	if k == nil {
		return fmt.Errorf("%w: API key %d is not served", ErrRefused, key)
	}
	if k.Key == apiVersionsKey && c.version > k.Max {
		return nil
	}
	if c.version < k.ServedMin || c.version > k.Max {
		return fmt.Errorf("%w: %s version %d is not served (%d to %d are)", ErrRefused, k.Name, c.version, k.ServedMin, k.Max)
	}
	limit := k.MaxBytes
	if c.peer.Principal == "" {
		if !k.PreAuth {
			return fmt.Errorf("%w: %s before authentication", ErrRefused, k.Name)
		}
		limit = min(limit, maxPreAuthBytes)
	}
	if len(c.body) > limit {
		return fmt.Errorf("%w: %s of %d bytes, limit %d", ErrMalformed, k.Name, len(c.body), limit)
	}
	if err := checkShape(c.body, k.layouts[c.version], k.Flexible(c.version)); err != nil {
		return fmt.Errorf("%s version %d: %w", k.Name, c.version, err)
	}
	if k.Auth.When == Unset {
		return fmt.Errorf("%w: %s has no authorization entry", ErrRefused, k.Name)
	}
	return nil
}

func eventKind(err error) EventKind {
	if errors.Is(err, ErrRefused) {
		return EventRefused
	}
	return EventMalformed
}

// decode fills req from the body; strings and bytes alias it. On failure the
// connection is closed and false returned.
func (c *call) decode(req kmsg.Request) bool {
	req.SetVersion(c.version)
	if err := req.(interface{ UnsafeReadFrom([]byte) error }).UnsafeReadFrom(c.body); err != nil {
		c.fail(fmt.Errorf("%w: %s version %d: %w", ErrMalformed, c.key.Name, c.version, err))
		return false
	}
	return true
}

// fail closes the connection for malformed bytes.
func (c *call) fail(err error) {
	c.s.b.Event(Event{Kind: eventKind(err), Key: c.key.Key, Version: c.version, Remote: c.peer.Remote, Client: c.clientID, Err: err})
	c.close(err)
}

// responseHint holds most responses without growing.
const responseHint = 512

// reply encodes and sends a response.
func (c *call) reply(resp kmsg.Response) {
	resp.SetVersion(c.version)
	c.replyParts(wire.Part{Bytes: resp.AppendTo(make([]byte, 0, responseHint))})
}

func (c *call) replyParts(parts ...wire.Part) {
	if c.answered.CompareAndSwap(false, true) {
		c.out.Reply(parts...)
		return
	}
	releaseParts(parts)
}

func (c *call) noReply() {
	if c.answered.CompareAndSwap(false, true) {
		c.out.NoReply()
	}
}

func (c *call) close(reason error) {
	if c.answered.CompareAndSwap(false, true) {
		c.out.Close(reason)
	}
}

func releaseParts(parts []wire.Part) {
	for _, p := range parts {
		if p.Payload != nil {
			p.Payload.Release()
		}
	}
}

// recoverPanic turns a panic into a closed connection and an event. It is
// deferred on every goroutine that carries a call.
func (c *call) recoverPanic() {
	if v := recover(); v != nil {
		c.panicked(v)
	}
}

func (c *call) panicked(v any) {
	err := fmt.Errorf("panic: %v", v)
	e := Event{Kind: EventPanic, Version: c.version, Remote: c.peer.Remote, Client: c.clientID, Err: err, Stack: debug.Stack()}
	if c.key != nil {
		e.Key = c.key.Key
	}
	c.s.b.Event(e)
	c.close(err)
}

// allowed asks the authorizer about one resource.
func (c *call) allowed(op Operation, resource Resource, name string) bool {
	if c.peer.Internal && c.peer.Broker >= 0 {
		return true // another broker, which proved who it is
	}
	return c.s.opts.Authorizer.Allowed(&c.peer, op, resource, name)
}

// allowedCluster asks about the key's own operation on the cluster.
func (c *call) allowedCluster() bool {
	return c.allowed(c.key.Auth.Op, ResourceCluster, clusterName)
}

// Bounds of administrative work, whatever timeout a client asks for. Some ask
// for none when they mean "start it": they get the usual answer all the same.
const (
	minAdminWait = time.Second
	maxAdminWait = time.Minute
)

// background runs an administrative request on its own goroutine, at most
// Options.AdminRequests at a time. fn answers the call; its context ends at
// the timeout, with the connection, or with the server.
func (c *call) background(timeout time.Duration, fn func(context.Context)) {
	c.s.running.Go(func() {
		defer c.recoverPanic()
		ctx, cancel := context.WithTimeout(c.s.ctx, min(max(timeout, minAdminWait), maxAdminWait))
		defer cancel()
		stop := c.cancelWithConnection(cancel)
		defer stop()
		select {
		case c.s.admin <- struct{}{}:
			defer func() { <-c.s.admin }()
		case <-ctx.Done(): // fn sees it and answers with a timeout
		}
		fn(ctx)
	})
}

// cancelWithConnection calls cancel when the connection is gone.
func (c *call) cancelWithConnection(cancel func()) (stop func()) {
	stopped := make(chan struct{})
	go func() {
		select {
		case <-c.out.Done():
			cancel()
		case <-stopped:
		}
	}()
	return func() { close(stopped) }
}

func millis(ms int32) time.Duration { return time.Duration(ms) * time.Millisecond }
