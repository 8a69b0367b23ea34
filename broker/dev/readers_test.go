package dev

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tailrace/tailrace/client"
)

// TestNearestIsServedByFollower: a consumer in a follower's rack is sent there
// by the leader (KIP-392) and reads from it, also after the topic was idle; what
// it is shown is committed.
func TestNearestIsServedByFollower(t *testing.T) {
	c := start(t, t.TempDir())
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	kcl := newClient(t, c)
	defer kcl.Close()
	admin := kadm.NewClient(kcl)
	if _, err := admin.CreateTopic(ctx, 1, 3, nil, "t"); err != nil {
		t.Fatal(err)
	}
	const n = 50
	for i := range n {
		produce(ctx, t, kcl, i)
	}
	leader := leaderOf(ctx, t, admin, "t", 0)
	follower := leader%3 + 1
	// Nothing is written for longer than a broker may be silent.
	time.Sleep(2500 * time.Millisecond)

	// More is written while it reads: the ends that it sees are the leader's.
	more, stop := context.WithCancel(ctx)
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := n; more.Err() == nil; i++ {
			produce(ctx, t, kcl, i)
		}
	})
	defer writer.Wait()
	defer stop()

	cl, err := client.New(ctx, client.Options{Seeds: c.Kafka()})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	con, err := cl.Consumer(ctx, client.ConsumerOptions{Topic: "t", Replica: client.Nearest(fmt.Sprintf("rack-%d", follower))})
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	var next int64
	for r, err := range con.Records(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Offset != next {
			t.Fatalf("offset %d, want %d", r.Offset, next)
		}
		next++
		if next%10 == 0 {
			if end := endOffset(ctx, t, admin, "t", 0); end < next {
				t.Fatalf("saw offset %d, committed are those below %d", r.Offset, end)
			}
		}
		if next == 3*n {
			break
		}
	}
	served := con.Served()
	if served[follower] < n || served[follower] < served[leader] {
		t.Errorf("served %v by broker, want mostly by follower %d", served, follower)
	}
}

// TestFranzRackIsServedByFollower: the same for a client that is not ours.
func TestFranzRackIsServedByFollower(t *testing.T) {
	c := start(t, t.TempDir())
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	kcl := newClient(t, c)
	defer kcl.Close()
	admin := kadm.NewClient(kcl)
	if _, err := admin.CreateTopic(ctx, 1, 3, nil, "t"); err != nil {
		t.Fatal(err)
	}
	const n = 50
	for i := range n {
		produce(ctx, t, kcl, i)
	}
	leader := leaderOf(ctx, t, admin, "t", 0)
	follower := leader%3 + 1
	by := &servedBy{records: map[int32]int{}}
	con := newClient(t, c, kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.Rack(fmt.Sprintf("rack-%d", follower)), kgo.WithHooks(by))
	defer con.Close()
	for seen := 0; seen < n; {
		fs := con.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("%d of %d records: %v", seen, n, err)
		}
		seen += fs.NumRecords()
	}
	by.mu.Lock()
	defer by.mu.Unlock()
	if by.records[follower] < n {
		t.Errorf("served %v by broker, want follower %d", by.records, follower)
	}
}

// servedBy counts the records of each broker.
type servedBy struct {
	mu      sync.Mutex
	records map[int32]int
}

func (s *servedBy) OnFetchBatchRead(b kgo.BrokerMetadata, _ string, _ int32, m kgo.FetchBatchMetrics) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[b.NodeID] += m.NumRecords
}

func produce(ctx context.Context, t *testing.T, cl *kgo.Client, i int) {
	r := &kgo.Record{Topic: "t", Partition: 0, Key: fmt.Append(nil, i), Value: fmt.Append(nil, "value ", i)}
	if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
		t.Errorf("record %d: %v", i, err)
	}
}

func leaderOf(ctx context.Context, t *testing.T, admin *kadm.Client, topic string, p int32) int32 {
	t.Helper()
	td, err := admin.ListTopics(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	return td[topic].Partitions[p].Leader
}

func endOffset(ctx context.Context, t *testing.T, admin *kadm.Client, topic string, p int32) int64 {
	t.Helper()
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := ends.Lookup(topic, p)
	return o.Offset
}
