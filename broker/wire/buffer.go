package wire

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Pooled buffers are powers of two between these; larger ones are the garbage
// collector's, which returns their memory to the system.
const (
	minBufferBits = 9  // 512 B
	maxBufferBits = 22 // 4 MiB
)

var bufferPools [maxBufferBits + 1]sync.Pool

// buffer is a pooled run of bytes.
type buffer struct {
	b    []byte // full capacity
	bits int    // its pool; 0: not pooled
}

// newBuffer returns a buffer of at least n bytes with arbitrary contents.
func newBuffer(n int) *buffer {
	k := max(minBufferBits, bits.Len(uint(max(n, 1)-1)))
	if k > maxBufferBits {
		return &buffer{b: make([]byte, n)}
	}
	if b, ok := bufferPools[k].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, 1<<k), bits: k}
}

// free returns the buffer to its pool; nothing may refer to its bytes any more.
func (b *buffer) free() {
	if b == nil {
		return
	}
	if poisonFreed {
		for i := range b.b {
			b.b[i] = 0xDE
		}
	}
	if b.bits != 0 {
		bufferPools[b.bits].Put(b)
	}
}

// Buffer is a pooled buffer for callers that frame bytes themselves.
type Buffer struct{ inner *buffer }

// GetBuffer returns a buffer of n bytes with arbitrary contents.
func GetBuffer(n int) (Buffer, []byte) {
	b := newBuffer(n)
	return Buffer{b}, b.b[:n]
}

// Free returns the buffer; call it at most once.
func (b Buffer) Free() { b.inner.free() }

// Budget bounds the memory that request bodies hold, over all connections that
// share it. Waiting is first come, first served, so a large request is not
// starved by small ones. The nil Budget has no limit.
type Budget struct {
	size int64
	sem  *semaphore.Weighted
}

// NewBudget returns a budget of size bytes.
func NewBudget(size int64) *Budget {
	return &Budget{size: size, sem: semaphore.NewWeighted(size)}
}

var errNoMemory = errors.New("request memory is taken by other connections")

// acquire takes what is missing from held to n bytes, or to all there are when
// n is more, and returns what it took. It waits until done is closed, and no
// longer than wait unless that is 0.
func (b *Budget) acquire(held, n int64, done <-chan struct{}, wait time.Duration) (int64, error) {
	if b == nil {
		return 0, nil
	}
	n = min(n, b.size) - held
	if n <= 0 || b.sem.TryAcquire(n) {
		return max(n, 0), nil
	}
	var ctx context.Context = doneContext{context.Background(), done}
	if wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	if err := b.sem.Acquire(ctx, n); err != nil {
		return 0, fmt.Errorf("%w (%w)", errNoMemory, err)
	}
	return n, nil
}

func (b *Budget) release(n int64) {
	if b != nil && n > 0 {
		b.sem.Release(n)
	}
}

// doneContext is a context that ends with a connection.
type doneContext struct {
	context.Context
	done <-chan struct{}
}

func (c doneContext) Done() <-chan struct{} { return c.done }

func (c doneContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}
