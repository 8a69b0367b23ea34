package segment

import (
	"errors"
	"fmt"
	"slices"
)

// keptSnapshots is how many producer snapshots a log keeps, so that a
// truncation rarely leaves none.
const keptSnapshots = 2

// ProducerSnapshot returns the latest saved producer state and the offset below
// which it covers the log; at is -1 if there is none. It is derivable: without
// one the caller reads the log from its start.
func (l *Log) ProducerSnapshot() (at int64, data []byte, err error) {
	l.mu.Lock()
	snaps := slices.Clone(l.snaps)
	l.mu.Unlock()
	for _, at := range slices.Backward(snaps) {
		key := spaceKey(spaceSnapshot, l.tp, uint64(at))
		v, err := l.s.catalog.Get(key)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return -1, nil, fmt.Errorf("segment: producer snapshot of %s: %w", l.tp, err)
		}
		d := readValue(typeSnapshot, key, v)
		data = d.rest()
		return at, data, d.err
	}
	return -1, nil, nil
}

// SaveProducerSnapshot remembers the producer state that covers the log below
// at, without sync. A failure is sticky and shows at the next commit.
func (l *Log) SaveProducerSnapshot(at int64, data []byte) {
	l.structure.Lock()
	defer l.structure.Unlock()
	var b KVBatch
	l.mu.Lock()
	if l.closed || at > l.end || at < l.start {
		l.mu.Unlock()
		return
	}
	b.Set(spaceKey(spaceSnapshot, l.tp, uint64(at)), newValue(typeSnapshot, len(data)).raw(data))
	if i, ok := slices.BinarySearch(l.snaps, at); !ok {
		l.snaps = slices.Insert(l.snaps, i, at)
	}
	for len(l.snaps) > keptSnapshots {
		b.Delete(spaceKey(spaceSnapshot, l.tp, uint64(l.snaps[0])))
		l.snaps = l.snaps[1:]
	}
	l.mu.Unlock()
	_ = l.s.apply(&b, false)
}

// cutSnapshots drops those that cover more than the log has. Holds mu.
func (l *Log) cutSnapshots(b *KVBatch, end int64) {
	for n := len(l.snaps); n > 0 && l.snaps[n-1] > end; n = len(l.snaps) {
		b.Delete(spaceKey(spaceSnapshot, l.tp, uint64(l.snaps[n-1])))
		l.snaps = l.snaps[:n-1]
	}
}
