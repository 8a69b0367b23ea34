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

	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
)

// formatVersion is that of the whole directory; a program refuses a newer one.
//
//	1: the catalog was the journal too
//	2: the journal has files of its own
const formatVersion = 2

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// recovery is the state of opening a directory.
type recovery struct {
	s     *Store
	logs  []*found
	byTP  map[model.TopicPartition]*found
	tombs map[uint64]tombstone
	files map[uint64]bool // segment ids whose files are there
	batch KVBatch         // what recovery changes, synced before Open returns

	old        bool           // the catalog has journal entries of format 1
	lost       []*journalFile // listed, but not there
	suspectAll bool           // durable groups are missing: any log may have lost something
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
	for _, step := range []func() error{r.counters, r.entries, r.tombstones, r.oldJournal, r.readJournals, r.inventory, r.recoverLogs} {
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
		s.sorted = nil
		if f.l.durable < f.l.end {
			f.l.markDirty()
		}
	}
	for _, t := range r.tombs {
		s.tombstones = append(s.tombstones, t)
	}
	slices.SortFunc(s.tombstones, func(a, b tombstone) int { return int(int64(a.id) - int64(b.id)) })
	if err := r.replaceLost(); err != nil {
		return err
	}
	before := s.journal.seq
	if _, err := s.Commit(); err != nil { // nothing is reported before it is durable
		return err
	}
	return r.retireJournal(before)
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
			sealed: rec.sealed, listed: true, next: rec.next, size: rec.size, top: rec.top,
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
	case kindTorn:
		_, err = readNumber(k, v)
		l.suspect = max(l.suspect, TornTail)
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

// oldJournal reads the journal of a directory that format 1 wrote.
func (r *recovery) oldJournal() error {
	return r.scan(spaceJournal, func(k, v []byte) error {
		j, err := readJournal(k, v)
		if err != nil {
			return err
		}
		r.old = true
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
		if len(parts) == 0 && r.bygone(topic) {
			_ = r.s.fs.Remove(path.Join(root, topic))
		}
	}
	return r.syncMoves(moved)
}

// bygone reports whether a directory is named after a topic of which there is no
// log.
func (r *recovery) bygone(topic string) bool {
	id, err := model.ParseTopicID(topic)
	return err == nil && !slices.ContainsFunc(r.logs, func(f *found) bool { return f.l.tp.Topic == id })
}

// inspect looks at the files of one log. An empty directory without a log is
// what a crash left of a deletion; where it cannot go, nothing depends on it.
func (r *recovery) inspect(dir string, listed map[string]uint64, moved map[string]bool) error {
	names, err := r.s.fs.List(dir)
	if err != nil {
		return fmt.Errorf("list segments: %w", err)
	}
	if tp := tpOfDir(dir); len(names) == 0 && tp != (model.TopicPartition{}) && r.byTP[tp] == nil {
		r.s.dirs.forget(dir)
	}
	slices.Sort(names)
	for _, name := range names {
		file := path.Join(dir, name)
		if id, ok := listed[file]; ok {
			r.files[id] = true
			continue
		}
		to := path.Join(r.s.dir, quarantineDir, quarantineName(dir, name))
		if bugs.OrphanDelete {
			if err := r.s.fs.Remove(file); err != nil {
				return err
			}
			continue
		}
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
