package member

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

func mustListen(t *testing.T, ip string) *transport {
	t.Helper()
	tr, err := listen(ip, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Shutdown(); err != nil {
			t.Error(err)
		}
		if err := tr.Shutdown(); err != nil {
			t.Errorf("shut down twice: %v", err)
		}
	})
	return tr
}

func received(t *testing.T, tr *transport) *memberlist.Packet {
	t.Helper()
	select {
	case p := <-tr.PacketCh():
		return p
	case <-time.After(patience):
		t.Fatal("no packet")
		return nil
	}
}

// TestTransportPackets: a packet is its receiver's own, whatever comes behind it,
// of any size, and names its sender.
func TestTransportPackets(t *testing.T) {
	a, b := mustListen(t, "127.0.0.1"), mustListen(t, "127.0.0.1")
	to := b.tcp.Addr().String()
	sizes := []int{1, 1400, 60_000}
	var got []*memberlist.Packet
	for i, n := range sizes {
		if _, err := a.WriteTo(bytes.Repeat([]byte{byte('a' + i)}, n), to); err != nil {
			t.Fatal(err)
		}
		got = append(got, received(t, b)) // one at a time: UDP may drop
	}
	for i, p := range got {
		if len(p.Buf) != sizes[i] || bytes.Count(p.Buf, []byte{byte('a' + i)}) != sizes[i] {
			t.Fatalf("packet %d: %d bytes of %q, want %d", i, len(p.Buf), p.Buf[0], sizes[i])
		}
		if p.From.String() != a.udp.LocalAddr().String() || p.Timestamp.IsZero() {
			t.Fatalf("packet %d is from %s at %s", i, p.From, p.Timestamp)
		}
	}
	if _, err := a.WriteTo(nil, "no such address"); err == nil {
		t.Fatal("sent to no address")
	}
}

func TestTransportStreams(t *testing.T) {
	a := mustListen(t, "127.0.0.1")
	c, err := a.DialTimeout(a.tcp.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	select {
	case s := <-a.StreamCh():
		if s.RemoteAddr().String() != c.LocalAddr().String() {
			t.Fatalf("accepted %s, dialled from %s", s.RemoteAddr(), c.LocalAddr())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("no stream")
	}
}

// TestTransportClosesWithWork: what nobody takes any more does not keep it open.
func TestTransportClosesWithWork(t *testing.T) {
	a := mustListen(t, "127.0.0.1")
	if _, err := a.WriteTo([]byte("x"), a.tcp.Addr().String()); err != nil {
		t.Fatal(err)
	}
	c, err := a.DialTimeout(a.tcp.Addr().String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
}

func TestTransportAdvertises(t *testing.T) {
	a := mustListen(t, "127.0.0.1")
	bound := a.tcp.Addr().(*net.TCPAddr)
	for _, c := range []struct {
		ip   string
		port int
		want string
	}{{"", 0, bound.String()}, {"10.1.2.3", 77, "10.1.2.3:77"}, {"::ffff:10.1.2.3", 77, "10.1.2.3:77"}, {"fd00::1", 7, "[fd00::1]:7"}} {
		ip, port, err := a.FinalAdvertiseAddr(c.ip, c.port)
		if got := (&net.TCPAddr{IP: ip, Port: port}).String(); err != nil || got != c.want {
			t.Errorf("%q, %d: %s (%v), want %s", c.ip, c.port, got, err, c.want)
		}
	}
	if _, _, err := a.FinalAdvertiseAddr("example", 1); err == nil {
		t.Error("a name was taken for an address")
	}
	taken, err := listen("127.0.0.1", bound.Port)
	if err == nil {
		t.Errorf("%s bound twice: %v", bound, taken.Shutdown())
	}
}
