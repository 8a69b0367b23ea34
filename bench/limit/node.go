package limit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// NodeConfig says who one limit node is.
type NodeConfig struct {
	ID     int      // index into Kafka and Repl
	Kafka  []string // client addresses of all nodes
	Repl   []string // replication addresses of all nodes
	InSync int      // how many nodes have it, synced, before the acknowledgement: 1 … len(Kafka)
	Dir    string   // for the node's files, created
}

// Node is one process of the limit program. It leads the partitions whose
// number modulo the node count is its id, and keeps copies of the others'
// logs. A log is one file of batches over all partitions that a node leads;
// what is forwarded is the file itself, byte for byte.
type Node struct {
	cfg   NodeConfig
	addrs []net.TCPAddr
	srv   *Server
	repl  net.Listener
	file  *os.File
	tailed
	wg sync.WaitGroup

	mu       sync.Mutex
	grew     *sync.Cond // end moved, or the node closes
	seq      *sequencer
	end      int64   // bytes written
	durable  []int64 // per node: bytes known to be synced there; own included
	waiting  []*pending
	conns    []net.Conn
	closed   bool
	failure  error // the first I/O error: sticky, nothing is acknowledged after it
	ackOrder sync.Mutex
}

// pending is one append that waits for the in-sync set.
type pending struct {
	end     int64
	entries []*entry
	done    func([]appended)
}

// StartNode starts a node: it listens, connects to the others as they come up,
// and serves clients at once.
func StartNode(cfg NodeConfig) (*Node, error) {
	if cfg.InSync < 1 || cfg.InSync > len(cfg.Kafka) || len(cfg.Repl) != len(cfg.Kafka) || cfg.ID < 0 || cfg.ID >= len(cfg.Kafka) {
		return nil, fmt.Errorf("limit: bad configuration %+v", cfg)
	}
	n := &Node{cfg: cfg, tailed: tailed{newTail()}, seq: newSequencer(), durable: make([]int64, len(cfg.Kafka))}
	n.grew = sync.NewCond(&n.mu)
	for _, a := range cfg.Kafka {
		addr, err := net.ResolveTCPAddr("tcp", a)
		if err != nil {
			return nil, err
		}
		n.addrs = append(n.addrs, *addr)
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(cfg.Dir, "leader.log"))
	if err != nil {
		return nil, err
	}
	n.file = f
	return n, n.listen()
}

func (n *Node) listen() error {
	ln, err := net.Listen("tcp", n.cfg.Kafka[n.cfg.ID])
	if err != nil {
		return errors.Join(err, n.file.Close())
	}
	n.repl, err = net.Listen("tcp", n.cfg.Repl[n.cfg.ID])
	if err != nil {
		return errors.Join(err, ln.Close(), n.file.Close())
	}
	n.spawn(n.syncLoop)
	n.spawn(n.acceptLoop)
	for peer := range n.cfg.Repl {
		if peer != n.cfg.ID {
			n.spawn(func() { n.forwardLoop(peer) })
		}
	}
	n.srv = serve(ln, n)
	return nil
}

func (n *Node) spawn(f func()) {
	n.wg.Add(1)
	go func() { defer n.wg.Done(); f() }()
}

// Addr is the node's client address.
func (n *Node) Addr() string { return n.srv.Addr() }

// Close ends the node and removes its files.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	waiting := n.waiting
	n.waiting = nil
	for _, c := range n.conns {
		c.Close()
	}
	n.grew.Broadcast()
	n.mu.Unlock()
	for _, p := range waiting {
		p.answer(notLeader)
	}
	err := errors.Join(n.srv.Close(), n.repl.Close())
	n.wg.Wait()
	return errors.Join(err, n.file.Close(), os.RemoveAll(n.cfg.Dir), n.failure)
}

// Kafka error codes: a client retries both.
const (
	notLeader    = 6
	storageError = 56
)

func (p *pending) answer(code int16) {
	out := make([]appended, len(p.entries))
	for i, e := range p.entries {
		out[i] = appended{part: e.part, base: e.base, code: code}
	}
	p.done(out)
}

// append writes one request with one positional vectored write.
func (n *Node) append(f *frame, parts []partition, records [][]byte, done func([]appended)) {
	p := &pending{done: done, entries: make([]*entry, len(parts))}
	n.mu.Lock()
	if n.closed || n.failure != nil {
		n.mu.Unlock()
		for i, part := range parts {
			p.entries[i] = &entry{part: part, base: -1}
		}
		p.answer(storageError)
		return
	}
	for i, part := range parts {
		p.entries[i] = n.seq.place(f, part, records[i])
	}
	// The lock also orders the writes: the file must be a gapless prefix at
	// all times, since it is what is forwarded. A write to the page cache is
	// a memory copy; the sync is elsewhere.
	written, err := writeAll(n.file, records, n.end)
	if err != nil {
		n.failure = err
		n.mu.Unlock()
		p.answer(storageError)
		return
	}
	n.end += written
	p.end = n.end
	n.waiting = append(n.waiting, p)
	n.grew.Broadcast()
	n.mu.Unlock()
}

// iovMax is the kernel's limit of vectors per call.
const iovMax = 1024

func writeAll(f *os.File, bufs [][]byte, at int64) (int64, error) {
	var total int64
	for len(bufs) > 0 {
		part := bufs[:min(len(bufs), iovMax)]
		want := 0
		for _, b := range part {
			want += len(b)
		}
		got, err := unix.Pwritev(int(f.Fd()), part, at+total)
		if err == nil && got < want {
			err = fmt.Errorf("limit: short write of %d of %d bytes", got, want)
		}
		if err != nil {
			return total, err
		}
		total += int64(got)
		bufs = bufs[len(part):]
	}
	return total, nil
}

// syncLoop makes what was written durable, in groups: whatever came during one
// sync is covered by the next.
func (n *Node) syncLoop() {
	for {
		n.mu.Lock()
		for n.end == n.durable[n.cfg.ID] && !n.closed {
			n.grew.Wait()
		}
		target, closed := n.end, n.closed
		n.mu.Unlock()
		if closed {
			return
		}
		if err := unix.Fdatasync(int(n.file.Fd())); err != nil {
			n.fail(err)
			return
		}
		n.progress(n.cfg.ID, target)
	}
}

func (n *Node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failure == nil {
		n.failure = fmt.Errorf("limit node %d: %w", n.cfg.ID, err)
	}
}

// progress notes that a node has everything below end on disk, and answers
// the appends that the in-sync set now has.
func (n *Node) progress(node int, end int64) {
	n.ackOrder.Lock() // answers leave in the order of the log
	defer n.ackOrder.Unlock()
	n.mu.Lock()
	if n.failure != nil {
		n.mu.Unlock()
		return
	}
	n.durable[node] = end
	commit := n.committed()
	k := 0
	for k < len(n.waiting) && n.waiting[k].end <= commit {
		k++
	}
	ready := n.waiting[:k:k]
	n.waiting = n.waiting[k:]
	n.mu.Unlock()
	for _, p := range ready {
		n.t.add(p.entries)
		p.answer(0)
	}
}

// committed returns the end that the leader and InSync−1 others have.
func (n *Node) committed() int64 {
	own := n.durable[n.cfg.ID]
	if n.cfg.InSync == 1 {
		return own
	}
	return min(own, n.nthOther(n.cfg.InSync-2))
}

// nthOther returns the i-th greatest durable end among the other nodes.
func (n *Node) nthOther(i int) int64 {
	for a, end := range n.durable {
		rank := 0
		for b, other := range n.durable {
			if b != n.cfg.ID && b != a && (other > end || other == end && b < a) {
				rank++
			}
		}
		if a != n.cfg.ID && rank == i {
			return end
		}
	}
	return 0
}

func (n *Node) brokers() []net.TCPAddr { return n.addrs }
func (n *Node) leader(id int32) int32  { return id % int32(len(n.addrs)) }
