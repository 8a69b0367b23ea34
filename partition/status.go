package partition

import (
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// Status describes a replica for tools and metrics.
type Status struct {
	TP             model.TopicPartition
	Role           isr.Role
	Leader         model.BrokerID
	Epoch          model.LeaderEpoch
	PartitionEpoch model.PartitionEpoch
	EpochStart     int64 // leader: the log end when the epoch began
	Visible        bool  // leader: end answers may be given
	ISR            []model.BrokerID
	LogStart       int64
	LogEnd         int64
	DurableEnd     int64
	HighWatermark  int64
	Bytes          int64
	Producers      int
	Waiting        int // appends that wait for the high watermark
	Queued         int // appends that wait for the writer
	Followers      []isr.PeerStatus
	Confirmed      bool          // follower: its log matches the leader's
	Stale          time.Duration // follower: time since it was known to be caught up
	Suspect        segment.Suspicion
	Damaged        []segment.OffsetRange
	Err            error // why the replica is offline
}

// Status returns the replica's state at one moment.
func (r *Replica) Status() Status {
	now := r.clock.Elapsed()
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.isr.Meta()
	s := Status{
		TP: r.log.TP(), Role: r.isr.Role(), Leader: r.isr.Leader(), Epoch: r.isr.Epoch(),
		PartitionEpoch: m.PartitionEpoch, EpochStart: r.isr.EpochStart(), Visible: r.isr.Visible(),
		ISR: m.ISR, LogStart: r.log.Start(), LogEnd: r.isr.End(), DurableEnd: r.isr.Durable(),
		HighWatermark: r.isr.HighWatermark(), Bytes: r.log.Bytes(),
		Producers: len(r.producers.byID), Waiting: r.waiting.len(), Queued: len(r.queue) + len(r.group),
		Confirmed: r.confirmed, Suspect: r.log.Suspect(), Damaged: r.log.Damaged(), Err: r.failed,
	}
	switch s.Role {
	case isr.Leader:
		s.Followers = r.isr.Peers(nil, now)
	case isr.Follower:
		s.Stale = now - r.fresh()
	}
	return s
}
