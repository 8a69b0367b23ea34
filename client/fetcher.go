package client

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Pauses of a fetcher.
const (
	// detour is how long a partition is read from its leader after its chosen
	// replica could not serve it.
	detour = time.Second
	// preferredFor is how long a replica that the leader named is kept before
	// the leader is asked again (KIP-392).
	preferredFor = 5 * time.Minute
	// idlePause keeps an empty answer that came at once from making a busy loop.
	idlePause = 20 * time.Millisecond
	// deletedAfter is how long a topic must be unknown to be taken as deleted;
	// a broker that just started may not know it yet.
	deletedAfter = 3 * time.Second
	// refreshEvery is how often metadata is asked for with no reason to.
	refreshEvery = 30 * time.Second
	// overdue is how long after its MaxWait a fetch is unanswered before
	// metadata is asked whether its broker still is the one to wait for.
	overdue = 500 * time.Millisecond
)

// delivery is what one fetch brought for one partition.
type delivery struct {
	partition int32
	broker    int32 // who served it
	records   []*Record
	next      mark // position after it; beyond the last record where control records or compaction leave a gap
}

// fetcher reads the partitions of one consumer. One goroutine, run, owns all of
// its state; requests run in goroutines of their own, at most one fetch per
// broker at a time, and hand back a function that run calls.
type fetcher struct {
	core    *kgo.Client
	options ConsumerOptions
	explain func(op string, err error) error

	topo    topology
	cursors map[int32]*cursor
	busy    map[int32]*inflight // brokers with a fetch in flight
	spread  int                 // where Any starts to count, different for each fetcher

	growing bool // new partitions of the topic are read too

	refreshing   bool
	stale        bool      // metadata must be asked again
	refreshAt    time.Time // not before
	refreshTries int
	refreshed    time.Time // when metadata last came
	unknownSince time.Time // the topic is missing from metadata since

	answers chan func() // results of requests, applied by run
	out     chan delivery
	failure error // why out was closed; nil at the end of everything asked for
}

// inflight is a fetch that has not been answered.
type inflight struct {
	cursors []*cursor
	since   time.Time
	cancel  context.CancelFunc
}

// cursor is where a fetcher stands in one partition.
type cursor struct {
	partition int32
	at        mark
	stop      int64 // offset to stop at, -1 for never

	leaderEpoch    int32     // leader epoch against which at is validated
	busy           bool      // a request for it is in flight
	notBefore      time.Time // back-off
	tries          int       // failures in a row
	detourUntil    time.Time // read from the leader until then
	preferred      int32     // replica that the leader named, -1
	preferredUntil time.Time
	turn           int // Any: how often another replica was chosen
}

func newFetcher(c *Consumer, positions map[int32]mark) *fetcher {
	f := &fetcher{
		core:    c.core,
		options: c.options,
		explain: c.client.explain,
		topo:    c.topo,
		cursors: make(map[int32]*cursor, len(positions)),
		busy:    make(map[int32]*inflight),
		spread:  rand.IntN(1 << 16),
		stale:   true,
		growing: len(c.options.Partitions) == 0 && !c.options.StopAtEnd,
		answers: make(chan func()),
		out:     make(chan delivery, 2),
	}
	for p, m := range positions {
		stop := int64(-1)
		if c.options.StopAtEnd {
			stop = c.ends[p]
		}
		f.cursors[p] = &cursor{partition: p, at: m, stop: stop, preferred: -1, leaderEpoch: c.topo.partitions[p].epoch}
	}
	return f
}

// run fetches until everything asked for is delivered, something fails for
// good, or ctx ends. It returns when none of its goroutines is left.
func (f *fetcher) run(ctx context.Context) {
	defer close(f.out)
	ctx, cancel := context.WithCancel(ctx)
	var requests sync.WaitGroup
	defer requests.Wait()
	defer cancel()
	start := func(work func() func()) {
		requests.Go(func() {
			apply := work()
			select {
			case f.answers <- apply:
			case <-ctx.Done():
			}
		})
	}
	for f.failure == nil && !f.finished() {
		now := time.Now()
		f.suspect(now)
		f.refresh(ctx, now, start)
		f.dispatch(ctx, now, start)
		f.wait(ctx)
	}
}

// wait applies one answer, or returns when something became due.
func (f *fetcher) wait(ctx context.Context) {
	timer := time.NewTimer(f.nextDue(time.Now()))
	defer timer.Stop()
	select {
	case apply := <-f.answers:
		apply()
	case <-timer.C:
	case <-ctx.Done():
		f.failure = ctx.Err()
	}
}

func (f *fetcher) finished() bool {
	for _, c := range f.cursors {
		if !c.done() {
			return false
		}
	}
	return true
}

func (c *cursor) done() bool { return c.stop >= 0 && c.at.offset >= c.stop }

// nextDue is how long run may sleep if no answer comes.
func (f *fetcher) nextDue(now time.Time) time.Duration {
	due := now.Add(refreshEvery)
	sooner := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	if f.stale && !f.refreshing {
		sooner(f.refreshAt)
	}
	for _, fl := range f.busy {
		if late := f.lateAt(fl); late.After(now) {
			sooner(late)
		}
	}
	for _, c := range f.cursors {
		if c.busy || c.done() || !c.notBefore.After(now) {
			continue // waits for an answer or for metadata, or is due already
		}
		sooner(c.notBefore)
	}
	return max(due.Sub(now), time.Millisecond)
}

// dispatch sends one fetch to each idle broker that has partitions due.
func (f *fetcher) dispatch(ctx context.Context, now time.Time, start func(func() func())) {
	byBroker := make(map[int32][]*cursor)
	for _, p := range slices.Sorted(maps.Keys(f.cursors)) {
		c := f.cursors[p]
		if c.busy || c.done() || c.notBefore.After(now) {
			continue
		}
		if f.mustValidate(c) {
			f.validate(ctx, c, start)
			continue
		}
		broker := f.target(c, now)
		if broker < 0 {
			f.hold(c, now)
			f.stale = true
			continue
		}
		byBroker[broker] = append(byBroker[broker], c)
	}
	for broker, cursors := range byBroker {
		if f.busy[broker] == nil {
			f.send(ctx, now, broker, cursors, start)
		}
	}
}

// send fetches from one broker in the background.
func (f *fetcher) send(ctx context.Context, now time.Time, broker int32, cursors []*cursor, start func(func() func())) {
	rotate(cursors)
	request := f.request(cursors)
	for _, c := range cursors {
		c.busy = true
	}
	one, cancel := context.WithCancel(ctx)
	f.busy[broker] = &inflight{cursors: cursors, since: now, cancel: cancel}
	start(func() func() {
		defer cancel()
		result := fetch(one, f.core, broker, request)
		return func() { f.fetched(ctx, result, cursors, time.Since(now)) }
	})
}

func (f *fetcher) lateAt(fl *inflight) time.Time { return fl.since.Add(f.options.MaxWait + overdue) }

// suspect asks for metadata from time to time, and when a fetch is overdue:
// a broker that hangs is found out by the election that replaces it, long
// before the request to it times out.
func (f *fetcher) suspect(now time.Time) {
	if now.Sub(f.refreshed) >= refreshEvery {
		f.stale = true
	}
	for _, fl := range f.busy {
		if !f.lateAt(fl).After(now) {
			f.stale = true
		}
	}
}

// abandon gives up overdue fetches to brokers that metadata no longer names for
// one of their partitions; their partitions then are asked for elsewhere.
func (f *fetcher) abandon(now time.Time) {
	for broker, fl := range f.busy {
		if f.lateAt(fl).After(now) {
			continue
		}
		for _, c := range fl.cursors {
			p := f.topo.partitions[c.partition]
			if f.target(c, now) != broker || slices.Contains(p.offline, broker) {
				fl.cancel()
				break
			}
		}
	}
}

// rotate starts a request at a random partition: a broker fills the answer in
// order up to MaxBytes, so a fixed order would starve the last ones.
func rotate(cursors []*cursor) {
	n := rand.IntN(len(cursors))
	slices.Reverse(cursors[:n])
	slices.Reverse(cursors[n:])
	slices.Reverse(cursors)
}

// target is the broker that the policy chooses for a partition now, or -1.
func (f *fetcher) target(c *cursor, now time.Time) int32 {
	p, ok := f.topo.partitions[c.partition]
	if !ok {
		return -1
	}
	if now.Before(c.detourUntil) {
		return p.leader
	}
	switch f.options.Replica.kind {
	case policyNearest:
		if c.preferred >= 0 && now.Before(c.preferredUntil) && slices.Contains(p.live(), c.preferred) {
			return c.preferred
		}
	case policyBroker:
		if slices.Contains(p.live(), f.options.Replica.broker) {
			return f.options.Replica.broker
		}
	case policyAny:
		if live := p.live(); len(live) > 0 {
			return live[(f.spread+int(c.partition)+c.turn)%len(live)]
		}
	}
	return p.leader
}

// hold backs a partition off after a failure.
func (f *fetcher) hold(c *cursor, now time.Time) {
	c.tries++
	c.notBefore = now.Add(backoff(c.tries))
}

// refresh asks for metadata in the background when it is known to be stale.
func (f *fetcher) refresh(ctx context.Context, now time.Time, start func(func() func())) {
	if !f.stale || f.refreshing || now.Before(f.refreshAt) {
		return
	}
	f.refreshing, f.stale = true, false
	start(func() func() {
		topo, err := topologyOf(ctx, f.core, f.options.Topic)
		return func() { f.applyMetadata(topo, err) }
	})
}

func (f *fetcher) applyMetadata(topo topology, err error) {
	now := time.Now()
	f.refreshing, f.refreshed = false, now
	f.refreshTries++
	f.refreshAt = now.Add(backoff(min(f.refreshTries, 4)))
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		if f.unknownSince.IsZero() {
			f.unknownSince = now
		}
		f.stale = true
		if now.Sub(f.unknownSince) >= deletedAfter {
			f.fail(err)
		}
	case err != nil && !transient(err):
		f.fail(err)
	case err != nil:
		f.stale = true
	case topo.id != f.topo.id:
		f.fail(recreated(f.options.Topic))
	default:
		f.unknownSince, f.refreshTries = time.Time{}, 0
		f.merge(topo)
		f.abandon(now)
	}
}

// merge takes newer metadata; a broker that lags behind may answer with an
// older leader epoch, which is ignored for that partition.
func (f *fetcher) merge(topo topology) {
	for n, p := range topo.partitions {
		if old, ok := f.topo.partitions[n]; ok && p.epoch >= 0 && p.epoch < old.epoch {
			topo.partitions[n] = old
		}
	}
	f.topo = topo
	for n, p := range topo.partitions {
		if f.cursors[n] == nil && f.growing {
			f.cursors[n] = &cursor{partition: n, at: mark{offset: 0, epoch: -1}, stop: -1, preferred: -1, leaderEpoch: p.epoch}
		}
	}
}

// fail ends the iteration with err.
func (f *fetcher) fail(err error) {
	if f.failure == nil {
		f.failure = f.explain("consume "+f.options.Topic, err)
	}
}

func recreated(topic string) error {
	return &Error{Op: "consume " + topic, Kind: ErrNotFound,
		Err: errors.New("the topic was deleted and made again since: start a new consumer")}
}
