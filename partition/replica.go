package partition

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// Replica is one replica of a partition. Its methods are safe for concurrent
// use. None starts a goroutine; none holds the lock during I/O or while calling
// back.
type Replica struct {
	tp       model.TopicPartition
	log      Log
	clock    clock.Clock
	contacts *Contacts
	fetches  *Contacts
	topic    atomic.Pointer[TopicConfig]

	mu  sync.Mutex
	isr *isr.State
	ie  isr.Effects // scratch

	// busy is the writer's token: whoever holds it is the only one that
	// changes the log. It is held during I/O, mu is not. While it is held,
	// metadata is deferred, so that role and epoch cannot change under a
	// write: an append of epoch e never lands past the start of epoch e+1.
	busy     bool
	idle     *sync.Cond // signalled when busy becomes false
	deferred []deferred
	// written counts the groups that the holder of the token has written for
	// others. At turn it is relieved by the next who appends, who waits for it.
	written    int
	successors int

	queue []entry // accepted appends, in offset order, not yet written
	group []entry // being written by the holder of the token
	// next is the offset that the next accepted append gets: the log end plus
	// what is queued.
	next    int64
	waiting waiting // written appends that wait for the high watermark

	// producers follows the log: it changes after a write, never before.
	producers  producers
	partial    bool  // producers misses what damaged ranges hold: it is not saved
	sinceSnap  int64 // idempotent bytes since the last snapshot
	snapAt     time.Duration
	candidate  *snapshot // taken at an end that the high watermark has not reached
	nextExpiry time.Duration
	failed     error
	generation uint64
	confirmed  bool          // a follower's log was found to match the leader's in this epoch
	caughtUp   bool          // the last fetch response left us at the leader's high watermark
	freshAt    time.Duration // when it was last known to have all that was committed
	watchers   watchers
}

// turn is how many groups an appender writes before it may be relieved.
const turn = 16

// never is long before any time of the clock.
const never = time.Duration(math.MinInt64 / 2)

// deferred is an event that waits for the writer's token.
type deferred struct {
	meta       isr.Meta
	registered model.Incarnation // when not 0, instead of meta
}

// New returns the replica of an open log. It rebuilds producer state from the
// last snapshot and the log behind it.
func New(c Config) (*Replica, error) {
	now := c.Clock.Now().UnixMilli()
	partial := c.Log.Suspect() >= segment.Damaged
	ps, err := loadProducers(c.Log, now)
	if err != nil {
		return nil, fmt.Errorf("partition %v: producer state: %w", c.Log.TP(), err)
	}
	end := c.Log.End()
	r := &Replica{
		tp: c.Log.TP(), log: c.Log, clock: c.Clock, contacts: c.Contacts, fetches: c.Fetches,
		isr:       isr.New(c.Self, c.Incarnation, end, c.Log.DurableEnd(), max(c.Log.HighWatermark(), c.Log.Start())),
		next:      end,
		producers: ps, partial: partial || c.Log.Suspect() >= segment.Damaged, generation: 1, freshAt: never,
	}
	r.idle = sync.NewCond(&r.mu)
	r.SetConfig(c.Topic)
	return r, nil
}

// TP returns the partition.
func (r *Replica) TP() model.TopicPartition { return r.tp }

// Log returns the log, for reading its state.
func (r *Replica) Log() Log { return r.log }

// SetConfig swaps the topic configuration.
func (r *Replica) SetConfig(c TopicConfig) {
	r.topic.Store(&c)
	r.log.SetConfig(c.Log)
}

// ApplyMeta adopts committed metadata, in log order. While a write is in flight
// it is deferred to the end of the write, whose caller gets the effects.
func (r *Replica) ApplyMeta(m isr.Meta, eff *Effects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy {
		r.deferred = append(r.deferred, deferred{meta: m})
		return
	}
	r.apply(deferred{meta: m}, eff)
}

// Registered tells the broker's own new incarnation, known before its metadata
// is applied. A leadership won under an earlier one ends.
func (r *Replica) Registered(own model.Incarnation, eff *Effects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy {
		r.deferred = append(r.deferred, deferred{registered: own})
		return
	}
	r.apply(deferred{registered: own}, eff)
}

func (r *Replica) apply(d deferred, eff *Effects) {
	r.freshAt = r.fresh() // while the leader that it refers to is still known
	r.ie.Reset()
	now := r.clock.Elapsed()
	if d.registered != 0 {
		if d.registered != r.isr.Incarnation() {
			// The leader forgets what it knew of the earlier incarnation: this
			// one is to be found matching, and to report, again.
			r.generation++
			r.confirmed, r.caughtUp = false, false
		}
		r.isr.Registered(d.registered, now, &r.ie)
	} else {
		r.isr.ApplyMeta(d.meta, now, &r.ie)
	}
	r.take(eff)
}

// take turns the state machine's effects into the replica's. mu is held.
func (r *Replica) take(eff *Effects) {
	if r.ie.Role {
		r.leave(eff)
	}
	if r.ie.HWMoved {
		hw := r.isr.HighWatermark()
		r.log.SetHighWatermark(hw)
		r.waiting.release(hw, r.log.Start(), eff)
		eff.HWMoved = true
	}
	eff.Proposals = append(eff.Proposals, r.ie.Proposals...)
}

// leave ends a leadership or a following: what waited for it is told so, and
// answers to its outstanding fetches are void.
func (r *Replica) leave(eff *Effects) {
	if bugs.DedupLoss {
		r.producers = producers{}
	}
	code := codeNotLeaderOrFollower
	if r.failed != nil {
		code = codeStorageError
	}
	r.waiting.fail(code, eff)
	for i := range r.queue {
		r.queue[i].fail(code, eff)
	}
	clear(r.queue)
	r.queue = r.queue[:0]
	r.next = r.isr.End()
	if hw := r.isr.HighWatermark(); bugs.HWTruncate && r.isr.Role() == isr.Follower && hw < r.isr.End() {
		_ = r.log.Truncate(hw)
		r.isr.LogEnd(hw, r.clock.Elapsed())
		r.next = hw
	}
	r.generation++
	r.confirmed, r.caughtUp = false, false
	eff.Role = true
}

// acquire waits for the writer's token. mu is held, and again on return.
func (r *Replica) acquire() {
	for r.busy {
		r.idle.Wait()
	}
	r.busy = true
}

// release gives the writer's token back, after doing what came up meanwhile:
// deferred metadata first, then queued appends. mu is held.
func (r *Replica) release(eff *Effects) {
	for {
		switch {
		case len(r.deferred) > 0:
			d := r.deferred[0]
			r.deferred[0] = deferred{}
			r.deferred = r.deferred[1:]
			r.apply(d, eff)
			continue
		case len(r.queue) == 0 || (r.successors > 0 && r.written >= turn):
		case r.written > 0 && eff.Flush != nil && (eff.EndMoved || len(eff.Done) > 0):
			r.mu.Unlock()
			eff.Flush(eff)
			eff.Reset()
			r.mu.Lock()
			continue
		default:
			r.writeGroup(eff)
			r.written++
			continue
		}
		break
	}
	r.deferred = nil
	r.busy, r.written = false, 0
	r.idle.Broadcast()
}

// fail takes the replica offline after its log failed. mu is held.
func (r *Replica) fail(err error, eff *Effects) {
	if r.failed != nil {
		return
	}
	r.failed = err
	r.ie.Reset()
	r.isr.Stop(&r.ie)
	r.take(eff)
	eff.Failed = err
}

// Fail takes the replica offline for an error of its storage that the caller
// learned elsewhere, such as a failed group commit.
func (r *Replica) Fail(err error, eff *Effects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail(err, eff)
}

// FollowerDurable takes a follower's durable end (leader). It reports whether
// this replica leads the epoch of p and knows the follower's incarnation; a
// report that came too early must be repeated.
func (r *Replica) FollowerDurable(p isr.Progress, eff *Effects) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ie.Reset()
	ok := r.isr.FollowerDurable(p, &r.ie)
	r.take(eff)
	return ok
}

// Persisted tells that a group commit made the log durable below end.
func (r *Replica) Persisted(end int64, eff *Effects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		return
	}
	// A commit that was under way during a truncation may name an end whose
	// records are other ones by now; the log knows what is durable.
	end = min(end, r.log.DurableEnd())
	r.ie.Reset()
	r.isr.OwnDurable(end, &r.ie)
	r.take(eff)
	eff.Report = eff.Report || (r.confirmed && r.isr.Role() == isr.Follower)
}

// ProposalOutcome takes the controller's answer to a proposal.
func (r *Replica) ProposalOutcome(id uint64, o isr.Outcome, eff *Effects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ie.Reset()
	r.isr.Outcome(id, o, r.clock.Elapsed(), &r.ie)
	r.take(eff)
}

// Tick judges lag at now and does periodic work. It reports whether the replica
// wants to be ticked again although nothing else happens to it.
func (r *Replica) Tick(now time.Duration, eff *Effects) (active bool) {
	wall := r.clock.Now().UnixMilli()
	r.mu.Lock()
	r.hear()
	r.ie.Reset()
	r.isr.Tick(now, &r.ie)
	r.take(eff)
	if now >= r.nextExpiry {
		r.producers.expire(wall, r.topic.Load().producerExpiry())
		r.nextExpiry = now + time.Minute
	}
	snap := r.dueSnapshot(now)
	active = r.isr.Active() || r.waiting.len() > 0 || r.candidate != nil
	r.mu.Unlock()
	if snap != nil {
		r.log.SaveProducerSnapshot(snap.at, snap.data)
	}
	return active
}

// hear takes in when the other replicas' brokers were last heard from. mu is held.
func (r *Replica) hear() {
	if r.contacts == nil || r.isr.Role() != isr.Leader {
		return
	}
	for i := range r.isr.Meta().Replicas {
		b := r.isr.Meta().Replicas[i].Broker
		if at, ok := r.contacts.Last(b); ok {
			r.isr.HeardFrom(b, at)
		}
	}
}

// HeardFrom tells that a broker was heard from; Config.Contacts does the same
// for all replicas at once.
func (r *Replica) HeardFrom(b model.BrokerID, at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isr.HeardFrom(b, at)
}

// Close saves producer state. The replica must not be used afterwards; the log
// is the caller's to close.
func (r *Replica) Close(eff *Effects) {
	r.mu.Lock()
	r.acquire()
	var snap *snapshot
	if r.failed == nil && !r.partial && r.isr.End() <= r.isr.HighWatermark() && len(r.producers.byID) > 0 {
		snap = &snapshot{at: r.isr.End(), data: r.producers.encode()}
	}
	r.ie.Reset()
	r.isr.Stop(&r.ie)
	r.take(eff)
	r.release(eff)
	r.mu.Unlock()
	if snap != nil {
		r.log.SaveProducerSnapshot(snap.at, snap.data)
	}
}
