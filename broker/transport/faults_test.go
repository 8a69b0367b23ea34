package transport

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tailrace/tailrace/broker/wire"
)

// cutDialer dials connections whose traffic can be cut in either direction,
// silently, as a dead network does.
type cutDialer struct {
	dropOut, dropIn atomic.Bool
	dials           atomic.Int32
	block           atomic.Bool // dials hang until the context ends
}

func (d *cutDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d.dials.Add(1)
	if d.block.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: c, d: d}, nil
}

type cutConn struct {
	net.Conn
	d *cutDialer
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.d.dropOut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.d.dropIn.Load() {
			return n, err
		}
	}
}

func TestRefusedDialIsReportedAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := To{2, l.Addr().String()}
	l.Close()
	var refused atomic.Int32
	p := pool(t, PeersOptions{OnRefused: func(got To, class Class) {
		if got == to && class == Probe {
			refused.Add(1)
		}
	}})
	if err := p.Ping(context.Background(), to, Probe); err == nil {
		t.Fatal("ping of a closed port succeeded")
	}
	eventually(t, "refusal reported", func() bool { return refused.Load() > 0 })
}

// A connection that breaks is dialled again at once, without a call: the
// refusal is evidence of death.
func TestBrokenConnectionIsRedialled(t *testing.T) {
	var refused, down atomic.Int32
	s, to := start(t, "", ServerOptions{}, echo)
	p := pool(t, PeersOptions{
		OnRefused: func(To, Class) { refused.Add(1) },
		OnDown:    func(To, Class, error) { down.Add(1) },
	})
	if _, err := call(p, to, Control, KeyCommand, 0, "x"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "loss and refusal reported", func() bool { return down.Load() == 1 && refused.Load() >= 1 })
	start(t, to.Addr, ServerOptions{}, echo)
	eventually(t, "connected again", func() bool {
		_, err := call(p, to, Control, KeyCommand, 0, "x")
		return err == nil
	})
}

// Calls in flight fail when the connection breaks.
func TestCallFailsWhenConnectionBreaks(t *testing.T) {
	parked := make(chan *wire.Request, 1)
	s, to := start(t, "", ServerOptions{}, func(s *Server) {
		s.Handle(KeyCommand, 0, 0, func(r *wire.Request) { parked <- r })
	})
	p := pool(t, PeersOptions{})
	failed := make(chan error, 1)
	go func() { _, err := call(p, to, Control, KeyCommand, 0, ""); failed <- err }()
	r := <-parked
	go s.Close()
	<-r.Done()
	r.NoReply()
	if err := <-failed; !errors.Is(err, ErrDisconnected) {
		t.Fatalf("got %v", err)
	}
}

// A peer that falls silent, one way or the other, is found by pings, and every
// class's connection to it ends.
func TestSilentPeerIsDetected(t *testing.T) {
	for name, cut := range map[string]func(*cutDialer) *atomic.Bool{
		"requests lost": func(d *cutDialer) *atomic.Bool { return &d.dropOut },
		"answers lost":  func(d *cutDialer) *atomic.Bool { return &d.dropIn },
	} {
		t.Run(name, func(t *testing.T) {
			d := new(cutDialer)
			var mu sync.Mutex
			down := map[Class]error{}
			_, to := start(t, "", ServerOptions{}, echo)
			p := pool(t, PeersOptions{Dialer: d, PingInterval: 20 * time.Millisecond, OnDown: func(_ To, c Class, err error) {
				mu.Lock()
				defer mu.Unlock()
				down[c] = err
			}})
			if err := p.Ping(context.Background(), to, Probe); err != nil {
				t.Fatal(err)
			}
			if _, err := call(p, to, Control, KeyCommand, 0, ""); err != nil {
				t.Fatal(err)
			}
			d.block.Store(true)
			cut(d).Store(true)
			eventually(t, "both connections ended", func() bool { mu.Lock(); defer mu.Unlock(); return len(down) == 2 })
			mu.Lock()
			defer mu.Unlock()
			if !errors.Is(down[Probe], errSilent) {
				t.Fatalf("probe connection ended by %v", down[Probe])
			}
		})
	}
}

// An idle connection of a prompt class lives on pings.
func TestIdlePromptConnectionStaysUp(t *testing.T) {
	d := new(cutDialer)
	pings := new(atomic.Int32)
	_, to := start(t, "", ServerOptions{}, func(s *Server) {
		s.Handle(KeyPing, 0, 0, func(r *wire.Request) { pings.Add(1); Reply(r) })
	})
	p := pool(t, PeersOptions{Dialer: d, PingInterval: 500 * time.Millisecond})
	if err := p.Ping(context.Background(), to, Heartbeat); err != nil {
		t.Fatal(err)
	}
	eventually(t, "pings while idle", func() bool { return pings.Load() >= 4 })
	if n := d.dials.Load(); n > 2 { // one, unless the machine slept
		t.Fatalf("%d dials for a connection that is well", n)
	}
}

func TestQueueIsBounded(t *testing.T) {
	d := new(cutDialer)
	d.block.Store(true)
	p := pool(t, PeersOptions{Dialer: d, QueueRequests: 8, QueueBytes: 1 << 20})
	count := func(to To, size int) (sent int) {
		for range 20 {
			if p.Send(to, Raft, KeyRaft, 0, make([]byte, size)) {
				sent++
			}
		}
		return sent
	}
	if n := count(To{2, "127.0.0.1:1"}, 10); n != 8 {
		t.Errorf("%d small messages queued, want 8", n)
	}
	if n := count(To{3, "127.0.0.1:1"}, 300<<10); n != 3 {
		t.Errorf("%d large messages queued, want 3", n)
	}
	if n := count(To{4, "127.0.0.1:1"}, 2<<20); n != 1 {
		t.Errorf("%d messages above the whole limit queued, want 1", n)
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	parked := make(chan *wire.Request, 2)
	_, to := start(t, "", ServerOptions{}, func(s *Server) {
		s.Handle(KeyCommand, 0, 0, func(r *wire.Request) { parked <- r })
		s.Handle(KeyHeartbeat, 0, 0, func(r *wire.Request) { Reply(r) })
	})
	p := pool(t, PeersOptions{Timeouts: map[Class]time.Duration{Control: 10 * time.Millisecond}})
	if _, err := call(p, to, Control, KeyCommand, 0, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := p.Call(ctx, to, Control, KeyCommand, 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	// The late answer of a given-up call is dropped; the connection goes on.
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() { Reply(<-parked); Reply(<-parked) }()
	if _, release, err := p.Call(ctx, to, Control, KeyHeartbeat, 0); err != nil {
		t.Fatal(err)
	} else {
		release()
	}
}

func TestCloseFailsWhatWaits(t *testing.T) {
	d := new(cutDialer)
	d.block.Store(true)
	p := pool(t, PeersOptions{Dialer: d})
	failed := make(chan error, 1)
	go func() { _, err := call(p, To{2, "127.0.0.1:1"}, Control, KeyCommand, 0, ""); failed <- err }()
	eventually(t, "dialling", func() bool { return d.dials.Load() == 1 })
	p.Close()
	if err := <-failed; err == nil {
		t.Fatal("call succeeded without a peer")
	}
	if _, err := call(p, To{2, "127.0.0.1:1"}, Control, KeyCommand, 0, ""); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v", err)
	}
}

func TestForgetClosesConnections(t *testing.T) {
	down := make(chan Class, 2)
	_, to := start(t, "", ServerOptions{}, echo)
	p := pool(t, PeersOptions{OnDown: func(_ To, c Class, _ error) { down <- c }})
	if _, err := call(p, to, Control, KeyCommand, 0, ""); err != nil {
		t.Fatal(err)
	}
	p.Forget(to.ID)
	if c := <-down; c != Control {
		t.Fatalf("%v connection went down", c)
	}
	if _, err := call(p, to, Control, KeyCommand, 0, ""); err != nil {
		t.Fatalf("a forgotten broker cannot be called again: %v", err)
	}
}

func FuzzHello(f *testing.F) {
	f.Add(newHello(identity(1, "cluster")(), Raft).encode(nil))
	f.Add([]byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h, again hello
		if h.decode(b) != nil {
			return
		}
		if err := again.decode(h.encode(nil)); err != nil || again != h {
			t.Fatalf("%+v became %+v (%v)", h, again, err)
		}
	})
}

// A peer that closes every connection after the handshake is not hammered.
func TestShortLivedConnectionsBackOff(t *testing.T) {
	d := new(cutDialer)
	s, to := start(t, "", ServerOptions{}, func(s *Server) {
		s.Handle(KeyCommand, 0, 0, func(r *wire.Request) { r.Close(errors.New("go away")) })
	})
	_ = s
	p := pool(t, PeersOptions{Dialer: d, MaxBackoff: time.Hour})
	for range 50 { // each breaks the connection, unless the link is backing off
		_, _ = call(p, to, Control, KeyCommand, 0, "") // fails by design
	}
	if n := d.dials.Load(); n > 20 {
		t.Fatalf("%d dials for 50 calls", n)
	}
}
