package segment

import (
	"errors"
	"slices"
	"time"
)

// Maintain does what can wait: the lazy sync of journalled segments and the
// retirement of the journal, marks of direct groups, high-watermark
// checkpoints, retention, the deletion of dropped files, and giving back idle
// files and indexes. Call it about once a second with the wall time: with many
// logs each of them has its turn at retention within a minute then.
func (s *Store) Maintain(now time.Time) error {
	if err := s.Poisoned(); err != nil {
		return err
	}
	var errs []error
	if s.journalDue() {
		errs = append(errs, s.flushJournal())
	} else {
		errs = append(errs, s.flushMarks())
	}
	logs := s.turn()
	errs = append(errs, s.saveHighWatermarks(false), s.retain(logs, now), s.reap(now))
	s.forgetIdle(logs)
	return errors.Join(errs...)
}

// journalDue reports whether journalled segments have waited long enough.
func (s *Store) journalDue() bool {
	s.mu.Lock()
	oldest, waiting := s.waiting.oldest, len(s.waiting.list)
	s.mu.Unlock()
	if waiting == 0 {
		return false
	}
	age := s.clock.Elapsed() - oldest
	return age >= s.opts.JournalAge || s.stats.journalWaiting.Load() >= s.opts.JournalMax/8
}

// flushMarks makes the marks of the last direct group durable when no other
// group came to carry them.
func (s *Store) flushMarks() error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	var b KVBatch
	s.takeMarks(&b, nil)
	return s.apply(&b, true)
}

// noteMoved has the next checkpoint save the log's high watermark.
func (s *Store) noteMoved(l *Log) {
	s.mu.Lock()
	s.moved = append(s.moved, l)
	s.mu.Unlock()
}

// saveHighWatermarks checkpoints the high watermarks that moved.
func (s *Store) saveHighWatermarks(sync bool) error {
	s.mu.Lock()
	moved := s.moved
	s.moved = nil
	s.mu.Unlock()
	slices.SortFunc(moved, func(a, b *Log) int { return compareTP(a.tp, b.tp) })
	var b KVBatch
	for _, l := range moved {
		l.mu.Lock()
		l.hwMoved = false
		if l.hw != l.hwSaved && !l.closed {
			b.Set(logKey(l.tp, kindHW), numberValue(l.hw))
			l.hwSaved = l.hw
		}
		l.mu.Unlock()
	}
	return s.apply(&b, sync)
}

// Logs that one call of Maintain looks at for what only time brings about:
// retention, indexes that nobody uses. All of them up to roundLogs, or so many
// that a round over all takes roundCalls: a walk over ten thousand logs would be
// most of what an idle broker costs.
const (
	roundLogs  = 256
	roundCalls = 60
)

// turn returns the logs whose turn it is.
func (s *Store) turn() []*Log {
	logs := s.sortedLogs()
	n := max(roundLogs, (len(logs)+roundCalls-1)/roundCalls)
	if n >= len(logs) {
		return logs
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.round >= len(logs) {
		s.round = 0
	}
	from := s.round
	s.round = min(from+n, len(logs))
	return logs[from:s.round]
}

// retain applies retention by time and size.
func (s *Store) retain(logs []*Log, now time.Time) error {
	var errs []error
	for _, l := range logs {
		if l.expired(now.UnixMilli()) {
			errs = append(errs, l.sealActive())
		}
		if to, ok := l.retainTo(now.UnixMilli()); ok {
			if err := l.AdvanceStart(to); err != nil && !errors.Is(err, ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// expired reports whether even the newest record of the active segment is too
// old: it is sealed then, so that it can go.
func (l *Log) expired(now int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	seg := l.active
	return seg != nil && seg.size > 0 && !l.cfg.Compact && l.cfg.RetentionMs > 0 &&
		now-seg.newest() > l.cfg.RetentionMs && seg.next <= l.hw && l.durable >= l.end
}

// sealActive ends the active segment unless the writer is busy; the next append
// starts a new one.
func (l *Log) sealActive() error {
	if !l.write.TryLock() {
		return nil
	}
	defer l.write.Unlock()
	l.structure.Lock()
	defer l.structure.Unlock()
	l.mu.Lock()
	seg := l.active
	l.mu.Unlock()
	if seg == nil {
		return nil
	}
	if err := l.load(seg); err != nil {
		return err
	}
	var b KVBatch
	l.mu.Lock()
	l.sealSegment(&b, seg)
	l.active = nil
	l.mu.Unlock()
	return l.s.apply(&b, false)
}

// retainTo returns the log start that retention asks for: the end of the last
// sealed segment that is too old or too much, never above the high watermark or
// the caller's bound.
func (l *Log) retainTo(now int64) (int64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cfg
	if c.Compact || l.closed || c.RetentionMs <= 0 && c.RetentionBytes <= 0 {
		return 0, false
	}
	bound := l.hw
	if l.bound >= 0 {
		bound = min(bound, l.bound)
	}
	var excess int64
	for _, seg := range l.segs {
		excess += seg.size
	}
	excess -= c.RetentionBytes
	to := int64(-1)
	for _, seg := range l.segs {
		old := c.RetentionMs > 0 && now-seg.newest() > c.RetentionMs
		much := c.RetentionBytes > 0 && excess >= seg.size
		if !seg.sealed || seg.next > bound || !old && !much {
			break
		}
		excess -= seg.size
		to = seg.next
	}
	return to, to > l.start
}

// newest is the time that retention counts from. Holds mu.
func (seg *segment) newest() int64 {
	if seg.top.ts >= 0 {
		return seg.top.ts
	}
	return seg.created
}

// forgetIdle closes files and drops indexes that were not used lately, and
// lets every block be verified again once per period of residency.
func (s *Store) forgetIdle(logs []*Log) {
	now := s.clock.Elapsed()
	if now > s.opts.IdleClose {
		s.files.closeIdle(now - s.opts.IdleClose)
	}
	s.mu.Lock()
	again := now-s.lastVerify >= s.opts.VerifyPeriod
	if again {
		s.lastVerify = now
	}
	s.mu.Unlock()
	if again {
		logs = s.sortedLogs()
	}
	for _, l := range logs {
		l.mu.Lock()
		for _, seg := range l.segs {
			if again {
				seg.verified, seg.unsure = nil, seg.open.pos < seg.size
			}
			if seg.loaded && seg.sealed && seg.recorded == len(seg.blocks) && now-time.Duration(seg.used) > s.opts.IdleClose {
				seg.blocks, seg.recorded, seg.verified, seg.loaded = nil, 0, nil, false
			}
		}
		l.mu.Unlock()
	}
}
