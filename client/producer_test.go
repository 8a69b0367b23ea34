package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/client"
)

func newProducer(t *testing.T, cl *client.Client, o client.ProducerOptions) *client.Producer {
	t.Helper()
	p, err := cl.Producer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// TestIdempotentByDefault: batches carry a producer id unless told otherwise.
func TestIdempotentByDefault(t *testing.T) {
	for _, c := range []struct {
		o    client.ProducerOptions
		want bool
		acks int16
	}{
		{client.ProducerOptions{}, true, -1},
		{client.ProducerOptions{DisableIdempotence: true}, false, -1},
		{client.ProducerOptions{Acks: client.AcksOne}, false, 1},
	} {
		k, cl := newCluster(t, 1)
		var mu sync.Mutex
		var ids []int64
		var acks []int16
		k.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			req := kreq.(*kmsg.ProduceRequest)
			var b kmsg.RecordBatch
			if err := b.ReadFrom(req.Topics[0].Partitions[0].Records); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			ids, acks = append(ids, b.ProducerID), append(acks, req.Acks)
			return nil, nil, false
		})
		c.o.Topic = "t"
		if _, err := newProducer(t, cl, c.o).Produce(testContext(t), &client.Record{Value: []byte("v")}); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if (ids[0] >= 0) != c.want || acks[0] != c.acks {
			t.Errorf("%+v: producer id %d, acks %d", c.o, ids[0], acks[0])
		}
		mu.Unlock()
	}
}

func TestCompressions(t *testing.T) {
	_, cl := newCluster(t, 1)
	value := bytes.Repeat([]byte("compress me "), 100)
	names := []string{"none", "gzip", "snappy", "lz4", "zstd"}
	for _, name := range names {
		p := newProducer(t, cl, client.ProducerOptions{Topic: "t", Compression: name})
		if _, err := p.Produce(testContext(t), &client.Record{Value: value}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	got, err := collect(t, cl, client.ConsumerOptions{})
	if err != nil || len(got) != len(names) {
		t.Fatalf("%d records, %v", len(got), err)
	}
	for i, r := range got {
		if !bytes.Equal(r.Value, value) {
			t.Errorf("%s came back different", names[i])
		}
	}
	if _, err := cl.Producer(client.ProducerOptions{Compression: "zip"}); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("unknown codec: %v", err)
	}
}

func TestAsyncAndBatchKeepOrder(t *testing.T) {
	_, cl := newCluster(t, 1)
	p := newProducer(t, cl, client.ProducerOptions{Topic: "t"})
	var mu sync.Mutex
	done := map[string]int64{}
	for i := range 50 {
		p.ProduceAsync(testContext(t), &client.Record{Value: fmt.Appendf(nil, "a%d", i)}, func(r *client.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			done[string(r.Value)] = r.Offset
		})
	}
	p.ProduceAsync(testContext(t), &client.Record{Value: []byte("no callback")}, nil)
	if err := p.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	for i := range 50 {
		if at, ok := done[fmt.Sprintf("a%d", i)]; !ok || at != int64(i) {
			t.Errorf("record %d is at %d (%v)", i, at, ok)
		}
	}
	mu.Unlock()
	results := p.ProduceBatch(testContext(t), &client.Record{Value: []byte("x")}, &client.Record{Topic: "nope", Value: []byte("y")}, &client.Record{Value: []byte("z")})
	if results[0].Err != nil || results[2].Err != nil || results[2].Record.Offset != 52 {
		t.Errorf("results: %+v", results)
	}
	if err := client.FirstError(results); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("unknown topic: %v", err)
	}
}

func TestTombstoneAndHeaders(t *testing.T) {
	_, cl := newCluster(t, 1)
	p := newProducer(t, cl, client.ProducerOptions{Topic: "t"})
	in := &client.Record{Key: []byte("k"), Headers: []client.Header{{Key: "a", Value: []byte("1")}, {Key: "a"}}}
	if _, err := p.Produce(testContext(t), in); err != nil {
		t.Fatal(err)
	}
	got, err := collect(t, cl, client.ConsumerOptions{})
	if err != nil || len(got) != 1 {
		t.Fatalf("%v %v", got, err)
	}
	if got[0].Value != nil || len(got[0].Headers) != 2 || got[0].Headers[1].Value != nil {
		t.Errorf("came back as %+v", got[0])
	}
}

func TestTooLarge(t *testing.T) {
	_, cl := newCluster(t, 1)
	p := newProducer(t, cl, client.ProducerOptions{Topic: "t"})
	_, err := p.Produce(testContext(t), &client.Record{Value: make([]byte, 2<<20)})
	if !errors.Is(err, client.ErrTooLarge) || !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("got %v", err)
	}
}

// TestProduceReturnsWithItsContext: also with a request in flight to a broker
// that never answers.
func TestProduceReturnsWithItsContext(t *testing.T) {
	k, cl := newCluster(t, 1)
	release := make(chan struct{})
	defer close(release)
	k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.SleepControl(func() { <-release })
		return nil, nil, false
	})
	p := newProducer(t, cl, client.ProducerOptions{Topic: "t"})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := p.Produce(ctx, &client.Record{Value: []byte("v")})
	if !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begun); took > 9*time.Second {
		t.Errorf("returned after %v", took)
	}
}

// TestErrorKinds maps Kafka's codes through a produce.
func TestErrorKinds(t *testing.T) {
	for code, kind := range map[*kerr.Error]error{
		kerr.TopicAuthorizationFailed: client.ErrDenied,
		kerr.InvalidTopicException:    client.ErrInvalid,
		kerr.RecordListTooLarge:       client.ErrTooLarge,
		kerr.PolicyViolation:          client.ErrInvalid,
		kerr.UnknownServerError:       client.ErrFailed,
	} {
		k, cl := newCluster(t, 1)
		k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code, Count: -1})
		p := newProducer(t, cl, client.ProducerOptions{Topic: "t"})
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		_, err := p.Produce(ctx, &client.Record{Value: []byte("v")})
		cancel()
		if !errors.Is(err, kind) || !errors.Is(err, code) {
			t.Errorf("%s: %v is not %v", code.Message, err, kind)
		}
	}
}
