package segment

import (
	"errors"
	"syscall"

	"github.com/tailrace/tailrace/internal/model"
)

// Errors that callers tell apart. Everything else is wrapped with file and
// position.
var (
	// ErrOutOfRange: the offset is below the log start or above the log end.
	ErrOutOfRange = errors.New("segment: offset out of range")
	// ErrDamaged: the range is quarantined until it is repaired; it is
	// neither served nor cut.
	ErrDamaged = errors.New("segment: damaged range")
	// ErrPoisoned: an earlier write or sync failed; nothing more is
	// acknowledged by this process.
	ErrPoisoned = errors.New("segment: data directory is poisoned")
	// ErrClosed: the log or store was closed or deleted.
	ErrClosed = errors.New("segment: closed")
	// ErrNotFound is returned by a Catalog or KV for a missing key.
	ErrNotFound = errors.New("segment: not found")
)

// NoSpace reports whether err says that the file system, or the owner's share
// of it, is full. Such a write failed whole or in part but nothing is broken:
// it may be tried again when there is room.
func NoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// LogConfig is the part of a topic's configuration that its log obeys. Zero
// or negative limits mean "no limit".
type LogConfig struct {
	SegmentBytes   int64 // roll size
	SegmentMs      int64 // roll age, milliseconds
	RetentionMs    int64 // by the newest timestamp of a segment
	RetentionBytes int64
	// Compact is stored for tools; the log keeps everything when it is set.
	Compact bool
}

// CreateSpec names a log to create. Creating one that exists returns it.
type CreateSpec struct {
	TP     model.TopicPartition
	Config LogConfig
}

// AppendInfo says what Append wrote.
type AppendInfo struct {
	Base, Next int64 // offsets [Base, Next) are new; Next is the log end
	Bytes      int
}

// Committed is a log's durable end after a group commit.
type Committed struct {
	Log *Log
	End int64
}

// TimeOffset is a record found by time.
type TimeOffset struct {
	Offset    int64
	Timestamp int64
	Epoch     model.LeaderEpoch
}

// OffsetRange is [From, To).
type OffsetRange struct{ From, To int64 }

// Suspicion says why a replica's log is not trusted in the next election.
type Suspicion uint8

// The kinds of suspicion, least severe first.
const (
	Trusted  Suspicion = iota
	TornTail           // garbage past the durable mark was cut at recovery
	Damaged            // a range at or below the mark is bad and awaits repair
	Missing            // files that the catalog lists are gone
)

// String names the suspicion.
func (s Suspicion) String() string {
	return [...]string{"trusted", "torn tail", "damaged", "missing"}[s]
}

// KV is an ordered keyspace in the catalog for the node's own data. A synced
// Apply is atomic and durable when it returns.
type KV interface {
	Get(key []byte) ([]byte, error) // ErrNotFound
	// Scan calls fn for keys in [lo, hi) in order until it returns false.
	// Slices are valid during the call only.
	Scan(lo, hi []byte, fn func(key, value []byte) bool) error
	Apply(b *KVBatch, sync bool) error
}

// KVBatch collects changes for KV.Apply, applied in order.
type KVBatch struct{ Ops []KVOp }

// KVOp is one change: set Key to Value, or delete [Key, End) when End is not
// nil, or delete Key when Value is nil.
type KVOp struct{ Key, Value, End []byte }

// Set adds a write; key and value are kept, not copied.
func (b *KVBatch) Set(key, value []byte) { b.Ops = append(b.Ops, KVOp{Key: key, Value: value}) }

// Delete adds a deletion.
func (b *KVBatch) Delete(key []byte) { b.Ops = append(b.Ops, KVOp{Key: key}) }

// DeleteRange adds a deletion of [lo, hi).
func (b *KVBatch) DeleteRange(lo, hi []byte) { b.Ops = append(b.Ops, KVOp{Key: lo, End: hi}) }
