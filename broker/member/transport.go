package member

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-sockaddr"
	"github.com/hashicorp/memberlist"
)

// transport carries gossip: UDP packets, and TCP for whole states and fallback
// probes. memberlist's own allocates 64 KiB for each packet that it reads, which
// was most of what an idle broker allocates.
type transport struct {
	tcp     *net.TCPListener
	udp     *net.UDPConn
	packets chan *memberlist.Packet
	streams chan net.Conn
	closed  chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
}

const (
	maxPacket = 64 << 10
	// recvBuffer is asked of the kernel for bursts; what it gives will do.
	recvBuffer = 2 << 20
	retryPause = 50 * time.Millisecond // after a read or an accept that failed
)

// listen binds TCP and UDP to the same port; port 0 takes one that is free in
// both.
func listen(ip string, port int) (t *transport, err error) {
	const tries = 10
	for range tries {
		if t, err = bind(net.ParseIP(ip), port); err == nil || port != 0 {
			break
		}
	}
	return t, err
}

func bind(addr net.IP, port int) (*transport, error) {
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: addr, Port: port})
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: addr, Port: tcp.Addr().(*net.TCPAddr).Port})
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	_ = udp.SetReadBuffer(recvBuffer)
	t := &transport{tcp: tcp, udp: udp, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), closed: make(chan struct{})}
	t.wg.Go(t.accept)
	t.wg.Go(t.receive)
	return t, nil
}

// receive reads packets into one buffer and hands on copies of their size.
func (t *transport) receive() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := t.udp.ReadFrom(buf)
		at := time.Now()
		switch {
		case err != nil && !t.pause():
			return
		case err != nil || n == 0:
			continue
		}
		select {
		case t.packets <- &memberlist.Packet{Buf: slices.Clone(buf[:n]), From: from, Timestamp: at}:
		case <-t.closed:
			return
		}
	}
}

func (t *transport) accept() {
	for {
		conn, err := t.tcp.Accept()
		if err != nil {
			if !t.pause() {
				return
			}
			continue
		}
		select {
		case t.streams <- conn:
		case <-t.closed:
			_ = conn.Close() // nobody uses it
			return
		}
	}
}

// pause waits after a failure; false means that the transport is closed.
func (t *transport) pause() bool {
	select {
	case <-t.closed:
		return false
	case <-time.After(retryPause):
		return true
	}
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	bound := t.tcp.Addr().(*net.TCPAddr)
	if ip == "" && !bound.IP.IsUnspecified() {
		return bound.IP, bound.Port, nil
	}
	if ip == "" {
		var err error
		if ip, err = sockaddr.GetPrivateIP(); err != nil {
			return nil, 0, fmt.Errorf("look for a private address to advertise: %w", err)
		}
		port = bound.Port
	}
	addr := net.ParseIP(ip)
	if addr == nil {
		return nil, 0, fmt.Errorf("address to advertise: %q is not an IP address", ip)
	}
	if v4 := addr.To4(); v4 != nil {
		addr = v4
	}
	return addr, port, nil
}

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.udp.WriteTo(b, to)
	return time.Now(), err
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", addr, timeout)
}

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown implements memberlist.Transport. It may be called more than once.
func (t *transport) Shutdown() (err error) {
	t.once.Do(func() {
		close(t.closed)
		err = errors.Join(t.tcp.Close(), t.udp.Close())
		t.wg.Wait()
	})
	return err
}
