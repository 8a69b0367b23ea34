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
	// Appends hands over the appends of a request to several replicas, so that
	// they are synced and replicated together.
	Appends() Appends
	// LeaseValid reports whether this broker heard from the metadata quorum
	// lately enough to give answers about the end of a log and to acknowledge.
	LeaseValid() bool
	// Submit has the controller decide a command and returns when this broker
	// has applied its records (control.Node's Submit, then WaitApplied on the
	// result's index). It is bounded by the context.
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

// Replica is a replica of one partition as the protocol sees it: a
// *partition.Replica whose caller carries the effects out.
type Replica interface {
	// Append hands a produce over. req.Done is completed exactly once,
	// possibly before Append returns, on any goroutine.
	Append(req *partition.AppendRequest)
	// Cancel gives up waiting for an append that was written. It completes it,
	// or leaves that to come.
	Cancel(c partition.Completion)
	// Read reads committed records for a consumer, all for a follower.
	Read(req partition.ReadRequest) partition.ReadResult
	// Watch and Unwatch are partition.Replica's. Deleting a replica wakes its
	// watchers as a change of role.
	Watch(w partition.Watcher, kinds partition.Kind)
	Unwatch(w partition.Watcher)
	// ListOffset answers ListOffsets.
	ListOffset(q partition.OffsetQuery) partition.OffsetResult
	// OffsetForEpoch answers OffsetForLeaderEpoch.
	OffsetForEpoch(current, asked model.LeaderEpoch) (code int16, d partition.EpochEnd)
	// DeleteRecords moves the log start up, to the high watermark for -1.
	DeleteRecords(offset int64) (code int16, logStart int64)
	// Status is a snapshot for tools.
	Status() partition.Status
}

// Appends are those of one request, which belong to one goroutine.
type Appends interface {
	// Append is Replica.Append, for a replica of the same backend.
	Append(r Replica, req *partition.AppendRequest)
	// End must be called once, after the last.
	End()
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
