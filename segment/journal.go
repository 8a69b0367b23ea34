package segment

import (
	"fmt"
	"slices"
	"time"

	"github.com/tailrace/tailrace/internal/bugs"
)

// waitingLogs are those with journalled bytes that their files may not have.
// Guarded by Store.mu.
type waitingLogs struct {
	list   []*Log
	queued map[*Log]bool
	oldest time.Duration // monotonic, when the first came
}

func (w *waitingLogs) note(l *Log, now time.Duration) {
	if w.queued == nil {
		w.queued = map[*Log]bool{}
	}
	if len(w.list) == 0 {
		w.oldest = now
	}
	if !w.queued[l] {
		w.queued[l] = true
		w.list = append(w.list, l)
	}
}

// fillJournal makes the record of the journalled members' bytes. It has no body
// if there are none.
func (s *Store) fillJournal(g *commitGroup) error {
	g.record = newGroup(g.record)
	for i := range g.members {
		m := &g.members[i]
		if m.direct {
			continue
		}
		for _, p := range g.parts[m.first:m.last] {
			before := len(g.record)
			var dst []byte
			g.record, dst = appendPart(g.record, m.l.tp, p.seg.ordinal, p.from, p.to-p.from)
			if err := s.readBack(m.l, p, dst); err != nil {
				if p.seg.dead.Load() { // retention took it meanwhile
					g.record = g.record[:before]
					continue
				}
				return err
			}
		}
	}
	return nil
}

// readBack returns bytes that were just appended, from the tail cache or the
// page cache.
func (s *Store) readBack(l *Log, p part, dst []byte) error {
	var arr [8]span
	if spans, ok := s.cache.pin(arr[:0], &l.tail, p.seg, p.from, p.to); ok {
		n := 0
		for _, sp := range spans {
			n += copy(dst[n:], sp.b)
			sp.c.release()
		}
		return nil
	}
	h, err := s.files.acquire(p.seg)
	if err != nil {
		return err
	}
	defer s.files.release(h)
	if err := readFull(h.f, dst, p.from); err != nil {
		return fmt.Errorf("segment: read back %s at %d: %w", s.segmentPath(l.tp, p.seg.id), p.from, err)
	}
	return nil
}

// flushJournal syncs the segments that have journalled bytes, then retires the
// journal's groups and writes the marks, in one batch: a group goes in the very
// batch that says its bytes are in their files.
func (s *Store) flushJournal() error {
	if err := s.Poisoned(); err != nil {
		return err
	}
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.commitMu.Lock() // no group is between its record and the waiting list
	s.mu.Lock()
	seq, logs := s.journal.seq, s.waiting.list
	s.waiting = waitingLogs{}
	s.mu.Unlock()
	retired := s.stats.journalWaiting.Load()
	s.commitMu.Unlock()
	slices.SortFunc(logs, func(a, b *Log) int { return compareTP(a.tp, b.tp) })

	lazy, segs := s.lazyMarks(logs)
	if err := s.syncLazily(segs); err != nil {
		return err
	}

	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	var b KVBatch
	s.takeMarks(&b, lazy)
	if err := s.retireJournal(&b, seq); err != nil {
		return err
	}
	s.stats.journalWaiting.Add(-retired)
	return nil
}

// retireJournal applies the batch that makes the journal's groups up to seq
// dispensable and says so. Their files may be used again then. Holds commitMu.
func (s *Store) retireJournal(b *KVBatch, seq uint64) error {
	if seq > s.journal.retired {
		b.Set(counterRetired, numberValue(int64(seq)))
	}
	if err := s.apply(b, true); err != nil {
		return err
	}
	s.journal.retired = max(s.journal.retired, seq)
	return nil
}

// syncLazily makes the segments durable in their files. Many are synced with the
// whole file system: nobody waits for a lazy sync, so what others have written
// there may take its time.
func (s *Store) syncLazily(segs []*segment) error {
	if s.whole == nil || len(segs) < s.opts.WholeFrom || bugs.NoFsync {
		return s.syncSegments(segs)
	}
	s.stats.wholeSyncs.Add(1)
	if err := s.whole.Sync(); err != nil {
		s.fail(fmt.Errorf("segment: sync the file system of %s: %w", s.dir, err))
		return s.Poisoned()
	}
	s.dirs.synced(segs)
	return nil
}

// lazyMark is a mark that will be true once the log's files are synced.
type lazyMark struct {
	l   *Log
	gen uint64
	m   mark
}

func (s *Store) lazyMarks(logs []*Log) (lazy []lazyMark, segs []*segment) {
	for _, l := range logs {
		l.mu.Lock()
		if !l.closed && len(l.segs) > 0 {
			lazy = append(lazy, lazyMark{l, l.gen, l.markHere()})
		}
		l.mu.Unlock()
		segs = l.unsynced(segs)
	}
	return lazy, segs
}

// takeMarks adds the pending marks and those of a lazy sync to the batch, with
// the index blocks and epochs that lie below them. Holds commitMu.
func (s *Store) takeMarks(b *KVBatch, lazy []lazyMark) {
	var drop []*handle
	s.mu.Lock()
	for i := range lazy {
		l := lazy[i].l
		l.mu.Lock()
		if l.gen == lazy[i].gen && !l.closed {
			drop = l.noteSynced(&lazy[i].m, drop)
			l.ride(b)
			s.marks.add(l, lazy[i].m)
		}
		l.mu.Unlock()
	}
	s.marks.take(b)
	s.mu.Unlock()
	s.files.releaseAll(drop)
}
