package segment

import "slices"

// journalState says which logs have journalled bytes that their files may not
// have. Guarded by Store.mu.
type journalState struct {
	seq     uint64 // of the last group
	waiting []*Log
	queued  map[*Log]bool
	oldest  int64 // monotonic nanoseconds of the first entry that waits; 0: none
}

// begin opens a journal group.
func (j *journalState) begin(s *Store) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.seq++
	if j.oldest == 0 {
		j.oldest = max(1, int64(s.clock.Elapsed()))
	}
	return j.seq
}

func (j *journalState) note(l *Log) {
	if j.queued == nil {
		j.queued = map[*Log]bool{}
	}
	if !j.queued[l] {
		j.queued[l] = true
		j.waiting = append(j.waiting, l)
	}
}

// flushJournal syncs the segments that have journalled bytes, then retires the
// journal and writes the marks, in one batch: an entry goes in the very batch
// that says its bytes are in their file.
func (s *Store) flushJournal() error {
	if err := s.Poisoned(); err != nil {
		return err
	}
	s.commitMu.Lock() // no group is between its entries and the waiting list
	s.mu.Lock()
	seq, logs := s.journal.seq, s.journal.waiting
	s.journal.waiting, s.journal.queued, s.journal.oldest = nil, nil, 0
	s.mu.Unlock()
	retired := s.stats.journalWaiting.Load()
	s.commitMu.Unlock()
	slices.SortFunc(logs, func(a, b *Log) int { return compareTP(a.tp, b.tp) })

	lazy, segs := s.lazyMarks(logs)
	if err := s.syncSegments(segs); err != nil {
		return err
	}

	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	var b KVBatch
	s.takeMarks(&b, lazy)
	if len(logs) > 0 {
		b.DeleteRange(journalKey(0, 0), journalKey(seq+1, 0))
		s.stats.journalWaiting.Add(-retired)
	}
	return s.apply(&b, true)
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
