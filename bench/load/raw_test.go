package load_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tailrace/tailrace/bench/limit"
	"github.com/tailrace/tailrace/bench/load"
	"github.com/tailrace/tailrace/bench/proc"
)

// storeServers are two processes' worth of the sendfile program.
func storeServers(t *testing.T) (addrs []string) {
	t.Helper()
	ports, err := proc.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, p := range ports {
		addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", p))
	}
	for i := range addrs {
		s, err := limit.StartStore(limit.StoreConfig{ID: i, Kafka: addrs, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return addrs
}

// fill produces n records of 100 bytes over all partitions.
func fill(t *testing.T, addrs []string, topic load.Topic, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cl, err := load.New("kafka", load.Options{Bootstrap: addrs, BatchBytes: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.CreateTopic(ctx, topic); err != nil {
		t.Fatal(err)
	}
	p, err := cl.Producer(topic.Name, func(_ int, err error) {
		if err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range n {
		p.Send(int32(i%topic.Partitions), nil, make([]byte, 100), nil)
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// A raw fetcher reads every record of every partition, then all of it again:
// from the leaders, and from one process that leads only half of them.
func TestRawFetchReadsEverythingAgainAndAgain(t *testing.T) {
	addrs := storeServers(t)
	const n, passes = 5_000, 3
	topic := load.Topic{Name: limit.TopicName("raw", 3), Partitions: 3, Replication: 1}
	fill(t, addrs, topic, n)
	for _, o := range []load.RawOptions{{Broker: load.Leaders, MaxBytes: 1 << 20}, {Broker: 1, MaxBytes: 10_000}} {
		o.Bootstrap, o.Topic, o.Partitions = addrs, topic.Name, topic.Partitions
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		var records, bytes atomic.Int64
		err := load.FetchRaw(ctx, o, func(r, b int64) {
			bytes.Add(b)
			if records.Add(r) >= passes*n {
				cancel()
			}
		})
		if err != nil || records.Load() < passes*n {
			t.Fatalf("%+v: %d records, %v", o, records.Load(), err)
		}
		if got := bytes.Load(); got < 100*records.Load() {
			t.Errorf("%d records in %d bytes of batches", records.Load(), got)
		}
		cancel()
	}
}

// The records of one pass are counted once each.
func TestRawFetchCountsExactly(t *testing.T) {
	addrs := storeServers(t)
	topic := load.Topic{Name: limit.TopicName("exact", 1), Partitions: 1, Replication: 1}
	const n = 1_000
	fill(t, addrs, topic, n)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var mu sync.Mutex
	var sums []int64 // after each batch
	err := load.FetchRaw(ctx, load.RawOptions{Bootstrap: addrs, Topic: topic.Name, Partitions: 1, Broker: load.Leaders, MaxBytes: 9_000}, func(r, _ int64) {
		mu.Lock()
		defer mu.Unlock()
		last := int64(0)
		if len(sums) > 0 {
			last = sums[len(sums)-1]
		}
		sums = append(sums, last+r)
		if last+r >= 2*n {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, pass := range []int64{n, 2 * n} {
		found := false
		for _, s := range sums {
			found = found || s == pass
		}
		if !found {
			t.Errorf("no batch ends at record %d, the end of a pass: %v", pass, sums)
		}
	}
}

func TestRawFetchErrors(t *testing.T) {
	addrs := storeServers(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	topic := load.Topic{Name: limit.TopicName("empty", 1), Partitions: 1, Replication: 1}
	err := load.FetchRaw(ctx, load.RawOptions{Bootstrap: addrs, Topic: topic.Name, Partitions: 1, Broker: load.Leaders, MaxBytes: 1 << 20}, func(int64, int64) {})
	if err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty topic: %v", err)
	}
	fill(t, addrs, topic, 10)
	err = load.FetchRaw(ctx, load.RawOptions{Bootstrap: addrs, Topic: topic.Name, Partitions: 1, Broker: 7, MaxBytes: 1 << 20}, func(int64, int64) {})
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a broker that does not exist: %v", err)
	}
}
