package api

import (
	"context"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
)

// Backend is the broker behind the protocol. Its methods are safe for
// concurrent use; only those that take a context may block.
type Backend interface {
	// Self is this broker's id, known before the first connection (KIP-1242).
	Self() model.BrokerID
	// Image is the latest applied metadata; never nil.
	Image() *control.Image
	// Replica is the replica that this broker hosts, or nil (the nil
	// interface, not a typed nil).
	Replica(tp model.TopicPartition) Replica
	// LeaseValid reports whether this broker heard from the metadata quorum
	// lately enough to give answers about the end of a log and to acknowledge.
	LeaseValid() bool
	// Submit has the controller decide a command and returns when this broker
	// has applied its records. It is bounded by the context.
	Submit(ctx context.Context, cmd control.Command) (control.Result, error)
	// AllocateProducerID returns an id that nobody else gets, from a block
	// that the metadata log reserved.
	AllocateProducerID(ctx context.Context) (int64, error)
	// Endpoint is where clients of a listener reach a broker; ok is false if
	// it is not reachable there.
	Endpoint(listener string, id model.BrokerID) (host string, port int32, ok bool)
	// NodeConfig is this broker's own settings by their Kafka names: what is
	// set, not the defaults.
	NodeConfig() map[string]string
	// LogDir describes this broker's data directory.
	LogDir() LogDir
	// Clock tells time.
	Clock() clock.Clock
	// Event reports what an operator or a metric wants to know.
	Event(Event)
}

// Replica is a replica of one partition as the protocol sees it. Calls never
// block on other brokers; the implementation carries out their effects.
type Replica interface {
	// Append queues an append. req.Done is completed exactly once, possibly
	// before Append returns and on any goroutine.
	Append(req *partition.AppendRequest)
	// Read reads committed records for a consumer, or all for a follower. A
	// Range in the result is pinned until Release.
	Read(req partition.ReadRequest) partition.ReadResult
	// Watch calls fn after every change of the kinds in mask, outside every
	// lock, until cancel is called. fn must be quick and must not call back.
	// A call may still be in flight when cancel returns. Deleting the replica
	// counts as ChangeRole.
	Watch(mask Change, fn func()) (cancel func())
	// Offset answers ListOffsets.
	Offset(req OffsetRequest) OffsetResult
	// EpochEnd answers OffsetForLeaderEpoch: the largest epoch not above the
	// asked one and the start of the next larger epoch; (-1, -1) if unknown.
	// current fences the question when ≥ 0.
	EpochEnd(current, epoch model.LeaderEpoch) EpochEndResult
	// DeleteRecords moves the log start to before, or to the high watermark if
	// before is -1, and returns the new log start.
	DeleteRecords(ctx context.Context, before int64) (low int64, code int16)
	// Status is a snapshot for tools.
	Status() ReplicaStatus
}

// Change is a set of what may change in a replica.
type Change uint8

// The kinds of change.
const (
	ChangeEnd  Change = 1 << iota // the log end moved: followers care
	ChangeHW                      // the high watermark moved: everybody cares
	ChangeRole                    // leader, epoch, role, log start or existence changed
)

// Special timestamps of ListOffsets.
const (
	TimestampLatest          = -1 // high watermark, or last stable offset for read_committed
	TimestampEarliest        = -2
	TimestampMax             = -3 // KIP-734: the record with the greatest timestamp
	TimestampEarliestLocal   = -4 // KIP-405
	TimestampLatestTiered    = -5 // KIP-1005
	TimestampEarliestPending = -6 // KIP-1023: earliest not yet uploaded
)

// OffsetRequest asks for an offset by time.
type OffsetRequest struct {
	Timestamp     int64             // ≥ 0 in milliseconds, or one of the special values
	CurrentEpoch  model.LeaderEpoch // -1: not given
	Follower      model.BrokerID    // -1: a consumer
	ReadCommitted bool
}

// OffsetResult answers it; Offset and Timestamp are -1 when no record matches.
// Epoch is that of the record found.
type OffsetResult struct {
	Err       int16
	Offset    int64
	Timestamp int64
	Epoch     model.LeaderEpoch
}

// EpochEndResult is the end of an epoch.
type EpochEndResult struct {
	Err   int16
	Epoch model.LeaderEpoch
	End   int64
}

// ReplicaStatus is a replica's figures.
type ReplicaStatus struct {
	Size          int64 // bytes on disk
	LogStart      int64
	End           int64
	HighWatermark int64
}

// LogDir is a data directory.
type LogDir struct {
	Path        string
	Total, Free int64 // bytes; -1 unknown
	Err         int16 // KAFKA_STORAGE_ERROR once it failed
}

// Event is something worth a log line or a counter.
type Event struct {
	Kind    EventKind
	Key     int16
	Version int16
	Remote  string // address of the client
	Client  string // client id, quoted by whoever prints it
	Err     error
	Stack   []byte // of a panic
}

// EventKind tells events apart.
type EventKind uint8

// The kinds of event.
const (
	EventPanic     EventKind = iota // a handler panicked: a bug; the connection was closed
	EventMalformed                  // the bytes were refused; the connection was closed
	EventRefused                    // key or version not served, not authenticated or not authorized
)

// String names the kind.
func (k EventKind) String() string {
	switch k {
	case EventPanic:
		return "panic"
	case EventMalformed:
		return "malformed"
	default:
		return "refused"
	}
}
