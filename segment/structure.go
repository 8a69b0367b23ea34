package segment

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
)

// freeze keeps appends, rolls and commits of the log away while its structure
// changes: a group in flight must not write index entries above a truncation
// behind the batch that commits it.
func (l *Log) freeze() (thaw func()) {
	l.write.Lock()
	l.structure.Lock()
	l.s.commitMu.Lock()
	return func() {
		l.s.commitMu.Unlock()
		l.structure.Unlock()
		l.write.Unlock()
	}
}

// Truncate removes every batch that reaches end or beyond it; the log end is
// then the base of the first one removed, which is end itself if that is a
// batch boundary. It is logical: the new end is committed to the catalog, the
// segment sealed there, and the next append starts a new one; bytes are never
// cut from a file. Leader-epoch entries, index and producer snapshots above go
// with it.
func (l *Log) Truncate(end int64) error {
	defer l.freeze()()
	l.mu.Lock()
	start, old, closed := l.start, l.end, l.closed
	l.mu.Unlock()
	switch {
	case closed:
		return ErrClosed
	case end < start:
		return fmt.Errorf("%w: truncate %s to %d below its start %d", ErrOutOfRange, l.tp, end, start)
	case end >= old:
		return nil
	}
	var b KVBatch
	c, err := l.findCut(end)
	if err != nil {
		return err
	}
	c.end = max(c.end, start) // the start may lie inside a batch that goes
	tombs := l.commitCut(&b, c)
	if err := l.s.apply(&b, true); err != nil {
		return err
	}
	l.applyCut(c)
	l.s.bury(tombs)
	return nil
}

// cut is the place where a log is truncated.
type cut struct {
	end    int64
	keep   int      // segments that stay
	last   progress // state of the last of them, sealed at the cut
	from   int64    // position of its first block that changes
	trim   bool     // the last one changes at all
	marked bool     // a mark of everything up to the old end goes with the cut
	well   *damage  // reported of the block that is cut, and not so
}

// findCut locates the last batch boundary at or below end and computes the
// index of the segment that is cut there.
func (l *Log) findCut(end int64) (cut, error) {
	l.mu.Lock()
	segs := l.segs
	i := 0
	for i < len(segs) && segs[i].base < end {
		i++
	}
	l.mu.Unlock()
	c := cut{end: end, keep: i}
	if i == 0 {
		return c, nil
	}
	seg := segs[i-1]
	if err := l.load(seg); err != nil {
		return c, err
	}
	l.mu.Lock()
	v := viewOf(seg)
	l.mu.Unlock()
	if v.next <= end {
		return c, nil
	}
	pc := v.find(end)
	below := func(h *batch.Header) bool { return h.NextOffset() <= end }
	p, err := l.rescan(&v, pc, below)
	if errors.Is(err, ErrDamaged) { // look twice, since what follows from it is for good
		if p, err = l.rescan(&v, pc, below); err == nil {
			c.well = &damage{ordinal: seg.ordinal, pos: pc.pos}
		} else if errors.Is(err, ErrDamaged) {
			// Recovery must not look for batches in bytes that it keeps but
			// that are no part of the log: the mark covers them.
			p, c.marked = l.cutDamaged(&v, pc, end), true
			err = l.s.syncSegments(l.unsynced(nil))
		}
	}
	if err != nil {
		return c, err
	}
	c.last, c.from, c.trim, c.end = p, pc.pos, true, p.next
	for _, b := range v.blocks {
		if b.end <= c.from {
			c.last.top = c.last.top.with(b.top)
		}
	}
	if p.size == 0 { // nothing of it stays
		c.keep, c.trim = i-1, false
	}
	return c, nil
}

// rescan recomputes a block from the file, as far as the batches satisfy keep.
// It compares the very bytes that it goes by: a checksum made from others would
// make them right.
func (l *Log) rescan(v *view, pc piece, keep func(*batch.Header) bool) (progress, error) {
	p := progress{tp: l.tp, id: v.seg.id, blockSize: l.s.opts.IndexBytes, size: pc.pos, next: pc.base, top: noTime}
	p.open = p.newOpenBlock()
	h, err := l.s.files.acquire(v.seg)
	if err != nil {
		return p, fmt.Errorf("segment: open %s: %w", l.s.segmentPath(l.tp, v.seg.id), err)
	}
	defer l.s.files.release(h)
	data, err := l.readPiece(h.f, v, pc)
	if err != nil {
		return p, err
	}
	hs, err := parseBatches(nil, data, pc.base, 0)
	if err != nil {
		return p, l.reportDamage(v, pc, err)
	}
	n, size := 0, 0
	for n < len(hs) && keep(&hs[n]) {
		size += hs[n].Size()
		n++
	}
	p.add(hs[:n], data[:size])
	p.seal()
	return p, nil
}

// cutDamaged cuts inside a block that cannot be read. Where end lies in its bytes
// is unknown and does not matter: the block keeps all of them, stays damaged, and
// repair replaces it by batches up to end, which the caller took from the epochs
// of two logs and which is therefore a batch boundary.
func (l *Log) cutDamaged(v *view, pc piece, end int64) progress {
	p := progress{tp: l.tp, id: v.seg.id, blockSize: l.s.opts.IndexBytes, size: pc.pos, next: pc.base, top: noTime}
	p.open = p.newOpenBlock()
	if end <= pc.base {
		return p
	}
	b := block{pos: pc.pos, end: pc.end, base: pc.base, next: end, top: pc.top}
	data := make([]byte, pc.end-pc.pos)
	if h, err := l.s.files.acquire(v.seg); err == nil {
		if readFull(h.f, data, pc.pos) != nil {
			clear(data)
		}
		l.s.files.release(h)
	}
	b.crc = ^crcOf(blockSeed(p.tp, p.id, b.pos), data)
	p.sealed = append(p.sealed, b)
	p.size, p.next, p.top = b.end, end, pc.top
	p.open = p.newOpenBlock()
	return p
}

// shortenDamage lets damage end at the new log end. Holds mu.
func (l *Log) shortenDamage(b *KVBatch, end int64) {
	l.damaged = slices.Clone(l.damaged)
	for i := range l.damaged {
		if d := &l.damaged[i]; d.offsets.To > end {
			d.offsets.To = end
			b.Set(d.key(l.tp), d.encode())
		}
	}
}

// commitCut fills the batch that commits a truncation and returns the
// tombstones of the segments that go.
func (l *Log) commitCut(b *KVBatch, c cut) (tombs []tombstone) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, seg := range l.segs[c.keep:] {
		tombs = append(tombs, l.s.tombstone(b, seg))
		l.dropSegment(b, seg)
	}
	if c.marked {
		m := l.markHere()
		b.Set(logKey(l.tp, kindMark), m.encode())
	}
	if c.trim {
		seg := l.segs[c.keep-1]
		l.recordBlocks(b, seg)
		b.DeleteRange(blocksFrom(seg, c.from))
		for i := range c.last.sealed {
			blk := &c.last.sealed[i]
			b.Set(blockKey(l.tp, seg.ordinal, blk.pos), blk.encode())
		}
		rec := segmentRecord{
			id: seg.id, base: seg.base, created: seg.created, sealed: true,
			next: c.last.next, size: c.last.size, top: c.last.top,
		}
		b.Set(logKey(l.tp, kindSegment, seg.ordinal), rec.encode())
	} else if c.keep > 0 {
		l.sealSegment(b, l.segs[c.keep-1])
	}
	l.cutEpochs(b, c.end)
	l.cutSnapshots(b, c.end)
	l.cutDamage(b, func(d damage) bool {
		return d.offsets.From >= c.end || c.well != nil && d.ordinal == c.well.ordinal && d.pos == c.well.pos
	})
	l.shortenDamage(b, c.end)
	b.Set(logKey(l.tp, kindHW), numberValue(min(l.hw, c.end)))
	return tombs
}

// applyCut makes a committed truncation visible.
func (l *Log) applyCut(c cut) {
	l.s.cache.clear(&l.tail)
	var drop []*handle
	l.mu.Lock()
	for _, seg := range l.segs[c.keep:] {
		seg.dead.Store(true)
		drop = seg.discard(drop)
	}
	l.segs = l.segs[:c.keep:c.keep]
	if c.trim {
		seg := l.segs[c.keep-1]
		n := len(seg.blocks)
		for n > 0 && seg.blocks[n-1].end > c.from {
			n--
		}
		seg.blocks = append(slices.Clone(seg.blocks[:n]), c.last.sealed...)
		seg.verified, seg.unsure, seg.recorded, seg.sealed = nil, false, len(seg.blocks), true
		seg.size, seg.next, seg.top, seg.open = c.last.size, c.last.next, c.last.top, c.last.open
		seg.committed, seg.synced = min(seg.committed, seg.size), min(seg.synced, seg.size)
		drop = seg.unpin(drop)
	}
	l.active = nil
	l.end, l.durable, l.hw = c.end, min(l.durable, c.end), min(l.hw, c.end)
	l.hwSaved = l.hw
	l.gen++
	l.recent = [recentAppends]appendPoint{}
	behind := l.durable < l.end
	l.mu.Unlock()
	l.s.files.releaseAll(drop)
	if behind {
		l.markDirty()
	}
}

// ResetTo drops everything and starts the log empty at offset, synced. Damage
// goes with the data.
func (l *Log) ResetTo(offset int64) error {
	if offset < 0 {
		return fmt.Errorf("%w: reset %s to %d", ErrOutOfRange, l.tp, offset)
	}
	defer l.freeze()()
	var b KVBatch
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	c := cut{end: offset}
	l.mu.Unlock()
	tombs := l.commitCut(&b, c)
	lo := logKey(l.tp, kindEpoch)
	b.DeleteRange(lo, prefixEnd(lo))
	lo = logKey(l.tp, kindDamage)
	b.DeleteRange(lo, prefixEnd(lo))
	lo = spaceKey(spaceSnapshot, l.tp)
	b.DeleteRange(lo, prefixEnd(lo))
	b.Set(logKey(l.tp, kindHW), numberValue(offset))
	b.Set(logKey(l.tp, kindLog), logRecord{start: offset, cfg: l.Config()}.encode())
	if err := l.s.apply(&b, true); err != nil {
		return err
	}
	l.applyCut(c)
	l.mu.Lock()
	l.start, l.end, l.durable, l.hw, l.hwSaved = offset, offset, offset, offset, offset
	l.epochs, l.unsaved, l.snaps, l.damaged = nil, nil, nil, nil
	if l.suspect >= Damaged {
		l.suspect = Trusted
	}
	l.mu.Unlock()
	l.s.bury(tombs)
	return nil
}

// AdvanceStart moves the log start offset up to offset, synced, and drops the
// segments that lie below it whole. The caller keeps it at or below the high
// watermark. A lower offset than the present start does nothing.
func (l *Log) AdvanceStart(offset int64) error {
	l.structure.Lock()
	defer l.structure.Unlock()
	return l.advanceLocked(offset)
}

// advanceLocked is AdvanceStart with structure held.
func (l *Log) advanceLocked(offset int64) error {
	var b KVBatch
	var tombs []tombstone
	l.mu.Lock()
	switch {
	case l.closed:
		l.mu.Unlock()
		return ErrClosed
	case offset > l.end:
		end := l.end
		l.mu.Unlock()
		return fmt.Errorf("%w: start of %s to %d above its end %d", ErrOutOfRange, l.tp, offset, end)
	case offset <= l.start:
		l.mu.Unlock()
		return nil
	}
	n := 0
	for n < len(l.segs) && l.segs[n].next <= offset && l.segs[n].sealed {
		tombs = append(tombs, l.s.tombstone(&b, l.segs[n]))
		l.dropSegment(&b, l.segs[n])
		n++
	}
	gone := l.segs[:n]
	b.Set(logKey(l.tp, kindLog), logRecord{start: offset, cfg: l.cfg}.encode())
	l.mu.Unlock()
	if err := l.s.apply(&b, true); err != nil {
		return err
	}

	b = KVBatch{} // what follows is derivable
	var drop []*handle
	l.mu.Lock()
	for _, seg := range gone {
		seg.dead.Store(true)
		drop = seg.discard(drop)
	}
	l.segs = slices.Clone(l.segs[n:]) // appends may have added to the end
	l.start = offset
	l.durable = max(l.durable, offset)
	first := l.raiseHW(offset)
	l.forgetEpochs(&b, offset)
	l.cutDamage(&b, func(d damage) bool { return d.offsets.To <= offset })
	l.mu.Unlock()
	if first {
		l.s.noteMoved(l)
	}
	l.s.files.releaseAll(drop)
	l.s.bury(tombs)
	return l.s.apply(&b, false)
}

// forgetEpochs drops the epochs that ended at or below the log start. Holds mu.
func (l *Log) forgetEpochs(b *KVBatch, start int64) {
	n := 0
	for n+1 < len(l.epochs) && l.epochs[n+1].start <= start {
		b.Delete(epochKey(l.tp, l.epochs[n].epoch))
		n++
	}
	gone := l.epochs[:n]
	l.unsaved = slices.DeleteFunc(l.unsaved, func(e epochEntry) bool { return slices.Contains(gone, e) })
	l.epochs = slices.Clone(l.epochs[n:])
}

// cutDamage forgets damage that is gone. Holds mu.
func (l *Log) cutDamage(b *KVBatch, gone func(damage) bool) {
	var left []damage
	for _, d := range l.damaged {
		if gone(d) {
			b.Delete(d.key(l.tp))
		} else {
			left = append(left, d)
		}
	}
	l.damaged = left
	if len(left) == 0 && l.suspect >= Damaged {
		l.suspect = Trusted
	}
}

// dropSegment removes a segment's entries. Holds mu.
func (l *Log) dropSegment(b *KVBatch, seg *segment) {
	b.Delete(logKey(l.tp, kindSegment, seg.ordinal))
	lo := spaceKey(spaceBlock, l.tp, seg.ordinal)
	b.DeleteRange(lo, prefixEnd(lo))
}

// tombstone adds one to the batch: once that is synced, the file may go.
func (s *Store) tombstone(b *KVBatch, seg *segment) tombstone {
	t := tombstone{id: seg.id, tp: seg.tp, due: s.clock.Now().Add(max(0, s.opts.DeleteDelay)).UnixMilli()}
	b.Set(tombstoneKey(t.id), t.encode())
	return t
}

// bury queues files whose tombstones are synced for deletion.
func (s *Store) bury(tombs []tombstone) {
	s.mu.Lock()
	s.tombstones = append(s.tombstones, tombs...)
	s.mu.Unlock()
}

// reap unlinks files whose tombstones are due, syncs their directories, and
// only then forgets the tombstones. Directories of deleted logs that had no file
// go at once.
func (s *Store) reap(now time.Time) error {
	ms := now.UnixMilli()
	s.mu.Lock()
	emptied := s.emptied
	s.emptied = nil
	var due []tombstone
	s.tombstones = slices.DeleteFunc(s.tombstones, func(t tombstone) bool {
		if t.due <= ms {
			due = append(due, t)
		}
		return t.due <= ms
	})
	s.mu.Unlock()
	for _, tp := range emptied {
		if s.Log(tp) == nil {
			s.dirs.forget(s.partitionDir(tp))
		}
	}
	var b KVBatch
	dirs := map[string]bool{}
	var order []tombstone
	for _, t := range due {
		name := s.segmentPath(t.tp, t.id)
		if err := s.fs.Remove(name); err != nil && !isNotExist(err) {
			s.event(Event{Kind: EventIOError, TP: t.tp, File: name, Err: err})
			s.bury([]tombstone{t}) // again at the next call
			continue
		}
		b.Delete(tombstoneKey(t.id))
		if dir := s.partitionDir(t.tp); !dirs[dir] {
			dirs[dir] = true
			order = append(order, t)
		}
	}
	for _, t := range order {
		dir := s.partitionDir(t.tp)
		if err := s.fs.SyncDir(dir); err != nil && !isNotExist(err) {
			s.fail(fmt.Errorf("segment: sync directory %s: %w", dir, err))
			return s.Poisoned()
		}
		if s.Log(t.tp) == nil {
			s.dirs.forget(dir)
		}
	}
	return s.apply(&b, false)
}
