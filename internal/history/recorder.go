package history

import (
	"sync"
	"time"
)

// Recorder collects the operations of a run. Safe for concurrent use.
type Recorder struct {
	start time.Time

	mu      sync.Mutex
	h       History
	process int
	keys    map[string]Key
	next    []Value // per key: the next unique value
}

// NewRecorder starts an empty history; times count from now.
func NewRecorder() *Recorder {
	return &Recorder{start: time.Now(), keys: map[string]Key{}}
}

// Now is the recorder's clock: nanoseconds since its creation, monotonic.
func (r *Recorder) Now() int64 { return int64(time.Since(r.start)) }

// NewProcess returns the id of a new client life.
func (r *Recorder) NewProcess() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process++
	return r.process
}

// Key returns the key of a topic partition, the same for the same name.
func (r *Recorder) Key(name string) Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.keys[name]; ok {
		return k
	}
	k := Key(len(r.h.Keys))
	r.keys[name] = k
	r.h.Keys = append(r.h.Keys, name)
	r.next = append(r.next, 0)
	return k
}

// NextValue returns a value that no other send to k has.
func (r *Recorder) NextValue(k Key) Value {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.next[k]
	r.next[k]++
	return v
}

// Pending is an operation that was invoked. Complete it once.
type Pending struct {
	r  *Recorder
	ix int
}

// Begin records an invocation. The slices of op belong to the recorder from
// now on; Type and times are set here.
func (r *Recorder) Begin(op Op) Pending {
	r.mu.Lock()
	defer r.mu.Unlock()
	op.Type, op.InvokedAt, op.DoneAt = Invoke, r.Now(), 0
	r.h.Ops = append(r.h.Ops, op)
	return Pending{r: r, ix: len(r.h.Ops) - 1}
}

// End records the outcome. update, which may be nil, fills in what the
// operation returned: offsets of sends, reads, rebalanced keys, the error.
func (p Pending) End(t Type, update func(*Op)) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	op := &p.r.h.Ops[p.ix]
	if op.known() {
		return // the first outcome stands
	}
	op.Type, op.DoneAt = t, p.r.Now()
	if update != nil {
		update(op)
	}
}

// History returns the history so far. The caller must not use the recorder's
// pending operations while it reads the result.
func (r *Recorder) History() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := History{Keys: append([]string(nil), r.h.Keys...), Ops: append([]Op(nil), r.h.Ops...)}
	return &h
}
