package segment

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
)

// progress is the state of a segment's end while bytes are added to it. It is
// computed aside and published in one step.
type progress struct {
	tp        model.TopicPartition
	id        uint64
	blockSize int64

	size, next int64
	top        timeTop
	open       openBlock
	sealed     []block // blocks that filled up
}

// progressOf starts from the segment's published state. Holds Log.mu, or the
// segment is not published yet.
func (s *Store) progressOf(seg *segment) progress {
	return progress{
		tp: seg.tp, id: seg.id, blockSize: s.opts.IndexBytes,
		size: seg.size, next: seg.next, top: seg.top, open: seg.open,
	}
}

// newOpenBlock starts a block at the end of what p has.
func (p *progress) newOpenBlock() openBlock {
	return openBlock{pos: p.size, base: p.next, top: noTime, crc: blockSeed(p.tp, p.id, p.size)}
}

// add accounts for whole batches in one pass over their bytes.
func (p *progress) add(hs []batch.Header, data []byte) {
	from, off := 0, 0
	for i := range hs {
		h := &hs[i]
		off += h.Size()
		t := timeTop{h.MaxTimestamp, h.BaseOffset}
		p.size += int64(h.Size())
		p.next = h.NextOffset()
		p.top, p.open.top = p.top.with(t), p.open.top.with(t)
		if p.size-p.open.pos >= p.blockSize {
			p.open.crc = crc32.Update(p.open.crc, castagnoli, data[from:off])
			from = off
			p.seal()
		}
	}
	p.open.crc = crc32.Update(p.open.crc, castagnoli, data[from:off])
}

// seal ends the open block, if it has anything.
func (p *progress) seal() {
	if p.size == p.open.pos {
		return
	}
	p.sealed = append(p.sealed, block{
		pos: p.open.pos, end: p.size, base: p.open.base, next: p.next, top: p.open.top, crc: p.open.crc,
	})
	p.open = p.newOpenBlock()
}

// publish makes the progress the segment's state. Holds Log.mu.
func (p *progress) publish(seg *segment) {
	seg.size, seg.next, seg.top, seg.open = p.size, p.next, p.top, p.open
	for _, b := range p.sealed {
		if !seg.unsure {
			seg.setVerified(len(seg.blocks))
		}
		seg.blocks, seg.unsure = append(seg.blocks, b), false
	}
}

// Append adds whole batches that continue the log: stamped with contiguous
// offsets from End, epochs that do not fall. When it returns, the bytes can be
// read; a Commit makes them durable. After an error nothing was added.
func (l *Log) Append(batches []byte) (AppendInfo, error) {
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.s.Poisoned(); err != nil {
		return AppendInfo{}, err
	}
	l.mu.Lock()
	end, last, closed := l.end, model.NoEpoch, l.closed
	if n := len(l.epochs); n > 0 {
		last = l.epochs[n-1].epoch
	}
	l.mu.Unlock()
	if closed {
		return AppendInfo{}, ErrClosed
	}
	var arr [16]batch.Header
	hs, err := parseBatches(arr[:0], batches, end, last)
	if err != nil {
		return AppendInfo{}, fmt.Errorf("segment: append to %s: %w", l.tp, err)
	}
	if len(hs) == 0 {
		return AppendInfo{Base: end, Next: end}, nil
	}
	seg, err := l.writable(int64(len(batches)))
	if err != nil {
		return AppendInfo{}, err
	}
	if err := l.writeOut(seg, batches); err != nil {
		return AppendInfo{}, err
	}
	next := l.publishAppend(seg, hs, batches)
	l.s.stats.appends.Add(1)
	l.s.stats.bytesAppended.Add(int64(len(batches)))
	l.markDirty()
	return AppendInfo{Base: end, Next: next, Bytes: len(batches)}, nil
}

// parseBatches checks that b holds whole batches which continue a log at
// offset and epoch. Checksums are the caller's business.
func parseBatches(hs []batch.Header, b []byte, offset int64, epoch model.LeaderEpoch) ([]batch.Header, error) {
	for len(b) > 0 {
		h, raw, err := batch.Next(b)
		if err != nil {
			return nil, err
		}
		if h.BaseOffset != offset {
			return nil, fmt.Errorf("batch at offset %d does not continue the log at %d", h.BaseOffset, offset)
		}
		if h.LeaderEpoch < epoch || h.LeaderEpoch < 0 {
			return nil, fmt.Errorf("batch at offset %d has leader epoch %d after %d", offset, h.LeaderEpoch, epoch)
		}
		hs = append(hs, h)
		offset, epoch = h.NextOffset(), h.LeaderEpoch
		b = b[len(raw):]
	}
	return hs, nil
}

// writeOut writes data at the segment's end. Bytes below the end are never
// touched. After a failure the segment takes nothing more: what lies behind
// its end is unknown. A full disk is the one failure that does not poison.
func (l *Log) writeOut(seg *segment, data []byte) error {
	h, pos, err := l.pin(seg)
	if err != nil {
		return fmt.Errorf("segment: open %s: %w", l.s.segmentPath(l.tp, seg.id), err)
	}
	if err = writeFull(h.f, data, pos); err == nil {
		return nil
	}
	err = fmt.Errorf("segment: write %d bytes at %d of %s: %w", len(data), pos, l.s.segmentPath(l.tp, seg.id), err)
	l.mu.Lock()
	seg.writing, seg.sealed = false, true
	if l.active == seg {
		l.active = nil
	}
	drop := seg.unpin(nil)
	l.mu.Unlock()
	l.s.files.releaseAll(drop)
	if !NoSpace(err) {
		l.s.fail(err)
	}
	return err
}

// pin keeps the segment's file open until its bytes are synced, and announces
// a write at the position that it returns.
func (l *Log) pin(seg *segment) (*handle, int64, error) {
	l.mu.Lock()
	h, pos := seg.pinned, seg.size
	seg.writing = true
	l.mu.Unlock()
	if h != nil {
		return h, pos, nil
	}
	h, err := l.s.files.acquire(seg)
	l.mu.Lock()
	defer l.mu.Unlock()
	seg.pinned = h
	seg.writing = err == nil
	return h, pos, err
}

func (l *Log) publishAppend(seg *segment, hs []batch.Header, data []byte) (next int64) {
	l.mu.Lock()
	p := l.s.progressOf(seg)
	l.mu.Unlock()
	pos := p.size
	p.add(hs, data)
	l.s.cache.append(&l.tail, seg, pos, data)
	l.mu.Lock()
	defer l.mu.Unlock()
	p.publish(seg)
	seg.writing = false
	for i := range hs {
		l.addEpoch(hs[i].LeaderEpoch, hs[i].BaseOffset)
	}
	l.recent[l.recentN%recentAppends] = appendPoint{hs[0].BaseOffset, seg, pos}
	l.recentN++
	l.end = p.next
	return p.next
}

// writable returns the segment that takes the next n bytes, rolling to a new
// one when the active one is full or old.
func (l *Log) writable(n int64) (*segment, error) {
	now := l.s.clock.Now().UnixMilli()
	l.mu.Lock()
	seg, cfg := l.active, l.cfg
	full := seg != nil && seg.size > 0 && (cfg.SegmentBytes > 0 && seg.size+n > cfg.SegmentBytes ||
		cfg.SegmentMs > 0 && now-seg.created > cfg.SegmentMs)
	loaded := seg != nil && seg.loaded
	clean := seg == nil || !seg.leftovers || seg.size+n-seg.open.pos < l.s.opts.IndexBytes // no block fills up
	l.mu.Unlock()
	switch {
	case seg == nil:
		l.structure.Lock()
		defer l.structure.Unlock()
		return l.roll(now)
	case full && l.structure.TryLock():
		defer l.structure.Unlock()
		return l.roll(now)
	case !clean:
		if err := l.dropLeftovers(seg); err != nil {
			return nil, err
		}
	}
	if !loaded { // reopened: the index must be complete before it grows
		return seg, l.load(seg)
	}
	return seg, nil
}

// dropLeftovers forgets the index blocks behind the open one before the first is
// sealed since the segment was reopened. Recovery leaves it to this: to look, or a
// range tombstone, for each of thousands of logs would make every start slow.
// Holds write.
func (l *Log) dropLeftovers(seg *segment) error {
	l.mu.Lock()
	lo, hi := blocksFrom(seg, seg.open.pos)
	l.mu.Unlock()
	var b KVBatch
	err := l.s.catalog.Scan(lo, hi, func(k, _ []byte) bool {
		b.Delete(bytes.Clone(k))
		return true
	})
	if err == nil {
		err = l.s.apply(&b, false)
	}
	if err != nil {
		return fmt.Errorf("segment: index of %s: %w", l.s.segmentPath(l.tp, seg.id), err)
	}
	l.mu.Lock()
	seg.leftovers = false
	l.mu.Unlock()
	return nil
}

// roll seals the active segment and starts a new one at the log end: the
// catalog first, so that a file which it does not list is never part of a log.
// The batch is not synced; the commit that acknowledges the first byte of the
// new segment is, and comes behind it. Holds structure and write.
func (l *Log) roll(now int64) (*segment, error) {
	if seg := l.unrecordedSeal(); seg != nil {
		if err := l.load(seg); err != nil {
			return nil, err
		}
	}
	id, err := l.s.nextID()
	if err != nil {
		return nil, err
	}
	var b KVBatch
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, ErrClosed
	}
	if old := l.lastSegment(); old != nil {
		l.sealSegment(&b, old)
	}
	seg := &segment{tp: l.tp, id: id, ordinal: id, base: l.end, created: now, next: l.end, top: noTime, loaded: true}
	p := l.s.progressOf(seg)
	seg.open = p.newOpenBlock()
	l.active = nil
	l.mu.Unlock()
	b.Set(logKey(l.tp, kindSegment, seg.ordinal), seg.record().encode())
	if err := l.s.apply(&b, false); err != nil {
		return nil, err
	}
	f, err := l.s.dirs.create(seg)
	if err != nil {
		var undo KVBatch
		undo.Delete(logKey(l.tp, kindSegment, seg.ordinal))
		return nil, errors.Join(fmt.Errorf("segment: create %s: %w", l.s.segmentPath(l.tp, id), err), l.s.apply(&undo, false))
	}
	l.s.files.release(l.s.files.adopt(seg, f))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segs = append(l.segs[:len(l.segs):len(l.segs)], seg)
	l.active = seg
	return seg, nil
}

// lastSegment returns the segment at the log's end, if any. Holds mu.
func (l *Log) lastSegment() *segment {
	if n := len(l.segs); n > 0 {
		return l.segs[n-1]
	}
	return nil
}

// unrecordedSeal returns the last segment if sealing it has to add to its
// index, which must be loaded for that.
func (l *Log) unrecordedSeal() *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seg := l.lastSegment(); seg != nil && !seg.loaded && seg.size > seg.open.pos {
		return seg
	}
	return nil
}

// sealSegment ends a segment at its present size and records that, with its
// last block. Holds mu.
func (l *Log) sealSegment(b *KVBatch, seg *segment) {
	if seg.leftovers {
		b.DeleteRange(blocksFrom(seg, seg.open.pos))
	}
	p := l.s.progressOf(seg)
	p.seal()
	p.publish(seg)
	seg.sealed, seg.leftovers = true, false
	l.recordBlocks(b, seg)
	b.Set(logKey(l.tp, kindSegment, seg.ordinal), seg.record().encode())
}

// recordBlocks adds the blocks that the catalog does not have yet. Holds mu.
func (l *Log) recordBlocks(b *KVBatch, seg *segment) {
	for i := seg.recorded; i < len(seg.blocks); i++ {
		blk := &seg.blocks[i]
		b.Set(blockKey(l.tp, seg.ordinal, blk.pos), blk.encode())
	}
	seg.recorded = len(seg.blocks)
}

func (seg *segment) record() segmentRecord {
	return segmentRecord{
		id: seg.id, base: seg.base, created: seg.created, sealed: seg.sealed,
		next: seg.next, size: seg.size, top: seg.top,
	}
}
