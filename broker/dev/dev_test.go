package dev

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func start(t *testing.T, dir string) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := Start(ctx, Options{Brokers: 3, Dir: dir, Logger: zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, NoColor: true}).Level(zerolog.WarnLevel)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestProduceConsumeRestart: a record that was acknowledged is there, at its
// offset, also after a restart of the whole cluster.
func TestProduceConsumeRestart(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cl := newClient(t, c)
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 3, 3, nil, "t"); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		r := &kgo.Record{Topic: "t", Key: fmt.Append(nil, i), Value: fmt.Append(nil, "value ", i)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	check(ctx, t, c, 100)
	cl.Close()
	c.Close()

	c = start(t, dir)
	defer c.Close()
	check(ctx, t, c, 100)
}

func newClient(t *testing.T, c *Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.Kafka()...), kgo.DisableClientMetrics())...)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func check(ctx context.Context, t *testing.T, c *Cluster, n int) {
	t.Helper()
	cl := newClient(t, c, kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	seen := map[string]bool{}
	for len(seen) < n {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("%d of %d records: %v", len(seen), n, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if seen[string(r.Key)] {
				t.Fatalf("key %s twice", r.Key)
			}
			seen[string(r.Key)] = true
		})
	}
}
