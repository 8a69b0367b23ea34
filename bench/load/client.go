// Package load makes load: producers and consumers of a target behind one
// small interface, and a generator that keeps a schedule. Every target that
// speaks Kafka's protocol is driven by the same franz-go client.
package load

import (
	"context"
	"fmt"
	"time"
)

// Topic says what to create.
type Topic struct {
	Name        string
	Partitions  int
	Replication int
	MinInSync   int       // 0: the target's default
	SyncSet     int       // sync.replicas of ours; 0: the target's default
	Assignment  [][]int32 // replicas of each partition, the leader first; nil: the target places them
}

// Options of a client.
type Options struct {
	Bootstrap   []string
	Acks        string // all, leader, none
	BatchBytes  int
	Linger      time.Duration
	Compression string // none, gzip, snappy, lz4, zstd
	Buffer      int    // bytes a producer holds before Send blocks
}

// Done is told the outcome of records that were sent without a function of
// their own: bytes of key and value. It may be nil if there are none.
type Done func(bytes int, err error)

// Producer sends records. Send blocks while the buffer is full; done is called
// once for each record, on another goroutine. With a nil done the outcome goes
// to the producer's Done, which costs no memory per record.
type Producer interface {
	Send(partition int32, key, value []byte, done func(offset int64, err error))
	Flush(ctx context.Context) error
	Close()
}

// Record is what a consumer got. Value is valid until the next Poll.
type Record struct {
	Partition int32
	Offset    int64
	Value     []byte
}

// Consumer reads all partitions of a topic.
type Consumer interface {
	// Poll waits for records and hands them to f.
	Poll(ctx context.Context, f func(Record)) error
	Close()
}

// From says where a consumer starts.
type From int

// Starts of a consumer.
const (
	FromStart From = iota
	FromEnd
)

// ConsumerOptions says how a consumer reads.
type ConsumerOptions struct {
	Topic      string
	Partitions int
	From       From
	Rack       string // read from the replica in this rack; empty: from the leader
}

// Client makes producers and consumers of one target.
type Client interface {
	// CreateTopic returns when every partition of the topic is served.
	CreateTopic(ctx context.Context, t Topic) error
	// TryCreateTopic asks once for a topic of a target that may not be up, and
	// returns when it was answered.
	TryCreateTopic(ctx context.Context, t Topic) error
	DeleteTopic(ctx context.Context, t Topic) error
	Producer(topic string, done Done) (Producer, error)
	Consumer(ctx context.Context, o ConsumerOptions) (Consumer, error)
	Close()
}

// New returns the client for a protocol: "kafka" or "nats".
func New(protocol string, o Options) (Client, error) {
	switch protocol {
	case "kafka":
		return newKafka(o)
	case "nats":
		return newNATS(o)
	}
	return nil, fmt.Errorf("no client for protocol %q", protocol)
}
