package segment

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
)

// ModelCatalog is a deterministic catalog in memory for the simulator. Like the
// real one it keeps the order of applies: a crash leaves everything up to the
// last synced Apply and a prefix of what came after it.
type ModelCatalog struct {
	// Fail, if set, is asked before each call ("get", "scan", "apply",
	// "sync") and its error returned. Set it before use.
	Fail func(call string) error

	mu       sync.Mutex
	now      sortedMap // everything applied
	durable  sortedMap // everything up to the last synced Apply
	unsynced []KVBatch // applied since, in order
	closed   bool
}

// NewModelCatalog returns an empty one.
func NewModelCatalog() *ModelCatalog { return &ModelCatalog{} }

// Crash returns what a crash at this moment leaves: the durable state and a
// prefix of the later batches, its length drawn from rng (nil: none of them).
// The crashed catalog refuses further calls.
func (m *ModelCatalog) Crash(rng *rand.Rand) *ModelCatalog {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	keep := 0
	if rng != nil {
		keep = rng.IntN(len(m.unsynced) + 1)
	}
	out := &ModelCatalog{durable: m.durable.clone()}
	for _, b := range m.unsynced[:keep] {
		out.durable.apply(b)
	}
	out.now = out.durable.clone()
	return out
}

func (m *ModelCatalog) check(call string) error {
	if m.Fail != nil {
		if err := m.Fail(call); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	return nil
}

// Get implements KV.
func (m *ModelCatalog) Get(key []byte) ([]byte, error) {
	if err := m.check("get"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i, ok := m.now.find(key)
	if !ok {
		return nil, ErrNotFound
	}
	return bytes.Clone(m.now[i].value), nil
}

// Scan implements KV over a snapshot.
func (m *ModelCatalog) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	if err := m.check("scan"); err != nil {
		return err
	}
	m.mu.Lock()
	part := slices.Clone(m.now.within(lo, hi))
	m.mu.Unlock()
	for _, e := range part {
		if !fn(e.key, e.value) {
			break
		}
	}
	return nil
}

// Apply implements KV.
func (m *ModelCatalog) Apply(b *KVBatch, sync bool) error {
	call := "apply"
	if sync {
		call = "sync"
	}
	if err := m.check(call); err != nil {
		return err
	}
	own := b.clone()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.apply(own)
	m.unsynced = append(m.unsynced, own)
	if sync {
		for _, u := range m.unsynced {
			m.durable.apply(u)
		}
		m.unsynced = m.unsynced[:0]
	}
	return nil
}

// Metrics implements Catalog.
func (m *ModelCatalog) Metrics() CatalogMetrics { return CatalogMetrics{} }

// Close implements Catalog. A clean close loses nothing.
func (m *ModelCatalog) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.New("model catalog: closed twice")
	}
	m.closed = true
	return nil
}

// Reopen returns the catalog as after a clean close.
func (m *ModelCatalog) Reopen() *ModelCatalog {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return &ModelCatalog{now: m.now.clone(), durable: m.now.clone()}
}

func (b *KVBatch) clone() KVBatch {
	out := KVBatch{Ops: make([]KVOp, len(b.Ops))}
	for i, op := range b.Ops {
		out.Ops[i] = KVOp{Key: bytes.Clone(op.Key), Value: bytes.Clone(op.Value), End: bytes.Clone(op.End)}
	}
	return out
}

type entry struct{ key, value []byte }

// sortedMap is a map kept as a sorted slice: small, ordered, deterministic.
type sortedMap []entry

func (s sortedMap) clone() sortedMap { return slices.Clone(s) }

func (s sortedMap) lower(key []byte) int {
	return sort.Search(len(s), func(i int) bool { return bytes.Compare(s[i].key, key) >= 0 })
}

func (s sortedMap) find(key []byte) (int, bool) {
	i := s.lower(key)
	return i, i < len(s) && bytes.Equal(s[i].key, key)
}

func (s sortedMap) within(lo, hi []byte) sortedMap {
	i, j := s.lower(lo), len(s)
	if hi != nil {
		j = max(i, s.lower(hi))
	}
	return s[i:j]
}

func (s *sortedMap) apply(b KVBatch) {
	for _, op := range b.Ops {
		switch i, found := s.find(op.Key); {
		case op.End != nil:
			*s = slices.Delete(*s, i, max(i, s.lower(op.End)))
		case op.Value == nil && found:
			*s = slices.Delete(*s, i, i+1)
		case op.Value == nil:
		case found:
			(*s)[i].value = op.Value
		default:
			*s = slices.Insert(*s, i, entry{op.Key, op.Value})
		}
	}
}
