package partition

import (
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
)

// Effects collects what a call on a Replica asks of its caller. It is a reused
// buffer: the caller resets it, passes it in, and carries it out after the
// call, outside every lock.
type Effects struct {
	// Done are produces whose outcome is known; call Complete on each.
	Done []Finished
	// Dirty: the log has bytes that a group commit must make durable.
	Dirty bool
	// Bytes appended by the call.
	Bytes int
	// EndMoved: the log end moved; wake followers' fetches.
	EndMoved bool
	// HWMoved: the high watermark moved; wake consumers and followers.
	HWMoved bool
	// Role: leader, epoch or leadership changed; wake every parked fetch and
	// re-read FetchState.
	Role bool
	// Report: the own durable end, or the leader it is owed to, changed;
	// send DurableReport to the leader.
	Report bool
	// Failed is set when the replica went offline by an error of its log or
	// by a refused truncation. It deserves an alarm.
	Failed error
	// Proposals for the controller, at most one outstanding per replica.
	Proposals []isr.Proposal
	// Flush, if set, carries the effects out in the middle of a call: a
	// caller that goes on writing for others calls it between writes, outside
	// the lock, and then resets the effects. It must not call methods that
	// change the log (Append, AppendFetched, Diverged, …) of the same replica.
	Flush func(*Effects)
}

// Do runs f on the hosted replica of tp and carries the effects out. It reports
// whether there is one.
type Do = func(tp model.TopicPartition, f func(r *Replica, eff *Effects)) bool

// Reset empties the buffer, keeping its memory.
func (e *Effects) Reset() { *e = Effects{Done: e.Done[:0], Proposals: e.Proposals[:0], Flush: e.Flush} }

// Finished pairs a produce with its outcome.
type Finished struct {
	Completion Completion
	Result     AppendResult
}

// Completion is told the outcome of an append exactly once.
type Completion interface{ Complete(AppendResult) }

// AppendRequest is one partition's part of a produce request.
type AppendRequest struct {
	// Batches are whole record batches as received. The replica stamps them
	// in place and may hold them until Completion is called.
	Batches []byte
	// Acks as in the request: 0, 1 or -1. The topic's acks.floor decides
	// what 1 means (P3).
	Acks int16
	// Epoch, if ≥ 0, fences the append (private callers); -1 for clients.
	Epoch model.LeaderEpoch
	Done  Completion
}

// AppendResult is the outcome of an append. Err is a Kafka error code.
type AppendResult struct {
	Err           int16
	Message       string // for the client, when Err is not 0
	BaseOffset    int64  // -1 on error; of the original batch for a duplicate
	LogAppendTime int64  // -1 for CreateTime
	LogStart      int64
}

// Fetched is a fetch response's data for one partition, with the state of the
// request it answers.
type Fetched struct {
	Leader      model.BrokerID
	Epoch       model.LeaderEpoch // current leader epoch sent in the request
	FetchOffset int64             // position sent in the request
	Batches     []byte
	LeaderHW    int64
	LeaderStart int64
	Generation  uint64 // FetchState.Generation when the request was made; 0: not given
	Now         time.Duration
}

// EpochEnd is the largest epoch not above the asked one and its end offset.
type EpochEnd struct {
	Epoch model.LeaderEpoch
	End   int64
}

// ReadRequest asks for committed records (a consumer) or for everything (a
// follower).
type ReadRequest struct {
	Offset           int64
	MaxBytes         int
	MinOne           bool              // return one batch even when it exceeds MaxBytes (KIP-74)
	CurrentEpoch     model.LeaderEpoch // -1: not given
	LastFetchedEpoch model.LeaderEpoch // -1: not given
	Follower         model.BrokerID    // -1: a consumer
	Incarnation      model.Incarnation // of the follower
	Rack             string            // of the consumer, for the preferred read replica
	Client           uint64            // identifies the consumer for the hold-down after a bounce; 0: anonymous
	ReadCommitted    bool
	Now              time.Duration
}

// ReadResult answers a read. Range is nil or pinned until Release.
type ReadResult struct {
	Err              int16
	Range            Range
	HighWatermark    int64
	LastStable       int64
	LogStart         int64
	Diverging        *EpochEnd
	PreferredReplica model.BrokerID // -1: none
	Leader           model.BrokerID
	LeaderEpoch      model.LeaderEpoch
	// NoWait: answer at once even when there are no records. Set for a
	// follower's first fetch in a leader epoch and when it does not know the
	// high watermark yet, and with Diverging and PreferredReplica. Without it
	// an empty answer may be parked; so may Err OFFSET_NOT_AVAILABLE, which
	// says that a new leader's high watermark has not reached the start of its
	// epoch yet.
	NoWait bool
}

// FetchState is where a follower stands: from whom and from which position it
// must fetch. Following is false for a leader, an offline or a failed replica.
type FetchState struct {
	Following  bool
	Leader     model.BrokerID
	Epoch      model.LeaderEpoch
	Offset     int64
	LastEpoch  model.LeaderEpoch
	DurableEnd int64 // see DurableReport for what may be reported
	LogStart   int64
	Generation uint64 // ≥ 1; changes whenever outstanding fetches became void
}
