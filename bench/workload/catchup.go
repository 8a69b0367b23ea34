package workload

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/bench/load"
	"github.com/tailrace/tailrace/bench/report"
)

// Modes of the consume workload.
const (
	modeTail      = "tail"
	modeCatchUp   = "catch-up"
	modeFollowers = "followers"
	modeRaw       = "raw"
)

var consume = Workload{
	Name:     "consume",
	Short:    "records per second to consumers; --mode tail, catch-up (from disk, leaders), followers (from disk, all replicas) or raw (from disk, nothing decoded)",
	Defaults: func(p *Params) { p.Consumers, p.Mode, p.Preload = 1, modeCatchUp, 512<<20 },
	Setup: func(ctx context.Context, s *Session) error {
		modes := []string{modeTail, modeCatchUp, modeFollowers, modeRaw}
		switch {
		case !slices.Contains(modes, s.P.Mode):
			return fmt.Errorf("unknown mode %q: one of %s", s.P.Mode, strings.Join(modes, ", "))
		case s.C.RawOnly && s.P.Mode != modeRaw:
			return fmt.Errorf("serves --mode %s only", modeRaw)
		}
		if err := s.newTopic(ctx, "consume", s.P.Partitions); err != nil {
			return err
		}
		if s.P.Mode == modeTail {
			return nil
		}
		return s.preload(ctx)
	},
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) {
		switch s.P.Mode {
		case modeRaw:
			return s.raw(ctx)
		case modeTail:
			return steady(ctx, s, s.P.Rate, s.racks(s.P.Consumers, s.P.Followers), 0)
		}
		return one(s.catchUp(ctx, s.racks(s.P.Consumers, s.P.Mode == modeFollowers)))
	},
}

// preloadRun bounds the consecutive records of a preload that go to one partition. With
// one record for each in turn, the client's buffer would hold a few for each of thousands
// of partitions, and every batch be as small.
const preloadRun = 256 << 10

// preload produces what catch-ups will read and restarts recover.
func (s *Session) preload(ctx context.Context) error {
	var failed, done atomic.Int64
	var first atomic.Value
	outcome := func(_ int, err error) {
		done.Add(1)
		if err != nil && failed.Add(1) == 1 {
			first.Store(err)
		}
	}
	p, err := s.Client.Producer(s.Topic.Name, outcome)
	if err != nil {
		return err
	}
	defer p.Close()
	pay := newPayload(newPool(1, s.P.RecordSize), 1, 0, time.Now(), s.P.RecordSize, s.P.Keys)
	n := max(1, s.P.Preload/int64(s.P.RecordSize))
	run := runLength(s.P, n)
	start := time.Now()
	for i := range n {
		p.Send(int32(i/run%int64(s.Topic.Partitions)), pay.key(), pay.plain(), nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := drain(ctx, []load.Producer{p}, done.Load, drainIdle, drainLimit); err != nil {
		return err
	}
	s.preloaded = n
	s.Logf("%s: %d records loaded in %.1f s", s.C.Name, n, time.Since(start).Seconds())
	if failed.Load() > 0 {
		return fmt.Errorf("%d records were not loaded, first: %w", failed.Load(), first.Load().(error))
	}
	return nil
}

// runLength is how many of n records go to one partition before the next one's turn:
// a batch at most, and few enough that every partition has its share.
func runLength(p Params, n int64) int64 {
	batch := int64(min(preloadRun, p.BatchBytes) / p.RecordSize)
	return max(1, min(batch, n/int64(p.Partitions)))
}

// stallTime is how long a catch-up may make no progress.
const stallTime = 60 * time.Second

// catchUp measures until every consumer has read everything.
func (s *Session) catchUp(ctx context.Context, racks []string) (report.Sample, error) {
	var out report.Sample
	var wg sync.WaitGroup
	counts := make([]struct{ records, bytes int64 }, len(racks))
	errs := make([]error, len(racks))
	m := s.startMeter()
	for i, rack := range racks {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = s.readAll(ctx, rack, func(r load.Record) {
				counts[i].records++
				counts[i].bytes += int64(len(r.Value))
			}, func() bool { return counts[i].records >= s.preloaded })
		}()
	}
	wg.Wait()
	m.stop(&out)
	for i := range racks {
		out.Consumed += counts[i].records
		out.ConsumedBytes += counts[i].bytes
		out.Missing += max(0, s.preloaded-counts[i].records)
		if errs[i] != nil {
			return out, errs[i]
		}
	}
	return out, nil
}

// readAll reads the topic from its start until done.
func (s *Session) readAll(ctx context.Context, rack string, f func(load.Record), done func() bool) error {
	c, err := s.Client.Consumer(ctx, load.ConsumerOptions{Topic: s.Topic.Name, Partitions: s.Topic.Partitions, From: load.FromStart, Rack: rack})
	if err != nil {
		return err
	}
	defer c.Close()
	for !done() {
		poll, cancel := context.WithTimeout(ctx, stallTime)
		err := c.Poll(poll, f)
		cancel()
		if err != nil {
			return fmt.Errorf("catch-up: %w", err)
		}
	}
	return nil
}
