package limit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Replication: the leader connects, says who it is in one byte, and streams
// its file; the follower answers with 8-byte positions that it has synced.

// redialEvery is how often a leader tries to reach a peer that is not up yet.
const redialEvery = 20 * time.Millisecond

// copyBuffer is the follower's read size.
const copyBuffer = 1 << 20

// track registers a connection so that Close ends it; false if the node is
// already closed.
func (n *Node) track(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.Close()
		return false
	}
	n.conns = append(n.conns, c)
	return true
}

func (n *Node) dial(peer int) net.Conn {
	for {
		c, err := net.Dial("tcp", n.cfg.Repl[peer])
		if err == nil {
			return c
		}
		n.mu.Lock()
		closed := n.closed
		n.mu.Unlock()
		if closed {
			return nil
		}
		time.Sleep(redialEvery)
	}
}

// forwardLoop streams the log to one peer. The file goes from the page cache
// to the socket by sendfile.
func (n *Node) forwardLoop(peer int) {
	c := n.dial(peer)
	if c == nil || !n.track(c) {
		return
	}
	defer c.Close()
	f, err := os.Open(n.file.Name())
	if err != nil {
		n.fail(err)
		return
	}
	defer f.Close()
	if _, err := c.Write([]byte{byte(n.cfg.ID)}); err != nil {
		return
	}
	n.spawn(func() { n.readProgress(peer, c) })
	for sent := int64(0); ; {
		n.mu.Lock()
		for n.end == sent && !n.closed {
			n.grew.Wait()
		}
		end, closed := n.end, n.closed
		n.mu.Unlock()
		if closed {
			return
		}
		m, err := io.Copy(c, io.LimitReader(f, end-sent)) // TCPConn.ReadFrom: sendfile
		sent += m
		if err != nil {
			return
		}
	}
}

func (n *Node) readProgress(peer int, c net.Conn) {
	var b [8]byte
	for {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return
		}
		n.progress(peer, int64(binary.BigEndian.Uint64(b[:])))
	}
}

func (n *Node) acceptLoop() {
	for {
		c, err := n.repl.Accept()
		if err != nil {
			return
		}
		if !n.track(c) {
			return
		}
		n.spawn(func() {
			defer c.Close()
			if err := n.follow(c); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				n.fail(err)
			}
		})
	}
}

// follower is the copy of one leader's log.
type follower struct {
	f       *os.File
	mu      sync.Mutex
	grew    *sync.Cond
	written int64
	done    bool
}

// follow receives one leader's log, writes it, and confirms what is synced.
func (n *Node) follow(c net.Conn) error {
	var id [1]byte
	if _, err := io.ReadFull(c, id[:]); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(n.cfg.Dir, fmt.Sprintf("follower-%d.log", id[0])))
	if err != nil {
		return err
	}
	fl := &follower{f: f}
	fl.grew = sync.NewCond(&fl.mu)
	synced := make(chan error, 1)
	go func() { synced <- fl.confirm(c) }()
	err = fl.receive(c)
	fl.mu.Lock()
	fl.done = true
	fl.grew.Broadcast()
	fl.mu.Unlock()
	return errors.Join(err, <-synced, f.Close())
}

func (fl *follower) receive(c net.Conn) error {
	buf := make([]byte, copyBuffer)
	for at := int64(0); ; {
		m, err := c.Read(buf)
		if err != nil {
			return endOfStream(err)
		}
		if _, err := fl.f.WriteAt(buf[:m], at); err != nil {
			return err
		}
		at += int64(m)
		fl.mu.Lock()
		fl.written = at
		fl.grew.Broadcast()
		fl.mu.Unlock()
	}
}

// confirm syncs in groups and tells the leader.
func (fl *follower) confirm(c net.Conn) error {
	for synced := int64(0); ; {
		fl.mu.Lock()
		for fl.written == synced && !fl.done {
			fl.grew.Wait()
		}
		target, done := fl.written, fl.done
		fl.mu.Unlock()
		if done {
			return nil
		}
		if err := unix.Fdatasync(int(fl.f.Fd())); err != nil {
			c.Close()
			return err
		}
		synced = target
		if _, err := c.Write(binary.BigEndian.AppendUint64(nil, uint64(target))); err != nil {
			return endOfStream(err)
		}
	}
}

// endOfStream turns the ways in which a peer goes away into nil: a node that
// is stopped takes its peers' connections with it.
func endOfStream(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return nil
	}
	return err
}
