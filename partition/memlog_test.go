package partition

import (
	"errors"
	"fmt"
	"io"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// memLog is a log in memory that distinguishes what is durable: crash loses the
// rest.
type memLog struct {
	tp        model.TopicPartition
	batches   []memBatch
	start     int64
	end       int64
	durable   int64
	hw        int64
	snapshots map[int64][]byte
	damaged   []segment.OffsetRange
	appendErr error
	onAppend  func() // runs inside Append
	writes    int
	repaired  []byte
}

type memBatch struct {
	base, next int64
	epoch      int32
	maxTS      int64
	raw        []byte
}

type memRange struct {
	b []byte
}

func (r memRange) Len() int64                          { return int64(len(r.b)) }
func (r memRange) AppendTo(dst []byte) ([]byte, error) { return append(dst, r.b...), nil }
func (r memRange) Release()                            {}
func (r memRange) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(r.b)
	return int64(n), err
}

func newMemLog() *memLog { return &memLog{snapshots: map[int64][]byte{}} }

func (l *memLog) TP() model.TopicPartition { return l.tp }
func (l *memLog) Start() int64             { return l.start }
func (l *memLog) End() int64               { return l.end }
func (l *memLog) DurableEnd() int64        { return l.durable }
func (l *memLog) HighWatermark() int64     { return min(l.hw, l.end) }
func (l *memLog) SetHighWatermark(h int64) { l.hw = h }
func (l *memLog) SetConfig(segment.LogConfig) {
}
func (l *memLog) Suspect() segment.Suspicion {
	if len(l.damaged) > 0 {
		return segment.Damaged
	}
	return segment.Trusted
}
func (l *memLog) Damaged() []segment.OffsetRange { return l.damaged }

func (l *memLog) Bytes() (n int64) {
	for _, b := range l.batches {
		n += int64(len(b.raw))
	}
	return n
}

func (l *memLog) Append(bs []byte) (segment.AppendInfo, error) {
	if l.onAppend != nil {
		l.onAppend()
	}
	if l.appendErr != nil {
		return segment.AppendInfo{}, l.appendErr
	}
	l.writes++
	info := segment.AppendInfo{Base: l.end, Bytes: len(bs)}
	for len(bs) > 0 {
		h, raw, err := batch.Next(bs)
		if err != nil {
			return info, err
		}
		if h.BaseOffset != l.end {
			return info, fmt.Errorf("memlog: batch at %d, end %d", h.BaseOffset, l.end)
		}
		if e := l.LastEpoch(); h.LeaderEpoch < e {
			return info, fmt.Errorf("memlog: epoch %d after %d", h.LeaderEpoch, e)
		}
		l.batches = append(l.batches, memBatch{h.BaseOffset, h.NextOffset(), h.LeaderEpoch, h.MaxTimestamp, append([]byte(nil), raw...)})
		l.end = h.NextOffset()
		bs = bs[len(raw):]
	}
	info.Next = l.end
	return info, nil
}

// commit is the group commit of this log.
func (l *memLog) commit() { l.durable = l.end }

// crash loses what is not durable.
func (l *memLog) crash() {
	_ = l.Truncate(l.durable)
	l.hw = min(l.hw, l.end)
}

func (l *memLog) Read(offset, limit int64, maxBytes int, minOne bool) (Range, error) {
	if offset < l.start || offset > l.end {
		return nil, segment.ErrOutOfRange
	}
	var out []byte
	for _, b := range l.batches {
		if b.next <= offset || b.base >= limit {
			continue
		}
		for _, d := range l.damaged {
			if b.base < d.To && d.From < b.next {
				if len(out) > 0 {
					return memRange{b: out}, nil
				}
				return nil, segment.ErrDamaged
			}
		}
		if len(out)+len(b.raw) > maxBytes && (len(out) > 0 || !minOne) {
			break
		}
		out = append(out, b.raw...)
	}
	return memRange{b: out}, nil
}

func (l *memLog) Truncate(end int64) error {
	for len(l.batches) > 0 && l.batches[len(l.batches)-1].next > end {
		if l.batches[len(l.batches)-1].base < end {
			return errors.New("memlog: truncation inside a batch")
		}
		l.batches = l.batches[:len(l.batches)-1]
	}
	l.end = min(l.end, end)
	l.durable = min(l.durable, l.end)
	for at := range l.snapshots {
		if at > end {
			delete(l.snapshots, at)
		}
	}
	return nil
}

func (l *memLog) ResetTo(offset int64) error {
	*l = memLog{tp: l.tp, start: offset, end: offset, durable: offset, snapshots: map[int64][]byte{}}
	return nil
}

func (l *memLog) AdvanceStart(offset int64) error {
	l.start = max(l.start, offset)
	for len(l.batches) > 0 && l.batches[0].next <= offset {
		l.batches = l.batches[1:]
	}
	return nil
}

func (l *memLog) LastEpoch() int32 {
	if len(l.batches) == 0 {
		return -1
	}
	return l.batches[len(l.batches)-1].epoch
}

func (l *memLog) EpochEnd(e int32) (epoch int32, end int64) {
	epoch, end = -1, -1
	for _, b := range l.batches {
		if b.epoch > e {
			break
		}
		epoch, end = b.epoch, b.next
	}
	return epoch, end
}

func (l *memLog) EpochAt(offset int64) int32 {
	for _, b := range l.batches {
		if b.next > offset {
			return b.epoch
		}
	}
	return -1
}

func (l *memLog) OffsetForTime(ms, limit int64) (segment.TimeOffset, bool, error) {
	for _, b := range l.batches {
		if b.maxTS >= ms && b.base < limit {
			return segment.TimeOffset{Offset: b.base, Timestamp: b.maxTS, Epoch: b.epoch}, true, nil
		}
	}
	return segment.TimeOffset{}, false, nil
}

func (l *memLog) MaxTimestamp(limit int64) (t segment.TimeOffset, ok bool, err error) {
	for _, b := range l.batches {
		if b.base < limit && (!ok || b.maxTS > t.Timestamp) {
			t, ok = segment.TimeOffset{Offset: b.base, Timestamp: b.maxTS, Epoch: b.epoch}, true
		}
	}
	return t, ok, nil
}

func (l *memLog) Repair(r segment.OffsetRange, batches []byte) error {
	l.repaired = append(l.repaired, batches...)
	l.damaged = nil
	return nil
}

func (l *memLog) ProducerSnapshot() (at int64, data []byte, err error) {
	at = -1
	for a, d := range l.snapshots {
		if a > at {
			at, data = a, d
		}
	}
	if at < 0 {
		return 0, nil, segment.ErrNotFound
	}
	return at, data, nil
}

func (l *memLog) SaveProducerSnapshot(at int64, data []byte) { l.snapshots[at] = data }
