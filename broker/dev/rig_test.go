package dev

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/broker"
	"github.com/tailrace/tailrace/broker/event"
	"github.com/tailrace/tailrace/client"
	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/segment"
)

// rig is a cluster whose brokers can be stopped and started one by one.
type rig struct {
	t   *testing.T
	c   *Cluster
	ctx context.Context

	mu      sync.Mutex
	options map[int]broker.Options
	gossip  map[int]string
	events  map[int][]event.Event
}

func newRig(t *testing.T, tune func(*broker.Options)) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, options: map[int]broker.Options{}, gossip: map[int]string{}, events: map[int][]event.Event{}}
	ports, err := proc.FreePorts(3) // a broker restarts on its port: nothing else may get it meanwhile
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Brokers: 3, Dir: t.TempDir(), Logger: testLogger(), Tune: func(id int, bo *broker.Options) {
		bo.Kafka = fmt.Sprintf("127.0.0.1:%d", ports[id-1])
		if tune != nil {
			tune(bo)
		}
		r.watch(id, bo)
		r.mu.Lock()
		r.options[id] = *bo
		r.mu.Unlock()
	}}
	c, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	r.c = c
	t.Cleanup(c.Close)
	return r
}

func testLogger() zerolog.Logger {
	return zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, NoColor: true}).Level(zerolog.WarnLevel)
}

// watch records a broker's events and its gossip address.
func (r *rig) watch(id int, o *broker.Options) {
	told := o.OnGossip
	o.OnGossip = func(addr string) {
		r.mu.Lock()
		r.gossip[id] = addr
		r.mu.Unlock()
		if told != nil {
			told(addr)
		}
	}
	o.Events = event.Func(func(e event.Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events[id] = append(r.events[id], e)
	})
}

// stop ends a broker at once.
func (r *rig) stop(id int) { r.c.Brokers[id-1].Close() }

// start starts a stopped broker on its directory, on its Kafka port: clients
// find it again also when every broker was restarted.
func (r *rig) start(id int) error {
	r.mu.Lock()
	o := r.options[id]
	o.Join, o.Kafka = nil, r.c.Brokers[id-1].KafkaAddr()
	for other, addr := range r.gossip {
		if other != id {
			o.Join = append(o.Join, addr)
		}
	}
	r.mu.Unlock()
	o.OnGossip = nil
	r.watch(id, &o)
	ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
	defer cancel()
	b, err := broker.Start(ctx, o)
	if err == nil {
		r.c.Brokers[id-1] = b
	}
	return err
}

// seen returns the events of a broker that match.
func seen[E event.Event](r *rig, id int, match func(E) bool) (out []E) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events[id] {
		if e, ok := e.(E); ok && (match == nil || match(e)) {
			out = append(out, e)
		}
	}
	return out
}

// wait polls until ok, or fails the test.
func (r *rig) wait(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) || r.ctx.Err() != nil {
			r.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// live are the addresses of the running brokers.
func (r *rig) live(except ...int) []string {
	var out []string
	for i, b := range r.c.Brokers {
		if !slices.Contains(except, i+1) {
			out = append(out, b.KafkaAddr())
		}
	}
	return out
}

func (r *rig) kafka(except ...int) *kgo.Client {
	r.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.live(except...)...), kgo.DisableClientMetrics(), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		r.t.Fatal(err)
	}
	return cl
}

// state is a partition as metadata shows it.
func (r *rig) state(topic string) (leader int32, isr []int32) {
	cl := r.kafka()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
	defer cancel()
	td, err := kadm.NewClient(cl).ListTopics(ctx, topic)
	if err != nil {
		return -1, nil
	}
	p := td[topic].Partitions[0]
	return p.Leader, p.ISR
}

func (r *rig) waitISR(topic string, n int) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%d replicas in sync", n), func() bool {
		leader, isr := r.state(topic)
		return leader >= 0 && len(isr) == n
	})
}

// fill creates a topic of one partition with small segments and writes n
// records of about 8 KiB; it returns their values.
func (r *rig) fill(topic string, n int) (values [][]byte) {
	r.t.Helper()
	cl := r.kafka()
	defer cl.Close()
	size := "262144"
	if _, err := kadm.NewClient(cl).CreateTopic(r.ctx, 1, 3, map[string]*string{"segment.bytes": &size}, topic); err != nil {
		r.t.Fatal(err)
	}
	r.waitISR(topic, 3)
	for i := range n {
		v := bytes.Repeat(fmt.Appendf(nil, "%08d", i), 1024)
		values = append(values, v)
		if err := cl.ProduceSync(r.ctx, &kgo.Record{Topic: topic, Value: v}).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
	}
	return values
}

// files lists the segment files of the only partition of a stopped broker.
func (r *rig) files(id int) []string {
	r.t.Helper()
	out, err := filepath.Glob(filepath.Join(r.options[id].Dir, "segments", "*", "*", "*.log"))
	if err != nil || len(out) < 3 {
		r.t.Fatalf("segment files: %v, %v", out, err)
	}
	slices.Sort(out)
	return out
}

// flip changes a byte in a sealed file, well inside of it.
func (r *rig) flip(file string) {
	r.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	b[len(b)/2] ^= 0x40
	if err := os.WriteFile(file, b, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// read reads the topic to its end from one replica, by the client's policy,
// and checks every value. It returns who served.
func (r *rig) read(topic string, policy client.ReplicaPolicy, want [][]byte) map[int32]int64 {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
	defer cancel()
	cl, err := client.New(ctx, client.Options{Seeds: r.live()})
	if err != nil {
		r.t.Fatal(err)
	}
	defer cl.Close()
	con, err := cl.Consumer(ctx, client.ConsumerOptions{Topic: topic, Replica: policy, StopAtEnd: true})
	if err != nil {
		r.t.Fatal(err)
	}
	defer con.Close()
	n := 0
	for rec, err := range con.Records(ctx) {
		if err != nil {
			r.t.Fatalf("by %v, after %d records: %v", policy, n, err)
		}
		if n >= len(want) || rec.Offset != int64(n) || !bytes.Equal(rec.Value, want[n]) {
			r.t.Fatalf("by %v: record %d at offset %d is wrong: %.20q", policy, n, rec.Offset, rec.Value)
		}
		n++
	}
	if n != len(want) {
		r.t.Fatalf("by %v: %d records, want %d", policy, n, len(want))
	}
	return con.Served()
}

// sameBytes stops all brokers and compares the batches of the only partition.
func (r *rig) sameBytes() {
	r.t.Helper()
	r.c.Close()
	var first []byte
	for id := 1; id <= 3; id++ {
		got := r.batches(id)
		switch {
		case len(got) == 0:
			r.t.Fatalf("broker %d has no records", id)
		case first == nil:
			first = got
		case !bytes.Equal(first, got):
			r.t.Errorf("the batches of broker %d are not those of broker 1", id)
		}
	}
}

func (r *rig) batches(id int) (out []byte) {
	r.t.Helper()
	s, err := segment.Open(segment.Options{Dir: r.options[id].Dir, MustExist: true})
	if err != nil {
		r.t.Fatal(err)
	}
	defer s.Close()
	refs := s.Refs()
	if len(refs) != 1 {
		r.t.Fatalf("logs: %v", refs)
	}
	l := s.Log(refs[0])
	if l.Suspect() != segment.Trusted || len(l.Damaged()) != 0 {
		r.t.Fatalf("broker %d: the log is %v, damaged %v", id, l.Suspect(), l.Damaged())
	}
	for at := l.Start(); at < l.End(); {
		rg, err := l.Read(at, l.End(), 1<<30, true)
		if err != nil {
			r.t.Fatal(err)
		}
		out, err = rg.AppendTo(out)
		rg.Release()
		if err != nil {
			r.t.Fatal(err)
		}
		at = nextOffset(r.t, out)
	}
	return out
}

// nextOffset is the offset after the last of some batches.
func nextOffset(t *testing.T, batches []byte) (next int64) {
	t.Helper()
	for len(batches) > 0 {
		h, raw, err := batch.Next(batches)
		if err != nil {
			t.Fatal(err)
		}
		next, batches = h.NextOffset(), batches[len(raw):]
	}
	return next
}
