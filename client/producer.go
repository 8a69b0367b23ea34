package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Acks says what a produce waits for. A cluster may insist on more: Tailrace
// treats One like All unless the topic has acks.floor=client.
type Acks int8

const (
	// AcksAll waits for every member of the in-sync set. The default.
	AcksAll Acks = iota
	// AcksOne waits for the leader only. It turns idempotence off.
	AcksOne
	// AcksNone does not wait: the record may be lost and nobody is told.
	AcksNone
)

// ParseAcks reads "all", "-1", "1" or "0".
func ParseAcks(s string) (Acks, error) {
	switch s {
	case "all", "-1":
		return AcksAll, nil
	case "1":
		return AcksOne, nil
	case "0":
		return AcksNone, nil
	}
	return 0, fmt.Errorf("bad acks %q: use all, 1 or 0", s)
}

// ProducerOptions shape a Producer. The zero value is a safe default: idempotent,
// acks=all, no compression, retries until the context of the call ends.
type ProducerOptions struct {
	// Topic is used for records that name none.
	Topic string
	Acks  Acks
	// DisableIdempotence gives up exactly-once delivery to the log: a retry may
	// then write a record twice.
	DisableIdempotence bool
	// Compression is "none", "gzip", "snappy", "lz4" or "zstd". Default none.
	Compression string
	// Linger is how long to wait for more records to share a batch. Default 0.
	Linger time.Duration
	// MaxBatchBytes bounds one batch as sent, so also one record. Default 1 MiB - 16 KiB
	// below Kafka's own default of 1,048,588 for max.message.bytes.
	MaxBatchBytes int32
	// MaxBufferedRecords bounds records that wait to be sent; Produce and
	// ProduceAsync block above it. Default 10,000.
	MaxBufferedRecords int
	// ManualPartitions sends each record to its Partition field. Otherwise the
	// key's hash chooses (the same as Kafka's), or load where there is no key.
	ManualPartitions bool
	// DeliveryTimeout bounds one record from Produce to acknowledgement; 0 means
	// the context alone does.
	DeliveryTimeout time.Duration
}

// Producer writes records. Records of one partition are stored in the order in
// which they were handed over, whatever is retried in between.
type Producer struct {
	client *Client
	core   *kgo.Client
}

// Result is the fate of one record of a batch.
type Result struct {
	Record *Record // with Partition, Offset and Timestamp as stored
	Err    error   // nil means acknowledged
}

// Producer makes a producer.
func (c *Client) Producer(o ProducerOptions) (*Producer, error) {
	opts, err := producerOpts(o)
	if err != nil {
		return nil, &Error{Op: "make producer", Kind: ErrInvalid, Err: err}
	}
	core, err := c.newCore(opts...)
	if err != nil {
		return nil, err
	}
	return &Producer{client: c, core: core}, nil
}

func producerOpts(o ProducerOptions) ([]kgo.Opt, error) {
	codec, err := compressionCodec(o.Compression)
	if err != nil {
		return nil, err
	}
	opts := []kgo.Opt{
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerLinger(o.Linger),
		// A cancelled call returns at once, with an unknown fate: the record may
		// be written or not. The producer then takes a new epoch, so its own
		// retries stay exactly-once, but a record produced anew is a new record.
		kgo.AllowIdempotentProduceCancellation(),
		// A topic that does not exist is an answer, not something to wait for:
		// a few tries cover a broker that has not heard of a new topic yet.
		kgo.UnknownTopicRetries(4),
	}
	switch o.Acks {
	case AcksOne:
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()))
	case AcksNone:
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()))
	}
	if o.DisableIdempotence || o.Acks != AcksAll {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	if o.Topic != "" {
		opts = append(opts, kgo.DefaultProduceTopic(o.Topic))
	}
	if o.MaxBatchBytes > 0 {
		opts = append(opts, kgo.ProducerBatchMaxBytes(o.MaxBatchBytes), kgo.BrokerMaxWriteBytes(max(100<<20, 2*o.MaxBatchBytes)))
	}
	if o.MaxBufferedRecords > 0 {
		opts = append(opts, kgo.MaxBufferedRecords(o.MaxBufferedRecords))
	}
	if o.ManualPartitions {
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	if o.DeliveryTimeout > 0 {
		opts = append(opts, kgo.RecordDeliveryTimeout(o.DeliveryTimeout))
	}
	return opts, nil
}

func compressionCodec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "", "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.NoCompression(), fmt.Errorf("bad compression %q: use none, gzip, snappy, lz4 or zstd", name)
}

// Produce writes one record and returns when it is acknowledged, with its
// partition, offset and timestamp filled in.
func (p *Producer) Produce(ctx context.Context, r *Record) (*Record, error) {
	res := p.ProduceBatch(ctx, r)[0]
	return res.Record, res.Err
}

// ProduceAsync queues one record and calls done (which may be nil) once with
// its fate, from another goroutine. It blocks while the buffer is full and
// keeps the record's bytes until done is called.
func (p *Producer) ProduceAsync(ctx context.Context, r *Record, done func(*Record, error)) {
	p.core.Produce(ctx, r, func(r *Record, err error) {
		if done != nil {
			done(r, p.fail(r, err))
		}
	})
}

// ProduceBatch queues all records, then waits for every one of them. The
// results are in the order of the records.
func (p *Producer) ProduceBatch(ctx context.Context, records ...*Record) []Result {
	results := make([]Result, len(records))
	finished := make(chan struct{}, len(records))
	for i, r := range records {
		p.core.Produce(ctx, r, func(r *Record, err error) {
			results[i] = Result{Record: r, Err: p.fail(r, err)}
			finished <- struct{}{}
		})
	}
	for range records {
		<-finished
	}
	return results
}

// FirstError returns the first error among results, or nil.
func FirstError(results []Result) error {
	for _, r := range results {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

func (p *Producer) fail(r *Record, err error) error {
	if err == nil {
		return nil
	}
	op := "produce"
	if r != nil && r.Topic != "" {
		op = "produce to " + r.Topic
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return p.client.explain(op, err)
	}
	return wrap(op, err)
}

// Flush returns when everything queued before the call has its fate.
func (p *Producer) Flush(ctx context.Context) error {
	return p.client.explain("flush", p.core.Flush(ctx))
}

// Close fails what is still queued and ends the connections. Call Flush first
// to keep it.
func (p *Producer) Close() { p.core.Close() }
