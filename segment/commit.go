package segment

import (
	"cmp"
	"fmt"
	"sync"

	"github.com/tailrace/tailrace/internal/bugs"
)

// part is what a commit group takes of one segment: bytes [from, to).
type part struct {
	seg      *segment
	from, to int64
}

// member is one log's share of a commit group, as of one moment.
type member struct {
	l      *Log
	end    int64
	bytes  int64
	direct bool // synced in its files; otherwise journalled
	// parts[first:last] of the group.
	first, last int
	mark        mark // of the end, for when the files are synced
}

// commitGroup is the group in flight, in buffers that are used again.
type commitGroup struct {
	logs    []*Log
	members []member
	parts   []part
	batch   KVBatch
	record  []byte // of the journal
	out     []Committed
	drop    []*handle
}

// markSet holds the durable marks that are true but not yet in the catalog:
// those of the last direct group and of the lazy syncs. Guarded by Store.mu.
type markSet struct {
	list []pendingMark
	at   map[*Log]int // index in list
}

type pendingMark struct {
	l *Log
	m mark
}

func (ms *markSet) init() { ms.at = map[*Log]int{} }

// add keeps the greater mark of a log.
func (ms *markSet) add(l *Log, m mark) {
	if i, ok := ms.at[l]; ok {
		if ms.list[i].m.less(&m) {
			ms.list[i].m = m
		}
		return
	}
	ms.at[l] = len(ms.list)
	ms.list = append(ms.list, pendingMark{l, m})
}

func (ms *markSet) drop(l *Log) {
	if i, ok := ms.at[l]; ok {
		ms.list[i].l = nil
		delete(ms.at, l)
	}
}

// take moves the marks into the batch and reports whether there were any.
func (ms *markSet) take(b *KVBatch) bool {
	n := len(ms.at)
	for i := range ms.list {
		if p := &ms.list[i]; p.l != nil {
			b.Set(logKey(p.l.tp, kindMark), p.m.encode())
		}
	}
	ms.list = ms.list[:0]
	clear(ms.at)
	return n > 0
}

// Commit is the group commit: when it returns, everything appended before the
// call is on stable storage. It answers with the logs that it moved and their
// durable ends; the slice is valid until the next call.
//
// Small groups go into the journal with one sync, and reach their files lazily;
// large ones are synced in the files, several at a time, while one catalog batch
// makes the marks of the group before durable. Appends and
// reads go on meanwhile. A failure poisons the directory and is final.
func (s *Store) Commit() ([]Committed, error) {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.Poisoned(); err != nil {
		return nil, err
	}
	g := &s.group
	s.gather(g)
	if len(g.members) == 0 {
		return nil, nil
	}
	s.stats.commits.Add(1)
	s.choose(g)
	if err := s.persist(g); err != nil {
		return nil, err
	}
	return s.publish(g), nil
}

// gather takes the dirty logs as they are now.
func (s *Store) gather(g *commitGroup) {
	g.batch.Ops, g.members, g.parts = g.batch.Ops[:0], g.members[:0], g.parts[:0]
	s.mu.Lock()
	g.logs, s.dirty = s.dirty, g.logs[:0]
	s.mu.Unlock()
	for _, l := range g.logs {
		l.dirty.Store(false) // before looking: what comes later queues the log again
		l.mu.Lock()
		l.gather(g)
		l.mu.Unlock()
	}
}

// gather adds the log's uncommitted bytes and its catalog entries that ride
// along. Holds mu.
func (l *Log) gather(g *commitGroup) {
	if l.closed || l.durable >= l.end {
		return
	}
	m := member{l: l, end: l.end, first: len(g.parts)}
	i := l.behind(func(seg *segment) bool { return seg.committed < seg.size })
	for _, seg := range l.segs[i:] {
		if seg.committed < seg.size {
			g.parts = append(g.parts, part{seg, seg.committed, seg.size})
			m.bytes += seg.size - seg.committed
		}
	}
	l.ride(&g.batch)
	m.last = len(g.parts)
	m.mark = l.markHere()
	g.members = append(g.members, m)
}

// ride adds the log's derivable entries that are new: index blocks and epochs.
// They are in the catalog before a mark above them is. Holds mu.
func (l *Log) ride(b *KVBatch) {
	for i := len(l.segs) - 1; i >= 0; i-- {
		seg := l.segs[i]
		if seg.recorded == len(seg.blocks) && seg.sealed {
			break // a sealed segment is recorded whole, and so are those before it
		}
		l.recordBlocks(b, seg)
	}
	for _, e := range l.unsaved {
		b.Set(epochKey(l.tp, e.epoch), numberValue(e.start))
	}
	l.unsaved = l.unsaved[:0]
}

// behind returns the index from which on segments may satisfy cond, which holds
// for a suffix of the log's segments (empty ones aside). Holds mu.
func (l *Log) behind(cond func(*segment) bool) int {
	i := len(l.segs)
	for i > 0 && (l.segs[i-1].size == 0 || cond(l.segs[i-1])) {
		i--
	}
	return i
}

// markHere is the durable mark of everything appended so far. Holds mu; the
// log has a segment.
func (l *Log) markHere() mark {
	seg := l.lastSegment()
	return mark{ordinal: seg.ordinal, pos: seg.size, next: seg.next, open: seg.open, top: seg.top}
}

// choose decides for each member between journal and files.
func (s *Store) choose(g *commitGroup) {
	var total int64
	for i := range g.members {
		total += g.members[i].bytes
	}
	waiting := s.stats.journalWaiting.Load()
	for i := range g.members {
		m := &g.members[i]
		small := total <= s.opts.JournalGroup || m.bytes <= s.opts.JournalPerLog
		m.direct = !small || waiting+m.bytes > s.opts.JournalMax
		if !m.direct {
			waiting += m.bytes
		}
	}
}

// persist makes the group durable: the journalled members in the journal, the
// direct ones in their files, the marks of the group before and the records of
// new segments in the catalog, side by side. A group that only needs the journal
// takes one write and one sync on the caller's goroutine.
func (s *Store) persist(g *commitGroup) error {
	if err := s.fillJournal(g); err != nil {
		s.fail(err)
		return s.Poisoned()
	}
	var direct []*segment
	sync := false
	for i := range g.members {
		m := &g.members[i]
		if m.direct {
			direct = m.l.unsynced(direct)
		}
		sync = m.l.list(g, m) || sync
	}
	s.mu.Lock()
	sync = s.marks.take(&g.batch) || sync
	s.mu.Unlock()
	if !sync && len(direct) == 0 {
		if err := s.apply(&g.batch, false); err != nil {
			return err
		}
		return s.writeJournal(g)
	}
	return s.sideBySide(
		func() error { return s.syncSegments(direct) },
		func() error { return s.apply(&g.batch, true) },
		func() error { return s.writeJournal(g) },
	)
}

// writeJournal makes the group's record durable, if it has one.
func (s *Store) writeJournal(g *commitGroup) error {
	if len(g.record) == journalHead {
		return nil
	}
	if err := s.journal.append(g.record); err != nil {
		s.fail(err)
		return s.Poisoned()
	}
	n := int64(len(g.record))
	s.stats.bytesJournaled.Add(n)
	s.stats.journalWaiting.Add(n)
	if cap(g.record) > maxRecordKept {
		g.record = nil
	}
	return nil
}

// maxRecordKept is the largest buffer that waits for the next group: with ten
// thousand busy partitions groups are of a MiB or two.
const maxRecordKept = 4 << 20

// sideBySide runs the steps at once, the last one on this goroutine, and
// returns the first error in their order.
func (s *Store) sideBySide(steps ...func() error) error {
	errs := make([]error, len(steps))
	if s.opts.SyncParallelism <= 1 {
		for i, step := range steps {
			if errs[i] = step(); errs[i] != nil {
				return errs[i]
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for i, step := range steps {
		if i == len(steps)-1 {
			errs[i] = step()
		} else {
			wg.Go(func() { errs[i] = step() })
		}
	}
	wg.Wait()
	return cmp.Or(errs...)
}

// unsynced appends the log's segments that have bytes only in the page cache.
func (l *Log) unsynced(dst []*segment) []*segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.behind(func(seg *segment) bool { return seg.synced < seg.size })
	for _, seg := range l.segs[i:] {
		if seg.size > 0 {
			dst = append(dst, seg)
		}
	}
	return dst
}

// list adds the records of the member's segments that no synced batch has had
// yet. A roll writes them without sync: a file with acknowledged bytes that the
// catalog does not list would be set aside after a power cut, and what the journal
// has of it dropped. It reports whether there were any.
func (l *Log) list(g *commitGroup, m *member) (found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range g.parts[m.first:m.last] {
		if !p.seg.listed {
			g.batch.Set(logKey(l.tp, kindSegment, p.seg.ordinal), p.seg.record().encode())
			found = true
		}
	}
	return found
}

// syncSegments makes the files' bytes and directory entries durable, several
// files at a time.
func (s *Store) syncSegments(segs []*segment) error {
	if len(segs) == 0 {
		return nil
	}
	if err := s.dirs.sync(segs); err != nil {
		s.fail(fmt.Errorf("segment: sync directory: %w", err))
		return s.Poisoned()
	}
	workers := min(s.opts.SyncParallelism, len(segs))
	if workers <= 1 {
		for _, seg := range segs {
			if err := s.syncFile(seg); err != nil {
				return err
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	next, first := 0, error(nil)
	for range workers {
		wg.Go(func() {
			for {
				mu.Lock()
				i, stop := next, first != nil
				next++
				mu.Unlock()
				if stop || i >= len(segs) {
					return
				}
				if err := s.syncFile(segs[i]); err != nil {
					mu.Lock()
					first = err
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return first
}

func (s *Store) syncFile(seg *segment) error {
	h, err := s.files.acquire(seg)
	if err == nil {
		s.stats.fileSyncs.Add(1)
		if !bugs.NoFsync {
			err = h.f.SyncData()
		}
		s.files.release(h)
	}
	if err != nil && !seg.dead.Load() {
		s.fail(fmt.Errorf("segment: sync %s: %w", s.segmentPath(seg.tp, seg.id), err))
		return s.Poisoned()
	}
	return nil
}

// publish moves the durable ends and notes what waits for a mark. No member
// was truncated or deleted since gather: those take commitMu too.
func (s *Store) publish(g *commitGroup) []Committed {
	g.out, g.drop = g.out[:0], g.drop[:0]
	now := s.clock.Elapsed()
	s.mu.Lock()
	for i := range g.members {
		m := &g.members[i]
		m.l.mu.Lock()
		for _, p := range g.parts[m.first:m.last] {
			p.seg.committed = max(p.seg.committed, p.to)
			p.seg.listed = true
		}
		m.l.durable = max(m.l.durable, m.end)
		if m.direct {
			g.drop = m.l.noteSynced(&m.mark, g.drop)
		}
		m.l.mu.Unlock()
		if m.direct {
			s.marks.add(m.l, m.mark)
		} else {
			s.waiting.note(m.l, now)
		}
		g.out = append(g.out, Committed{Log: m.l, End: m.end})
	}
	s.mu.Unlock()
	s.files.releaseAll(g.drop)
	return g.out
}

// noteSynced says that every byte below the mark is durable in its file. Holds
// mu.
func (l *Log) noteSynced(m *mark, drop []*handle) []*handle {
	for i := len(l.segs) - 1; i >= 0; i-- {
		seg := l.segs[i]
		if seg.ordinal > m.ordinal {
			continue
		}
		to := seg.size
		if seg.ordinal == m.ordinal {
			to = min(to, m.pos)
		} else if seg.size > 0 && seg.synced >= seg.size {
			break
		}
		seg.synced = max(seg.synced, to)
		seg.committed = max(seg.committed, to)
		drop = seg.unpin(drop)
	}
	return drop
}
