package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func identity(id model.BrokerID, cluster string) func() Identity {
	return func() Identity {
		return Identity{ClusterID: cluster, Broker: id, Incarnation: 7, Storage: model.StorageID{byte(id)}}
	}
}

var secret = Credentials{Secret: []byte("correct horse")}

// start runs a server of broker 2 on addr ("" for any port).
func start(t *testing.T, addr string, o ServerOptions, handle func(s *Server)) (*Server, To) {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	var l net.Listener
	eventually(t, "port free", func() bool {
		var err error
		l, err = net.Listen("tcp", addr)
		return err == nil
	})
	if o.Identity == nil {
		o.Identity = identity(2, "c1")
	}
	s := NewServer(o)
	if handle != nil {
		handle(s)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	return s, To{2, l.Addr().String()}
}

func pool(t *testing.T, o PeersOptions) *Peers {
	t.Helper()
	if o.Identity == nil {
		o.Identity = identity(1, "c1")
	}
	o.DialTimeout = patience
	if o.PingInterval == 0 {
		o.PingInterval = patience
	}
	if o.Timeouts == nil {
		o.Timeouts = map[Class]time.Duration{}
		for c := range numClasses {
			o.Timeouts[c] = patience
		}
	}
	p := NewPeers(o)
	t.Cleanup(p.Close)
	return p
}

func echo(s *Server) {
	s.Handle(KeyCommand, 0, 1, func(r *wire.Request) { Reply(r, wire.Part{Bytes: bytes.Clone(r.Body)}) })
}

func call(p *Peers, to To, class Class, key, version int16, body string) (string, error) {
	b, release, err := p.Call(context.Background(), to, class, key, version, []byte(body))
	if err != nil {
		return "", err
	}
	defer release()
	return string(b), nil
}

func TestCall(t *testing.T) {
	peer := make(chan Peer, 1)
	_, to := start(t, "", ServerOptions{Credentials: secret}, func(s *Server) {
		echo(s)
		s.Handle(KeyHeartbeat, 0, 0, func(r *wire.Request) {
			p, _ := PeerOf(r.Conn)
			peer <- p
			ReplyError(r, 13, "later")
		})
	})
	p := pool(t, PeersOptions{Credentials: secret})
	if got, err := call(p, to, Control, KeyCommand, 1, "hello"); err != nil || got != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
	_, err := call(p, to, Heartbeat, KeyHeartbeat, 0, "")
	var e *Error
	if !errors.As(err, &e) || e.Code != 13 || e.Message != "later" {
		t.Fatalf("got %v, want error 13", err)
	}
	want := Peer{Identity: identity(1, "c1")(), Class: Heartbeat}
	if got := <-peer; got != want {
		t.Fatalf("peer is %+v, want %+v", got, want)
	}
	if err := p.Ping(context.Background(), to, Probe); err != nil {
		t.Fatal(err)
	}
}

func TestUnsupportedVersionIsAnswered(t *testing.T) {
	_, to := start(t, "", ServerOptions{}, echo)
	p := pool(t, PeersOptions{})
	for _, tc := range []struct{ key, version int16 }{{KeyCommand, 2}, {KeyCommand, -1}, {1999, 0}} {
		_, err := call(p, to, Control, tc.key, tc.version, "")
		var e *Error
		if !errors.As(err, &e) || e.Code != codeUnsupportedVersion {
			t.Errorf("key %d version %d: got %v", tc.key, tc.version, err)
		}
	}
	if _, err := call(p, to, Control, KeyCommand, 0, ""); err != nil {
		t.Fatalf("the connection did not survive: %v", err)
	}
}

func TestHandshakeRefusals(t *testing.T) {
	_, to := start(t, "", ServerOptions{Credentials: secret}, echo)
	for _, tc := range []struct {
		name, want string
		o          PeersOptions
		to         To
	}{
		{"foreign cluster", `belongs to cluster "c9", this broker to "c1"`, PeersOptions{Identity: identity(1, "c9"), Credentials: secret}, to},
		{"wrong secret", "do not share the same secret", PeersOptions{Credentials: Credentials{Secret: []byte("x")}}, to},
		{"no secret", "do not share the same secret", PeersOptions{}, to},
		{"other broker at the address", "broker 2 answers at the address of broker 3", PeersOptions{Credentials: secret}, To{3, to.Addr}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := call(pool(t, tc.o), tc.to, Control, KeyCommand, 0, "")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestSecretIsNeededBeyondLoopback(t *testing.T) {
	for _, tc := range []struct {
		c      Credentials
		remote string
		ok     bool
	}{
		{Credentials{}, "127.0.0.1:1", true},
		{Credentials{}, "[::1]:1", true},
		{Credentials{}, "[::ffff:127.0.0.1]:1", true},
		{Credentials{}, "10.0.0.1:1", false},
		{Credentials{}, "localhost.example.com:1", false},
		{Credentials{Insecure: true}, "10.0.0.1:1", true},
		{secret, "10.0.0.1:1", true},
	} {
		if err := tc.c.permit(tc.remote); (err == nil) != tc.ok {
			t.Errorf("%+v from %s: %v", tc.c, tc.remote, err)
		}
	}
}

// Proofs depend on every field, on the direction and on the secret.
func TestProofIsBound(t *testing.T) {
	a, b := newHello(identity(1, "c")(), Raft), newHello(identity(2, "c")(), Raft)
	base := proof([]byte("s"), dialerLabel, a, b)
	fetch := *a
	fetch.class = Fetch
	again := newHello(a.id, Raft)
	renamed := *a
	renamed.id.Broker = 9
	for name, other := range map[string][]byte{
		"direction": proof([]byte("s"), acceptorLabel, a, b),
		"reflected": proof([]byte("s"), dialerLabel, b, a),
		"secret":    proof([]byte("t"), dialerLabel, a, b),
		"class":     proof([]byte("s"), dialerLabel, &fetch, b),
		"nonce":     proof([]byte("s"), dialerLabel, again, b),
		"identity":  proof([]byte("s"), dialerLabel, &renamed, b),
	} {
		if bytes.Equal(base, other) {
			t.Errorf("proof does not depend on %s", name)
		}
	}
}

// The peer must prove itself too: a server that only relays our hello fails.
func TestImpostorIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := wire.NewServer(wire.HandlerFunc(func(r *wire.Request) {
		switch r.Key {
		case KeyHello:
			Reply(r, wire.Part{Bytes: newHello(identity(2, "c1")(), Raft).encode(nil)})
		default:
			Reply(r, wire.Part{Bytes: bytes.Clone(r.Body)}) // reflects our own proof
		}
	}), wire.Options{})
	go s.Serve(l) //nolint:errcheck // Close ends it
	defer s.Close()
	_, err = call(pool(t, PeersOptions{Credentials: secret}), To{2, l.Addr().String()}, Control, KeyCommand, 0, "")
	if err == nil || !strings.Contains(err.Error(), "does not know the cluster's secret") {
		t.Fatalf("got %v", err)
	}
}

func TestRequestBeforeHandshakeCloses(t *testing.T) {
	var reason atomic.Pointer[error]
	_, to := start(t, "", ServerOptions{Wire: wire.Options{OnClose: func(_ *wire.Conn, err error) { reason.Store(&err) }}}, echo)
	for _, key := range []int16{KeyCommand, KeyProof, 1} {
		reason.Store(nil)
		c, err := net.Dial("tcp", to.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(encodeRequest(key, 0, 1, false, nil).header); err != nil {
			t.Fatal(err)
		}
		eventually(t, "closed", func() bool { return reason.Load() != nil })
		if err := *reason.Load(); !strings.Contains(err.Error(), "h") {
			t.Errorf("key %d: %v", key, err)
		}
	}
}

// A node without a cluster id may speak about founding only, and is heard in
// full once it says hello with one.
func TestFoundingConnections(t *testing.T) {
	_, to := start(t, "", ServerOptions{}, func(s *Server) {
		echo(s)
		s.Handle(KeyFound, 0, 0, func(r *wire.Request) { Reply(r) })
	})
	var cluster atomic.Value
	cluster.Store("")
	p := pool(t, PeersOptions{Identity: func() Identity { return identity(1, cluster.Load().(string))() }})
	if _, err := call(p, to, Control, KeyFound, 0, ""); err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := call(p, to, Control, KeyCommand, 0, ""); !errors.As(err, &e) || e.Code != codeForeignCluster {
		t.Fatalf("got %v", err)
	}
	cluster.Store("c1")
	eventually(t, "served with a cluster id", func() bool {
		_, err := call(p, to, Control, KeyCommand, 0, "")
		return err == nil
	})
}

func TestPipelinedCallsFromManyGoroutines(t *testing.T) {
	_, to := start(t, "", ServerOptions{}, func(s *Server) {
		s.Handle(KeyCommand, 0, 0, func(r *wire.Request) {
			b := bytes.Clone(r.Body)
			go Reply(r, wire.Part{Bytes: b})
		})
	})
	p := pool(t, PeersOptions{})
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for j := range 50 {
				want := strings.Repeat(fmt.Sprint(i, ".", j, " "), 1+j*i)
				if got, err := call(p, to, Control, KeyCommand, 0, want); err != nil || got != want {
					t.Errorf("call %d.%d: %d bytes, %v", i, j, len(got), err)
				}
			}
		})
	}
	wg.Wait()
}

// Nothing prompt waits behind something parked.
func TestClassesAreSeparate(t *testing.T) {
	parked := make(chan *wire.Request, 1)
	_, to := start(t, "", ServerOptions{}, func(s *Server) {
		s.Handle(1, 0, 17, func(r *wire.Request) { parked <- r })
		s.Handle(KeyDurable, 0, 0, func(r *wire.Request) { Reply(r) })
	})
	p := pool(t, PeersOptions{})
	fetched := make(chan string, 1)
	go func() {
		got, err := call(p, to, Fetch, 1, 17, "\x00fetch") // flexible: headers have tag sections
		fetched <- fmt.Sprint(got, err)
	}()
	r := <-parked
	if r.Version != 17 || string(r.Body) != "\x00fetch" {
		t.Fatalf("got %+v", r)
	}
	if _, err := call(p, to, Durable, KeyDurable, 0, "ends"); err != nil {
		t.Fatal(err)
	}
	r.Reply(wire.Part{Bytes: []byte("data")})
	if got := <-fetched; got != "data<nil>" {
		t.Fatalf("got %q", got)
	}
}

func TestLargeBodies(t *testing.T) {
	_, to := start(t, "", ServerOptions{}, echo)
	p := pool(t, PeersOptions{})
	want := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	for range 3 {
		if got, err := call(p, to, Control, KeyCommand, 0, want); err != nil || got != want {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
}

func TestSendIsOneWayAndOrdered(t *testing.T) {
	var mu sync.Mutex
	var got []uint32
	_, to := start(t, "", ServerOptions{}, func(s *Server) {
		s.Handle(KeyRaft, 0, 0, func(r *wire.Request) {
			mu.Lock()
			got = append(got, binary.BigEndian.Uint32(r.Body))
			mu.Unlock()
			r.NoReply()
		})
	})
	p := pool(t, PeersOptions{})
	const n = 200
	for i := range uint32(n) {
		if !p.Send(to, Raft, KeyRaft, 0, binary.BigEndian.AppendUint32(nil, i)) {
			t.Fatalf("message %d was dropped", i)
		}
	}
	eventually(t, "all received", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == n })
	for i, v := range got {
		if v != uint32(i) {
			t.Fatalf("message %d is %d", i, v)
		}
	}
}
