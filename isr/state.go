package isr

import (
	"time"

	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
)

// HeardMax is how recently a member must have been heard from, by any message
// on the connection of that pair of brokers, to count as reachable.
const HeardMax = 2 * time.Second

// State is one partition's replication state on one broker. It is not safe for
// concurrent use.
type State struct {
	self        model.BrokerID
	incarnation model.Incarnation // own registration; a replica leads only under the one that was elected

	known   bool // a Meta was applied
	stopped bool // the log failed: offline until the process restarts
	meta    Meta
	role    Role

	end     int64 // log end offset
	durable int64 // own durable end; durable ≤ end
	// hw is the high watermark. It never goes back and hw ≤ end. On a leader
	// it is the least durable end of the maximal in-sync set (I1, I4, I5).
	hw int64
	// epochStart is the log end at which this leadership began. Until hw
	// reaches it, records of earlier epochs may be committed that hw does not
	// cover yet, so nothing about the end is answered (I7).
	epochStart int64

	peers   []peer // the other replicas, in assignment order
	changes changes
	// redirect remembers redirected consumers; nil until the first one, so
	// that the many partitions without any pay nothing.
	redirect *redirects
}

// peer is another replica as the leader sees it.
type peer struct {
	broker      model.BrokerID
	incarnation model.Incarnation
	rack        string
	eligible    bool
	inSync      bool // member of the committed set
	pending     bool // member of the outstanding proposal
	doubtful    bool // member of a proposal of unknown outcome at this partition epoch

	// fetched: in this leader epoch a fetch of this incarnation showed that
	// its log matches. Durable reports count only from then on.
	fetched  bool
	position int64 // last fetch position
	// durable is the reported durable end, -1 before the first report. Every
	// record below it is on the peer's stable storage and equals the
	// leader's.
	durable int64

	// Everything that the log held at caughtUpAt is durable on the peer. When
	// durable reaches markEnd, the same holds for markAt.
	caughtUpAt time.Duration
	markEnd    int64
	markAt     time.Duration
	progressAt time.Duration // last durable advance, or when it fell behind
	heardAt    time.Duration

	sentHW  int64 // high watermark in the answer to its last fetch
	knownHW int64 // high watermark that it has surely received

	holdUntil time.Duration // not proposed before, unless the set is short
	removedAt time.Duration
	removals  int // recent removals, sets the length of the hold-off
}

// New returns the state of a replica whose log holds [.., end), of which
// durable is on stable storage, with a recovered high watermark.
func New(self model.BrokerID, incarnation model.Incarnation, end, durable, hw int64) *State {
	return &State{
		self: self, incarnation: incarnation,
		end: end, durable: min(durable, end), hw: min(hw, end),
		changes: changes{nextID: 1},
	}
}

// Self returns the own broker id.
func (s *State) Self() model.BrokerID { return s.self }

// Role returns the replica's role.
func (s *State) Role() Role { return s.role }

// Meta returns the applied metadata; its slices must not be changed.
func (s *State) Meta() *Meta { return &s.meta }

// Known reports whether metadata was applied.
func (s *State) Known() bool { return s.known }

// Leader returns the partition's leader, NoBroker if there is none.
func (s *State) Leader() model.BrokerID {
	if !s.known {
		return model.NoBroker
	}
	return s.meta.Leader
}

// Epoch returns the leader epoch, NoEpoch before the first metadata.
func (s *State) Epoch() model.LeaderEpoch {
	if !s.known {
		return model.NoEpoch
	}
	return s.meta.LeaderEpoch
}

// Incarnation returns the own registration under which the replica acts.
func (s *State) Incarnation() model.Incarnation { return s.incarnation }

// HighWatermark returns the high watermark as known here.
func (s *State) HighWatermark() int64 { return s.hw }

// EpochStart returns the log end at which the own leadership began.
func (s *State) EpochStart() int64 { return s.epochStart }

// Visible reports whether answers about records and the end may be given: on a
// leader, whether the high watermark reached the start of its epoch (I7).
func (s *State) Visible() bool { return s.role != Leader || s.hw >= s.epochStart }

// Registered tells the broker's own new incarnation. A leadership won under
// another one ends here, before the metadata says so.
func (s *State) Registered(own model.Incarnation, now time.Duration, eff *Effects) {
	if own == s.incarnation {
		return
	}
	s.incarnation = own
	if s.known {
		s.enter(s.meta, now, eff)
	}
}

// ApplyMeta adopts committed metadata, in log order. Older states than the
// applied one are ignored. The slices of m are kept.
func (s *State) ApplyMeta(m Meta, now time.Duration, eff *Effects) {
	if s.known && older(&m, &s.meta) {
		return
	}
	s.enter(m, now, eff)
}

func older(m, than *Meta) bool {
	if m.Index < than.Index || m.LeaderEpoch < than.LeaderEpoch {
		return true
	}
	return m.LeaderEpoch == than.LeaderEpoch && m.PartitionEpoch < than.PartitionEpoch
}

// Stop takes the replica offline for good, after its log failed.
func (s *State) Stop(eff *Effects) {
	if s.stopped {
		return
	}
	s.stopped = true
	s.role = Offline
	s.changes.drop()
	eff.Role = true
}

func (s *State) enter(m Meta, now time.Duration, eff *Effects) {
	role := s.roleIn(&m)
	fresh := !s.known || m.LeaderEpoch != s.meta.LeaderEpoch || m.Leader != s.meta.Leader || role != s.role
	if fresh || m.PartitionEpoch != s.meta.PartitionEpoch {
		s.changes.drop()
	}
	settled := fresh || m.PartitionEpoch != s.meta.PartitionEpoch
	s.peers = s.adoptPeers(&m, fresh, settled, now)
	s.meta, s.known = m, true
	if fresh {
		s.role = role
		s.epochStart = s.end
		s.redirect = nil
		eff.Role = true
	}
	s.advance(eff)
	s.propose(now, eff)
}

// roleIn decides the role under m. A leadership that was won by another
// incarnation of this broker is not ours: its memory of what followers hold in
// this epoch is gone, and offsets would be used twice.
func (s *State) roleIn(m *Meta) Role {
	assigned := false
	for _, r := range m.Replicas {
		assigned = assigned || r.Broker == s.self
	}
	switch {
	case s.stopped || !assigned || m.Leader == model.NoBroker:
		return Offline
	case m.Leader != s.self:
		return Follower
	case m.LeaderIncarnation != s.incarnation && !bugs.EpochReuse:
		return Offline
	default:
		return Leader
	}
}

// adoptPeers builds the peer list of m. Progress survives only within a leader
// epoch and an incarnation.
func (s *State) adoptPeers(m *Meta, fresh, settled bool, now time.Duration) []peer {
	peers := make([]peer, 0, len(m.Replicas))
	for _, r := range m.Replicas {
		if r.Broker == s.self {
			continue
		}
		p := peer{broker: r.Broker, incarnation: r.Incarnation, durable: -1,
			caughtUpAt: now, markAt: now, markEnd: s.end, progressAt: now, heardAt: now}
		old := s.peer(r.Broker)
		if old != nil && old.incarnation == r.Incarnation && !fresh {
			p = *old
		}
		p.rack, p.eligible = r.Rack, r.Eligible
		in := contains(m.ISR, r.Broker)
		if p.inSync && !in {
			p.hold(now)
		}
		p.inSync = in
		if settled {
			p.pending, p.doubtful = false, false
		}
		peers = append(peers, p)
	}
	return peers
}

func (s *State) peer(b model.BrokerID) *peer {
	for i := range s.peers {
		if s.peers[i].broker == b {
			return &s.peers[i]
		}
	}
	return nil
}

func contains(set []model.BrokerID, b model.BrokerID) bool {
	for _, m := range set {
		if m == b {
			return true
		}
	}
	return false
}
