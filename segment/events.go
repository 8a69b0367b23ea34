package segment

import (
	"fmt"
	"sync/atomic"

	"github.com/tailrace/tailrace/internal/model"
)

// EventKind names something that an operator should know.
type EventKind uint8

// The kinds of event.
const (
	// EventPoisoned: a write or sync failed; the process must end.
	EventPoisoned EventKind = iota
	// EventTornTail: recovery cut garbage past the durable mark.
	EventTornTail
	// EventDamaged: a range is corrupt and quarantined until repaired.
	EventDamaged
	// EventMissing: a segment file with durable bytes is gone.
	EventMissing
	// EventQuarantined: a file that the catalog does not list was set aside.
	EventQuarantined
	// EventRepaired: a damaged range was replaced.
	EventRepaired
	// EventIOError: an operation failed without consequence for durability
	// (an open, a read, the removal of a deleted file).
	EventIOError
	// EventCatalog: a message of the catalog's engine.
	EventCatalog
	// EventJournal: commit groups that were durable are missing from the
	// journal; every log is suspect.
	EventJournal
)

var eventNames = [...]string{"poisoned", "torn tail", "damaged", "missing", "quarantined", "repaired", "i/o error", "catalog", "journal"}

// String returns the kind's name.
func (k EventKind) String() string { return eventNames[k] }

// Event is told to Options.OnEvent, outside every lock.
type Event struct {
	Kind    EventKind
	TP      model.TopicPartition
	File    string
	Pos     int64 // in File
	Offsets OffsetRange
	Err     error
}

func (s *Store) event(e Event) {
	s.stats.events.Add(1)
	if s.opts.OnEvent != nil {
		s.opts.OnEvent(e)
	}
}

// DamageError says where a log is corrupt. It matches ErrDamaged.
type DamageError struct {
	TP      model.TopicPartition
	File    string
	Pos     int64 // first bad byte's block in File
	Offsets OffsetRange
	Cause   error
}

// Error implements error.
func (e *DamageError) Error() string {
	return fmt.Sprintf("segment: %s: offsets [%d, %d) are damaged at byte %d of %s: %v",
		e.TP, e.Offsets.From, e.Offsets.To, e.Pos, e.File, e.Cause)
}

// Is matches ErrDamaged.
func (e *DamageError) Is(target error) bool { return target == ErrDamaged }

// Unwrap returns the cause.
func (e *DamageError) Unwrap() error { return e.Cause }

// Stats are counters of a store since it was opened, and gauges.
type Stats struct {
	Appends        int64
	BytesAppended  int64
	BytesJournaled int64
	Commits        int64 // group commits with something to do
	CatalogSyncs   int64
	FileSyncs      int64
	DirSyncs       int64
	JournalSyncs   int64
	WholeSyncs     int64
	BlocksVerified int64
	BytesFromCache int64
	BytesFromFile  int64
	Events         int64
	OpenFiles      int64
	CacheBytes     int64
	JournalBytes   int64 // waiting for the lazy sync of their segments
	Logs           int64
}

type counters struct {
	appends, bytesAppended, bytesJournaled, commits       atomic.Int64
	catalogSyncs, fileSyncs, dirSyncs, blocksVerified     atomic.Int64
	journalSyncs, wholeSyncs                              atomic.Int64
	bytesFromCache, bytesFromFile, events, journalWaiting atomic.Int64
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	c := &s.stats
	s.cache.mu.Lock()
	cached := s.cache.used
	s.cache.mu.Unlock()
	s.mu.Lock()
	logs := len(s.logs)
	s.mu.Unlock()
	return Stats{
		Appends: c.appends.Load(), BytesAppended: c.bytesAppended.Load(), BytesJournaled: c.bytesJournaled.Load(),
		Commits: c.commits.Load(), CatalogSyncs: c.catalogSyncs.Load(), FileSyncs: c.fileSyncs.Load(), DirSyncs: c.dirSyncs.Load(),
		JournalSyncs: c.journalSyncs.Load(), WholeSyncs: c.wholeSyncs.Load(),
		BlocksVerified: c.blocksVerified.Load(), BytesFromCache: c.bytesFromCache.Load(), BytesFromFile: c.bytesFromFile.Load(),
		Events: c.events.Load(), OpenFiles: int64(s.files.count()), CacheBytes: cached,
		JournalBytes: c.journalWaiting.Load(), Logs: int64(logs),
	}
}
