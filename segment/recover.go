package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
)

// formatVersion is that of the whole directory; a program refuses a newer one.
const formatVersion = 1

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// recovery is the state of opening a directory.
type recovery struct {
	s       *Store
	logs    []*found
	byTP    map[model.TopicPartition]*found
	tombs   map[uint64]tombstone
	files   map[uint64]bool // segment ids whose files are there
	batch   KVBatch         // what recovery changes, synced before Open returns
	maxSeen uint64
}

// found is what the catalog says about one log.
type found struct {
	l       *Log
	mark    mark
	hasMark bool
	journal []journalEntry
}

// recover reads the catalog and brings every log to a state in which all that
// it reports is durable.
func (s *Store) recover() error {
	r := &recovery{s: s, byTP: map[model.TopicPartition]*found{}, tombs: map[uint64]tombstone{}, files: map[uint64]bool{}}
	for _, step := range []func() error{r.counters, r.entries, r.tombstones, r.journal, r.inventory, r.recoverLogs} {
		if err := step(); err != nil {
			return err
		}
	}
	r.batch.Set(counterIDs, numberValue(int64(s.ids.limit+idRange)))
	r.batch.Set(counterFormat, numberValue(formatVersion))
	if err := s.apply(&r.batch, true); err != nil {
		return err
	}
	s.ids.limit += idRange
	for _, f := range r.logs {
		s.logs[f.l.tp] = f.l
		if f.l.durable < f.l.end {
			f.l.markDirty()
		}
	}
	for _, t := range r.tombs {
		s.tombstones = append(s.tombstones, t)
	}
	slices.SortFunc(s.tombstones, func(a, b tombstone) int { return int(int64(a.id) - int64(b.id)) })
	_, err := s.Commit() // nothing is reported before it is durable
	return err
}

func (r *recovery) counters() error {
	s := r.s
	if v, err := s.catalog.Get(counterFormat); err == nil {
		if n, err := readNumber(counterFormat, v); err != nil || n > formatVersion {
			return errors.Join(err, fmt.Errorf("format version is %d, this program knows %d", n, formatVersion))
		}
	} else if !errors.Is(err, ErrNotFound) {
		return err
	} else if s.opts.MustExist {
		return errors.New("the catalog of an initialised directory is empty: it was lost")
	}
	v, err := s.catalog.Get(counterIDs)
	if err == nil {
		var n int64
		n, err = readNumber(counterIDs, v)
		s.ids.next, s.ids.limit = uint64(n), uint64(n)
	}
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return err
}

// scan calls fn for every entry of a keyspace until it fails.
func (r *recovery) scan(space byte, fn func(k, v []byte) error) error {
	var bad error
	lo := []byte{space}
	err := r.s.catalog.Scan(lo, prefixEnd(lo), func(k, v []byte) bool {
		bad = fn(k, v)
		return bad == nil
	})
	return errors.Join(err, bad)
}

// entries builds the logs. Within a log, its own record sorts first.
func (r *recovery) entries() error {
	if err := r.scan(spaceLog, r.entry); err != nil {
		return err
	}
	return r.scan(spaceSnapshot, func(k, _ []byte) error {
		if f := r.byTP[readTP(k[1:])]; f != nil {
			f.l.snaps = append(f.l.snaps, int64(binary.BigEndian.Uint64(k[1+tpLen:])))
		}
		return nil
	})
}

func (r *recovery) entry(k, v []byte) error {
	if len(k) < 1+tpLen+1 {
		return fmt.Errorf("catalog: key %x is too short", k)
	}
	tp, kind := readTP(k[1:]), k[1+tpLen]
	f := r.byTP[tp]
	if kind == kindLog {
		rec, err := readLogRecord(k, v)
		f = &found{l: newLog(r.s, tp, rec.cfg)}
		f.l.start = rec.start
		r.byTP[tp] = f
		r.logs = append(r.logs, f)
		return err
	}
	if f == nil {
		return fmt.Errorf("catalog: entry %x of a log that has no record", k)
	}
	return f.entry(kind, k, v)
}

func (f *found) entry(kind byte, k, v []byte) (err error) {
	l := f.l
	switch kind {
	case kindSegment:
		var rec segmentRecord
		rec, err = readSegmentRecord(k, v)
		seg := &segment{
			tp: l.tp, id: rec.id, ordinal: binary.BigEndian.Uint64(k[1+tpLen+1:]), base: rec.base, created: rec.created,
			sealed: rec.sealed, next: rec.next, size: rec.size, top: rec.top,
		}
		l.segs = append(l.segs, seg)
	case kindMark:
		f.mark, err = readMark(k, v)
		f.hasMark = true
	case kindEpoch:
		var start int64
		start, err = readNumber(k, v)
		e := model.LeaderEpoch(binary.BigEndian.Uint64(k[1+tpLen+1:]))
		l.epochs = append(l.epochs, epochEntry{e, start})
	case kindHW:
		l.hw, err = readNumber(k, v)
	case kindDamage:
		var d damage
		d, err = readDamage(k, v)
		l.damaged = append(l.damaged, d)
	default:
		err = fmt.Errorf("catalog: key %x is of an unknown kind", k)
	}
	return err
}

func (r *recovery) tombstones() error {
	return r.scan(spaceTombstone, func(k, v []byte) error {
		t, err := readTombstone(k, v)
		r.tombs[t.id] = t
		return err
	})
}

func (r *recovery) journal() error {
	return r.scan(spaceJournal, func(k, v []byte) error {
		j, err := readJournal(k, v)
		if err != nil {
			return err
		}
		r.s.journal.seq = max(r.s.journal.seq, binary.BigEndian.Uint64(k[1:]))
		if f := r.byTP[j.tp]; f != nil {
			j.data = slices.Clone(j.data)
			f.journal = append(f.journal, j)
		}
		return nil
	})
}

// inventory looks at every file below segments/. What the catalog does not
// list is set aside, never unlinked.
func (r *recovery) inventory() error {
	listed := map[string]uint64{}
	for _, f := range r.logs {
		for _, seg := range f.l.segs {
			listed[r.s.segmentPath(seg.tp, seg.id)] = seg.id
		}
	}
	for id, t := range r.tombs {
		listed[r.s.segmentPath(t.tp, id)] = id
	}
	root := path.Join(r.s.dir, segmentsDir)
	topics, err := r.s.fs.List(root)
	if err != nil {
		return fmt.Errorf("list segments: %w", err)
	}
	slices.Sort(topics)
	moved := map[string]bool{}
	for _, topic := range topics {
		parts, err := r.s.fs.List(path.Join(root, topic))
		if err != nil {
			return fmt.Errorf("list segments: %w", err)
		}
		slices.Sort(parts)
		for _, part := range parts {
			if err := r.inspect(path.Join(root, topic, part), listed, moved); err != nil {
				return err
			}
		}
	}
	return r.syncMoves(moved)
}

func (r *recovery) inspect(dir string, listed map[string]uint64, moved map[string]bool) error {
	names, err := r.s.fs.List(dir)
	if err != nil {
		return fmt.Errorf("list segments: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		file := path.Join(dir, name)
		if id, ok := listed[file]; ok {
			r.files[id] = true
			continue
		}
		to := path.Join(r.s.dir, quarantineDir, quarantineName(dir, name))
		if err := r.s.fs.Rename(file, to); err != nil {
			return fmt.Errorf("quarantine %s: %w", file, err)
		}
		moved[dir] = true
		r.s.event(Event{Kind: EventQuarantined, TP: tpOfDir(dir), File: to})
	}
	return nil
}

// quarantineName flattens a path; the topic id goes last, since it may start
// with a dash.
func quarantineName(dir, name string) string {
	return fmt.Sprintf("%s-%s-%s", strings.TrimSuffix(name, segmentSuffix), path.Base(dir), path.Base(path.Dir(dir)))
}

func tpOfDir(dir string) (tp model.TopicPartition) {
	id, err := model.ParseTopicID(path.Base(path.Dir(dir)))
	n, err2 := strconv.ParseInt(path.Base(dir), 10, 32)
	if err == nil && err2 == nil {
		tp = model.TopicPartition{Topic: id, Partition: int32(n)}
	}
	return tp
}

// syncMoves makes renames durable, the new name first.
func (r *recovery) syncMoves(moved map[string]bool) error {
	if len(moved) == 0 {
		return nil
	}
	dirs := []string{path.Join(r.s.dir, quarantineDir)}
	for dir := range moved {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs[1:])
	for _, dir := range dirs {
		if err := r.s.fs.SyncDir(dir); err != nil {
			return fmt.Errorf("sync directory %s: %w", dir, err)
		}
	}
	return nil
}

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
		seg.born = seg.size
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
		seg.claim = claim{pos: seg.open.pos, end: seg.size, crc: seg.open.crc}
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
	r.batch.DeleteRange(blockKey(seg.tp, seg.ordinal, seg.open.pos), prefixEnd(spaceKey(spaceBlock, seg.tp, seg.ordinal)))
	if err := rewrite(file, from, seg.size); err != nil {
		return false, fmt.Errorf("rewrite recovered tail: %w", err)
	}
	torn = seg.size < limit || seg.size < sealedAt || sealedAt < 0 && seg.size < size
	if !torn && sealedAt >= 0 {
		r.seal(seg)
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
