package faults

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tailrace/tailrace/bench/proc"
)

// node is one broker: the same command line, address and directory at every
// start.
type node struct {
	c   *campaign
	ix  int    // from 0
	dir string // data directory
	log *os.File

	mu     sync.Mutex
	p      *proc.Proc
	starts int
	paused bool
	env    []string
	down   bool // stopped on purpose: its end is no surprise
}

// id is the broker id.
func (n *node) id() int32 { return int32(n.ix + 1) }

func (n *node) kafka() string { return n.c.net.addr(n.ix, kafkaPort) }

func (n *node) args() []string {
	a := func(port int) string { return n.c.net.addr(n.ix, port) }
	peer := func(port int) string { return n.c.net.peerAddr(n.ix, port) }
	var join []string
	for i := range n.c.o.Brokers {
		join = append(join, n.c.net.peerAddr(i, gossipPort))
	}
	args := []string{"run", "--id", fmt.Sprint(n.id()), "--dir", n.dir, "--kafka", a(kafkaPort), "--internal", a(internalPort),
		"--gossip", a(gossipPort), "--http", a(httpPort), "--advertise-internal", peer(internalPort), "--advertise-gossip", peer(gossipPort),
		"--join", strings.Join(join, ","), "--bootstrap-expect", fmt.Sprint(n.c.o.Brokers),
		"--rack", n.rack(), "--insecure", "--log-format", "json", "--log-level", n.c.o.LogLevel, "--disk-reserve", fmt.Sprint(n.c.o.reserve())}
	return append(args, nemeses[n.c.o.Nemesis].args...)
}

func (n *node) rack() string { return fmt.Sprintf("rack-%d", n.id()) }

// start starts the process. It does not wait for it to serve.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.p != nil && n.p.Alive() {
		return nil
	}
	path, args := n.c.net.command(n.ix, n.c.binary, n.args())
	n.starts++
	fmt.Fprintf(n.log, "--- start %d at %s\n", n.starts, time.Now().UTC().Format(time.RFC3339Nano))
	p, err := proc.Start(proc.Spec{Name: fmt.Sprintf("broker-%d", n.id()), Path: path, Args: args, Dir: filepath.Dir(n.log.Name()), Env: n.env, Log: n.log})
	if err != nil {
		return err
	}
	n.c.net.process(n.ix, p.Pid)
	n.p, n.paused, n.down = p, false, false
	return nil
}

// startCount tells lives of the process apart.
func (n *node) startCount() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.starts
}

func (n *node) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.p != nil && n.p.Alive()
}

// serving reports whether the process runs and is not paused.
func (n *node) serving() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.p != nil && n.p.Alive() && !n.paused
}

// kill ends the process with SIGKILL and returns when it is gone.
func (n *node) kill() {
	n.mu.Lock()
	p := n.p
	n.down = true
	n.mu.Unlock()
	if p != nil {
		p.Kill()
	}
}

// signal sends a signal without waiting.
func (n *node) signal(sig syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.p == nil {
		return
	}
	switch sig {
	case syscall.SIGSTOP:
		n.paused = true
	case syscall.SIGCONT:
		n.paused = false
	case syscall.SIGKILL, syscall.SIGTERM:
		n.down = true
	}
	n.p.Signal(sig)
}

// stop is a graceful stop. A process that does not end in order within the
// grace, or with another status than 0, is an error.
func (n *node) stop(grace time.Duration) error {
	n.mu.Lock()
	p := n.p
	n.down = true
	n.mu.Unlock()
	if p == nil || !p.Alive() {
		return nil
	}
	return p.Stop(grace)
}

// surprise describes the end of a process that nobody asked for.
func (n *node) surprise() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.p == nil || n.down || n.p.Alive() {
		return nil
	}
	return fmt.Errorf("broker %d ended by itself:\n%s", n.id(), n.p.Output())
}

// expectEnd says that the process may end by itself from now on: the nemesis
// breaks its disk.
func (n *node) expectEnd() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = true
}

// dumpStacks ends the process with SIGQUIT, which makes the Go runtime write
// all goroutines into its log: evidence where something hangs.
func (n *node) dumpStacks() {
	n.expectEnd()
	n.signal(syscall.SIGCONT)
	n.signal(syscall.SIGQUIT)
	n.mu.Lock()
	p := n.p
	n.mu.Unlock()
	if p == nil {
		return
	}
	select {
	case <-p.Done():
	case <-time.After(5 * time.Second):
	}
}

// ready reports whether the broker says that it is admitted and serves.
func (n *node) ready() bool {
	cl := http.Client{Timeout: time.Second}
	resp, err := cl.Get("http://" + n.c.net.addr(n.ix, httpPort) + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // its status is all we want
	return resp.StatusCode == http.StatusOK
}
