package limit

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// frame is one request as it was read. Buffers are used again: fresh memory
// for each megabyte would cost more page faults than all else that the null
// broker does. A frame goes back when nobody holds it: the handler until the
// answer, the tail for each entry that lies in it.
type frame struct {
	buf  []byte
	refs atomic.Int32
}

// Frames come in powers of two.
const (
	minClass = 10 // 1 KiB
	maxClass = 27 // 128 MiB, maxFrame
)

var frames [maxClass + 1]sync.Pool

func class(n int) int { return max(minClass, bits.Len(uint(max(n, 1)-1))) }

// newFrame returns a frame of n ≤ maxFrame bytes with one holder.
func newFrame(n int) *frame {
	c := class(n)
	f, _ := frames[c].Get().(*frame)
	if f == nil {
		f = &frame{buf: make([]byte, 1<<c)}
	}
	f.buf = f.buf[:n]
	f.refs.Store(1)
	return f
}

func (f *frame) hold() { f.refs.Add(1) }

func (f *frame) release() {
	if f.refs.Add(-1) == 0 {
		frames[class(cap(f.buf))].Put(f)
	}
}

// names gives equal strings one copy that does not lie in a frame.
type names struct {
	mu sync.RWMutex
	m  map[string]string
}

func (n *names) intern(s string) string {
	n.mu.RLock()
	own, ok := n.m[s]
	n.mu.RUnlock()
	if ok {
		return own
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.m == nil {
		n.m = map[string]string{}
	}
	own = string(append([]byte(nil), s...))
	n.m[own] = own
	return own
}
