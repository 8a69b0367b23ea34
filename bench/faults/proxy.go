package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/tailrace/tailrace/bench/proc"
)

// proxyNet is loopback whose links can be cut without privileges. Brokers tell
// each other the addresses of proxies, one for the internal and one for the
// gossip listener of each broker. A proxy asks the kernel which process a
// connection comes from, so that it knows the link.
//
// A cut link swallows datagrams and holds the bytes of connections back, as TCP
// does where packets are lost and sent again: nobody gets an error, and what is
// still wanted arrives when the link heals. Ends of connections are held back
// too. Two things are unlike a cable: connecting succeeds, and a connection cut
// in one direction does not fill up in the other.
type proxyNet struct {
	loopbackNet
	fronts []int // ports of the proxies, in pairs: internal, gossip
	ctx    context.Context
	end    context.CancelFunc
	wg     sync.WaitGroup
	tcp    []net.Listener
	udp    []net.PacketConn

	mu      sync.Mutex
	off     map[link]bool
	changed chan struct{} // closed when links heal
	pids    map[int]int   // node → its process
}

func newProxyNet(nodes int, reason string) (*proxyNet, error) {
	l, err := newLoopback(nodes, reason+", links through proxies")
	if err != nil {
		return nil, err
	}
	fronts, err := proc.FreePorts(2 * nodes)
	if err != nil {
		return nil, err
	}
	x := &proxyNet{loopbackNet: *l, fronts: fronts, off: map[link]bool{}, changed: make(chan struct{}), pids: map[int]int{}}
	x.ctx, x.end = context.WithCancel(context.Background())
	for i := range nodes {
		if err := x.open(i); err != nil {
			return nil, errors.Join(err, x.close())
		}
	}
	return x, nil
}

// open starts the proxies of one broker.
func (x *proxyNet) open(node int) error {
	for _, port := range []int{internalPort, gossipPort} {
		l, err := net.Listen("tcp", x.peerAddr(node, port))
		if err != nil {
			return err
		}
		x.tcp = append(x.tcp, l)
		x.wg.Go(func() { x.accept(l, node, x.addr(node, port)) })
	}
	u, err := net.ListenPacket("udp", x.peerAddr(node, gossipPort))
	if err != nil {
		return err
	}
	x.udp = append(x.udp, u)
	x.wg.Go(func() { x.datagrams(u, node) })
	return nil
}

func (x *proxyNet) peerAddr(node, port int) string {
	return fmt.Sprintf("127.0.0.1:%d", x.fronts[2*node+port-internalPort])
}

func (x *proxyNet) process(node, pid int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pids[node] = pid
}

func (x *proxyNet) cut(from, to int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.off[link{from, to}] = true
	return nil
}

func (x *proxyNet) heal() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.off)
	close(x.changed)
	x.changed = make(chan struct{})
	return nil
}

func (x *proxyNet) close() error {
	x.end()
	var errs []error
	for _, l := range x.tcp {
		errs = append(errs, l.Close())
	}
	for _, u := range x.udp {
		errs = append(errs, u.Close())
	}
	x.wg.Wait()
	return errors.Join(errs...)
}

// isCut reports the state of a link, and what is closed when it may change.
func (x *proxyNet) isCut(l link) (bool, <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.off[l], x.changed
}

// pass returns when the link is whole; false when the network is closed.
func (x *proxyNet) pass(l link) bool {
	for x.ctx.Err() == nil {
		cut, changed := x.isCut(l)
		if !cut {
			return true
		}
		select {
		case <-changed:
		case <-x.ctx.Done():
		}
	}
	return false
}

// accept takes connections to a broker until the listener is closed.
func (x *proxyNet) accept(l net.Listener, to int, backend string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if x.ctx.Err() != nil || !pause(x.ctx, 10*time.Millisecond) {
				return
			}
			continue
		}
		x.wg.Go(func() { x.relay(conn.(*net.TCPConn), to, backend) })
	}
}

// relay connects whoever dialled with the broker.
func (x *proxyNet) relay(front *net.TCPConn, to int, backend string) {
	defer x.closing(front)()
	from, err := x.dialler(front)
	if err != nil || !x.pass(link{from, to}) {
		return // a process that has just ended
	}
	conn, err := net.DialTimeout("tcp", backend, dialTimeout)
	if err != nil {
		x.pass(link{to, from}) // a refusal is an answer too
		reset(front)
		return
	}
	back := conn.(*net.TCPConn)
	defer x.closing(back)()
	var both sync.WaitGroup
	both.Go(func() { x.pump(back, front, link{from, to}) })
	both.Go(func() { x.pump(front, back, link{to, from}) })
	both.Wait()
}

// closing closes a connection with the network, or when what it returns is
// called. That the other end may have gone first is no error.
func (x *proxyNet) closing(c *net.TCPConn) func() {
	stop := context.AfterFunc(x.ctx, func() { _ = c.Close() })
	return func() { stop(); _ = c.Close() }
}

// reset ends a connection as a process does that was killed.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close() // closed already, or nobody is interested
}

// pump carries bytes, and the end of them, in one direction.
func (x *proxyNet) pump(dst, src *net.TCPConn, l link) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if !x.pass(l) {
			return
		}
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return // reading from it ends too
			}
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			_ = dst.CloseWrite() // it is closed for good when both directions have ended
		} else {
			reset(dst)
		}
		return
	}
}

// datagrams forwards gossip to a broker. A broker sends from the port that it
// listens on, which says who it is.
func (x *proxyNet) datagrams(in net.PacketConn, to int) {
	senders := map[int]int{} // port → node
	for i := range len(x.ports) / portCount {
		senders[x.ports[i*portCount+gossipPort]] = i
	}
	dst := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: x.ports[to*portCount+gossipPort]}
	buf := make([]byte, 64<<10)
	for {
		n, addr, err := in.ReadFrom(buf)
		if x.ctx.Err() != nil {
			return
		}
		if err != nil {
			continue // an earlier datagram was refused: the broker is down
		}
		from, known := senders[addr.(*net.UDPAddr).Port]
		if cut, _ := x.isCut(link{from, to}); !known || cut {
			continue
		}
		_, _ = in.WriteTo(buf[:n], dst) // datagrams may be lost
	}
}

// dialler is the broker whose process made the connection.
func (x *proxyNet) dialler(c *net.TCPConn) (int, error) {
	x.mu.Lock()
	pids := make(map[int]int, len(x.pids))
	for node, pid := range x.pids {
		pids[node] = pid
	}
	x.mu.Unlock()
	inode, err := proc.SocketInode(c.RemoteAddr().(*net.TCPAddr).Port, c.LocalAddr().(*net.TCPAddr).Port)
	if err != nil {
		return 0, err
	}
	for node, pid := range pids {
		if proc.HasSocket(pid, inode) {
			return node, nil
		}
	}
	return 0, errors.New("no broker made connection " + strconv.FormatUint(inode, 10))
}

// canProxy reports whether this system tells whose a connection is.
func canProxy() bool { return runtime.GOOS == "linux" }
