package segment

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
)

// Names in a data directory.
const (
	catalogDir    = "catalog"
	segmentsDir   = "segments"
	quarantineDir = "quarantine"
	segmentSuffix = ".log"
)

// Options say how to open a data directory. Zero fields take the defaults that
// are given in brackets.
type Options struct {
	Dir     string
	FS      FS          // [OS]
	Catalog Catalog     // [Pebble in Dir/catalog]; the store closes it
	Clock   clock.Clock // [the machine's]
	// MustExist refuses a directory whose catalog is missing. Set it once the
	// directory was initialised: a missing catalog is then lost data, never
	// an empty directory.
	MustExist bool
	// OnEvent is told of damage, quarantine and the like, outside every lock.
	OnEvent func(Event)
	// OnFatal is told once when the directory is poisoned. In production it
	// says why and ends the process.
	OnFatal func(error)

	IndexBytes      int64         // size of an index block [64 KiB]
	CacheBytes      int64         // tail cache of all logs [32 MiB]; negative: none
	MaxOpenFiles    int           // idle files kept open [512]
	JournalGroup    int64         // a commit group up to this size is journalled whole [256 KiB]
	JournalPerLog   int64         // a log's part up to this size is journalled in any group [16 KiB]
	JournalMax      int64         // bytes in the journal from which groups go to the files; a lazy sync is due at an eighth [256 MiB]
	JournalFile     int64         // size of a journal file, unless one group is larger [8 MiB]
	JournalAge      time.Duration // longest wait for the lazy sync of journalled segments [5 s]
	WholeFrom       int           // files of a lazy sync from which the whole file system is synced instead [64]
	SyncParallelism int           // fdatasyncs at a time [8]; 1 makes a commit run on its caller alone
	DeleteDelay     time.Duration // between a tombstone and the unlink [60 s]; negative: none
	VerifyPeriod    time.Duration // how long a verified block is trusted [10 min]
	IdleClose       time.Duration // an unused file is closed after this [30 s]
	// Salt is what a new directory's journal headers are bound to [a random number].
	Salt uint64
}

func orDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// salt returns Salt, or a number that nobody can guess.
func (o *Options) salt() uint64 {
	if o.Salt != 0 {
		return o.Salt
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:]) | 1
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = OS
	}
	if o.Clock == nil {
		o.Clock = clock.NewReal()
	}
	orDefault(&o.IndexBytes, 64<<10)
	orDefault(&o.CacheBytes, 32<<20)
	orDefault(&o.MaxOpenFiles, 512)
	orDefault(&o.JournalGroup, 256<<10)
	orDefault(&o.JournalPerLog, 16<<10)
	orDefault(&o.JournalMax, 256<<20)
	orDefault(&o.JournalFile, 8<<20)
	orDefault(&o.JournalAge, 5*time.Second)
	orDefault(&o.WholeFrom, 64)
	orDefault(&o.SyncParallelism, 8)
	orDefault(&o.DeleteDelay, time.Minute)
	orDefault(&o.VerifyPeriod, 10*time.Minute)
	orDefault(&o.IdleClose, 30*time.Second)
}

// Store is one open data directory. Its methods are safe for concurrent use
// except where they say otherwise.
type Store struct {
	opts    Options
	dir     string
	fs      FS
	catalog Catalog
	clock   clock.Clock
	files   handles
	cache   tailCache
	dirs    dirEntries
	ids     idSource
	stats   counters
	poison  atomic.Pointer[error]
	whole   Whole // nil where the file system cannot be synced as one

	// commitMu serialises Commit with the writes of marks. It is held over
	// I/O; nothing but group commit takes it.
	commitMu sync.Mutex
	group    commitGroup  // buffers of the commit in flight, guarded by commitMu
	journal  journalFiles // guarded by commitMu

	// flushing serialises the lazy syncs: the second one, which finds nothing to
	// sync, would retire groups that the first is still syncing. It is held over
	// I/O; nothing but the lazy sync takes it.
	flushing sync.Mutex

	// lifecycle serialises Create and Delete over their catalog batch.
	lifecycle sync.Mutex

	mu         sync.Mutex // no I/O under it
	closed     bool
	logs       map[model.TopicPartition]*Log
	sorted     []*Log // of logs, never changed in place; nil: to be made anew
	dirty      []*Log // with bytes appended since the last commit
	marks      markSet
	waiting    waitingLogs
	tombstones []tombstone
	emptied    []model.TopicPartition // deleted logs without a file: their directories may be left
	scrubNext  scrubCursor
	lastVerify time.Duration // when verified blocks were last forgotten
	moved      []*Log        // whose high watermark is to be saved
	round      int           // index in sorted of the next log whose turn it is
}

// Open opens a data directory, recovers its logs and returns once everything
// that it reports as a log's end is durable. See the package comment for the
// rules of recovery.
func Open(o Options) (*Store, error) {
	o.setDefaults()
	s := &Store{opts: o, dir: o.Dir, fs: o.FS, catalog: o.Catalog, clock: o.Clock, logs: map[model.TopicPartition]*Log{}}
	s.files = handles{s: s, max: o.MaxOpenFiles}
	s.cache.budget = o.CacheBytes
	s.dirs.init(s)
	s.journal.s = s
	s.marks.init()
	s.lastVerify = s.clock.Elapsed()
	if err := s.openCatalog(); err != nil {
		return nil, err
	}
	err := s.openWhole()
	if err == nil {
		err = s.recover()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open data directory %s: %w", o.Dir, err), s.closeFiles())
	}
	return s, nil
}

// openWhole opens the file system for lazy syncs, where it can be synced as one.
func (s *Store) openWhole() (err error) {
	if s.whole, err = s.fs.Whole(path.Join(s.dir, segmentsDir)); errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return err
}

// closeFiles closes what is not a segment.
func (s *Store) closeFiles() error {
	errs := []error{s.journal.close()}
	if s.whole != nil {
		errs = append(errs, s.whole.Close())
	}
	return errors.Join(append(errs, s.catalog.Close())...)
}

// openCatalog makes the directories durable, then opens the catalog in them.
// Pebble's lock on its directory keeps a second process out.
func (s *Store) openCatalog() error {
	if !s.opts.MustExist {
		for _, d := range []string{s.dir, path.Join(s.dir, catalogDir), path.Join(s.dir, segmentsDir), path.Join(s.dir, quarantineDir)} {
			if err := mkdirSynced(s.fs, d); err != nil {
				return fmt.Errorf("create %s: %w", d, err)
			}
		}
	}
	if s.catalog != nil {
		return nil
	}
	var err error
	s.catalog, err = OpenPebble(PebbleOptions{
		Dir: path.Join(s.dir, catalogDir), FS: s.fs.Pebble(), MustExist: s.opts.MustExist,
		OnFatal: s.fail,
		OnLog:   func(msg string) { s.event(Event{Kind: EventCatalog, Err: errors.New(msg)}) },
	})
	if err != nil {
		return err
	}
	// Pebble opens a catalog whose creation was cut short, but does not sync
	// the entries that survived by luck: the next cut could take them.
	if err := s.fs.SyncDir(path.Join(s.dir, catalogDir)); err != nil {
		return errors.Join(fmt.Errorf("sync the catalog's directory: %w", err), s.catalog.Close())
	}
	return nil
}

// fail poisons the directory: nothing is acknowledged from here on. Only a
// restart, which trusts nothing past the durable marks, may go on.
func (s *Store) fail(err error) {
	if !s.poison.CompareAndSwap(nil, &err) {
		return
	}
	s.event(Event{Kind: EventPoisoned, Err: err})
	if s.opts.OnFatal != nil {
		s.opts.OnFatal(err)
	}
}

// Poisoned returns nil, or ErrPoisoned with the first failure. It is sticky.
func (s *Store) Poisoned() error {
	if p := s.poison.Load(); p != nil {
		return fmt.Errorf("%w: %w", ErrPoisoned, *p)
	}
	return nil
}

// apply changes the catalog. A failure poisons: what the catalog holds is then
// unknown.
func (s *Store) apply(b *KVBatch, sync bool) error {
	if err := s.Poisoned(); err != nil {
		return err
	}
	if len(b.Ops) == 0 {
		return nil
	}
	if sync {
		s.stats.catalogSyncs.Add(1)
	}
	if err := s.catalog.Apply(b, sync); err != nil {
		s.fail(err)
		return s.Poisoned()
	}
	return nil
}

// Create makes the logs that do not exist yet, all in one synced catalog batch,
// and returns every one that was named, in order. Files come with the first
// append.
func (s *Store) Create(specs ...CreateSpec) ([]*Log, error) {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	out := make([]*Log, len(specs))
	var b KVBatch
	fresh := map[model.TopicPartition]*Log{}
	for i, spec := range specs {
		l := s.Log(spec.TP)
		if l == nil {
			l = fresh[spec.TP]
		}
		if l == nil {
			l = newLog(s, spec.TP, spec.Config)
			fresh[spec.TP] = l
			b.Set(logKey(spec.TP, kindLog), logRecord{cfg: spec.Config}.encode())
		}
		out[i] = l
	}
	if err := s.apply(&b, true); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	for i, l := range out {
		if have := s.logs[l.tp]; have != nil {
			out[i] = have
			continue
		}
		s.logs[l.tp] = l
		s.sorted = nil
	}
	return out, nil
}

// Log returns a log, or nil if there is none of that name.
func (s *Store) Log(tp model.TopicPartition) *Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs[tp]
}

// Refs lists the logs, sorted.
func (s *Store) Refs() []model.TopicPartition {
	s.mu.Lock()
	out := make([]model.TopicPartition, 0, len(s.logs))
	for tp := range s.logs {
		out = append(out, tp)
	}
	s.mu.Unlock()
	slices.SortFunc(out, compareTP)
	return out
}

func compareTP(a, b model.TopicPartition) int {
	if c := bytes.Compare(a.Topic[:], b.Topic[:]); c != 0 {
		return c
	}
	return int(a.Partition) - int(b.Partition)
}

// sortedLogs returns the logs in the order of Refs. The slice is shared: it is
// sorted once per change of the set, since Maintain walks it several times a
// second.
func (s *Store) sortedLogs() []*Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sorted == nil {
		s.sorted = make([]*Log, 0, len(s.logs))
		for _, l := range s.logs {
			s.sorted = append(s.sorted, l)
		}
		slices.SortFunc(s.sorted, func(a, b *Log) int { return compareTP(a.tp, b.tp) })
	}
	return s.sorted
}

// Delete removes logs: synced tombstones for their files and no catalog entry,
// all in one batch; the files follow when the delay is over. Names that do not
// exist are ignored. Readers that hold a Range finish undisturbed.
func (s *Store) Delete(tps ...model.TopicPartition) error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	var b KVBatch
	var tombs []tombstone
	var logs []*Log
	var emptied []model.TopicPartition
	tps = slices.Clone(tps)
	slices.SortFunc(tps, compareTP)
	for _, tp := range slices.Compact(tps) {
		l := s.Log(tp)
		if l == nil {
			continue
		}
		l.write.Lock()
		defer l.write.Unlock()
		l.structure.Lock()
		defer l.structure.Unlock()
		segs := l.close()
		for _, seg := range segs {
			tombs = append(tombs, s.tombstone(&b, seg))
		}
		if len(segs) == 0 {
			emptied = append(emptied, tp)
		}
		dropLog(&b, tp)
		logs = append(logs, l)
	}
	s.commitMu.Lock() // a group in flight must not write entries of a deleted log
	defer s.commitMu.Unlock()
	if err := s.apply(&b, true); err != nil {
		return err
	}
	s.mu.Lock()
	for _, l := range logs {
		if s.logs[l.tp] == l {
			delete(s.logs, l.tp)
			s.sorted = nil
		}
		s.marks.drop(l)
	}
	s.emptied = append(s.emptied, emptied...)
	s.mu.Unlock()
	s.bury(tombs)
	return nil
}

// KV is the part of the catalog for the node's own data, such as the metadata
// log. Its keys never meet the store's own.
func (s *Store) KV() KV { return guardedKV{prefixKV{kv: s.catalog, prefix: []byte{spaceNode, '/'}}, s} }

// guardedKV poisons the store when a write fails.
type guardedKV struct {
	prefixKV
	s *Store
}

func (g guardedKV) Apply(b *KVBatch, sync bool) error {
	if err := g.s.Poisoned(); err != nil {
		return err
	}
	if err := g.prefixKV.Apply(b, sync); err != nil {
		g.s.fail(err)
		return g.s.Poisoned()
	}
	return nil
}

// FreeSpace returns the bytes available to this process on the directory's
// file system, and its size.
func (s *Store) FreeSpace() (free, total int64, err error) { return s.fs.Free(s.dir) }

// CatalogMetrics returns the catalog's figures.
func (s *Store) CatalogMetrics() CatalogMetrics { return s.catalog.Metrics() }

// Close makes everything durable and closes the directory. Appends, commits
// and reads must have ended; ranges still held stay readable.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.closed = true
	s.mu.Unlock()
	var errs []error
	if s.Poisoned() == nil {
		_, err := s.Commit()
		errs = append(errs, err, s.saveHighWatermarks(true), s.flushJournal())
	}
	for _, l := range s.sortedLogs() {
		l.write.Lock()
		errs = append(errs, s.files.closeAll(l.close()))
		l.write.Unlock()
	}
	return errors.Join(append(errs, s.closeFiles())...)
}

func (s *Store) partitionDir(tp model.TopicPartition) string {
	return path.Join(s.dir, segmentsDir, tp.Topic.String(), strconv.Itoa(int(tp.Partition)))
}

func (s *Store) segmentPath(tp model.TopicPartition, id uint64) string {
	return path.Join(s.partitionDir(tp), segmentName(id))
}

func segmentName(id uint64) string { return fmt.Sprintf("%016x%s", id, segmentSuffix) }

// idSource hands out segment ids, which are never used twice: it takes them
// from a range whose end is durable before the first is used.
type idSource struct {
	mu          sync.Mutex // held over the rare sync of a new range
	next, limit uint64
}

const idRange = 4096

func (s *Store) nextID() (uint64, error) {
	s.ids.mu.Lock()
	defer s.ids.mu.Unlock()
	if s.ids.next == s.ids.limit {
		var b KVBatch
		b.Set(counterIDs, numberValue(int64(s.ids.limit+idRange)))
		if err := s.apply(&b, true); err != nil {
			return 0, err
		}
		s.ids.limit += idRange
	}
	s.ids.next++
	return s.ids.next, nil
}
