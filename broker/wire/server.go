package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

// Options bound what connections may take. Zero values mean the defaults.
type Options struct {
	Listener string // name, for Conn.Listener
	Internal bool   // marks connections of the broker-to-broker listener

	// MaxRequestBytes is the largest frame (default 100 MiB, Kafka's
	// socket.request.max.bytes). With RequireAuth, MaxUnauthenticatedBytes
	// (default 64 KiB) holds until Conn.SetAuthenticated.
	MaxRequestBytes         int32
	MaxUnauthenticatedBytes int32
	RequireAuth             bool

	// Budget bounds request bodies over all connections that share it
	// (default: 256 MiB for this server).
	Budget *Budget
	// MaxInFlight and MaxInFlightBytes bound what one connection has in
	// flight (defaults 64 and 32 MiB; one request is always let in). At the
	// limit the server stops reading: TCP slows the client down.
	MaxInFlight      int
	MaxInFlightBytes int64

	MaxConnections      int // default 16384
	MaxConnectionsPerIP int // default 0: no limit of its own

	IdleTimeout time.Duration // between requests; default 10 min (connections.max.idle.ms)
	// UnauthenticatedTimeout is the idle timeout before Conn.SetAuthenticated
	// when RequireAuth is set; default 10 s.
	UnauthenticatedTimeout time.Duration
	FrameTimeout           time.Duration // for a frame to arrive, plus its size at 256 KiB/s; default 30 s
	DrainGrace             time.Duration // Shutdown waits this long for the first request of a fresh connection; default 500 ms
	WriteTimeout           time.Duration // for a reader to take a response, plus its size at 256 KiB/s; default 30 s

	// Flexible tells which requests have tagged fields in their header
	// (default KafkaFlexible).
	Flexible func(key, version int16) bool
	// TLS, when set, is the listener's configuration.
	TLS *tls.Config

	// OnOpen, OnClose and OnRefuse observe connections. They are called on the
	// connection's goroutines, outside locks, and must not block. Reasons
	// ErrPeerClosed, ErrIdle and ErrServerClosed are ordinary.
	OnOpen   func(c *Conn)
	OnClose  func(c *Conn, reason error)
	OnRefuse func(remoteAddr string, reason error)
}

func (o *Options) setDefaults() {
	def(&o.MaxRequestBytes, 100<<20)
	def(&o.MaxUnauthenticatedBytes, 64<<10)
	def(&o.MaxInFlight, 64)
	def(&o.MaxInFlightBytes, 32<<20)
	def(&o.MaxConnections, 16384)
	def(&o.IdleTimeout, 10*time.Minute)
	def(&o.UnauthenticatedTimeout, 10*time.Second)
	def(&o.FrameTimeout, 30*time.Second)
	def(&o.DrainGrace, 500*time.Millisecond)
	def(&o.WriteTimeout, 30*time.Second)
	if o.Budget == nil {
		o.Budget = NewBudget(256 << 20)
	}
	if o.Flexible == nil {
		o.Flexible = KafkaFlexible
	}
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Server accepts connections and serves their requests.
type Server struct {
	h        Handler
	o        Options
	draining chan struct{} // closed by Shutdown and Close
	wg       sync.WaitGroup
	// graceOver: unused connections drain as well. Set after draining is closed.
	graceOver atomic.Bool

	requests, bytesIn, bytesOut atomic.Int64

	mu        sync.Mutex
	closed    bool // draining is closed
	nextID    uint64
	listeners map[net.Listener]struct{}
	conns     map[*Conn]struct{}
	perIP     map[string]int
}

// NewServer returns a server that hands requests to h.
func NewServer(h Handler, o Options) *Server {
	o.setDefaults()
	return &Server{
		h: h, o: o,
		draining:  make(chan struct{}),
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*Conn]struct{}),
		perIP:     make(map[string]int),
	}
}

// Serve accepts connections on l until the server closes, then returns nil.
// It closes l. Several listeners may be served at once.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !s.track(l) {
		return nil
	}
	defer s.untrack(l)
	for backoff := time.Millisecond; ; {
		nc, err := l.Accept()
		switch {
		case err == nil:
			backoff = time.Millisecond
			s.start(nc)
		case s.isDraining():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("listener %s: %w", s.o.Listener, err)
		default: // out of file descriptors, or a connection that died in the queue
			s.refused("", fmt.Errorf("accept: %w", err))
			select {
			case <-time.After(backoff):
			case <-s.draining:
			}
			backoff = min(2*backoff, time.Second)
		}
	}
}

func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.listeners[l] = struct{}{}
	}
	return !s.closed
}

func (s *Server) untrack(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// start admits a connection and starts its goroutines.
func (s *Server) start(nc net.Conn) {
	remote := nc.RemoteAddr().String()
	if s.o.TLS != nil {
		nc = tls.Server(nc, s.o.TLS) // the first read does the handshake, under its deadline
	}
	c := &Conn{
		Principal: "User:ANONYMOUS", Listener: s.o.Listener, RemoteAddr: remote,
		Internal: s.o.Internal, Peer: model.NoBroker,
		srv: s, nc: nc,
		done:       make(chan struct{}),
		wakeWriter: make(chan struct{}, 1),
		wakeReader: make(chan struct{}, 1),
	}
	if err := s.admit(c); err != nil {
		_ = nc.Close() // refused: nothing was sent
		s.refused(remote, err)
		return
	}
	if s.o.OnOpen != nil {
		s.o.OnOpen(c)
	}
	go c.readLoop()
	go c.writeLoop()
}

func (s *Server) admit(c *Conn) error {
	ip := host(c.RemoteAddr)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrServerClosed
	case len(s.conns) >= s.o.MaxConnections:
		return fmt.Errorf("limit of %d connections reached", s.o.MaxConnections)
	case s.o.MaxConnectionsPerIP > 0 && s.perIP[ip] >= s.o.MaxConnectionsPerIP:
		return fmt.Errorf("limit of %d connections from one address reached", s.o.MaxConnectionsPerIP)
	}
	s.nextID++
	c.ID = s.nextID
	s.conns[c] = struct{}{}
	s.perIP[ip]++
	s.wg.Add(2)
	return nil
}

// forget removes a dead connection and reports why it died.
func (s *Server) forget(c *Conn) {
	ip := host(c.RemoteAddr)
	s.mu.Lock()
	delete(s.conns, c)
	if s.perIP[ip]--; s.perIP[ip] <= 0 {
		delete(s.perIP, ip)
	}
	s.mu.Unlock()
	if s.o.OnClose != nil {
		s.o.OnClose(c, c.Reason())
	}
}

func (s *Server) refused(remote string, err error) {
	if s.o.OnRefuse != nil {
		s.o.OnRefuse(remote, err)
	}
}

// Stats are totals since the server was made, and what is open now.
type Stats struct {
	Connections       int
	Requests          int64
	BytesIn, BytesOut int64 // whole frames
}

// Stats returns the server's totals.
func (s *Server) Stats() Stats {
	return Stats{s.Connections(), s.requests.Load(), s.bytesIn.Load(), s.bytesOut.Load()}
}

// Connections returns the number of open connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *Server) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// Shutdown stops accepting and reading, lets requests in flight be answered
// until ctx ends, then closes what is left. It returns ctx's error if that
// happened. Connections that have just been opened are answered once: clients
// take the end of one before its first answer for a broker that wants SASL,
// and report that instead of trying again.
func (s *Server) Shutdown(ctx context.Context) error {
	for _, c := range s.stop() {
		if c.draining() {
			c.drain()
		}
	}
	finished := make(chan struct{})
	go func() { s.wg.Wait(); close(finished) }()
	grace := time.NewTimer(s.o.DrainGrace)
	defer grace.Stop()
	select {
	case <-finished:
		return nil
	case <-grace.C:
	case <-ctx.Done():
	}
	s.graceOver.Store(true)
	for _, c := range s.open() {
		c.drain()
	}
	select {
	case <-finished:
		return nil
	case <-ctx.Done():
	}
	for _, c := range s.open() {
		c.kill(ErrServerClosed)
	}
	<-finished
	return ctx.Err()
}

// Close closes every connection at once and waits for their goroutines.
func (s *Server) Close() error {
	for _, c := range s.stop() {
		c.kill(ErrServerClosed)
	}
	s.wg.Wait()
	return nil
}

// stop closes the listeners and returns the connections that are open.
func (s *Server) stop() []*Conn {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.draining)
	}
	listeners := make([]net.Listener, 0, len(s.listeners))
	for l := range s.listeners {
		listeners = append(listeners, l)
	}
	s.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close() // Serve closes it too; a second error adds nothing
	}
	return s.open()
}

func (s *Server) open() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

func host(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}
