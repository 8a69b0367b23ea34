package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/event"
	"github.com/tailrace/tailrace/broker/transport"
	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

// Limits of repair.
const (
	repairEvery   = time.Second // between attempts while something is damaged
	repairChunk   = 32 << 20    // bytes replaced by one rewrite of a segment
	repairFetch   = 4 << 20     // bytes of one request
	repairTimeout = 30 * time.Second
)

// repairer replaces damaged ranges of logs by the same batches from another
// replica (I39). A damaged replica says so to the controller first, which takes
// it out of the in-sync set and has another member lead; it rejoins by
// reporting its durable end again.
type repairer struct {
	b    *Broker
	wake chan struct{}

	mu  sync.Mutex
	bad map[model.TopicPartition]struct{} // damaged, or not yet said to be well

	fetched  atomic.Int64 // bytes taken from other replicas
	failures atomic.Int64 // attempts that did not succeed
}

func newRepairer(b *Broker) *repairer {
	return &repairer{b: b, wake: make(chan struct{}, 1), bad: map[model.TopicPartition]struct{}{}}
}

// found queues a log with damage.
func (p *repairer) found(tp model.TopicPartition) {
	p.mu.Lock()
	p.bad[tp] = struct{}{}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *repairer) list() []model.TopicPartition {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]model.TopicPartition, 0, len(p.bad))
	for tp := range p.bad {
		out = append(out, tp)
	}
	slices.SortFunc(out, func(a, b model.TopicPartition) int {
		return slices.Compare(append(a.Topic[:], byte(a.Partition)), append(b.Topic[:], byte(b.Partition)))
	})
	return out
}

// run repairs until ctx ends. Damage that was known before the start is found
// here.
func (p *repairer) run(ctx context.Context) {
	for _, tp := range p.b.store.Refs() {
		if l := p.b.store.Log(tp); l != nil && len(l.Damaged()) > 0 {
			p.found(tp)
		}
	}
	for {
		var again <-chan time.Time
		if len(p.list()) > 0 {
			again = time.After(repairEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-again:
		}
		for _, tp := range p.list() {
			if ctx.Err() != nil {
				return
			}
			if p.mend(ctx, tp) {
				p.mu.Lock()
				delete(p.bad, tp)
				p.mu.Unlock()
			}
		}
	}
}

// mend brings one log closer to being well. It is true when nothing is left to
// do.
func (p *repairer) mend(ctx context.Context, tp model.TopicPartition) bool {
	l, r := p.b.store.Log(tp), p.b.host.Replica(tp)
	if l == nil {
		return true
	}
	if r == nil {
		return false // its topic is not known here yet, or it is none of ours
	}
	led := r.Status()
	told := l.Suspect()
	if !p.declare(ctx, l, told) {
		return false
	}
	damaged := l.Damaged()
	if len(damaged) == 0 {
		if told >= segment.Damaged {
			return false // it became well meanwhile, as by a truncation: the controller does not know
		}
		p.b.host.Do(tp, func(_ *partition.Replica, eff *partition.Effects) { eff.Report = true })
		return true
	}
	st := r.Status()
	if led.Role == isr.Leader && st.Role != isr.Leader {
		p.b.tell(event.SteppedDown{Topic: p.b.topicName(tp.Topic), Partition: tp.Partition, LeaderEpoch: led.Epoch})
	}
	if st.Role == isr.Leader && len(st.ISR) > 1 {
		return false // somebody else is to lead first
	}
	for _, d := range damaged {
		if err := p.mendRange(ctx, l, r, d); err != nil && ctx.Err() == nil {
			p.failures.Add(1)
			p.b.tell(event.RepairFailed{Topic: p.b.topicName(tp.Topic), Partition: tp.Partition, From: d.From, To: d.To, Source: model.NoBroker, Err: err})
		}
	}
	if len(l.Damaged()) == 0 {
		p.found(tp) // to say so at once
	}
	return false
}

// declare tells the controller that the log is in the given state, and waits until this
// broker acted on what follows from it.
func (p *repairer) declare(ctx context.Context, l *segment.Log, state segment.Suspicion) bool {
	inc := p.b.host.Incarnation()
	if inc == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, control.DefaultSubmitTimeout)
	defer cancel()
	res, err := p.b.Submit(ctx, &control.ReportLogs{Broker: p.b.o.ID, Incarnation: inc, At: p.b.o.Clock.Elapsed(), Logs: []control.LogReport{{
		TP: l.TP(), Epoch: l.LastEpoch(), End: l.DurableEnd(), Suspect: state,
	}}})
	if err == nil && res.Code != 0 {
		err = fmt.Errorf("%w: %s", kerr.ErrorForCode(res.Code), res.Message)
	}
	if err != nil && ctx.Err() == nil {
		p.b.trouble("report a damaged log", err, false)
	}
	return err == nil
}

// mendRange replaces the blocks of one damaged range, a chunk at a time.
func (p *repairer) mendRange(ctx context.Context, l *segment.Log, r *partition.Replica, d segment.OffsetRange) error {
	units, err := l.RepairUnits(d)
	if err != nil {
		return err
	}
	if hw := r.Status().HighWatermark; len(units) > 0 && units[0].To > hw {
		return fmt.Errorf("offset %d is not known to be committed: high watermark %d", units[0].To-1, hw)
	}
	for len(units) > 0 {
		var part []byte
		var source model.BrokerID
		n := 0
		for n < len(units) && len(part) < repairChunk {
			batches, from, err := p.fetch(ctx, l, r, units[n])
			if err != nil {
				if n > 0 {
					break // first what there is
				}
				return err
			}
			part, source = append(part, batches...), from
			n++
		}
		whole := segment.OffsetRange{From: units[0].From, To: units[n-1].To}
		err := segment.ErrClosed
		p.b.host.Do(l.TP(), func(r *partition.Replica, eff *partition.Effects) { err = r.Repair(whole, part, eff) })
		if err != nil {
			return err
		}
		p.b.tell(event.Repaired{Topic: p.b.topicName(l.TP().Topic), Partition: l.TP().Partition, From: whole.From, To: whole.To, Source: source})
		units = units[n:]
	}
	return nil
}

// errNoSource: no other replica is alive.
var errNoSource = errors.New("no other replica of the partition is live")

// fetch takes the batches of one range from another replica, the leader first.
func (p *repairer) fetch(ctx context.Context, l *segment.Log, r *partition.Replica, want segment.OffsetRange) ([]byte, model.BrokerID, error) {
	img := p.b.Image()
	part := img.Partition(l.TP())
	if part == nil {
		return nil, model.NoBroker, errNoSource
	}
	sources := []model.BrokerID{part.Leader}
	sources = append(sources, part.Replicas...)
	err := errNoSource
	for i, id := range sources {
		if id == p.b.o.ID || !img.Brokers[id].Live() || i > 0 && id == part.Leader {
			continue
		}
		batches, ferr := p.fetchFrom(ctx, id, l.TP(), want)
		if ferr == nil {
			p.fetched.Add(int64(len(batches)))
			return batches, id, nil
		}
		err = fmt.Errorf("fetch from broker %d: %w", id, ferr)
	}
	return nil, model.NoBroker, err
}

// fetchFrom reads [want.From, want.To) as a consumer does: committed records
// only, of blocks that their owner has verified.
func (p *repairer) fetchFrom(ctx context.Context, id model.BrokerID, tp model.TopicPartition, want segment.OffsetRange) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	var out []byte
	for at := want.From; at < want.To; {
		got, err := p.fetchOnce(ctx, id, tp, at)
		if err != nil {
			return nil, err
		}
		n := 0
		for at < want.To {
			h, raw, err := batch.Next(got[n:])
			if errors.Is(err, batch.ErrShort) {
				break
			}
			if err == nil {
				err = batch.VerifyCRC(raw)
			}
			inside := len(out) == 0 && n == 0 && h.BaseOffset < at && at < h.NextOffset() // the log start may lie inside a batch
			if err == nil && h.BaseOffset != at && !inside {
				err = fmt.Errorf("batch at offset %d, want %d", h.BaseOffset, at)
			}
			if err != nil {
				return nil, err
			}
			at, n = h.NextOffset(), n+len(raw)
		}
		if n == 0 {
			return nil, fmt.Errorf("offset %d is not there", at)
		}
		out = append(out, got[:n]...)
	}
	return out, nil
}

func (p *repairer) fetchOnce(ctx context.Context, id model.BrokerID, tp model.TopicPartition, at int64) ([]byte, error) {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(fetchVersion)
	req.MinBytes, req.MaxBytes, req.SessionEpoch = 1, repairFetch, -1
	t := kmsg.NewFetchRequestTopic()
	t.TopicID = tp.Topic
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = tp.Partition, at, repairFetch
	t.Partitions = append(t.Partitions, rp)
	req.Topics = append(req.Topics, t)
	raw, release, err := caller{p.b}.Call(ctx, id, transport.Control, fetchKey, fetchVersion, req.AppendTo(nil))
	if err != nil {
		return nil, err
	}
	defer release()
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(fetchVersion)
	if err := resp.ReadFrom(raw); err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, errors.New("the answer is not about the partition that was asked for")
	}
	got := &resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		return nil, err
	}
	if got.PreferredReadReplica >= 0 && len(got.RecordBatches) == 0 {
		return nil, fmt.Errorf("it names broker %d instead", got.PreferredReadReplica)
	}
	return slices.Clone(got.RecordBatches), nil
}

// retrust ends the suspicion of logs whose tail was torn, once they belong to
// the in-sync set again: every committed record is in them.
func (b *Broker) retrust(u control.Update) {
	self := u.Next.Brokers[b.o.ID]
	if self == nil || self.Incarnation != b.host.Incarnation() {
		return
	}
	for _, id := range u.Topics {
		t := u.Next.Topics[id]
		if t == nil {
			continue
		}
		for i, p := range t.Partitions {
			if !slices.Contains(p.ISR, b.o.ID) {
				continue
			}
			if l := b.store.Log(model.TopicPartition{Topic: id, Partition: int32(i)}); l != nil && l.Trust() {
				b.tell(event.Trusted{Topic: t.Name, Partition: int32(i), Was: segment.TornTail.String()})
			}
		}
	}
}

// scrubber is where the checking of stored records stands. Only its loop uses
// it, except for the counters.
type scrubber struct {
	next   time.Duration // when the next pass may begin, elapsed time
	busy   bool          // a pass is under way
	bytes  atomic.Int64
	passes atomic.Int64
}

// scrub checks the next part of the stored records. Damage is reported by the
// store's events.
func (b *Broker) scrub() {
	s, now := &b.scrubber, b.o.Clock.Elapsed()
	if b.o.ScrubBytes < 0 || !s.busy && now < s.next || b.store.Poisoned() != nil {
		return
	}
	if !s.busy {
		s.busy, s.next = true, now+b.o.ScrubPeriod
	}
	rep, err := b.store.Scrub(b.o.ScrubBytes)
	s.bytes.Add(rep.Bytes)
	if err != nil {
		b.trouble("scrub", err, true)
	}
	if rep.Wrapped {
		s.busy = false
		s.passes.Add(1)
	}
}
