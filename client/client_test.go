package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/tailrace/tailrace/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline is how long a test waits for what must happen; generous, because
// the machine may be busy with other things.
const deadline = 60 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// newCluster starts a fake cluster of three brokers with topic "t".
func newCluster(t testing.TB, partitions int32) (*kfake.Cluster, *client.Client) {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(partitions, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k, newClient(t, k)
}

func newClient(t testing.TB, k *kfake.Cluster) *client.Client {
	t.Helper()
	cl, err := client.New(context.Background(), client.Options{Seeds: k.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// fill produces n records "v0", "v1", … to one partition, one a batch.
func fill(t testing.TB, cl *client.Client, partition int32, n int) {
	t.Helper()
	p, err := cl.Producer(client.ProducerOptions{Topic: "t", ManualPartitions: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range n {
		r := &client.Record{Partition: partition, Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i)}
		if _, err := p.Produce(testContext(t), r); err != nil {
			t.Fatal(err)
		}
	}
}

// collect reads until StopAtEnd ends the iteration.
func collect(t testing.TB, cl *client.Client, o client.ConsumerOptions) ([]*client.Record, error) {
	t.Helper()
	o.Topic, o.StopAtEnd = "t", true
	con, err := cl.Consumer(testContext(t), o)
	if err != nil {
		return nil, err
	}
	defer con.Close()
	var out []*client.Record
	for r, err := range con.Records(testContext(t)) {
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
	return out, nil
}

func TestProduceAndConsume(t *testing.T) {
	_, cl := newCluster(t, 3)
	for p := range int32(3) {
		fill(t, cl, p, 20)
	}
	got, err := collect(t, cl, client.ConsumerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 60 {
		t.Fatalf("got %d records, want 60", len(got))
	}
	next := map[int32]int64{}
	for _, r := range got {
		if r.Offset != next[r.Partition] {
			t.Fatalf("partition %d: offset %d, want %d", r.Partition, r.Offset, next[r.Partition])
		}
		if want := fmt.Sprintf("v%d", r.Offset); string(r.Value) != want {
			t.Fatalf("value %q, want %q", r.Value, want)
		}
		next[r.Partition]++
	}
}

func TestUnknownTopic(t *testing.T) {
	_, cl := newCluster(t, 1)
	_, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "nope"})
	if !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("got %v, want ErrNotFound", err)
	}
}
