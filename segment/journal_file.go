package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"slices"

	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
)

// The journal's files hold one record a commit group, back to back at multiples
// of journalAlign, so that a torn write never reaches into the record before:
//
//	magic (4) version (1) zero (3) group (8) length of the body (4) CRC32C of the body (4)
//	file (8) position (8) CRC32C of the header so far, begun with the directory's salt (4)
//	body: topic id (16) partition (4) ordinal (8) position (8) length (4) bytes, and so on
//
// File and position bind a record to its place. The salt, which only the catalog
// has, keeps a client from writing something into its values that would pass for
// a record where a torn one is looked behind.
const (
	journalDir     = "journal"
	journalSuffix  = ".journal"
	journalAlign   = 4096
	journalMagic   = 0x54524a4c
	journalVersion = 1
	journalHead    = 4 + 4 + 8 + 4 + 4 + 8 + 8 + 4
	journalPart    = tpLen + 8 + 8 + 4 // before the bytes of one segment
)

func journalName(id uint64) string { return fmt.Sprintf("%016x%s", id, journalSuffix) }

// journalFiles is the journal: files that are used in turn, each again once the
// catalog says durably that all its groups are retired. One group is in flight
// at a time, so whoever finds a group knows that the one before it was durable.
// Guarded by Store.commitMu.
type journalFiles struct {
	s     *Store
	salt  uint64
	files []*journalFile // by id, which starts at 1; never shrinks
	cur   *journalFile   // takes the next group; nil after an open

	seq uint64 // of the newest group
	// retired is the newest group whose bytes, and those of all before it, are
	// durable in their segments. The catalog has it, synced: a file with a
	// later group is never written over.
	retired uint64
}

type journalFile struct {
	id   uint64
	f    File
	end  int64  // of its last group
	last uint64 // its newest group
}

func (j *journalFiles) path(id uint64) string {
	return path.Join(j.s.dir, journalDir, journalName(id))
}

// newGroup starts a record in b, whose array is used again.
func newGroup(b []byte) []byte {
	return append(b[:0], make([]byte, journalHead)...)
}

// appendPart adds the frame of n bytes of a segment and returns where they go.
func appendPart(b []byte, tp model.TopicPartition, ordinal uint64, pos, n int64) (grown, dst []byte) {
	b = slices.Grow(b, journalPart+int(n)+journalAlign)
	b = binary.BigEndian.AppendUint64(appendTP(b, tp), ordinal)
	b = binary.BigEndian.AppendUint64(b, uint64(pos))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = b[:len(b)+int(n)]
	return b, b[len(b)-int(n):]
}

// append makes a group durable. A failure is the directory's end.
func (j *journalFiles) append(b []byte) error {
	body := len(b) - journalHead
	b = append(b, make([]byte, -len(b)&(journalAlign-1))...)
	if err := j.place(int64(len(b))); err != nil {
		return err
	}
	file := j.cur
	h := binary.BigEndian.AppendUint32(b[:0], journalMagic)
	h = append(h, journalVersion, 0, 0, 0)
	h = binary.BigEndian.AppendUint64(h, j.seq+1)
	h = binary.BigEndian.AppendUint32(h, uint32(body))
	h = binary.BigEndian.AppendUint32(h, crc32.Checksum(b[journalHead:journalHead+body], castagnoli))
	h = binary.BigEndian.AppendUint64(h, file.id)
	h = binary.BigEndian.AppendUint64(h, uint64(file.end))
	binary.BigEndian.AppendUint32(h, crcOf(j.seed(), h))
	j.seq++
	file.last = j.seq
	if err := writeFull(file.f, b, file.end); err != nil {
		return fmt.Errorf("segment: write %d bytes at %d of %s: %w", len(b), file.end, j.path(file.id), err)
	}
	file.end += int64(len(b))
	j.s.stats.journalSyncs.Add(1)
	if bugs.NoFsync {
		return nil
	}
	if err := file.f.SyncData(); err != nil {
		return fmt.Errorf("segment: sync %s: %w", j.path(file.id), err)
	}
	return nil
}

func (j *journalFiles) seed() uint32 {
	return crc32.Checksum(binary.BigEndian.AppendUint64(nil, j.salt), castagnoli)
}

// place makes cur a file with room for n bytes: the same one, one whose groups
// are all retired, or a new one.
func (j *journalFiles) place(n int64) error {
	if j.cur != nil && (j.cur.end == 0 || j.cur.end+n <= j.s.opts.JournalFile) {
		return nil
	}
	for _, file := range j.files {
		if file != j.cur && (file.last <= j.retired || bugs.JournalReuse) {
			file.end = 0
			j.cur = file
			return nil
		}
	}
	return j.create()
}

// create makes a file and has the catalog list it, so that its loss would be
// noticed, before it takes a group.
func (j *journalFiles) create() error {
	id := uint64(len(j.files) + 1)
	f, err := j.s.fs.Create(j.path(id))
	if err != nil {
		return fmt.Errorf("segment: create %s: %w", j.path(id), err)
	}
	file := &journalFile{id: id, f: f}
	j.files, j.cur = append(j.files, file), file
	var b KVBatch
	if err := j.list(&b); err != nil {
		return err
	}
	return j.s.apply(&b, true)
}

// list makes the entries of the files durable and adds to a batch that they
// exist.
func (j *journalFiles) list(b *KVBatch) error {
	dir := path.Join(j.s.dir, journalDir)
	if err := j.s.fs.SyncDir(dir); err != nil {
		return fmt.Errorf("segment: sync directory %s: %w", dir, err)
	}
	b.Set(counterJournals, numberValue(int64(len(j.files))))
	return nil
}

func (j *journalFiles) close() error {
	var errs []error
	for _, file := range j.files {
		if file.f != nil { // an open that failed half-way
			errs = append(errs, file.f.Close())
		}
	}
	j.files, j.cur = nil, nil
	return errors.Join(errs...)
}
