package segment

import (
	"errors"

	"github.com/tailrace/tailrace/internal/model"
)

// ScrubReport says what a call of Scrub looked at and found.
type ScrubReport struct {
	Bytes   int64
	Blocks  int
	Damaged []*DamageError
	// Wrapped is set when the walk reached the last log: the next call starts
	// over.
	Wrapped bool
}

// scrubCursor is the place where the next scrub goes on. Guarded by Store.mu.
type scrubCursor struct {
	tp      model.TopicPartition
	ordinal uint64
	block   int
}

// Scrub reads index blocks from the files, those still in the making too, and
// checks them, about budget bytes a call, going through all logs in turn. Damage
// is quarantined and reported by event as if a reader had met it. The caller
// bounds the rate by how often it calls.
func (s *Store) Scrub(budget int64) (ScrubReport, error) {
	s.mu.Lock()
	cur := s.scrubNext
	s.mu.Unlock()
	var rep ScrubReport
	var errs []error
	for _, l := range s.sortedLogs() {
		if compareTP(l.tp, cur.tp) < 0 {
			continue
		}
		if l.tp != cur.tp {
			cur = scrubCursor{tp: l.tp}
		}
		more, err := l.scrub(&rep, &cur, budget)
		if err != nil {
			errs = append(errs, err)
		}
		if more {
			s.setScrubCursor(cur)
			return rep, errors.Join(errs...)
		}
		cur = scrubCursor{tp: l.tp, ordinal: 1<<64 - 1}
	}
	rep.Wrapped = true
	s.setScrubCursor(scrubCursor{})
	return rep, errors.Join(errs...)
}

func (s *Store) setScrubCursor(c scrubCursor) {
	s.mu.Lock()
	s.scrubNext = c
	s.mu.Unlock()
}

// scrub checks the log's blocks from the cursor on; more is set when the budget
// ran out first.
func (l *Log) scrub(rep *ScrubReport, cur *scrubCursor, budget int64) (more bool, err error) {
	views, err := l.views(func(seg *segment) bool { return seg.ordinal >= cur.ordinal })
	if err != nil {
		return false, err
	}
	for i := range views {
		v := &views[i]
		if v.seg.ordinal != cur.ordinal {
			cur.ordinal, cur.block = v.seg.ordinal, 0
		}
		if more, err := l.scrubSegment(rep, cur, v, budget); more || err != nil {
			return more, err
		}
	}
	return false, nil
}

func (l *Log) scrubSegment(rep *ScrubReport, cur *scrubCursor, v *view, budget int64) (more bool, err error) {
	h, err := l.s.files.acquire(v.seg)
	if err != nil {
		if v.seg.dead.Load() {
			return false, nil
		}
		l.mu.Lock()
		_, known := l.damageAt(v.seg, 0, v.size)
		l.mu.Unlock()
		if known || v.size == 0 {
			return false, nil
		}
		return false, err
	}
	defer l.s.files.release(h)
	start := l.Start()
	for ; cur.block < v.pieces(); cur.block++ {
		if rep.Bytes >= budget {
			return true, nil
		}
		p := v.piece(cur.block)
		if p.next <= start {
			continue // deleted: nobody reads it
		}
		rep.Bytes += p.end - p.pos
		rep.Blocks++
		var derr *DamageError
		if err := l.check(h.f, v, cur.block); errors.As(err, &derr) {
			rep.Damaged = append(rep.Damaged, derr)
		} else if err != nil && !v.seg.dead.Load() {
			return false, err
		}
	}
	return false, nil
}
