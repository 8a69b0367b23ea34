package web

import (
	"context"
	"iter"

	"github.com/tailrace/tailrace/client"
)

// TailRequest says what a tail reads.
type TailRequest struct {
	Topic      string
	Partitions []int32 // none means all
	From       client.Position
}

// Tail is an open tail. *client.Consumer is one.
type Tail interface {
	// Records yields committed records until ctx ends or it fails.
	Records(ctx context.Context) iter.Seq2[*client.Record, error]
	Close()
}

// Tailer opens tails. An error that matches client.ErrNotFound means that there
// is no such topic or partition.
type Tailer interface {
	Tail(ctx context.Context, r TailRequest) (Tail, error)
}

// KafkaTailer tails through the Kafka protocol, as any consumer does. So a tail
// is the same from whichever broker it is asked: committed records only, read
// from the nearest replica that can serve them.
type KafkaTailer struct {
	client *client.Client
	policy client.ReplicaPolicy
}

// NewKafkaTailer makes a tailer; o.Seeds is usually the broker's own Kafka
// listener, and o.Rack its rack.
func NewKafkaTailer(o client.Options) (*KafkaTailer, error) {
	if o.ClientID == "" {
		o.ClientID = "tailrace-web"
	}
	cl, err := client.New(context.Background(), o)
	if err != nil {
		return nil, err
	}
	policy := client.Leader()
	if o.Rack != "" {
		policy = client.Nearest(o.Rack)
	}
	return &KafkaTailer{client: cl, policy: policy}, nil
}

// Tail implements Tailer.
func (k *KafkaTailer) Tail(ctx context.Context, r TailRequest) (Tail, error) {
	con, err := k.client.Consumer(ctx, client.ConsumerOptions{
		Topic: r.Topic, Partitions: r.Partitions, From: r.From, Replica: k.policy,
	})
	if err != nil {
		return nil, err
	}
	return con, nil
}

// Close ends the tailer's connections; open tails have their own.
func (k *KafkaTailer) Close() { k.client.Close() }
