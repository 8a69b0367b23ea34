package workload

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/bench/cluster"
	"github.com/tailrace/tailrace/bench/load"
	"github.com/tailrace/tailrace/bench/report"
	"github.com/tailrace/tailrace/bench/stats"
)

// flow is a steady state: producers that send at a rate or as fast as they
// can, and consumers of the session's topic. It is the body of every workload
// that measures a window.
type flow struct {
	s    *Session
	rate float64
	tail []string // one consumer from the end for each; its rack, or "" for leaders
	back int      // consumers that read the topic from its start, over and over

	run  uint64
	base time.Time
	pool []byte

	from, to atomic.Int64 // the window, ns since base; 0: not yet

	records, bytes           atomic.Int64
	consumed, consumedBytes  atomic.Int64
	acked                    atomic.Int64 // in the whole round
	seen                     []atomic.Int64
	errs                     atomic.Int64
	firstErr                 atomic.Value
	ack, ackRaw, end2end, lg *stats.Latency
}

// newFlow makes the flow of one round.
func (s *Session) newFlow(rate float64, tail []string, back int) *flow {
	return &flow{s: s, rate: rate, tail: tail, back: back, run: rand.Uint64(), base: time.Now(), seen: make([]atomic.Int64, len(tail)),
		pool: newPool(uint64(s.P.RecordSize), s.P.RecordSize),
		ack:  stats.NewLatency(), ackRaw: stats.NewLatency(), end2end: stats.NewLatency(), lg: stats.NewLatency()}
}

// racks returns the racks of n consumers: none, or the nodes' in turn.
func (s *Session) racks(n int, followers bool) []string {
	out := make([]string, n)
	for i := range out {
		if followers {
			out[i] = cluster.Rack(i % max(1, len(s.C.Nodes)))
		}
	}
	return out
}

func (f *flow) now() int64 { return int64(time.Since(f.base)) }

// inWindow reports whether an instant lies in the measured window.
func (f *flow) inWindow(at int64) bool {
	from, to := f.from.Load(), f.to.Load()
	return from != 0 && at >= from && (to == 0 || at < to)
}

func (f *flow) fail(err error) {
	if err != nil && f.errs.Add(1) == 1 {
		f.firstErr.Store(err.Error())
	}
}

// round runs the flow: warm-up, window, drain.
func (f *flow) round(ctx context.Context, warmup, window time.Duration) (report.Sample, error) {
	var out report.Sample
	consumeCtx, endConsume := context.WithCancel(ctx)
	var consumers sync.WaitGroup
	defer func() { endConsume(); consumers.Wait() }()
	if err := f.startConsumers(consumeCtx, &consumers); err != nil {
		return out, err
	}
	produceCtx, endProduce := context.WithCancel(ctx)
	defer endProduce()
	wait, err := f.startProducers(produceCtx)
	if err != nil {
		return out, err
	}
	if err := sleep(ctx, warmup); err != nil {
		return out, errors.Join(err, wait())
	}
	m := f.s.startMeter()
	f.from.Store(max(1, f.now()))
	err = sleep(ctx, window)
	f.to.Store(f.now())
	m.stop(&out)
	endProduce()
	err = errors.Join(err, wait())
	if err == nil {
		out.Missing = f.awaitConsumers(ctx)
	}
	f.fill(&out)
	return out, err
}

func (f *flow) fill(out *report.Sample) {
	out.Seconds = float64(f.to.Load()-f.from.Load()) / 1e9
	out.Records, out.Bytes = f.records.Load(), f.bytes.Load()
	out.Consumed, out.ConsumedBytes = f.consumed.Load(), f.consumedBytes.Load()
	out.Errors = f.errs.Load()
	out.FirstError, _ = f.firstErr.Load().(string)
	out.Ack, out.AckRaw, out.EndToEnd, out.Lag = f.ack.Quantiles(), f.ackRaw.Quantiles(), f.end2end.Quantiles(), f.lg.Quantiles()
	out.LagOver10ms = f.lg.Over(10 * time.Millisecond)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// startProducers starts the generators. The returned function waits until
// they have ended and every record has its outcome.
func (f *flow) startProducers(ctx context.Context) (wait func() error, err error) {
	n := f.s.P.Producers
	producers := make([]load.Producer, 0, n)
	closeAll := func() {
		for _, p := range producers {
			p.Close()
		}
	}
	for range n {
		p, err := f.s.Client.Producer(f.s.Topic.Name, f.untimed)
		if err != nil {
			closeAll()
			return nil, err
		}
		producers = append(producers, p)
	}
	var wg sync.WaitGroup
	for i, p := range producers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			g := &generator{f: f, p: p, next: int32(i), pay: newPayload(f.pool, uint64(i), f.run, f.base, f.s.P.RecordSize, f.s.P.Keys)}
			g.run(ctx, f.rate/float64(n))
		}()
	}
	return func() error {
		wg.Wait()
		defer closeAll()
		return drain(context.Background(), producers, func() int64 { return f.acked.Load() + f.errs.Load() }, drainIdle, drainLimit)
	}, nil
}

// generator is one producer's source of records.
type generator struct {
	f    *flow
	p    load.Producer
	pay  *payload
	next int32 // partition
}

// sampleEvery is how many records share one latency measurement where nothing
// limits the rate; there it says how long the buffer is, not how fast the
// target answers.
const sampleEvery = 16

func (g *generator) run(ctx context.Context, rate float64) {
	if rate > 0 {
		load.Pace(ctx, rate, g.f.lagIfMeasured, func(_ int64, due time.Time) { g.send(due, true) })
		return
	}
	for i := 0; ctx.Err() == nil; i++ {
		g.send(time.Time{}, i%sampleEvery == 0)
	}
}

func (f *flow) lagIfMeasured(late time.Duration) {
	if f.inWindow(f.now()) {
		f.lg.Record(late)
	}
}

// send sends one record. due is when it should have been sent, or zero for
// now.
func (g *generator) send(due time.Time, timed bool) {
	f := g.f
	part := g.next % int32(f.s.Topic.Partitions)
	g.next++
	key := g.pay.key()
	if !timed && len(f.tail) == 0 {
		g.p.Send(part, key, g.pay.plain(), nil)
		return
	}
	sent := time.Now()
	if due.IsZero() {
		due = sent
	}
	var value []byte
	if len(f.tail) > 0 {
		value = g.pay.stamped(due)
	} else {
		value = g.pay.plain()
	}
	if !timed {
		g.p.Send(part, key, value, nil)
		return
	}
	size := len(key) + f.s.P.RecordSize
	g.p.Send(part, key, value, func(_ int64, err error) { f.done(due, sent, size, err) })
}

// untimed is the outcome of a record whose latency nobody measures.
func (f *flow) untimed(size int, err error) {
	if err != nil {
		f.fail(err)
		return
	}
	f.acked.Add(1)
	if f.from.Load() != 0 && f.to.Load() == 0 {
		f.records.Add(1)
		f.bytes.Add(int64(size))
	}
}

func (f *flow) done(due, sent time.Time, size int, err error) {
	f.untimed(size, err)
	if err == nil && f.inWindow(int64(due.Sub(f.base))) {
		now := f.now()
		f.ack.Record(time.Duration(now - int64(due.Sub(f.base))))
		f.ackRaw.Record(time.Duration(now - int64(sent.Sub(f.base))))
	}
}
