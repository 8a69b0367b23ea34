// Package host is the set of replicas that one broker holds. It applies
// metadata to them, carries out their effects, and routes what leaves the
// broker (proposals, durable ends) to its owner. It starts no goroutine: in
// production connection, fetcher and syncer goroutines call it, in the
// simulator one scheduler does.
package host

import (
	"sync"
	"sync/atomic"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

// Output receives what replicas ask of the rest of the broker. Its methods
// return at once and are never called under a lock.
type Output interface {
	// Dirty: some log has bytes for the next group commit.
	Dirty()
	// Propose queues an in-sync proposal for the controller.
	Propose(tp model.TopicPartition, p isr.Proposal)
	// Following: the replica's leader or epoch changed. from is the leader it
	// followed before and to the one it must follow now; NoBroker is none.
	Following(r *partition.Replica, from, to model.BrokerID)
	// Report: the replicas owe this leader a report of their durable ends. The
	// slice is the caller's again afterwards.
	Report(leader model.BrokerID, rs []*partition.Replica)
	// Failed: a replica went offline by an error of its log.
	Failed(tp model.TopicPartition, err error)
}

// Options of a Host.
type Options struct {
	Self   model.BrokerID
	Store  *segment.Store
	Clock  clock.Clock
	Output Output
	// LeaseValid gates acknowledgements: a leader without a lease gives none
	// (I14, I15). Nil means always.
	LeaseValid func() bool
	// Contacts and Fetches are shared with replication; see partition.Config.
	Contacts, Fetches *partition.Contacts
	// View makes what Host.View returns for a replica, once in its life; nil
	// leaves views nil.
	View func(*partition.Replica) any
}

// Host holds the replicas of one broker. Safe for concurrent use.
type Host struct {
	o Options

	// applyMu serialises ApplyUpdate. It may be held during log creation.
	applyMu sync.Mutex
	// image is the last applied one.
	image atomic.Pointer[control.Image]
	// incarnation under which this process is registered; 0 before. A replica
	// leads only under the incarnation that was elected (registration reset).
	incarnation atomic.Int64

	handed map[model.TopicID]handed // guarded by applyMu

	mu       sync.RWMutex // guards replicas
	replicas map[model.TopicPartition]*member

	activeMu sync.Mutex // guards active
	// active are replicas to tick: cost is per active partition.
	active []*member
	awake  chan struct{} // has one when active is not empty any more

	effects sync.Pool
}

// member is a replica with what the host remembers of it.
type member struct {
	*partition.Replica
	view        any    // see Options.View; not changed
	configIndex uint64 // of the settings last set; guarded by applyMu
	// following is the leader that Output was last told of.
	following atomic.Int32
	// flush carries effects out in the middle of an append that writes for
	// others.
	flush func(*partition.Effects)
	// active is true while the member waits in Host.active.
	active atomic.Bool
}

// New returns an empty host.
func New(o Options) *Host {
	h := &Host{o: o, handed: map[model.TopicID]handed{}, replicas: map[model.TopicPartition]*member{}, awake: make(chan struct{}, 1)}
	h.effects.New = func() any { return new(partition.Effects) }
	if h.o.LeaseValid == nil {
		h.o.LeaseValid = func() bool { return true }
	}
	return h
}

// Incarnation is the registration of this process, 0 before it.
func (h *Host) Incarnation() model.Incarnation { return model.Incarnation(h.incarnation.Load()) }

// Image is the last applied image; nil before the first.
func (h *Host) Image() *control.Image { return h.image.Load() }

// Replica returns the replica of tp, or nil if this broker holds none.
func (h *Host) Replica(tp model.TopicPartition) *partition.Replica {
	h.mu.RLock()
	m := h.replicas[tp]
	h.mu.RUnlock()
	if m == nil {
		return nil
	}
	return m.Replica
}

// View returns what Options.View made for the replica of tp, or nil if this
// broker holds none. Requests look a replica up once for each partition, so this
// costs one map access and no allocation.
func (h *Host) View(tp model.TopicPartition) any {
	if m := h.member(tp); m != nil {
		return m.view
	}
	return nil
}

func (h *Host) member(tp model.TopicPartition) *member {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.replicas[tp]
}

// Replicas lists all replicas, in a fixed order.
func (h *Host) Replicas() []*partition.Replica {
	ms := h.members()
	out := make([]*partition.Replica, len(ms))
	for i, m := range ms {
		out[i] = m.Replica
	}
	return out
}

// with runs f with a pooled effects buffer and carries the effects out; b, if
// not nil, holds back what it may.
func (h *Host) with(m *member, b *hold, f func(eff *partition.Effects)) {
	eff := h.effects.Get().(*partition.Effects)
	eff.Reset()
	eff.Flush = nil
	f(eff)
	h.carry(m, eff, b)
	h.effects.Put(eff)
}

// carry does what eff asks for, or leaves what only wakes somebody to b. No lock
// is held.
func (h *Host) carry(m *member, eff *partition.Effects, b *hold) {
	if b == nil {
		b = holds.Get().(*hold)
		defer holds.Put(b)
		defer h.release(b)
	}
	if eff.Failed != nil {
		h.o.Output.Failed(m.TP(), eff.Failed)
	}
	b.dirty = b.dirty || eff.Dirty
	h.finish(eff.Done)
	if eff.Role {
		h.follow(m)
	}
	if eff.EndMoved || eff.HWMoved || eff.Role {
		m.Mark(eff, &b.wakes)
		h.activate(m)
	}
	if eff.Report {
		if leader := model.BrokerID(m.following.Load()); leader != model.NoBroker {
			b.reports = append(b.reports, owed{leader, m.Replica})
		}
	}
	for _, p := range eff.Proposals {
		h.o.Output.Propose(m.TP(), p)
	}
	if b.bytes += eff.Bytes; b.bytes >= holdBytes {
		h.release(b)
	}
}

// finish completes produces. Without a lease a success is withheld as
// NOT_LEADER_OR_FOLLOWER, whose outcome a client must treat as unknown.
func (h *Host) finish(done []partition.Finished) {
	if len(done) == 0 {
		return
	}
	lease := h.o.LeaseValid()
	for i := range done {
		d := &done[i]
		if !lease && d.Result.Err == 0 && d.Result.BaseOffset >= 0 {
			d.Result = partition.AppendResult{Err: errNotLeader, BaseOffset: -1, LogAppendTime: -1, LogStart: -1}
		}
		d.Completion.Complete(d.Result)
		done[i] = partition.Finished{}
	}
}

// errNotLeader is Kafka's NOT_LEADER_OR_FOLLOWER.
const errNotLeader = 6

// follow tells Output when the leader that m must fetch from changed.
func (h *Host) follow(m *member) {
	st := m.FetchState()
	to := model.NoBroker
	if st.Following {
		to = st.Leader
	}
	from := model.BrokerID(m.following.Swap(int32(to)))
	h.o.Output.Following(m.Replica, from, to)
}

// activate makes the next ticks visit m, until it says that it is idle.
func (h *Host) activate(m *member) {
	if m.active.Swap(true) {
		return
	}
	h.activeMu.Lock()
	first := len(h.active) == 0
	h.active = append(h.active, m)
	h.activeMu.Unlock()
	if first {
		h.wake()
	}
}

// Awake receives when there is something to Tick again. Whoever ticks only then,
// at a steady pace, misses nothing.
func (h *Host) Awake() <-chan struct{} { return h.awake }

// Append appends as the leader and carries out the effects; the outcome comes
// through req.Done.
func (h *Host) Append(r *partition.Replica, req *partition.AppendRequest) { h.append(r, req, nil) }

func (h *Host) append(r *partition.Replica, req *partition.AppendRequest, b *hold) {
	m := h.member(r.TP())
	if m == nil || m.Replica != r {
		req.Done.Complete(partition.AppendResult{Err: errNotLeader, BaseOffset: -1, LogAppendTime: -1, LogStart: -1})
		return
	}
	h.with(m, b, func(eff *partition.Effects) {
		eff.Flush = m.flush
		r.Append(req, eff)
	})
}

// Read reads for a consumer or a follower; a follower's position may move the
// in-sync set.
func (h *Host) Read(r *partition.Replica, req partition.ReadRequest) (res partition.ReadResult) {
	m := h.member(r.TP())
	if m == nil || m.Replica != r {
		return partition.ReadResult{Err: errNotLeader, HighWatermark: -1, LastStable: -1, LogStart: -1, PreferredReplica: model.NoBroker, Leader: model.NoBroker, LeaderEpoch: -1}
	}
	h.with(m, nil, func(eff *partition.Effects) { res = r.Read(req, eff) })
	return res
}

// Do runs f on a replica that this host holds and carries out the effects. It
// reports whether the replica is held.
func (h *Host) Do(tp model.TopicPartition, f func(r *partition.Replica, eff *partition.Effects)) bool {
	return h.do(tp, nil, f)
}

func (h *Host) do(tp model.TopicPartition, b *hold, f func(r *partition.Replica, eff *partition.Effects)) bool {
	m := h.member(tp)
	if m == nil {
		return false
	}
	h.with(m, b, func(eff *partition.Effects) { f(m.Replica, eff) })
	h.activate(m) // a proposal's outcome or a report may leave something to be tried again
	return true
}

// Commit makes everything appended so far durable, in one group, and tells the
// replicas. One caller at a time. An error is final: the store is poisoned.
func (h *Host) Commit() error {
	done, err := h.o.Store.Commit()
	if err != nil {
		return err
	}
	h.Persisted(done)
	return nil
}

// Persisted tells the replicas what a group commit made durable; Commit does it
// by itself.
func (h *Host) Persisted(done []segment.Committed) {
	b := holds.Get().(*hold)
	defer holds.Put(b)
	defer h.release(b)
	for _, c := range done {
		if m := h.member(c.Log.TP()); m != nil {
			h.with(m, b, func(eff *partition.Effects) { m.Persisted(c.End, eff) })
		}
	}
}

// maxTicks bounds the replicas that one Tick looks at. Where more are active
// they take turns: with 10,000, each has its turn a few times a second.
const maxTicks = 2000

// due takes the replicas that have waited longest for a tick.
func (h *Host) due() []*member {
	h.activeMu.Lock()
	n := min(len(h.active), maxTicks)
	due := h.active[:n:n]
	h.active = h.active[n:]
	more := len(h.active) > 0
	h.activeMu.Unlock()
	if more {
		h.wake()
	}
	return due
}

// wake signals Awake.
func (h *Host) wake() {
	select {
	case h.awake <- struct{}{}:
	default:
	}
}

// Tick lets active replicas judge lag and expire what is due. Idle ones cost
// nothing.
func (h *Host) Tick() {
	now := h.o.Clock.Elapsed()
	due := h.due()
	sortMembers(due)
	b := holds.Get().(*hold)
	defer holds.Put(b)
	defer h.release(b)
	for _, m := range due {
		m.active.Store(false)
		var more bool
		h.with(m, b, func(eff *partition.Effects) { more = m.Tick(now, eff) })
		if more {
			h.activate(m)
		}
	}
}
