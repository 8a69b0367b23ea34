package segment

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tailrace/tailrace/internal/batch"
)

// Repair replaces the damaged blocks that lie in r by batches fetched from
// another replica. batches must be whole, checksummed and cover each such block
// from its first to its last offset; more is allowed and ignored. The segment is
// written to a new file, blocks that are well copied and verified on the way,
// and a synced catalog batch switches over; the old file gets a tombstone. If
// the copy meets damage that was not known, it is added to Damaged and
// returned.
func (l *Log) Repair(r OffsetRange, batches []byte) error {
	supply, err := newSupply(batches)
	if err != nil {
		return fmt.Errorf("segment: repair %s: %w", l.tp, err)
	}
	for {
		seg, err := l.beginRepair(r)
		if seg == nil || err != nil {
			return err
		}
		err = l.repairSegment(seg, r, supply)
		l.structure.Unlock()
		if err != nil {
			return err
		}
	}
}

// RepairUnits splits a damaged range into the ranges that Repair can replace one
// at a time, in order: whole index blocks, without what lies below the log
// start, which no replica may have any more. It is empty if nothing in r is
// damaged.
func (l *Log) RepairUnits(r OffsetRange) ([]OffsetRange, error) {
	l.mu.Lock()
	segs, start := l.segs, l.start
	bad := slices.Clone(l.damaged)
	l.mu.Unlock()
	var out []OffsetRange
	for _, seg := range segs {
		if !slices.ContainsFunc(bad, func(d damage) bool { return d.ordinal == seg.ordinal }) {
			continue
		}
		if err := l.load(seg); err != nil {
			return nil, err
		}
		l.mu.Lock()
		v := viewOf(seg)
		l.mu.Unlock()
		for i := range v.pieces() {
			pc := v.piece(i)
			hit := func(d damage) bool { return d.ordinal == seg.ordinal && d.pos < pc.end && pc.pos < d.end }
			if pc.next > start && pc.base < r.To && r.From < pc.next && slices.ContainsFunc(bad, hit) {
				out = append(out, OffsetRange{max(pc.base, start), pc.next})
			}
		}
	}
	return out, nil
}

// supply is a run of verified batches.
type supply struct {
	hs   []batch.Header
	raws [][]byte
}

func newSupply(b []byte) (*supply, error) {
	s := &supply{}
	for len(b) > 0 {
		h, raw, err := batch.Next(b)
		if err == nil {
			err = batch.VerifyCRC(raw)
		}
		if err != nil {
			return nil, err
		}
		if n := len(s.hs); n > 0 && s.hs[n-1].NextOffset() != h.BaseOffset {
			return nil, fmt.Errorf("batch at offset %d does not follow %d", h.BaseOffset, s.hs[n-1].LastOffset())
		}
		s.hs, s.raws = append(s.hs, h), append(s.raws, raw)
		b = b[len(raw):]
	}
	return s, nil
}

// take returns the batches that make up exactly [base, next), or where base lies
// below the log start, the batches from the one that holds start on.
func (s *supply) take(base, start, next int64) ([]batch.Header, []byte, error) {
	i := slices.IndexFunc(s.hs, func(h batch.Header) bool {
		return h.BaseOffset == base || base < start && h.BaseOffset <= start && start < h.NextOffset()
	})
	j := slices.IndexFunc(s.hs, func(h batch.Header) bool { return h.NextOffset() == next })
	if i < 0 || j < i {
		return nil, nil, fmt.Errorf("the batches given do not cover offsets [%d, %d)", base, next)
	}
	return s.hs[i : j+1], slices.Concat(s.raws[i : j+1]...), nil
}

// beginRepair finds a segment with damage in r and makes sure that it takes no
// more appends and is synced. It returns with structure held, or nil.
func (l *Log) beginRepair(r OffsetRange) (*segment, error) {
	l.write.Lock()
	defer l.write.Unlock()
	l.structure.Lock()
	seg, active := l.damagedSegment(r)
	if seg == nil {
		l.structure.Unlock()
		return nil, nil
	}
	var err error
	if active {
		_, err = l.roll(l.s.clock.Now().UnixMilli())
	}
	if err == nil {
		err = l.load(seg)
	}
	if err == nil {
		err = l.syncForRepair(seg)
	}
	if err != nil {
		l.structure.Unlock()
		return nil, err
	}
	return seg, nil
}

// syncForRepair makes the segment durable in its file and marks it, so that no
// journal entry will ever be replayed into its successor. It acknowledges
// nothing: that is for the next commit.
func (l *Log) syncForRepair(seg *segment) error {
	l.mu.Lock()
	synced := seg.synced >= seg.size
	l.mu.Unlock()
	if synced {
		return nil
	}
	lazy, segs := l.s.lazyMarks([]*Log{l})
	if err := l.s.syncSegments(segs); err != nil {
		return err
	}
	l.s.commitMu.Lock()
	defer l.s.commitMu.Unlock()
	var b KVBatch
	l.s.takeMarks(&b, lazy)
	return l.s.apply(&b, true)
}

func (l *Log) damagedSegment(r OffsetRange) (seg *segment, active bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.damaged {
		if d.offsets.From >= r.To || r.From >= d.offsets.To {
			continue
		}
		for _, seg := range l.segs {
			if seg.ordinal == d.ordinal {
				return seg, seg == l.active || !seg.sealed
			}
		}
	}
	return nil, false
}

// repairSegment writes the segment anew and switches. Holds structure.
func (l *Log) repairSegment(old *segment, r OffsetRange, from *supply) error {
	id, err := l.s.nextID()
	if err != nil {
		return err
	}
	l.mu.Lock()
	v := viewOf(old)
	bad := slices.DeleteFunc(slices.Clone(l.damaged), func(d damage) bool { return d.ordinal != old.ordinal })
	l.mu.Unlock()
	seg := &segment{
		tp: l.tp, id: id, ordinal: old.ordinal, base: old.base, created: old.created,
		next: old.base, top: noTime, sealed: true, loaded: true,
	}
	c := copier{l: l, v: &v, bad: bad, r: r, from: from, base: old.next, p: progress{
		tp: l.tp, id: id, blockSize: l.s.opts.IndexBytes, next: old.base, top: noTime,
	}}
	c.p.open = c.p.newOpenBlock()
	f, err := l.s.dirs.create(seg)
	if err != nil {
		return err
	}
	c.dst = f
	err = c.copy()
	if err == nil {
		err = f.SyncData()
	}
	h := l.s.files.adopt(seg, f)
	defer l.s.files.release(h)
	if err == nil {
		err = l.s.dirs.sync([]*segment{seg})
	}
	if err != nil {
		return l.abandon(seg, err)
	}
	c.p.seal()
	seg.base = c.base
	return l.switchTo(old, seg, &c)
}

// abandon removes the file of a repair that failed, by way of a tombstone.
func (l *Log) abandon(seg *segment, cause error) error {
	var b KVBatch
	seg.dead.Store(true)
	t := l.s.tombstone(&b, seg)
	err := l.s.apply(&b, true)
	l.s.bury([]tombstone{t})
	l.s.files.drop(seg)
	return errors.Join(cause, err)
}

// copier builds the repaired file.
type copier struct {
	l    *Log
	v    *view
	bad  []damage // of the segment
	r    OffsetRange
	from *supply
	dst  File
	src  *handle
	p    progress
	base int64    // of the first batch in the new file
	left []damage // stays bad
}

func (c *copier) copy() error {
	defer func() {
		if c.src != nil {
			c.l.s.files.release(c.src)
		}
	}()
	start := c.l.Start()
	for i := range c.v.pieces() {
		pc := c.v.piece(i)
		if pc.next <= start {
			continue // deleted: the new file begins behind it
		}
		d := c.damageOf(pc)
		var err error
		switch {
		case d == nil:
			err = c.keep(pc)
		case pc.base < c.r.To && c.r.From < pc.next:
			var hs []batch.Header
			var data []byte
			if hs, data, err = c.from.take(pc.base, start, pc.next); err == nil {
				err = c.put(hs, data)
			}
		default:
			err = c.leave(pc, d)
		}
		if err != nil {
			return fmt.Errorf("segment: repair %s: %w", c.l.tp, err)
		}
	}
	return nil
}

func (c *copier) damageOf(pc piece) *damage {
	for i := range c.bad {
		if d := &c.bad[i]; d.pos < pc.end && pc.pos < d.end {
			return d
		}
	}
	return nil
}

// begin sets the first offset of the new file, before anything is in it.
func (c *copier) begin(base int64) {
	if c.p.size == 0 {
		c.p.next = base
		c.p.open = c.p.newOpenBlock()
	}
}

func (c *copier) put(hs []batch.Header, data []byte) error {
	if len(hs) > 0 {
		c.begin(hs[0].BaseOffset)
		c.base = min(c.base, hs[0].BaseOffset)
	}
	if err := writeFull(c.dst, data, c.p.size); err != nil {
		return err
	}
	c.p.add(hs, data)
	return nil
}

// open opens the old file, once.
func (c *copier) open() (err error) {
	if c.src == nil {
		c.src, err = c.l.s.files.acquire(c.v.seg)
	}
	return err
}

// keep copies a block that is well.
func (c *copier) keep(pc piece) error {
	if err := c.open(); err != nil {
		return err
	}
	data, err := c.l.readPiece(c.src.f, c.v, pc)
	if err != nil {
		return err
	}
	hs, err := parseBatches(nil, data, pc.base, 0)
	if err != nil {
		return c.l.reportDamage(c.v, pc, err)
	}
	return c.put(hs, data)
}

// leave carries a block over that stays damaged: its checksum is made not to
// match.
func (c *copier) leave(pc piece, d *damage) error {
	data := make([]byte, pc.end-pc.pos)
	if err := c.open(); err != nil || readFull(c.src.f, data, pc.pos) != nil {
		clear(data) // not even readable
	}
	c.begin(pc.base)
	c.base = min(c.base, pc.base)
	if err := writeFull(c.dst, data, c.p.size); err != nil {
		return err
	}
	c.p.seal()
	b := block{pos: c.p.size, end: c.p.size + int64(len(data)), base: pc.base, next: pc.next, top: pc.top}
	b.crc = ^crcOf(blockSeed(c.p.tp, c.p.id, b.pos), data)
	c.p.sealed = append(c.p.sealed, b)
	c.p.size, c.p.next, c.p.top = b.end, pc.next, c.p.top.with(pc.top)
	c.p.open = c.p.newOpenBlock()
	c.left = append(c.left, damage{ordinal: d.ordinal, pos: b.pos, end: b.end, offsets: OffsetRange{pc.base, pc.next}})
	return nil
}

// switchTo makes the repaired file the segment's.
func (l *Log) switchTo(old, seg *segment, c *copier) error {
	var b KVBatch
	c.p.publish(seg)
	seg.verified = nil // the next read or scrub looks at what reached the disk
	seg.synced, seg.committed, seg.recorded = seg.size, seg.size, len(seg.blocks)
	lo := spaceKey(spaceBlock, l.tp, seg.ordinal)
	b.DeleteRange(lo, prefixEnd(lo))
	for i := range seg.blocks {
		b.Set(blockKey(l.tp, seg.ordinal, seg.blocks[i].pos), seg.blocks[i].encode())
	}
	b.Set(logKey(l.tp, kindSegment, seg.ordinal), seg.record().encode())
	lo = logKey(l.tp, kindDamage, seg.ordinal)
	b.DeleteRange(lo, prefixEnd(lo))
	for _, d := range c.left {
		b.Set(d.key(l.tp), d.encode())
	}
	t := l.s.tombstone(&b, old)
	l.s.commitMu.Lock()
	err := l.s.apply(&b, true)
	if err == nil {
		l.replace(old, seg, c.left)
	}
	l.s.commitMu.Unlock()
	if err != nil {
		return err
	}
	l.s.cache.clear(&l.tail)
	l.s.bury([]tombstone{t})
	l.s.files.drop(old)
	l.s.event(Event{Kind: EventRepaired, TP: l.tp, File: l.s.segmentPath(l.tp, seg.id), Offsets: c.r})
	return nil
}

func (l *Log) replace(old, seg *segment, left []damage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old.dead.Store(true)
	l.segs = slices.Clone(l.segs)
	for i := range l.segs {
		if l.segs[i] == old {
			l.segs[i] = seg
		}
	}
	l.damaged = slices.DeleteFunc(slices.Clone(l.damaged), func(d damage) bool { return d.ordinal == old.ordinal })
	l.damaged = append(l.damaged, left...)
	l.recent = [recentAppends]appendPoint{}
	if len(l.damaged) == 0 && l.suspect >= Damaged {
		l.suspect = Trusted
	}
}
