package segment

import (
	"encoding/binary"
	"errors"

	"github.com/tailrace/tailrace/internal/batch"
)

// views takes a view of every segment, with its index.
func (l *Log) views(want func(*segment) bool) ([]view, error) {
	for {
		var missing *segment
		var out []view
		l.mu.Lock()
		for _, seg := range l.segs {
			if !want(seg) {
				continue
			}
			if !seg.loaded && seg.open.pos > 0 {
				missing = seg
				break
			}
			out = append(out, viewOf(seg))
		}
		l.mu.Unlock()
		if missing == nil {
			return out, nil
		}
		if err := l.load(missing); err != nil {
			return nil, err
		}
	}
}

// OffsetForTime finds the first record below limit with a timestamp ≥ ms, in
// milliseconds since 1970. In a compressed batch it answers with the batch's
// base offset, from which a reader meets the record.
func (l *Log) OffsetForTime(ms, limit int64) (TimeOffset, bool, error) {
	views, err := l.views(func(seg *segment) bool { return seg.top.ts >= ms && seg.base < limit })
	if err != nil {
		return TimeOffset{}, false, err
	}
	start := l.Start()
	for i := range views {
		v := &views[i]
		for j := range v.pieces() {
			p := v.piece(j)
			if p.top.ts < ms || p.next <= start || p.base >= limit {
				continue
			}
			found, ok, err := l.timeInPiece(v, p, ms, start)
			if err != nil || ok {
				return found, ok && found.Offset < limit, l.readError(v, err)
			}
		}
	}
	return TimeOffset{}, false, nil
}

// MaxTimestamp finds the first record below limit that has the greatest
// timestamp (ListOffsets, KIP-734).
func (l *Log) MaxTimestamp(limit int64) (TimeOffset, bool, error) {
	views, err := l.views(func(seg *segment) bool { return seg.base < limit && seg.size > 0 })
	if err != nil {
		return TimeOffset{}, false, err
	}
	best, at := noTime, -1
	start := l.Start()
	for i := range views {
		t, err := l.topBelow(&views[i], start, limit)
		if err != nil {
			return TimeOffset{}, false, l.readError(&views[i], err)
		}
		if t.ts > best.ts {
			best, at = t, i
		}
	}
	if at < 0 {
		return TimeOffset{}, false, nil
	}
	v := &views[at]
	found, ok, err := l.timeInPiece(v, v.find(best.offset), best.ts, start)
	return found, ok && found.Offset < limit, l.readError(v, err)
}

// topBelow is the greatest timestamp of the batches in [start, limit).
func (l *Log) topBelow(v *view, start, limit int64) (timeTop, error) {
	top := noTime
	for j := range v.pieces() {
		p := v.piece(j)
		switch {
		case p.next <= start || p.base >= limit || p.top.ts <= top.ts:
		case p.next <= limit && p.base >= start:
			top = top.with(p.top)
		default:
			if _, err := l.verify(v, p.pos, p.end); err != nil {
				return top, err
			}
			sc, err := l.scan(v)
			if err != nil {
				return top, err
			}
			err = sc.walk(p, func(h *batch.Header, _ int64) bool {
				if h.NextOffset() <= limit && h.NextOffset() > start {
					top = top.with(timeTop{h.MaxTimestamp, h.BaseOffset})
				}
				return true
			})
			sc.close()
			if err != nil {
				return top, err
			}
		}
	}
	return top, nil
}

// timeInPiece finds the first record of a block at or above start with a
// timestamp ≥ ms.
func (l *Log) timeInPiece(v *view, p piece, ms, start int64) (found TimeOffset, ok bool, err error) {
	if err := l.refuseDamage(v, p); err != nil {
		return found, false, err
	}
	if _, err := l.verify(v, p.pos, p.end); err != nil {
		return found, false, err
	}
	sc, err := l.scan(v)
	if err != nil {
		return found, false, err
	}
	defer sc.close()
	var rerr error
	err = sc.walk(p, func(h *batch.Header, pos int64) bool {
		if h.MaxTimestamp < ms || h.NextOffset() <= start {
			return true
		}
		raw := make([]byte, h.Size())
		if rerr = readFull(sc.h.f, raw, pos); rerr != nil {
			return false
		}
		found, ok = firstRecord(h, raw, ms, start)
		return !ok
	})
	return found, ok, errors.Join(err, rerr)
}

// firstRecord finds a record within a batch. Where records cannot be told
// apart (compression) or all have the batch's time, the batch stands for them.
func firstRecord(h *batch.Header, raw []byte, ms, start int64) (TimeOffset, bool) {
	whole := TimeOffset{Offset: max(h.BaseOffset, start), Timestamp: h.MaxTimestamp, Epoch: h.LeaderEpoch}
	if h.Compression() != 0 || h.LogAppendTime() {
		return whole, true
	}
	b := raw[batch.HeaderLen:]
	for range h.Records {
		size, n := binary.Varint(b)
		if n <= 0 || size < 1 || size > int64(len(b)-n) {
			return whole, true
		}
		rec := b[n+1 : n+int(size)] // behind the attributes
		b = b[n+int(size):]
		dt, n1 := binary.Varint(rec)
		if n1 <= 0 {
			return whole, true
		}
		do, n2 := binary.Varint(rec[n1:])
		if n2 <= 0 {
			return whole, true
		}
		ts, offset := h.BaseTimestamp+dt, h.BaseOffset+do
		if ts >= ms && offset >= start {
			return TimeOffset{Offset: offset, Timestamp: ts, Epoch: h.LeaderEpoch}, true
		}
	}
	return TimeOffset{}, false
}
