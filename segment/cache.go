package segment

import (
	"container/list"
	"sync"
	"sync/atomic"
)

// Sizes of cache chunks: a log starts small, so that a thousand idle tails
// cost little.
const (
	minChunk = 4 << 10
	maxChunk = 64 << 10
)

var chunkPools [3]sync.Pool // 4, 16 and 64 KiB

func chunkClass(n int) (class, size int) {
	size = minChunk
	for class = 0; class < len(chunkPools)-1 && size < n; class++ {
		size *= 4
	}
	return class, size
}

// chunk holds a run of recently appended bytes. Bytes once written never
// change, so readers need no lock for the part that they pinned.
type chunk struct {
	buf  []byte // len: bytes written (guarded by tailCache.mu); cap: fixed
	pos  int64  // segment position of buf[0]
	tail *tail
	elem *list.Element // in tailCache.order
	refs atomic.Int32  // the cache itself and each pin
}

func newChunk(t *tail, pos int64, want int) *chunk {
	class, size := chunkClass(want)
	c, _ := chunkPools[class].Get().(*chunk)
	if c == nil {
		c = &chunk{buf: make([]byte, 0, size)}
	}
	c.buf, c.pos, c.tail = c.buf[:0], pos, t
	c.refs.Store(1)
	return c
}

func (c *chunk) release() {
	if c.refs.Add(-1) == 0 {
		class, _ := chunkClass(cap(c.buf))
		c.tail = nil
		chunkPools[class].Put(c)
	}
}

// tail is the cached end of one log: contiguous chunks of one segment.
type tail struct {
	seg    *segment
	chunks []*chunk
}

func (t *tail) end() int64 {
	if len(t.chunks) == 0 {
		return -1
	}
	c := t.chunks[len(t.chunks)-1]
	return c.pos + int64(len(c.buf))
}

// tailCache keeps recently appended bytes of all logs of a store within one
// budget, oldest out first. Small ranges are served from it by vectored write;
// large ones are cheaper by sendfile from the page cache and stay out.
type tailCache struct {
	mu     sync.Mutex
	budget int64
	used   int64
	order  list.List // of *chunk, oldest first
}

// append copies data, written at pos of seg, to the log's tail.
func (tc *tailCache) append(t *tail, seg *segment, pos int64, data []byte) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	if t.seg != seg || t.end() != pos || len(data) > maxChunk {
		tc.clearLocked(t)
		t.seg = seg
	}
	if len(data) > maxChunk || tc.budget <= 0 {
		return
	}
	for len(data) > 0 {
		var c *chunk
		if n := len(t.chunks); n > 0 {
			c = t.chunks[n-1]
		}
		if c == nil || len(c.buf) == cap(c.buf) {
			want := len(data)
			if c != nil {
				want = max(want, 4*cap(c.buf)) // a busy log gets larger chunks
			}
			c = newChunk(t, pos, want)
			c.elem = tc.order.PushBack(c)
			t.chunks = append(t.chunks, c)
			tc.used += int64(cap(c.buf))
		}
		n := min(len(data), cap(c.buf)-len(c.buf))
		c.buf = append(c.buf, data[:n]...)
		data, pos = data[n:], pos+int64(n)
	}
	for tc.used > tc.budget {
		tc.evictLocked(tc.order.Front().Value.(*chunk))
	}
}

// evictLocked drops a chunk, which is the first of its tail since the order is
// by age.
func (tc *tailCache) evictLocked(c *chunk) {
	t := c.tail
	t.chunks[0] = nil
	if t.chunks = t.chunks[1:]; len(t.chunks) == 0 {
		t.chunks = nil
	}
	tc.order.Remove(c.elem)
	tc.used -= int64(cap(c.buf))
	c.release()
}

func (tc *tailCache) clearLocked(t *tail) {
	for len(t.chunks) > 0 {
		tc.evictLocked(t.chunks[0])
	}
}

// clear drops a log's tail.
func (tc *tailCache) clear(t *tail) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	tc.clearLocked(t)
}

// span is a pinned part of a chunk.
type span struct {
	c *chunk
	b []byte
}

// pin returns [pos, end) of seg if the tail has all of it, appended to dst.
func (tc *tailCache) pin(dst []span, t *tail, seg *segment, pos, end int64) ([]span, bool) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	if t.seg != seg || len(t.chunks) == 0 || pos < t.chunks[0].pos || end > t.end() {
		return dst, false
	}
	for _, c := range t.chunks {
		from, to := max(pos-c.pos, 0), min(end-c.pos, int64(len(c.buf)))
		if from < to {
			c.refs.Add(1)
			dst = append(dst, span{c, c.buf[from:to:to]})
		}
	}
	return dst, true
}
