package segment

import (
	"fmt"
	"hash/crc32"
	"slices"
	"sort"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/bugs"
)

// view is a segment as of one moment: the bounds of a read are taken once
// (invariant I23).
type view struct {
	seg    *segment
	size   int64
	next   int64
	top    timeTop
	blocks []block
	open   openBlock
}

// viewOf copies the segment's state. Holds Log.mu.
func viewOf(seg *segment) view {
	return view{seg: seg, size: seg.size, next: seg.next, top: seg.top, blocks: seg.blocks, open: seg.open}
}

// piece is an index block of a view: a sealed one, or the open one with index
// len(blocks).
type piece struct {
	index      int
	pos, end   int64
	base, next int64
	top        timeTop
}

func (v *view) pieces() int {
	if v.open.pos < v.size {
		return len(v.blocks) + 1
	}
	return len(v.blocks)
}

func (v *view) piece(i int) piece {
	if i < len(v.blocks) {
		b := &v.blocks[i]
		return piece{i, b.pos, b.end, b.base, b.next, b.top}
	}
	return piece{i, v.open.pos, v.size, v.open.base, v.next, v.open.top}
}

// find returns the piece that holds offset.
func (v *view) find(offset int64) piece {
	i := sort.Search(v.pieces(), func(i int) bool { return v.piece(i).next > offset })
	return v.piece(i)
}

func (seg *segment) setVerified(i int) {
	for len(seg.verified) <= i/64 {
		seg.verified = append(seg.verified, 0)
	}
	seg.verified[i/64] |= 1 << (i % 64)
}

func (seg *segment) isVerified(i int) bool {
	return i/64 < len(seg.verified) && seg.verified[i/64]&(1<<(i%64)) != 0
}

// load reads the segment's index from the catalog, once.
func (l *Log) load(seg *segment) error {
	l.mu.Lock()
	if seg.open.pos == 0 { // not one block is sealed: what the catalog has are leftovers
		seg.loaded = true
	}
	done := seg.loaded
	l.mu.Unlock()
	if done {
		return nil
	}
	var blocks []block
	var bad error
	lo := spaceKey(spaceBlock, l.tp, seg.ordinal)
	err := l.s.catalog.Scan(lo, prefixEnd(lo), func(k, v []byte) bool {
		var b block
		if b, bad = readBlock(k, v); bad == nil {
			blocks = append(blocks, b)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return fmt.Errorf("segment: index of %s: %w", l.s.segmentPath(l.tp, seg.id), err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if seg.loaded {
		return nil
	}
	// Blocks past the recovered end are leftovers of a crash.
	n := sort.Search(len(blocks), func(i int) bool { return blocks[i].end > seg.open.pos })
	seg.blocks, seg.recorded, seg.loaded, seg.verified = blocks[:n:n], n, true, nil
	seg.leftovers = seg.leftovers && n < len(blocks)
	return nil
}

// scanner walks the batch headers of a segment without reading what lies
// between them, through a window of a pooled buffer or a pinned tail.
type scanner struct {
	l    *Log
	v    *view
	h    *handle
	buf  *[]byte
	from int64 // buf[:n] holds the segment's bytes from here on
	n    int
	cur  batch.Header // of the walk
}

const scanWindow = 16 << 10

func (l *Log) scan(v *view) (*scanner, error) {
	h, err := l.s.files.acquire(v.seg)
	if err != nil {
		return nil, fmt.Errorf("segment: open %s: %w", l.s.segmentPath(l.tp, v.seg.id), err)
	}
	return &scanner{l: l, v: v, h: h, buf: copyBufs.Get().(*[]byte)}, nil
}

func (s *scanner) close() {
	s.l.s.files.release(s.h)
	copyBufs.Put(s.buf)
}

// header parses the batch header at pos.
func (s *scanner) header(pos int64) (batch.Header, error) {
	if pos < s.from || pos+batch.HeaderLen > s.from+int64(s.n) {
		n := int(min(scanWindow, s.v.size-pos))
		s.from, s.n = pos, 0
		if n < batch.HeaderLen {
			return batch.Header{}, batch.ErrShort
		}
		got, err := s.h.f.ReadAt((*s.buf)[:n], pos)
		if got < batch.HeaderLen { // the file may be cut behind this block
			return batch.Header{}, fmt.Errorf("read at %d: %w", pos, err)
		}
		s.n = got
	}
	h, err := batch.Parse((*s.buf)[pos-s.from : s.n])
	if err == nil && pos+int64(h.Size()) > s.v.size {
		err = batch.ErrShort
	}
	return h, err
}

// walk calls fn for the batches of p in order until it returns false. A header
// that does not continue the one before is damage.
func (s *scanner) walk(p piece, fn func(h *batch.Header, pos int64) bool) error {
	next := p.base
	for pos := p.pos; pos < p.end; {
		h, err := s.header(pos)
		if err == nil && h.BaseOffset != next {
			err = fmt.Errorf("offset %d where %d belongs", h.BaseOffset, next)
		}
		if err != nil {
			return s.l.reportDamage(s.v, s.v.piece(p.index), err)
		}
		s.cur = h
		if !fn(&s.cur, pos) {
			return nil
		}
		pos, next = pos+int64(h.Size()), h.NextOffset()
	}
	return nil
}

// crcOf is the checksum that a piece must have.
func (v *view) crcOf(i int) uint32 {
	if i < len(v.blocks) {
		return v.blocks[i].crc
	}
	return v.open.crc
}

// sure reports whether a piece was checked, or written by this process, lately.
// Holds Log.mu.
func (v *view) sure(i int) bool {
	if i == len(v.blocks) && v.seg.open.pos == v.open.pos {
		return !v.seg.unsure || bugs.OpenBlock
	}
	return v.seg.isVerified(i)
}

// verify checks the pieces that overlap [pos, end) against their checksums,
// unless that was done lately. It returns the position up to which all is well;
// if that is pos, the error says what is damaged there.
func (l *Log) verify(v *view, pos, end int64) (int64, error) {
	if bugs.NoChecksum {
		return end, nil
	}
	var h *handle
	defer func() {
		if h != nil {
			l.s.files.release(h)
		}
	}()
	n := v.pieces()
	for i := sort.Search(n, func(i int) bool { return v.piece(i).end > pos }); i < n; i++ {
		p := v.piece(i)
		if p.pos >= end {
			break
		}
		l.mu.Lock()
		ok := v.sure(i)
		l.mu.Unlock()
		if ok {
			continue
		}
		if h == nil {
			var err error
			if h, err = l.s.files.acquire(v.seg); err != nil {
				return pos, fmt.Errorf("segment: open %s: %w", l.s.segmentPath(l.tp, v.seg.id), err)
			}
		}
		if err := l.check(h.f, v, i); err != nil {
			if p.pos > pos {
				return p.pos, nil // serve what is before it
			}
			return pos, err
		}
	}
	return end, nil
}

// check reads a piece and compares its checksum.
func (l *Log) check(f File, v *view, i int) error {
	p := v.piece(i)
	crc := blockSeed(l.tp, v.seg.id, p.pos)
	bp := copyBufs.Get().(*[]byte)
	defer copyBufs.Put(bp)
	for at := p.pos; at < p.end; at += copyBufSize {
		part := (*bp)[:min(copyBufSize, p.end-at)]
		if err := readFull(f, part, at); err != nil {
			return l.reportDamage(v, p, err)
		}
		crc = crc32.Update(crc, castagnoli, part)
	}
	return l.judge(v, p, crc)
}

// readPiece returns the bytes of a piece, compared with their checksum on the
// way: what is made from them is not made from anything else.
func (l *Log) readPiece(f File, v *view, p piece) ([]byte, error) {
	data := make([]byte, p.end-p.pos)
	if err := readFull(f, data, p.pos); err != nil {
		return nil, l.reportDamage(v, p, err)
	}
	return data, l.judge(v, p, crcOf(blockSeed(l.tp, v.seg.id, p.pos), data))
}

// judge compares the checksum of a piece that was read.
func (l *Log) judge(v *view, p piece, crc uint32) error {
	l.s.stats.blocksVerified.Add(1)
	if want := v.crcOf(p.index); crc != want {
		return l.reportDamage(v, p, fmt.Errorf("block checksum %08x, want %08x", crc, want))
	}
	seg := v.seg
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case p.index < len(v.blocks):
		if p.index < len(seg.blocks) && seg.blocks[p.index] == v.blocks[p.index] {
			seg.setVerified(p.index)
		}
	case seg.open.pos == v.open.pos: // what it took since, this process wrote
		seg.unsure = false
	}
	return nil
}

// reportDamage quarantines a block: it is not served, not cut, and the replica
// is suspect until it is repaired. It returns the error for the reader.
func (l *Log) reportDamage(v *view, p piece, cause error) error {
	d := damage{ordinal: v.seg.ordinal, pos: p.pos, end: p.end, offsets: OffsetRange{p.base, p.next}}
	file := l.s.segmentPath(l.tp, v.seg.id)
	derr := &DamageError{TP: l.tp, File: file, Pos: p.pos, Offsets: d.offsets, Cause: cause}
	l.mu.Lock()
	if v.seg.dead.Load() || l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: segment was removed during a read", ErrOutOfRange)
	}
	if p.next <= l.start { // deleted already: nobody reads or repairs it
		l.mu.Unlock()
		return derr
	}
	l.damaged = slices.Clone(l.damaged)
	known := slices.IndexFunc(l.damaged, func(have damage) bool { return have.ordinal == d.ordinal && have.pos == d.pos })
	switch {
	case known < 0:
		l.damaged = append(l.damaged, d)
	case l.damaged[known].end >= d.end:
		l.mu.Unlock()
		return derr
	default: // it was an open block then and has grown since
		l.damaged[known] = d
	}
	l.suspect = max(l.suspect, Damaged)
	l.mu.Unlock()
	var b KVBatch
	b.Set(d.key(l.tp), d.encode())
	_ = l.s.apply(&b, false) // found again after a restart if it is lost
	l.s.event(Event{Kind: EventDamaged, TP: l.tp, File: file, Pos: p.pos, Offsets: d.offsets, Err: cause})
	return derr
}

// damageAt returns the damage that overlaps [pos, end) of a segment, the lowest
// first. Holds mu.
func (l *Log) damageAt(seg *segment, pos, end int64) (first damage, ok bool) {
	for _, d := range l.damaged {
		if d.ordinal == seg.ordinal && d.pos < end && pos < d.end && (!ok || d.pos < first.pos) {
			first, ok = d, true
		}
	}
	return first, ok
}
