package dev

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tailrace/tailrace/broker/event"
)

// TestRollingRestart stops each broker gracefully, and starts it again, while
// records are written and read: no client sees an error, every record arrives
// once, and nothing is reported as an error.
func TestRollingRestart(t *testing.T) {
	r := newRig(t, noScrub)
	cl := r.kafka()
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(r.ctx, 3, 3, nil, "t"); err != nil {
		t.Fatal(err)
	}
	r.waitISR("t", 3)
	ctx, stop := context.WithCancel(r.ctx)
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	var written int
	clients.Go(func() {
		for ; ctx.Err() == nil; written++ {
			rec := &kgo.Record{Topic: "t", Partition: int32(written % 3), Value: fmt.Append(nil, written)}
			if err := cl.ProduceSync(r.ctx, rec).FirstErr(); err != nil {
				t.Errorf("record %d: %v", written, err)
				return
			}
		}
	})
	seenBy := newReader(t, r)
	clients.Go(func() { seenBy.run(ctx) })

	for id := 1; id <= 3; id++ {
		sctx, cancel := context.WithTimeout(r.ctx, 20*time.Second)
		r.c.Brokers[id-1].Shutdown(sctx)
		cancel()
		if n := len(seen[event.NodeStopped](r, id, nil)); n != 1 {
			t.Errorf("broker %d said %d times that it stopped", id, n)
		}
		if err := r.start(id); err != nil {
			t.Fatal(err)
		}
		r.wait("the restarted broker", func() bool { return r.c.Brokers[id-1].Ready() == nil })
		r.waitISR("t", 3)
	}
	stop()
	clients.Wait()
	seenBy.finish(written)
	for id := 1; id <= 3; id++ {
		for _, e := range seen[event.Event](r, id, nil) {
			if e.Info().Level >= zerolog.ErrorLevel {
				t.Errorf("broker %d: %+v", id, e)
			}
		}
		for _, e := range seen[event.Fenced](r, id, nil) {
			if e.Reason != "stopped" {
				t.Errorf("broker %d saw broker %d fenced: %s", id, e.Broker, e.Reason)
			}
		}
	}
}

// reader consumes all partitions and counts each value.
type reader struct {
	t    *testing.T
	r    *rig
	cl   *kgo.Client
	seen map[string]int
}

func newReader(t *testing.T, r *rig) *reader {
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.live()...), kgo.DisableClientMetrics(), kgo.ConsumeTopics("t"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &reader{t: t, r: r, cl: cl, seen: map[string]int{}}
}

func (x *reader) run(ctx context.Context) {
	for ctx.Err() == nil {
		x.poll(ctx)
	}
}

func (x *reader) poll(ctx context.Context) {
	fs := x.cl.PollFetches(ctx)
	fs.EachError(func(topic string, p int32, err error) {
		if ctx.Err() == nil {
			x.t.Errorf("fetch of %s/%d: %v", topic, p, err)
		}
	})
	fs.EachRecord(func(rec *kgo.Record) { x.seen[string(rec.Value)]++ })
}

// finish reads the rest and checks that there are n values, each once.
func (x *reader) finish(n int) {
	for len(x.seen) < n && x.r.ctx.Err() == nil && !x.t.Failed() {
		x.poll(x.r.ctx)
	}
	for v, times := range x.seen {
		if times != 1 {
			x.t.Errorf("value %s came %d times", v, times)
		}
	}
	if len(x.seen) != n {
		x.t.Errorf("%d values, want %d", len(x.seen), n)
	}
}
