package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestRequestHeaderAndReply(t *testing.T) {
	got := make(chan *Request, 1)
	_, addr := serve(t, func(r *Request) {
		got <- &Request{Key: r.Key, Version: r.Version, CorrelationID: r.CorrelationID, ClientID: r.ClientID, Body: bytes.Clone(r.Body)}
		r.Reply(Part{Bytes: []byte("po")}, Part{Bytes: []byte("ng")})
	}, Options{})
	c := dial(t, addr)
	write(t, c, frame(3, 5, 77, "me", []byte("ping")))
	corr, body := readResponse(t, c)
	if corr != 77 || string(body) != "pong" {
		t.Fatalf("got %d %q", corr, body)
	}
	r := <-got
	if r.Key != 3 || r.Version != 5 || r.CorrelationID != 77 || r.ClientID != "me" || string(r.Body) != "ping" {
		t.Fatalf("got %+v", r)
	}
}

// A flexible request's response header has a tag section, except ApiVersions'.
func TestFlexibleHeaders(t *testing.T) {
	_, addr := serve(t, copyReply, Options{})
	for _, tc := range []struct {
		key, version int16
		tag          bool
	}{{3, 12, true}, {18, 3, false}, {18, 99, false}, {3, 5, false}} {
		c := dial(t, addr)
		body := []byte("body")
		if KafkaFlexible(tc.key, tc.version) {
			body = append([]byte{1, 5, 2, 'x', 'y'}, body...) // one unknown tagged field
		}
		write(t, c, frame(tc.key, tc.version, 1, "c", body))
		_, got := readResponse(t, c)
		want := "body"
		if tc.tag {
			want = "\x00body"
		}
		if string(got) != want {
			t.Errorf("key %d version %d: got %q, want %q", tc.key, tc.version, got, want)
		}
	}
}

func TestResponsesKeepOrderUnderRandomCompletion(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	_, addr := serve(t, func(r *Request) {
		d := time.Duration(rand.Intn(2000)) * time.Microsecond
		wg.Add(1)
		time.AfterFunc(d, func() { defer wg.Done(); copyReply(r) })
	}, Options{MaxInFlight: 1000})
	c := dial(t, addr)
	const n = 500
	go func() {
		var all []byte
		for i := range int32(n) {
			all = append(all, frame(0, 3, i, "c", binary.BigEndian.AppendUint32(nil, uint32(i)))...)
		}
		_, _ = c.Write(all) // a failure shows as missing responses
	}()
	for i := range int32(n) {
		corr, body := readResponse(t, c)
		if corr != i || binary.BigEndian.Uint32(body) != uint32(i) {
			t.Fatalf("response %d has correlation id %d and body %x", i, corr, body)
		}
	}
}

// A parked request does not delay the handling of those behind it.
func TestParkedRequestDoesNotBlockHandling(t *testing.T) {
	var first *Request
	second := make(chan *Request, 1)
	_, addr := serve(t, func(r *Request) {
		if first == nil {
			first = r
			return
		}
		second <- r
	}, Options{})
	c := dial(t, addr)
	write(t, c, frame(1, 4, 1, "", nil))
	write(t, c, frame(0, 3, 2, "", nil))
	(<-second).Reply()
	first.Reply()
	for want := range int32(2) {
		if corr, _ := readResponse(t, c); corr != want+1 {
			t.Fatalf("got correlation id %d, want %d", corr, want+1)
		}
	}
}

func TestNoReplySendsNothing(t *testing.T) {
	_, addr := serve(t, func(r *Request) {
		if r.CorrelationID == 1 {
			r.NoReply()
			return
		}
		r.Reply()
	}, Options{})
	c := dial(t, addr)
	write(t, c, append(frame(0, 3, 1, "", nil), frame(0, 3, 2, "", nil)...))
	if corr, _ := readResponse(t, c); corr != 2 {
		t.Fatalf("got correlation id %d, want 2", corr)
	}
}

func TestBackPressureStopsReading(t *testing.T) {
	for name, o := range map[string]Options{
		"requests": {MaxInFlight: 3},
		"bytes":    {MaxInFlightBytes: 3*1010 - 5},
		"budget":   {Budget: NewBudget(3*1010 + 5)},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var parked []*Request
			_, addr := serve(t, func(r *Request) { mu.Lock(); parked = append(parked, r); mu.Unlock() }, o)
			count := func() int { mu.Lock(); defer mu.Unlock(); return len(parked) }
			c := dial(t, addr)
			for i := range int32(10) {
				write(t, c, frame(0, 3, i, "", make([]byte, 1000)))
			}
			eventually(t, "three requests served", func() bool { return count() == 3 })
			time.Sleep(50 * time.Millisecond)
			if n := count(); n != 3 {
				t.Fatalf("%d requests in flight, want 3", n)
			}
			for i := range int32(10) {
				eventually(t, "next request served", func() bool { return count() > int(i) })
				mu.Lock()
				r := parked[i]
				mu.Unlock()
				r.Reply()
				if corr, _ := readResponse(t, c); corr != i {
					t.Fatalf("got %d, want %d", corr, i)
				}
			}
		})
	}
}

// A request larger than the whole budget or the per-connection limit is still
// served, alone.
func TestOneLargeRequestIsLetIn(t *testing.T) {
	_, addr := serve(t, func(r *Request) { r.Reply(Part{Bytes: binary.BigEndian.AppendUint32(nil, uint32(len(r.Body)))}) },
		Options{Budget: NewBudget(1 << 20), MaxInFlightBytes: 1000})
	c := dial(t, addr)
	for range 2 {
		write(t, c, frame(0, 3, 1, "", make([]byte, 5<<20)))
		if _, body := readResponse(t, c); binary.BigEndian.Uint32(body) != 5<<20 {
			t.Fatalf("got %x", body)
		}
	}
}

// Peers that announce much and send little hold next to nothing of the budget.
func TestAnnouncedLengthTakesNoBudget(t *testing.T) {
	_, addr := serve(t, func(r *Request) { r.Reply() }, Options{Budget: NewBudget(8 << 20)})
	part := frame(0, 3, 1, "", make([]byte, 90<<20))[:firstChunkBytes+100]
	for range 20 {
		write(t, dial(t, addr), part)
	}
	c := dial(t, addr)
	for range 20 {
		write(t, c, frame(0, 3, 7, "", make([]byte, 3<<20)))
		if corr, _ := readResponse(t, c); corr != 7 {
			t.Fatalf("got %d", corr)
		}
	}
}

// Bodies that are each half received and want each other's memory do not wait
// for ever, and what they held comes back.
func TestHalfReceivedBodiesDoNotDeadlock(t *testing.T) {
	var cl closed
	s, addr := serve(t, func(r *Request) { r.Reply() }, Options{Budget: NewBudget(1 << 20), FrameTimeout: 100 * time.Millisecond, OnClose: cl.add})
	req := frame(0, 3, 1, "", make([]byte, 900<<10))
	for range 4 {
		write(t, dial(t, addr), req[:256<<10+4]) // wants the rest's memory now
	}
	if err := cl.wait(t); !errors.Is(err, errNoMemory) && !strings.Contains(err.Error(), "timed out") {
		t.Fatalf("closed with %v", err)
	}
	eventually(t, "the others closed too", func() bool { return s.Connections() == 0 })
	if !s.o.Budget.sem.TryAcquire(1 << 20) {
		t.Fatal("closed connections still hold request memory")
	}
}

func TestOneByteAtATime(t *testing.T) {
	_, addr := serve(t, copyReply, Options{})
	c := dial(t, addr)
	for _, b := range frame(0, 3, 9, "slow", []byte("hello")) {
		write(t, c, []byte{b})
	}
	if corr, body := readResponse(t, c); corr != 9 || string(body) != "hello" {
		t.Fatalf("got %d %q", corr, body)
	}
}

func TestHostileInputClosesWithReason(t *testing.T) {
	huge := binary.BigEndian.AppendUint32(nil, 1<<31-1)
	for _, tc := range []struct {
		name, reason string
		in           []byte
	}{
		{"http", "HTTP", []byte("GET / HTTP/1.1\r\n\r\n")},
		{"tls", "TLS", []byte{0x16, 3, 1, 2, 0, 1, 0, 1}},
		{"zero length", "below the smallest", []byte{0, 0, 0, 0}},
		{"negative length", "below the smallest", []byte{0xff, 0xff, 0xff, 0xff}},
		{"huge length", "exceeds the limit", huge},
		{"client id past the end", "cut short", append([]byte{0, 0, 0, 10}, 0, 0, 0, 3, 0, 0, 0, 1, 0x7f, 0xff)},
		{"client id length -2", "cut short", append([]byte{0, 0, 0, 10}, 0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xfe)},
		{"tag count", "tagged", frame(3, 12, 1, "", []byte{0xff, 0xff, 0xff, 0xff, 7})},
		{"tag size", "tagged", frame(3, 12, 1, "", []byte{1, 0, 0x7f})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var cl closed
			_, addr := serve(t, copyReply, Options{OnClose: cl.add})
			c := dial(t, addr)
			write(t, c, tc.in)
			if err := cl.wait(t); !strings.Contains(err.Error(), tc.reason) {
				t.Fatalf("closed with %q, want a reason that says %q", err, tc.reason)
			}
		})
	}
}

func TestUnauthenticatedLimit(t *testing.T) {
	var cl closed
	_, addr := serve(t, func(r *Request) {
		if r.Key == 36 {
			r.Conn.SetAuthenticated()
		}
		r.Reply()
	}, Options{RequireAuth: true, UnauthenticatedTimeout: patience, OnClose: cl.add})
	big := frame(0, 3, 2, "", make([]byte, 100<<10))

	c := dial(t, addr)
	write(t, c, big[:4])
	if err := cl.wait(t); !strings.Contains(err.Error(), "limit of 65536") {
		t.Fatalf("closed with %q", err)
	}
	c = dial(t, addr)
	write(t, c, frame(36, 0, 1, "", nil))
	readResponse(t, c)
	write(t, c, big)
	if corr, _ := readResponse(t, c); corr != 2 {
		t.Fatalf("got %d", corr)
	}
}

func TestSlowReaderIsClosed(t *testing.T) {
	var cl closed
	p := &payload{b: make([]byte, 16<<20)}
	_, addr := serve(t, func(r *Request) { r.Reply(Part{Payload: p}) }, Options{WriteTimeout: time.Nanosecond - 64*time.Second, OnClose: cl.add})
	c := dial(t, addr)
	write(t, c, frame(1, 4, 1, "", nil))
	if err := cl.wait(t); !strings.Contains(err.Error(), "does not read") {
		t.Fatalf("closed with %q", err)
	}
	if n := p.released.Load(); n != 1 {
		t.Fatalf("payload released %d times", n)
	}
}

func TestSlowFrameIsClosed(t *testing.T) {
	var cl closed
	_, addr := serve(t, copyReply, Options{FrameTimeout: 10 * time.Millisecond, OnClose: cl.add})
	c := dial(t, addr)
	write(t, c, frame(0, 3, 1, "", []byte("xyz"))[:12])
	if err := cl.wait(t); !strings.Contains(err.Error(), "timed out") {
		t.Fatalf("closed with %q", err)
	}
}

// The idle timeout spares a connection that waits for an answer.
func TestIdleTimeout(t *testing.T) {
	var cl closed
	parked := make(chan *Request, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, l.Addr().String())
	write(t, c, frame(1, 4, 1, "", nil)) // is there before the server looks
	s := NewServer(HandlerFunc(func(r *Request) { parked <- r }), Options{IdleTimeout: 20 * time.Millisecond, OnClose: cl.add})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	r := <-parked
	time.Sleep(100 * time.Millisecond)
	r.Reply()
	readResponse(t, c)
	if err := cl.wait(t); !errors.Is(err, ErrIdle) {
		t.Fatalf("closed with %v", err)
	}
	if err := errors.Join(s.Close(), <-served); err != nil {
		t.Fatal(err)
	}
}

func TestAbruptCloseWhileParked(t *testing.T) {
	var cl closed
	parked := make(chan *Request, 2)
	s, addr := serve(t, func(r *Request) { parked <- r }, Options{OnClose: cl.add})
	c := dial(t, addr)
	write(t, c, frame(1, 4, 1, "", nil))
	write(t, c, frame(1, 4, 2, "", []byte("body")))
	r1, r2 := <-parked, <-parked
	p2 := &payload{b: []byte("late")}
	r2.Reply(Part{Payload: p2}) // ready, behind one that is not
	c.Close()
	select {
	case <-r1.Done():
	case <-time.After(patience):
		t.Fatal("Done was not closed")
	}
	p1 := &payload{b: []byte("late")}
	r1.Reply(Part{Payload: p1})
	if err := cl.wait(t); !errors.Is(err, ErrPeerClosed) && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("closed with %v", err)
	}
	eventually(t, "payloads released", func() bool { return p1.released.Load() == 1 && p2.released.Load() == 1 })
	eventually(t, "connection forgotten", func() bool { return s.Connections() == 0 })
}

func TestSecondAnswerIsDropped(t *testing.T) {
	p := &payload{b: []byte("second")}
	_, addr := serve(t, func(r *Request) {
		r.Reply(Part{Bytes: []byte("first")})
		r.Reply(Part{Payload: p})
		r.NoReply()
		r.Close(errors.New("third"))
	}, Options{})
	c := dial(t, addr)
	for range 3 {
		write(t, c, frame(0, 3, 1, "", nil))
		if _, body := readResponse(t, c); string(body) != "first" {
			t.Fatalf("got %q", body)
		}
	}
	eventually(t, "all released", func() bool { return p.released.Load() == 3 })
}

func TestHandlerPanicClosesThatConnectionOnly(t *testing.T) {
	var cl closed
	_, addr := serve(t, func(r *Request) {
		if r.Key == 7 {
			panic("boom")
		}
		r.Reply()
	}, Options{OnClose: cl.add})
	bad, good := dial(t, addr), dial(t, addr)
	write(t, bad, frame(7, 0, 1, "", nil))
	var p *PanicError
	if err := cl.wait(t); !errors.As(err, &p) || p.Value != "boom" || len(p.Stack) == 0 {
		t.Fatalf("closed with %v", err)
	}
	write(t, good, frame(0, 3, 1, "", nil))
	readResponse(t, good)
}

// TestCloseIsToldAfterTheLastHandler cuts a connection while a handler that
// authenticates it runs: OnClose must not look at a connection that is still
// being written.
func TestCloseIsToldAfterTheLastHandler(t *testing.T) {
	told := make(chan string, 1)
	early := make(chan bool, 1)
	_, addr := serve(t, func(r *Request) {
		r.Close(errors.New("cut"))
		select {
		case who := <-told:
			told <- who
			early <- true
		case <-time.After(50 * time.Millisecond):
			early <- false
		}
		r.Conn.Principal = "User:late"
	}, Options{OnClose: func(c *Conn, _ error) { told <- c.Principal }})
	write(t, dial(t, addr), frame(0, 3, 1, "", nil))
	if <-early {
		t.Error("OnClose while the handler runs")
	}
	if who := <-told; who != "User:late" {
		t.Errorf("OnClose saw %q", who)
	}
}

func TestRequestCloseGivesReason(t *testing.T) {
	var cl closed
	reason := errors.New("unsupported version")
	_, addr := serve(t, func(r *Request) { r.Close(reason) }, Options{OnClose: cl.add})
	write(t, dial(t, addr), frame(0, 3, 1, "", nil))
	if err := cl.wait(t); !errors.Is(err, reason) {
		t.Fatalf("closed with %v", err)
	}
}

// Payloads, small and large, copied or written, arrive between their
// neighbours in order and are released once.
func TestPayloads(t *testing.T) {
	var sent []*payload
	_, addr := serve(t, func(r *Request) {
		parts := []Part{{Bytes: []byte("<")}}
		for i, size := range []int{0, 1, 40 << 10, 40 << 10, 200 << 10} {
			p := &copyablePayload{payload{b: bytes.Repeat([]byte{byte('a' + i)}, size)}}
			q := &payload{b: bytes.Repeat([]byte{byte('A' + i)}, size)}
			sent = append(sent, &p.payload, q)
			parts = append(parts, Part{Payload: p}, Part{Bytes: []byte("|")}, Part{Payload: q})
		}
		r.Reply(append(parts, Part{Bytes: []byte(">")})...)
	}, Options{})
	c := dial(t, addr)
	write(t, c, frame(1, 4, 1, "", nil))
	_, got := readResponse(t, c)
	var want bytes.Buffer
	want.WriteString("<")
	for i, p := range sent {
		want.Write(p.b)
		if i%2 == 0 {
			want.WriteString("|")
		}
	}
	want.WriteString(">")
	if !bytes.Equal(got, want.Bytes()) {
		t.Fatalf("got %d bytes, want %d", len(got), want.Len())
	}
	for i, p := range sent {
		eventually(t, fmt.Sprintf("payload %d released", i), func() bool { return p.released.Load() == 1 })
	}
}

type failingPayload struct{ payload }

func (p *failingPayload) WriteTo(io.Writer) (int64, error) { return 3, nil }

// A payload that comes up short has destroyed the framing: the connection goes.
func TestShortPayloadClosesConnection(t *testing.T) {
	var cl closed
	p := &failingPayload{payload{b: make([]byte, 100<<10)}}
	_, addr := serve(t, func(r *Request) { r.Reply(Part{Payload: p}) }, Options{OnClose: cl.add})
	write(t, dial(t, addr), frame(1, 4, 1, "", nil))
	if err := cl.wait(t); !strings.Contains(err.Error(), "wrote 3") {
		t.Fatalf("closed with %v", err)
	}
	if n := p.released.Load(); n != 1 {
		t.Fatalf("released %d times", n)
	}
}

func TestConnectionLimits(t *testing.T) {
	for name, o := range map[string]Options{"total": {MaxConnections: 2}, "per address": {MaxConnectionsPerIP: 2}} {
		t.Run(name, func(t *testing.T) {
			var refused atomic.Int32
			o.OnRefuse = func(string, error) { refused.Add(1) }
			s, addr := serve(t, copyReply, o)
			a, _ := dial(t, addr), dial(t, addr)
			eventually(t, "two connections", func() bool { return s.Connections() == 2 })
			if _, err := dial(t, addr).Read(make([]byte, 1)); err == nil {
				t.Fatal("third connection was served")
			}
			eventually(t, "refusal reported", func() bool { return refused.Load() == 1 })
			a.Close()
			eventually(t, "a place is free", func() bool { return s.Connections() == 1 })
			c := dial(t, addr)
			write(t, c, frame(0, 3, 1, "", nil))
			readResponse(t, c)
		})
	}
}

func TestShutdownAnswersWhatIsInFlight(t *testing.T) {
	parked := make(chan *Request, 1)
	s, addr := serve(t, func(r *Request) { parked <- r }, Options{})
	c := dial(t, addr)
	write(t, c, frame(0, 3, 5, "", nil))
	r := <-parked
	down := make(chan error, 1)
	go func() { down <- shutdown(t, s, patience) }()
	eventually(t, "listener closed", func() bool {
		d, err := net.Dial("tcp", addr)
		if err == nil {
			d.Close()
		}
		return err != nil
	})
	r.Reply(Part{Bytes: []byte("bye")})
	if corr, body := readResponse(t, c); corr != 5 || string(body) != "bye" {
		t.Fatalf("got %d %q", corr, body)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("got %v, want EOF", err)
	}
	if err := <-down; err != nil {
		t.Fatal(err)
	}
}

func TestShutdownDeadline(t *testing.T) {
	parked := make(chan *Request, 1)
	s, addr := serve(t, func(r *Request) { parked <- r }, Options{})
	c := dial(t, addr)
	write(t, c, frame(0, 3, 5, "", nil))
	r := <-parked
	if err := shutdown(t, s, 10*time.Millisecond); err == nil {
		t.Fatal("shutdown claims that all was answered")
	}
	<-r.Done()
	r.NoReply()
}

// Finish lets the last answer out before the connection closes.
func TestFinishAnswersThenCloses(t *testing.T) {
	var cl closed
	reason := errors.New("refused")
	_, addr := serve(t, func(r *Request) {
		r.Reply(Part{Bytes: []byte("no")})
		r.Conn.Finish(reason)
	}, Options{OnClose: cl.add})
	c := dial(t, addr)
	write(t, c, frame(0, 3, 1, "", nil))
	if _, body := readResponse(t, c); string(body) != "no" {
		t.Fatalf("got %q", body)
	}
	if err := cl.wait(t); !errors.Is(err, reason) {
		t.Fatalf("closed with %v", err)
	}
}

func TestStats(t *testing.T) {
	s, addr := serve(t, copyReply, Options{})
	c := dial(t, addr)
	write(t, c, frame(0, 3, 1, "", []byte("abc")))
	readResponse(t, c)
	want := Stats{Connections: 1, Requests: 1, BytesIn: 4 + 10 + 3, BytesOut: 8 + 3}
	eventually(t, fmt.Sprintf("stats are %+v", want), func() bool { return s.Stats() == want })
}

// Who does not authenticate is not kept.
func TestUnauthenticatedTimeout(t *testing.T) {
	var cl closed
	_, addr := serve(t, copyReply, Options{RequireAuth: true, UnauthenticatedTimeout: 10 * time.Millisecond, OnClose: cl.add})
	dial(t, addr)
	if err := cl.wait(t); !errors.Is(err, ErrIdle) {
		t.Fatalf("closed with %v", err)
	}
}

// A detached body stays as it was after the answer, whoever uses the pool.
func TestDetachKeepsTheBody(t *testing.T) {
	bodies := make(chan []byte, 64)
	_, addr := serve(t, func(r *Request) {
		r.Detach()
		bodies <- r.Body
		r.Reply()
	}, Options{})
	c := dial(t, addr)
	for i := range 50 {
		write(t, c, frame(0, 3, int32(i), "", bytes.Repeat([]byte{byte(i)}, 700)))
		readResponse(t, c)
	}
	for i := range 50 {
		if b := <-bodies; !bytes.Equal(b, bytes.Repeat([]byte{byte(i)}, 700)) {
			t.Fatalf("body %d was overwritten: %x…", i, b[:8])
		}
	}
}
