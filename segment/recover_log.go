package segment

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
)

func (r *recovery) recoverLogs() error {
	for _, f := range r.logs {
		if err := r.recoverLog(f); err != nil {
			return fmt.Errorf("log %s: %w", f.l.tp, err)
		}
	}
	return nil
}

// recoverLog brings one log to its recovered end. No other goroutine knows the
// log yet.
func (r *recovery) recoverLog(f *found) error {
	l := f.l
	slices.SortFunc(l.epochs, func(a, b epochEntry) int { return int(a.epoch) - int(b.epoch) })
	l.end = l.start
	if len(l.segs) > 0 {
		l.end = max(l.start, l.segs[0].base)
	}
	l.damaged = slices.DeleteFunc(l.damaged, func(d damage) bool { // deleted, and that was forgotten
		gone := d.offsets.To <= l.start
		if gone {
			r.batch.Delete(d.key(l.tp))
		}
		return gone
	})
	for _, d := range l.damaged {
		l.suspect = max(l.suspect, Damaged)
		if d.missing {
			l.suspect = Missing
		}
	}
	for i, seg := range l.segs {
		last := i == len(l.segs)-1
		torn, err := r.recoverSegment(f, seg)
		if err != nil {
			return err
		}
		seg.unsure, seg.leftovers = seg.open.pos < seg.size, !seg.sealed
		l.end = max(l.end, seg.next)
		if torn {
			r.cutTail(l, i+1)
			break
		}
		if last && !seg.sealed {
			l.active = seg
		}
	}
	if seg := l.lastSegment(); seg != nil && seg.next < l.end {
		// The log start was moved past bytes that were not durable: what
		// comes next does not continue this file.
		l.active = nil
		r.seal(seg)
	}
	if r.suspectAll {
		l.suspect = max(l.suspect, TornTail)
		r.batch.Set(logKey(l.tp, kindTorn), numberValue(l.end))
	}
	r.finish(f)
	return nil
}

// durableSize is how much of a segment the mark vouches for.
func (f *found) durableSize(seg *segment) int64 {
	switch {
	case !f.hasMark || seg.ordinal > f.mark.ordinal:
		return 0
	case seg.ordinal == f.mark.ordinal && seg.sealed:
		return min(f.mark.pos, seg.size)
	case seg.ordinal == f.mark.ordinal:
		return f.mark.pos
	}
	return seg.size
}

// recoverSegment settles a segment: nothing to do if the mark covers it, else
// the journal is replayed and what follows is scanned. It reports whether the
// log ends in it at garbage.
func (r *recovery) recoverSegment(f *found, seg *segment) (torn bool, err error) {
	durable := f.durableSize(seg)
	entries := f.entriesOf(seg, durable)
	present, size := r.files[seg.id], int64(0)
	if present {
		if size, err = r.s.fs.Size(r.s.segmentPath(seg.tp, seg.id)); err != nil {
			return false, err
		}
	}
	seg.entry.Store(durable > 0)
	seg.synced, seg.committed = durable, durable
	if seg.sealed && durable == seg.size && durable > 0 {
		seg.open = openBlock{pos: seg.size, base: seg.next, top: noTime, crc: blockSeed(seg.tp, seg.id, seg.size)}
		if size < durable {
			r.short(f, seg, size, durable)
		}
		return false, nil
	}
	sealedAt := int64(-1)
	if seg.sealed {
		sealedAt = seg.size
	}
	if durable > 0 { // it is the mark's
		seg.size, seg.next, seg.top, seg.open = f.mark.pos, f.mark.next, f.mark.top, f.mark.open
	} else {
		seg.size, seg.next, seg.top = 0, seg.base, noTime
		seg.open = openBlock{pos: 0, base: seg.base, top: noTime, crc: blockSeed(seg.tp, seg.id, 0)}
	}
	switch {
	case size < durable: // nothing more goes into a damaged file
		r.short(f, seg, size, durable)
		r.seal(seg)
		return sealedAt > seg.size, nil
	case len(entries) == 0 && sealedAt < 0 && size == durable && present:
		return false, nil // clean: the file is not even opened
	}
	return r.recoverTail(seg, f.l, entries, size, sealedAt)
}

// short notes that durable bytes are gone: corruption, never a torn tail.
func (r *recovery) short(f *found, seg *segment, size, durable int64) {
	l := f.l
	d := damage{ordinal: seg.ordinal, pos: size, end: durable, offsets: OffsetRange{seg.base, seg.next}}
	if err := l.load(seg); err == nil {
		v := viewOf(seg)
		for i := 0; i < v.pieces() && v.piece(i).pos <= size; i++ {
			d.pos, d.offsets.From = v.piece(i).pos, v.piece(i).base
		}
	}
	kind, why := EventDamaged, fmt.Errorf("file has %d bytes, %d were durable", size, durable)
	l.suspect = max(l.suspect, Damaged)
	if !r.files[seg.id] {
		d.missing, kind, why = true, EventMissing, fs.ErrNotExist
		l.suspect = Missing
	}
	l.damaged = slices.DeleteFunc(l.damaged, func(o damage) bool { return o.ordinal == d.ordinal && o.pos == d.pos })
	l.damaged = append(l.damaged, d)
	r.batch.Set(d.key(l.tp), d.encode())
	r.s.event(Event{Kind: kind, TP: l.tp, File: r.s.segmentPath(l.tp, seg.id), Pos: size, Offsets: d.offsets, Err: why})
}

// entriesOf returns the journal's bytes of a segment past the mark.
func (f *found) entriesOf(seg *segment, durable int64) (out []journalEntry) {
	for _, j := range f.journal {
		if seg.sealed && j.pos+int64(len(j.data)) > seg.size {
			j.data = j.data[:max(0, seg.size-j.pos)]
		}
		if j.ordinal == seg.ordinal && j.pos+int64(len(j.data)) > durable {
			out = append(out, j)
		}
	}
	return out
}

// recoverTail writes the journal's bytes to the file, then keeps every valid
// batch past the mark: it may have been acknowledged. What was only in the page
// cache is written again, so that the coming sync really writes it.
func (r *recovery) recoverTail(seg *segment, l *Log, entries []journalEntry, size, sealedAt int64) (torn bool, err error) {
	file, err := r.openTail(seg, len(entries) > 0 || sealedAt < 0)
	if err != nil || file == nil {
		return sealedAt > 0, err
	}
	h := r.s.files.adopt(seg, file)
	defer r.s.files.release(h)
	for _, j := range entries {
		if err := writeFull(file, j.data, j.pos); err != nil {
			return false, fmt.Errorf("replay journal at %d: %w", j.pos, err)
		}
		size = max(size, j.pos+int64(len(j.data)))
	}
	limit := size
	if sealedAt >= 0 {
		limit = min(size, sealedAt)
	}
	from := seg.size
	if err := r.scanTail(l, seg, file, limit); err != nil {
		return false, err
	}
	if err := rewrite(file, from, seg.size); err != nil {
		return false, fmt.Errorf("rewrite recovered tail: %w", err)
	}
	torn = seg.size < limit || seg.size < sealedAt || sealedAt < 0 && seg.size < size
	if !torn && sealedAt >= 0 {
		r.seal(seg)
	}
	if bugs.TrustTail {
		seg.synced, seg.committed = seg.size, seg.size
	}
	if seg.size > seg.synced {
		seg.pinned = r.s.files.share(h)
	}
	return torn, nil
}

// openTail opens a segment's file, or makes it anew where it is wanted: nothing
// durable can have been in it. It returns nil if there is none.
func (r *recovery) openTail(seg *segment, wanted bool) (File, error) {
	if r.files[seg.id] {
		return r.s.fs.Open(r.s.segmentPath(seg.tp, seg.id))
	}
	if !wanted {
		return nil, nil
	}
	return r.s.dirs.create(seg)
}

// scanTail accounts for the valid batches in [seg.size, limit).
func (r *recovery) scanTail(l *Log, seg *segment, file File, limit int64) error {
	p := r.s.progressOf(seg)
	epoch := model.NoEpoch
	for _, e := range l.epochs {
		if e.start < p.next {
			epoch = max(epoch, e.epoch)
		}
	}
	var buf []byte
	head := make([]byte, batch.HeaderLen)
	for p.size+batch.HeaderLen <= limit {
		if err := readFull(file, head, p.size); err != nil {
			return fmt.Errorf("read %s at %d: %w", r.s.segmentPath(seg.tp, seg.id), p.size, err)
		}
		h, err := batch.Parse(head)
		if err != nil || h.BaseOffset != p.next || h.LeaderEpoch < epoch || p.size+int64(h.Size()) > limit {
			break
		}
		buf = slices.Grow(buf[:0], h.Size())[:h.Size()]
		if err := readFull(file, buf, p.size); err != nil {
			return fmt.Errorf("read %s at %d: %w", r.s.segmentPath(seg.tp, seg.id), p.size, err)
		}
		if batch.VerifyCRC(buf) != nil {
			break
		}
		epoch = h.LeaderEpoch
		l.addEpoch(epoch, h.BaseOffset)
		p.add([]batch.Header{h}, buf)
	}
	// The index stays in the catalog until it is wanted.
	seg.size, seg.next, seg.top, seg.open = p.size, p.next, p.top, p.open
	for i := range p.sealed {
		r.batch.Set(blockKey(seg.tp, seg.ordinal, p.sealed[i].pos), p.sealed[i].encode())
	}
	return nil
}

// seal ends a segment where it is.
func (r *recovery) seal(seg *segment) {
	r.batch.DeleteRange(blocksFrom(seg, seg.open.pos))
	p := r.s.progressOf(seg)
	p.seal()
	for i := range p.sealed {
		r.batch.Set(blockKey(seg.tp, seg.ordinal, p.sealed[i].pos), p.sealed[i].encode())
	}
	if seg.loaded {
		seg.blocks = append(seg.blocks, p.sealed...)
		seg.recorded = len(seg.blocks)
	}
	seg.open, seg.sealed = p.open, true
	r.batch.Set(logKey(seg.tp, kindSegment, seg.ordinal), seg.record().encode())
}

// rewrite writes [from, to) of a file over itself.
func rewrite(file File, from, to int64) error {
	bp := copyBufs.Get().(*[]byte)
	defer copyBufs.Put(bp)
	for pos := from; pos < to; pos += copyBufSize {
		b := (*bp)[:min(copyBufSize, to-pos)]
		if err := readFull(file, b, pos); err != nil {
			return err
		}
		if err := writeFull(file, b, pos); err != nil {
			return err
		}
	}
	return nil
}

// cutTail ends the log at a torn place: the segment is sealed there, and the
// next append starts a new one, so that garbage is never built upon.
func (r *recovery) cutTail(l *Log, keep int) {
	seg := l.segs[keep-1]
	l.suspect = max(l.suspect, TornTail)
	// Another restart must not forget it: what was cut may have been acknowledged.
	r.batch.Set(logKey(l.tp, kindTorn), numberValue(seg.next))
	for _, gone := range l.segs[keep:] {
		t := r.s.tombstone(&r.batch, gone)
		r.tombs[t.id] = t
		l.dropSegment(&r.batch, gone)
	}
	l.segs = l.segs[:keep:keep]
	r.seal(seg)
	r.s.event(Event{
		Kind: EventTornTail, TP: l.tp, File: r.s.segmentPath(l.tp, seg.id), Pos: seg.size,
		Offsets: OffsetRange{From: seg.next, To: seg.next},
	})
}

// finish clamps what was saved to the recovered end.
func (r *recovery) finish(f *found) {
	l := f.l
	l.durable = l.start
	for _, seg := range l.segs {
		if seg.synced < seg.size {
			if seg.synced > 0 {
				l.durable = max(l.start, f.mark.next)
			}
			break
		}
		l.durable = max(l.start, seg.next)
	}
	l.cutEpochs(&r.batch, l.end)
	l.cutSnapshots(&r.batch, l.end)
	l.hw = max(l.start, min(l.hw, l.end))
	l.hwSaved = l.hw
}
