package segment

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	catalogMemTable = 8 << 20
	catalogCache    = 8 << 20
	catalogMaxFiles = 256
	catalogJobs     = 2
)

// PebbleOptions say how to open the catalog.
type PebbleOptions struct {
	Dir string
	FS  vfs.FS
	// MustExist makes a missing catalog an error: an initialised data
	// directory without one has lost it.
	MustExist bool
	// OnFatal is told of an error after which the catalog cannot go on. The
	// catalog refuses everything afterwards.
	OnFatal func(error)
	// OnLog receives Pebble's messages; nil drops them.
	OnLog func(string)
}

// OpenPebble opens the catalog in Pebble.
func OpenPebble(o PebbleOptions) (Catalog, error) {
	c := &pebbleCatalog{onFatal: o.OnFatal, onLog: o.OnLog}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	var err error
	if c.wal, err = openWALNote(o.FS, o.Dir); err == nil {
		err = c.wal.check()
	}
	if err != nil {
		return nil, fmt.Errorf("catalog %s: %w", o.Dir, err)
	}
	db, err := pebble.Open(o.Dir, &pebble.Options{
		FS:                          o.FS,
		ErrorIfNotExists:            o.MustExist,
		FormatMajorVersion:          pebble.FormatNewest,
		CacheSize:                   catalogCache,
		MemTableSize:                catalogMemTable,
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                catalogMaxFiles,
		CompactionConcurrencyRange:  func() (int, int) { return 1, catalogJobs },
		Logger:                      c,
		EventListener:               &pebble.EventListener{WALCreated: c.walCreated},
	})
	if err == nil {
		c.db = db
		err = c.usable()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("catalog %s: %w", o.Dir, err), c.wal.close())
	}
	return c, nil
}

// walCreated is told of each write-ahead log before it takes a record.
func (c *pebbleCatalog) walCreated(info pebble.WALCreateInfo) {
	if info.Err != nil {
		return // Pebble reports it itself
	}
	if err := c.wal.created(uint64(info.FileNum)); err != nil {
		c.Fatalf("note write-ahead log %d: %v", uint64(info.FileNum), err)
	}
}

// usable closes a catalog in which Pebble's own jobs found damage while it was
// being opened, so that its lock does not outlive the refusal.
func (c *pebbleCatalog) usable() error {
	if c.broken() == nil {
		return nil
	}
	return c.Close() // which includes what is broken
}

// pebbleCatalog is also Pebble's logger, so that Fatalf, by which Pebble
// reports that its log or manifest cannot be written, becomes a sticky error.
type pebbleCatalog struct {
	db      *pebble.DB
	wal     *walNote
	fatal   atomic.Pointer[error]
	onFatal func(error)
	onLog   func(string)
}

func (c *pebbleCatalog) broken() error {
	if p := c.fatal.Load(); p != nil {
		return *p
	}
	return nil
}

func (c *pebbleCatalog) Infof(string, ...any) {}

func (c *pebbleCatalog) Errorf(format string, args ...any) {
	if c.onLog != nil {
		c.onLog(fmt.Sprintf(format, args...))
	}
}

func (c *pebbleCatalog) Fatalf(format string, args ...any) {
	text, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\n") // Pebble adds stacks
	err := errors.New("catalog: " + text)
	if c.fatal.CompareAndSwap(nil, &err) && c.onFatal != nil {
		c.onFatal(err)
	}
}

func (c *pebbleCatalog) Get(key []byte) ([]byte, error) {
	if err := c.broken(); err != nil {
		return nil, err
	}
	v, closer, err := c.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("catalog: get %x: %w", key, err)
	}
	out := append([]byte{}, v...)
	return out, closer.Close()
}

func (c *pebbleCatalog) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	if err := c.broken(); err != nil {
		return err
	}
	it, err := c.db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return fmt.Errorf("catalog: scan %x: %w", lo, err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return errors.Join(fmt.Errorf("catalog: scan at %x: %w", it.Key(), err), it.Close())
		}
		if !fn(it.Key(), v) {
			break
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("catalog: scan %x: %w", lo, err)
	}
	return nil
}

func (c *pebbleCatalog) Apply(b *KVBatch, sync bool) error {
	if err := c.broken(); err != nil {
		return err
	}
	wb := c.db.NewBatchWithSize(batchSize(b))
	defer wb.Close()
	for _, op := range b.Ops {
		var err error
		switch {
		case op.End != nil:
			err = wb.DeleteRange(op.Key, op.End, nil)
		case op.Value == nil:
			err = wb.Delete(op.Key, nil)
		default:
			err = wb.Set(op.Key, op.Value, nil)
		}
		if err != nil {
			return fmt.Errorf("catalog: build batch: %w", err)
		}
	}
	opts := pebble.NoSync
	if sync {
		opts = pebble.Sync
	}
	if err := wb.Commit(opts); err != nil {
		return fmt.Errorf("catalog: commit: %w", err)
	}
	return c.broken() // Pebble reports a failed commit through Fatalf
}

// batchSize estimates a batch's encoded size, so that it is allocated once.
func batchSize(b *KVBatch) int {
	const perOp = 16
	n := perOp
	for _, op := range b.Ops {
		n += perOp + len(op.Key) + len(op.Value) + len(op.End)
	}
	return n
}

func (c *pebbleCatalog) Metrics() CatalogMetrics {
	m := c.db.Metrics()
	return CatalogMetrics{
		DiskBytes:     int64(m.DiskSpaceUsage()),
		MemTableBytes: int64(m.MemTable.Size),
		Flushes:       m.Flush.Count,
		Compactions:   m.Compact.Count,
		CacheHits:     m.BlockCache.Hits,
		CacheMisses:   m.BlockCache.Misses,
	}
}

// Close flushes first: what a table holds has checksums that tell rot from a
// torn tail, which the end of a write-ahead log has not.
func (c *pebbleCatalog) Close() error {
	var err error
	if c.broken() == nil {
		err = c.db.Flush()
	}
	return errors.Join(err, c.db.Close(), c.wal.close(), c.broken())
}
