package faults

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// proxyRig is a proxied network of two whose broker 0 is this process; broker
// 1 is a listener that answers what it is sent.
type proxyRig struct {
	*proxyNet
	heard chan []byte // what arrived at broker 1
}

func newProxyRig(t *testing.T) *proxyRig {
	t.Helper()
	if !canProxy() {
		t.Skipf("the owner of a connection is not known on %s", runtime.GOOS)
	}
	x, err := newProxyNet(2, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.close(); err != nil {
			t.Error(err)
		}
	})
	x.process(0, os.Getpid())
	l, err := net.Listen("tcp", x.addr(1, internalPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	r := &proxyRig{proxyNet: x, heard: make(chan []byte, 100)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.echo(c)
		}
	}()
	return r
}

func (r *proxyRig) echo(c net.Conn) {
	defer c.Close()
	for {
		b := make([]byte, 100)
		n, err := c.Read(b)
		if err != nil {
			return
		}
		r.heard <- b[:n]
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// silence is how long nothing must arrive; a failure to notice what arrives
// later makes no test fail that should pass.
const silence = 200 * time.Millisecond

const patience = 30 * time.Second

func (r *proxyRig) hears(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-r.heard:
		if string(got) != want {
			t.Fatalf("broker 1 got %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("broker 1 never got %q", want)
	}
}

func (r *proxyRig) hearsNothing(t *testing.T) {
	t.Helper()
	select {
	case got := <-r.heard:
		t.Fatalf("broker 1 got %q through a cut link", got)
	case <-time.After(silence):
	}
}

func answers(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("answer %q, %v, want %q", b, err, want)
	}
}

func answersNothing(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(silence))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes, %v through a cut link", n, err)
	}
}

func send(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := c.Write([]byte(what)); err != nil {
		t.Fatal(err)
	}
}

// TestProxyCuts cuts a connection in each direction: bytes are held back
// without an error, and arrive when the link heals.
func TestProxyCuts(t *testing.T) {
	r := newProxyRig(t)
	c, err := net.Dial("tcp", r.peerAddr(1, internalPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, c, "whole")
	r.hears(t, "whole")
	answers(t, c, "whole")

	cut := func(from, to int) {
		if err := r.cut(from, to); err != nil {
			t.Fatal(err)
		}
	}
	cut(0, 1)
	send(t, c, "there")
	r.hearsNothing(t)
	if err := r.heal(); err != nil {
		t.Fatal(err)
	}
	r.hears(t, "there")
	answers(t, c, "there")

	cut(1, 0)
	send(t, c, "back")
	r.hears(t, "back")
	answersNothing(t, c)
	if err := r.heal(); err != nil {
		t.Fatal(err)
	}
	answers(t, c, "back")
}

// TestProxyNewConnection: a connection made through a cut link is silent, not
// refused, and works when the link heals; its end arrives.
func TestProxyNewConnection(t *testing.T) {
	r := newProxyRig(t)
	if err := r.cut(0, 1); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", r.peerAddr(1, internalPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, c, "early")
	r.hearsNothing(t)
	answersNothing(t, c)
	if err := r.heal(); err != nil {
		t.Fatal(err)
	}
	r.hears(t, "early")
	answers(t, c, "early")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Fatalf("%q, %v, want the end", rest, err)
	}
}

// TestProxyRefuses: a broker that is down is noticed at once.
func TestProxyRefuses(t *testing.T) {
	r := newProxyRig(t)
	c, err := net.Dial("tcp", r.peerAddr(0, internalPort)) // nobody listens there
	if err != nil {
		return // it was even told in time
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%v, want the end of the connection", err)
	}
}

// TestProxyDatagrams: gossip comes through from a broker's own port only, and
// not through a cut link.
func TestProxyDatagrams(t *testing.T) {
	r := newProxyRig(t)
	listen := func(addr string) net.PacketConn {
		u, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = u.Close() })
		return u
	}
	zero, one, stranger := listen(r.addr(0, gossipPort)), listen(r.addr(1, gossipPort)), listen("127.0.0.1:0")
	front, err := net.ResolveUDPAddr("udp", r.peerAddr(1, gossipPort))
	if err != nil {
		t.Fatal(err)
	}
	say := func(from net.PacketConn, what string) {
		if _, err := from.WriteTo([]byte(what), front); err != nil {
			t.Fatal(err)
		}
	}
	got := func() []byte {
		b := make([]byte, 100)
		_ = one.SetReadDeadline(time.Now().Add(patience))
		n, _, err := one.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return b[:n]
	}
	say(stranger, "who")
	say(zero, "first")
	if b := got(); !bytes.Equal(b, []byte("first")) {
		t.Fatalf("got %q", b)
	}
	if err := r.cut(0, 1); err != nil {
		t.Fatal(err)
	}
	say(zero, "lost")
	_ = one.SetReadDeadline(time.Now().Add(silence))
	if _, _, err := one.ReadFrom(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a datagram came through a cut link (%v)", err)
	}
	if err := r.heal(); err != nil {
		t.Fatal(err)
	}
	say(zero, "second")
	if b := got(); !bytes.Equal(b, []byte("second")) {
		t.Fatalf("got %q", b)
	}
}
