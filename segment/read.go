package segment

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/tailrace/tailrace/internal/batch"
)

// sendfileMin is the size from which a range is cheaper to send from the page
// cache, inside the kernel, than to copy.
const sendfileMin = 64 << 10

// Range pins whole batches of one segment: nothing that happens to the log
// changes or removes them before Release. It is for one goroutine.
type Range struct {
	s          *Store
	h          *handle // nil when spans has the bytes
	off, n     int64
	base, next int64
	spans      []span
	few        [4]span
	bufs       net.Buffers
}

// Len is the range's length in bytes; 0 when there was nothing to read.
func (r *Range) Len() int64 { return r.n }

// Base is the base offset of the first batch, which may be below the offset
// asked for; Next is one past the last record. Both are 0 for an empty range.
func (r *Range) Base() int64 { return r.base }

// Next is one past the last offset of the range.
func (r *Range) Next() int64 { return r.next }

// WriteTo writes the batches to w: by vectored write from memory if they are
// recent and few, by sendfile if w is a socket and they are many.
func (r *Range) WriteTo(w io.Writer) (int64, error) {
	if r.n == 0 {
		return 0, nil
	}
	if r.h != nil {
		r.s.stats.bytesFromFile.Add(r.n)
		if r.n >= sendfileMin {
			return r.h.f.SendTo(w, r.off, r.n)
		}
		return copyRange(w, r.h.f, r.off, r.n)
	}
	r.s.stats.bytesFromCache.Add(r.n)
	if len(r.spans) == 1 {
		n, err := w.Write(r.spans[0].b)
		return int64(n), err
	}
	r.bufs = r.bufs[:0]
	for _, sp := range r.spans {
		r.bufs = append(r.bufs, sp.b)
	}
	bufs := r.bufs // WriteTo consumes its receiver
	return bufs.WriteTo(w)
}

// AppendTo appends the batches to dst.
func (r *Range) AppendTo(dst []byte) ([]byte, error) {
	if r.h == nil {
		for _, sp := range r.spans {
			dst = append(dst, sp.b...)
		}
		return dst, nil
	}
	n := len(dst)
	if int64(cap(dst)-n) < r.n {
		dst = append(make([]byte, 0, int64(n)+r.n), dst...)
	}
	dst = dst[:int64(n)+r.n]
	if err := readFull(r.h.f, dst[n:], r.off); err != nil {
		return dst[:n], fmt.Errorf("segment: read %d bytes at %d of %s: %w", r.n, r.off, r.s.segmentPath(r.h.seg.tp, r.h.seg.id), err)
	}
	return dst, nil
}

// Release ends the use of the range. A second call does nothing.
func (r *Range) Release() {
	if r.h != nil {
		r.s.files.release(r.h)
		r.h = nil
	}
	for i := range r.spans {
		r.spans[i].c.release()
	}
	r.spans, r.n = nil, 0
}

// Read pins whole batches from the one that holds offset on, with every record
// below limit and together at most maxBytes; minOne lets the first batch exceed
// that (KIP-74). The range is empty if there is nothing to return; it is never
// nil without an error. ErrOutOfRange: offset is below the log start or above
// the log end. ErrDamaged, as a *DamageError: the batch at offset is corrupt.
func (l *Log) Read(offset, limit int64, maxBytes int, minOne bool) (*Range, error) {
	for {
		v, limit, err := l.viewAt(offset, limit)
		r := &Range{s: l.s}
		if err != nil {
			return nil, err
		}
		if v.seg == nil || l.readTail(r, &v, offset, limit, int64(maxBytes)) {
			return r, nil
		}
		err = l.readFile(r, &v, offset, limit, int64(maxBytes), minOne)
		if err == nil {
			return r, nil
		}
		if !v.seg.dead.Load() {
			return nil, err
		}
		// Retention, truncation or repair took the segment: look again.
	}
}

// viewAt takes the bounds of a read. The view has no segment when there is
// nothing below the limit.
func (l *Log) viewAt(offset, limit int64) (v view, lim int64, err error) {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return v, 0, ErrClosed
		}
		start, end := l.start, l.end
		if offset < start || offset > end {
			l.mu.Unlock()
			return v, 0, fmt.Errorf("%w: %d is not in [%d, %d] of %s", ErrOutOfRange, offset, start, end, l.tp)
		}
		if limit = min(limit, end); offset >= limit {
			l.mu.Unlock()
			return v, limit, nil
		}
		seg := l.segs[l.segmentAt(offset)]
		seg.used = int64(l.s.clock.Elapsed())
		if seg.loaded || seg.open.pos == 0 {
			v = viewOf(seg)
			l.mu.Unlock()
			return v, limit, nil
		}
		l.mu.Unlock()
		if err := l.load(seg); err != nil {
			return v, 0, err
		}
	}
}

// readTail serves the common read: from where an append began to the end, out
// of the tail cache, with no look at any header.
func (l *Log) readTail(r *Range, v *view, offset, limit, maxBytes int64) bool {
	if limit != v.next {
		return false
	}
	l.mu.Lock()
	pos := l.recentPos(v.seg, offset)
	l.mu.Unlock()
	if pos < 0 || v.size-pos > min(maxBytes, sendfileMin) {
		return false
	}
	spans, ok := l.s.cache.pin(r.few[:0], &l.tail, v.seg, pos, v.size)
	if ok {
		r.spans, r.off, r.n, r.base, r.next = spans, pos, v.size-pos, offset, v.next
	}
	return ok
}

// recentPos returns the position of the append that began at offset, or -1.
// Holds mu.
func (l *Log) recentPos(seg *segment, offset int64) int64 {
	for i := range l.recent {
		if p := &l.recent[i]; p.offset == offset && p.seg == seg {
			return p.pos
		}
	}
	return -1
}

// readFile finds the bounds by the index, verifies and pins.
func (l *Log) readFile(r *Range, v *view, offset, limit, maxBytes int64, minOne bool) error {
	p := v.find(offset)
	if err := l.refuseDamage(v, p); err != nil {
		return err
	}
	if _, err := l.verify(v, p.pos, p.end); err != nil { // before its headers are believed
		return err
	}
	sc, err := l.scan(v)
	if err != nil {
		return err
	}
	defer sc.close()
	first, pos, err := l.seek(sc, offset)
	if err != nil {
		return err
	}
	end, next := pos, first.BaseOffset
	if first.NextOffset() <= limit && (minOne || int64(first.Size()) <= maxBytes) {
		end, next = pos+int64(first.Size()), first.NextOffset()
		if end, next, err = l.extend(sc, pos, end, next, limit, maxBytes); err != nil {
			return err
		}
	}
	if end == pos {
		return nil
	}
	good, err := l.verify(v, pos, end)
	if err != nil {
		return err
	}
	if good < end {
		p = v.find(next - 1)
		for p.pos > good {
			p = v.piece(p.index - 1)
		}
		end, next = good, p.base
	}
	r.off, r.n, r.base, r.next = pos, end-pos, first.BaseOffset, next
	l.pinBytes(r, sc.h, v.seg)
	return nil
}

// pinBytes takes the range from the tail cache if it is small and there, else
// from the file.
func (l *Log) pinBytes(r *Range, h *handle, seg *segment) {
	if r.n < sendfileMin {
		if spans, ok := l.s.cache.pin(r.few[:0], &l.tail, seg, r.off, r.off+r.n); ok {
			r.spans = spans
			return
		}
	}
	r.h = l.s.files.share(h)
}

// readError tells the failure to read a file that the log no longer has from
// one of a file that it has.
func (l *Log) readError(v *view, err error) error {
	if err != nil && v.seg.dead.Load() {
		return fmt.Errorf("%w: the segment was removed", ErrOutOfRange)
	}
	return err
}

// refuseDamage returns the error of a quarantined block.
func (l *Log) refuseDamage(v *view, p piece) error {
	l.mu.Lock()
	d, bad := l.damageAt(v.seg, p.pos, p.end)
	l.mu.Unlock()
	if !bad {
		return nil
	}
	if d.pos == p.pos && d.end < p.end { // an open block that has grown since: no part of it can be told apart
		return l.reportDamage(v, p, errors.New("awaits repair"))
	}
	return &DamageError{
		TP: l.tp, File: l.s.segmentPath(l.tp, v.seg.id), Pos: d.pos, Offsets: d.offsets,
		Cause: errors.New("awaits repair"),
	}
}

// seek finds the batch that holds offset.
func (l *Log) seek(sc *scanner, offset int64) (found batch.Header, pos int64, err error) {
	err = sc.walk(sc.v.find(offset), func(h *batch.Header, at int64) bool {
		found, pos = *h, at
		return h.NextOffset() <= offset
	})
	if err == nil && (found.BaseOffset > offset || found.NextOffset() <= offset) {
		err = fmt.Errorf("segment: index of %s does not lead to offset %d", l.s.segmentPath(l.tp, sc.v.seg.id), offset)
	}
	return found, pos, err
}

// extend grows a range by whole batches: by whole index blocks as long as they
// fit, then header by header. It stops before quarantined blocks.
func (l *Log) extend(sc *scanner, pos, end, next, limit, maxBytes int64) (int64, int64, error) {
	v := sc.v
	l.mu.Lock()
	d, bad := l.damageAt(v.seg, end, v.size)
	l.mu.Unlock()
	stop := v.size
	if bad {
		stop = max(d.pos, end)
	}
	for end < stop {
		p := v.find(next)
		if p.end <= end {
			return end, next, fmt.Errorf("segment: index of %s ends at %d of %d bytes", l.s.segmentPath(l.tp, v.seg.id), end, v.size)
		}
		if p.end <= stop && p.next <= limit && p.end-pos <= maxBytes {
			end, next = p.end, p.next
			continue
		}
		full := false
		p.pos, p.base = end, next // the walk goes on where the range ends
		err := sc.walk(p, func(h *batch.Header, at int64) bool {
			to := at + int64(h.Size())
			if full = to > stop || h.NextOffset() > limit || to-pos > maxBytes; !full {
				end, next = to, h.NextOffset()
			}
			return !full
		})
		if err != nil || full {
			if errors.Is(err, ErrDamaged) {
				err = nil // what lies before it is served; the next read meets it
			}
			return end, next, err
		}
	}
	return end, next, nil
}
