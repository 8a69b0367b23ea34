package host

import (
	"sync"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
)

// holdBytes is how much may be appended before what waits for it starts:
// beyond that, syncing and sending what is there beside appending the rest gains
// more than doing all at once.
const holdBytes = 256 << 10

// hold keeps back what wakes somebody, while calls on several replicas that
// came in one message are made: the group commit, parked fetches and reports
// would otherwise start with the first replica's share alone, and everything
// behind them would go in many small steps. Outcomes of produces are not held
// back. It belongs to one goroutine.
type hold struct {
	bytes   int
	dirty   bool
	wakes   partition.Wakes
	reports []owed
	group   []*partition.Replica // scratch of send
}

// owed is a report of a replica's durable end.
type owed struct {
	leader model.BrokerID
	r      *partition.Replica
}

var holds = sync.Pool{New: func() any { return new(hold) }}

// Together makes calls on several replicas with one batch of effects: do is like
// Do, but what only wakes somebody happens once for all, at the latest when
// Together returns.
func (h *Host) Together(f func(do partition.Do)) {
	b := holds.Get().(*hold)
	defer func() {
		h.release(b)
		holds.Put(b)
	}()
	f(func(tp model.TopicPartition, f func(r *partition.Replica, eff *partition.Effects)) bool {
		return h.do(tp, b, f)
	})
}

// Appends hands over the appends of one request.
type Appends struct {
	h *Host
	b *hold
}

// Appends begins a batch of appends, which End ends.
func (h *Host) Appends() Appends { return Appends{h, holds.Get().(*hold)} }

// Append is Host.Append within the batch.
func (a Appends) Append(r *partition.Replica, req *partition.AppendRequest) { a.h.append(r, req, a.b) }

// End has the appends synced and replicated. The batch is not used again.
func (a Appends) End() {
	a.h.release(a.b)
	holds.Put(a.b)
}

// release does what b held back. No lock is held.
func (h *Host) release(b *hold) {
	if b.dirty {
		h.o.Output.Dirty()
	}
	b.wakes.Wake()
	h.send(b)
	b.bytes, b.dirty = 0, false
}

// send hands the owed reports over, those to one leader together.
func (h *Host) send(b *hold) {
	for rest := b.reports; len(rest) > 0; {
		leader, kept := rest[0].leader, rest[:0]
		for _, o := range rest {
			if o.leader == leader {
				b.group = append(b.group, o.r)
			} else {
				kept = append(kept, o)
			}
		}
		h.o.Output.Report(leader, b.group)
		clear(b.group)
		b.group, rest = b.group[:0], kept
	}
	clear(b.reports)
	b.reports = b.reports[:0]
}
