package limit

import (
	"net"
	"sync"
)

// null is a backend that keeps nothing but a tail in memory: the ceiling and
// the floor of latency that the client itself sets.
type null struct {
	addr net.TCPAddr
	tailed
	mu  sync.Mutex // offsets and their order in the tail
	seq *sequencer
}

// StartNull serves a null broker on addr, such as 127.0.0.1:0.
func StartNull(addr string) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return serve(ln, &null{addr: *ln.Addr().(*net.TCPAddr), tailed: tailed{newTail()}, seq: newSequencer()}), nil
}

func (n *null) append(f *frame, parts []partition, records [][]byte, done func([]appended)) {
	out := make([]appended, len(parts))
	entries := make([]*entry, len(parts))
	n.mu.Lock()
	for i, p := range parts {
		entries[i] = n.seq.place(f, p, records[i])
		out[i] = appended{part: p, base: entries[i].base}
	}
	n.t.add(entries)
	n.mu.Unlock()
	done(out)
}

func (n *null) brokers() []net.TCPAddr { return []net.TCPAddr{n.addr} }
func (n *null) leader(int32) int32     { return 0 }
