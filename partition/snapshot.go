package partition

import (
	"errors"
	"fmt"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/segment"
)

const (
	snapshotBytes = 16 << 20         // idempotent bytes between snapshots
	snapshotEvery = 30 * time.Second // or this long
	replayBytes   = 1 << 20          // per read while replaying
)

// snapshot is producer state at a log end. It is saved only when the high
// watermark has reached that end: what is saved is then never truncated, so the
// last snapshot is always one to start from.
type snapshot struct {
	at   int64
	data []byte
}

// dueSnapshot takes a snapshot now and then, and returns one that may be saved.
// mu is held.
func (r *Replica) dueSnapshot(now time.Duration) *snapshot {
	due := r.sinceSnap >= snapshotBytes || (r.sinceSnap > 0 && now-r.snapAt >= snapshotEvery)
	if r.candidate == nil && due && r.failed == nil && !r.partial {
		r.candidate = &snapshot{at: r.isr.End(), data: r.producers.encode()}
		r.sinceSnap, r.snapAt = 0, now
	}
	c := r.candidate
	if c == nil || r.isr.HighWatermark() < c.at {
		return nil
	}
	r.candidate = nil
	return c
}

// loadProducers rebuilds producer state from the last snapshot and the batches
// behind it. A damaged snapshot is derivable and therefore ignored; so is one
// that ends below the log start, since batches between the two are gone: a
// sequence that is too old would refuse its producer for ever, an unknown
// producer is welcome. Damaged ranges of the log are skipped, since the replica
// does not lead before they are repaired.
func loadProducers(log Log, nowMs int64) (producers, error) {
	return loadProducersTo(log, log.End(), nowMs)
}

// loadProducersTo rebuilds the state below an offset.
func loadProducersTo(log Log, end, nowMs int64) (producers, error) {
	ps, from := producers{}, log.Start()
	at, data, err := log.ProducerSnapshot()
	switch {
	case err != nil && !errors.Is(err, segment.ErrNotFound):
		return ps, err
	case err == nil && len(data) > 0 && at >= from && at <= end:
		if snap, err := decodeProducers(data); err == nil {
			ps, from = snap, at
		}
	}
	err = scan(log, from, end, func(h *batch.Header) {
		if h.NextOffset() <= end {
			ps.apply(h, nowMs)
		}
	})
	return ps, err
}

// keepProducers saves what producers had written below a log start that is
// about to move there, since afterwards the log cannot tell (I27). The synced
// change of the log start carries it. Only the token is held.
func keepProducers(log Log, start, nowMs int64) error {
	if at, data, err := log.ProducerSnapshot(); err == nil && len(data) > 0 && at >= start {
		return nil
	}
	ps, err := loadProducersTo(log, start, nowMs)
	if err != nil {
		return err
	}
	log.SaveProducerSnapshot(start, ps.encode())
	return nil
}

// scan calls fn for the header of every batch that begins in [from, to).
func scan(log Log, from, to int64, fn func(*batch.Header)) error {
	var buf []byte
	for from < to {
		rg, err := log.Read(from, log.End(), replayBytes, true)
		if errors.Is(err, segment.ErrDamaged) {
			cause := err
			if from, err = past(log, from); err != nil {
				return fmt.Errorf("%w: %w", err, cause)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("read at %d: %w", from, err)
		}
		if rg == nil || rg.Len() == 0 {
			return fmt.Errorf("read at %d: nothing below %d", from, to)
		}
		buf, err = rg.AppendTo(buf[:0])
		rg.Release()
		if err != nil {
			return fmt.Errorf("read at %d: %w", from, err)
		}
		for b := buf; len(b) > 0; {
			h, raw, err := batch.Next(b)
			if err != nil {
				return fmt.Errorf("batch at %d: %w", from, err)
			}
			b = b[len(raw):]
			if h.BaseOffset >= to {
				return nil
			}
			fn(&h)
			from = h.NextOffset()
		}
	}
	return nil
}

// past returns the end of the damaged range at or after offset.
func past(log Log, offset int64) (int64, error) {
	for _, d := range log.Damaged() {
		if d.To > offset {
			return d.To, nil
		}
	}
	return 0, fmt.Errorf("read at %d: %w, but no range is listed", offset, segment.ErrDamaged)
}
