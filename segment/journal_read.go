package segment

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
)

// journalRecord is one group as it was found.
type journalRecord struct {
	seq   uint64
	file  string
	pos   int64
	whole bool // otherwise only its header is
	parts []journalEntry
}

// readJournals reads the journal's files. What they hold past the retired group
// is handed to the logs, in order. If a group is missing in the middle, the logs
// that it held bytes of are unknown: all become suspect.
func (r *recovery) readJournals() error {
	j := &r.s.journal
	listed, err := r.journalCounters()
	if err != nil {
		return err
	}
	dir := path.Join(r.s.dir, journalDir)
	if err := mkdirSynced(r.s.fs, dir); err != nil { // format 1 had none; and a crash may have left its entry unsynced
		return fmt.Errorf("create %s: %w", dir, err)
	}
	names, err := r.s.fs.List(dir)
	if err != nil {
		return fmt.Errorf("list the journal: %w", err)
	}
	var records []journalRecord
	for id := uint64(1); ; id++ {
		file := &journalFile{id: id}
		present := slices.Contains(names, journalName(id))
		switch {
		case present:
			if records, err = j.read(records, file); err != nil {
				return err
			}
		case id <= listed:
			r.lost = append(r.lost, file)
		}
		if !present && id > listed {
			break // the ids have no holes
		}
		j.files = append(j.files, file)
	}
	if uint64(len(j.files)) > listed {
		// Made before a crash that came before the catalog knew of it: it may be
		// gone after the next one, and would not be missed.
		if err := j.list(&r.batch); err != nil {
			return err
		}
	}
	slices.SortStableFunc(records, func(a, b journalRecord) int { return cmp.Compare(a.seq, b.seq) })
	r.takeJournal(records)
	return nil
}

// journalCounters reads what the catalog says about the journal. A directory
// of format 1 has its journal in the catalog, and no file.
func (r *recovery) journalCounters() (listed uint64, err error) {
	j := &r.s.journal
	var nums [3]int64
	for i, key := range [][]byte{counterRetired, counterJournals, counterSalt} {
		v, err := r.s.catalog.Get(key)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err == nil {
			nums[i], err = readNumber(key, v)
		}
		if err != nil {
			return 0, err
		}
	}
	j.retired = max(uint64(nums[0]), j.seq) // at least the groups of format 1
	if j.salt = uint64(nums[2]); j.salt == 0 {
		j.salt = r.s.opts.salt()
		r.batch.Set(counterSalt, numberValue(int64(j.salt)))
	}
	return uint64(nums[1]), nil
}

// read adds the records of a file that are not retired. Behind a torn record it
// goes on looking: a later one would show that something is missing.
func (j *journalFiles) read(records []journalRecord, file *journalFile) ([]journalRecord, error) {
	b, err := j.open(file)
	if err != nil {
		return records, err
	}
	size := int64(len(b))
	for pos := int64(0); pos+journalHead <= size; {
		seq, body, crc, ok := j.header(b[pos:], file.id, pos)
		if !ok {
			pos += journalAlign
			continue
		}
		from := pos + journalHead
		to := min(from+body, size)
		if seq > j.retired {
			rec := journalRecord{seq: seq, file: j.path(file.id), pos: pos}
			rec.whole = to == from+body && crc32.Checksum(b[from:to], castagnoli) == crc
			if rec.whole {
				rec.parts, rec.whole = readParts(b[from:to])
			}
			records = append(records, rec)
			file.last = max(file.last, seq)
		}
		pos = (to + journalAlign - 1) &^ (journalAlign - 1)
	}
	return records, nil
}

// open opens a file and returns all that it has.
func (j *journalFiles) open(file *journalFile) ([]byte, error) {
	f, err := j.s.fs.Open(j.path(file.id))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", j.path(file.id), err)
	}
	file.f = f
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("size of %s: %w", j.path(file.id), err), f.Close())
	}
	b := make([]byte, size)
	if err := readFull(f, b, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", j.path(file.id), err), f.Close())
	}
	return b, nil
}

// header reads a record's header, which must be that of this place.
func (j *journalFiles) header(b []byte, id uint64, pos int64) (seq uint64, body int64, crc uint32, ok bool) {
	const end = journalHead - 4
	be := binary.BigEndian
	ok = be.Uint32(b) == journalMagic && b[4] == journalVersion && be.Uint64(b[24:]) == id && be.Uint64(b[32:]) == uint64(pos) &&
		be.Uint32(b[end:]) == crcOf(j.seed(), b[:end])
	return be.Uint64(b[8:]), int64(be.Uint32(b[16:])), be.Uint32(b[20:]), ok
}

// readParts splits a body; its bytes are copied.
func readParts(b []byte) (parts []journalEntry, ok bool) {
	for len(b) > 0 {
		if len(b) < journalPart {
			return nil, false
		}
		e := journalEntry{tp: readTP(b), ordinal: binary.BigEndian.Uint64(b[tpLen:]), pos: int64(binary.BigEndian.Uint64(b[tpLen+8:]))}
		n := int(binary.BigEndian.Uint32(b[tpLen+16:]))
		if b = b[journalPart:]; n > len(b) {
			return nil, false
		}
		e.data, b = slices.Clone(b[:n]), b[n:]
		parts = append(parts, e)
	}
	return parts, true
}

// takeJournal hands the records to their logs. The group in flight at a crash
// may be torn or absent; anything else that is missing was durable once.
func (r *recovery) takeJournal(records []journalRecord) {
	j := &r.s.journal
	next := j.retired + 1 // the first that is missing so far
	newest := j.retired
	for i := range records {
		rec := &records[i]
		newest = max(newest, rec.seq)
		if !rec.whole {
			continue
		}
		if rec.seq == next {
			next++
		}
		for _, e := range rec.parts {
			if f := r.byTP[e.tp]; f != nil {
				f.journal = append(f.journal, e)
			}
		}
	}
	j.seq = next - 1
	for _, file := range r.lost {
		r.suspectAll = true
		r.s.event(Event{Kind: EventJournal, File: j.path(file.id), Err: errors.New("the file is gone")})
	}
	if newest <= next { // at most the group in flight is missing
		return
	}
	j.seq, r.suspectAll = newest, true
	e := Event{Kind: EventJournal, File: path.Join(r.s.dir, journalDir), Err: fmt.Errorf("group %d is missing, the newest is %d", next, newest)}
	for i := range records {
		if rec := &records[i]; !rec.whole && rec.seq == next {
			e.File, e.Pos = rec.file, rec.pos
			e.Err = fmt.Errorf("group %d at byte %d is damaged, the newest is %d", next, rec.pos, newest)
		}
	}
	r.s.event(e)
}

// replaceLost makes the files anew that were gone, now that their loss is on
// record.
func (r *recovery) replaceLost() error {
	j := &r.s.journal
	for _, file := range r.lost {
		f, err := r.s.fs.Create(j.path(file.id))
		if err != nil {
			return fmt.Errorf("create %s: %w", j.path(file.id), err)
		}
		file.f = f
	}
	if len(r.lost) == 0 {
		return nil
	}
	return r.s.fs.SyncDir(path.Join(r.s.dir, journalDir))
}

// retireJournal drops the groups that were recovered, up to seq: what they held
// has been committed again.
func (r *recovery) retireJournal(seq uint64) error {
	s := r.s
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	var b KVBatch
	if r.old {
		b.DeleteRange([]byte{spaceJournal}, []byte{spaceJournal + 1})
	}
	return s.retireJournal(&b, seq)
}
