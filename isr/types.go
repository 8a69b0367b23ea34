package isr

import (
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

// Meta is a partition's committed state, taken from an applied metadata image
// in log order and from nowhere else.
type Meta struct {
	Index             uint64 // metadata log index of the image
	Leader            model.BrokerID
	LeaderEpoch       model.LeaderEpoch
	LeaderIncarnation model.Incarnation // the incarnation that was elected for LeaderEpoch
	PartitionEpoch    model.PartitionEpoch
	Replicas          []ReplicaMeta // assignment order; the first is preferred
	ISR               []model.BrokerID
	ELR               []model.BrokerID
	MinISR            int           // min.insync.replicas, the floor of the committed set
	SyncTarget        int           // sync.replicas; 0 means all
	ConfigIndex       uint64        // metadata index of the topic's last configuration change
	LagMax            time.Duration // replica.lag.time.max.ms
	StallMax          time.Duration // stall of a synchronous follower before a swap
}

// ReplicaMeta is an assigned replica and its broker's registration.
type ReplicaMeta struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation // 0 while not registered
	Eligible    bool              // unfenced and not draining: may be in the in-sync set
	Rack        string            // for the preferred read replica (KIP-392); "" is unknown
}

// Progress is what a follower reports: everything below End is on its stable
// storage (Durable) or in its log (fetch position).
type Progress struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation
	Epoch       model.LeaderEpoch // the leader epoch under which it replicates
	End         int64
	Now         time.Duration
}

// Member is a proposed in-sync member with the incarnation that earned it
// (KIP-903).
type Member struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation
}

// Proposal is an in-sync change that the leader asks the controller to commit
// by compare-and-set (KIP-497 AlterPartition).
type Proposal struct {
	ID             uint64 // unique in this replica's leadership
	LeaderEpoch    model.LeaderEpoch
	PartitionEpoch model.PartitionEpoch
	BasedOn        uint64 // Meta.Index it was computed from
	ISR            []Member
	// ByPolicy lists members left out by a swap or demotion: they never
	// become eligible leaders.
	ByPolicy []model.BrokerID
}

// Outcome is the controller's answer to a proposal. A committed one takes
// effect only through the next Meta.
type Outcome uint8

// The outcomes of a proposal.
const (
	Committed Outcome = iota
	Rejected          // it will never be committed: pending members are rolled back
	Unknown           // it may or may not be: pending members keep counting
)

// Effects collects what an event caused. The caller resets it and carries it
// out; it is a reused buffer.
type Effects struct {
	HWMoved bool // the high watermark moved
	Role    bool // role, leader or leader epoch changed
	// Proposals to send to the controller; at most one is outstanding.
	Proposals []Proposal
}

// Reset empties the buffer, keeping its memory.
func (e *Effects) Reset() { *e = Effects{Proposals: e.Proposals[:0]} }

// Role is what a replica does for its partition.
type Role uint8

// The roles. A replica is offline while the partition has no leader, while it
// is not assigned, when it is named leader under an incarnation that is not its
// own, and after Stop.
const (
	Offline Role = iota
	Follower
	Leader
)

// String names the role.
func (r Role) String() string { return [...]string{"offline", "follower", "leader"}[r] }

// Refusal says why an append is refused before it is written.
type Refusal uint8

// The answers of CanAcceptProduce.
const (
	Accepted  Refusal = iota
	NotLeader         // NOT_LEADER_OR_FOLLOWER
	TooFew            // the committed set is below the minimum: NOT_ENOUGH_REPLICAS
	Unheard           // fewer members than the minimum were heard from lately: NOT_ENOUGH_REPLICAS
)

// String names the refusal.
func (r Refusal) String() string {
	return [...]string{"accepted", "not leader", "too few in sync", "too few heard from"}[r]
}

// PeerStatus describes one other replica for tools and metrics.
type PeerStatus struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation
	InSync      bool // in the committed set
	Pending     bool // proposed, not yet committed or rejected
	Fetched     bool // its log was found to match in this leader epoch
	Position    int64
	Durable     int64         // -1: not reported in this leader epoch
	Behind      time.Duration // 0 when caught up
}
