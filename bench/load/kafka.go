package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

type kafka struct {
	o     Options
	admin *kgo.Client
}

func newKafka(o Options) (*kafka, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(o.Bootstrap...), kgo.MetadataMinAge(metadataMinAge), kgo.RetryBackoffFn(backoff))
	if err != nil {
		return nil, err
	}
	return &kafka{o: o, admin: cl}, nil
}

func (k *kafka) Close() { k.admin.Close() }

// Compressions are the codecs by name.
var compressions = map[string]kgo.CompressionCodec{
	"": kgo.NoCompression(), "none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// maxRecords bounds the records in a producer's buffer, beside its bytes: a
// queue of small records has a limit too.
const maxRecords = 200_000

// How soon a client looks again after an error. franz-go's defaults (5 s, 250 ms
// doubling) are kind to large clusters, and would be all that a failover or a
// restart measures; Kafka's own clients ask again after 100 ms.
const (
	metadataMinAge = 10 * time.Millisecond
	minBackoff     = 10 * time.Millisecond
	maxBackoff     = 100 * time.Millisecond
	requestRetries = 1200 // two minutes of maxBackoff
)

// produceTimeout is how long a broker may take for a produce request. franz-go's default
// of 10 s is less than one that syncs hundreds of small batches one by one needs when
// requests queue; it would be sent all of them again.
const produceTimeout = 60 * time.Second

// inFlight is what the client has in flight to a broker when it is
// idempotent; without that it is set to the same.
const inFlight = 5

func backoff(tries int) time.Duration {
	return min(minBackoff<<min(tries, 10), maxBackoff)
}

// ProducerOptions are the franz-go options of every producer, exported so that
// a report can be reproduced and other commands can add to them.
func ProducerOptions(o Options, topic string) ([]kgo.Opt, error) {
	codec, ok := compressions[o.Compression]
	if !ok {
		return nil, fmt.Errorf("unknown compression %q", o.Compression)
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.Bootstrap...),
		kgo.MetadataMinAge(metadataMinAge),
		kgo.RetryBackoffFn(backoff),
		kgo.RequestRetries(requestRetries),
		kgo.ProduceRequestTimeout(produceTimeout),
		kgo.DefaultProduceTopic(topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerLinger(o.Linger),
		kgo.MaxBufferedRecords(maxRecords),
	}
	if o.Buffer > 0 {
		opts = append(opts, kgo.MaxBufferedBytes(o.Buffer))
	}
	if o.BatchBytes > 0 {
		opts = append(opts, kgo.ProducerBatchMaxBytes(int32(o.BatchBytes)))
	}
	switch o.Acks {
	case "", "all":
		opts = append(opts, kgo.RequiredAcks(kgo.AllISRAcks()))
	case "leader":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(inFlight))
	case "none":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(inFlight))
	default:
		return nil, fmt.Errorf("unknown acks %q: all, leader or none", o.Acks)
	}
	return opts, nil
}

type kafkaProducer struct {
	cl     *kgo.Client
	ctx    context.Context
	end    context.CancelFunc
	common func(*kgo.Record, error)
}

func (k *kafka) Producer(topic string, done Done) (Producer, error) {
	opts, err := ProducerOptions(k.o, topic)
	if err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	p := &kafkaProducer{cl: cl}
	p.common = func(r *kgo.Record, err error) { done(len(r.Key)+len(r.Value), err) }
	p.ctx, p.end = context.WithCancel(context.Background())
	return p, nil
}

func (p *kafkaProducer) Send(partition int32, key, value []byte, done func(int64, error)) {
	promise := p.common
	if done != nil {
		promise = func(r *kgo.Record, err error) { done(r.Offset, err) }
	}
	p.cl.Produce(p.ctx, &kgo.Record{Partition: partition, Key: key, Value: value}, promise)
}

func (p *kafkaProducer) Flush(ctx context.Context) error { return p.cl.Flush(ctx) }

func (p *kafkaProducer) Close() { p.end(); p.cl.Close() }

type kafkaConsumer struct{ cl *kgo.Client }

func (k *kafka) Consumer(ctx context.Context, o ConsumerOptions) (Consumer, error) {
	at := kgo.NewOffset().AtStart()
	parts := map[int32]kgo.Offset{}
	if o.From == FromEnd {
		// Asked for now, so that what is produced after this call is read.
		ends, err := k.endOffsets(ctx, o.Topic, o.Partitions)
		if err != nil {
			return nil, err
		}
		for p, end := range ends {
			parts[p] = kgo.NewOffset().At(end)
		}
	} else {
		for p := range int32(o.Partitions) {
			parts[p] = at
		}
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(k.o.Bootstrap...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{o.Topic: parts}),
		kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.FetchMaxPartitionBytes(4 << 20),
		kgo.DisableFetchSessions(), // the same for every target, the floor programs included
	}
	if o.Rack != "" {
		opts = append(opts, kgo.Rack(o.Rack))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	return &kafkaConsumer{cl}, nil
}

func (c *kafkaConsumer) Poll(ctx context.Context, f func(Record)) error {
	fs := c.cl.PollFetches(ctx)
	var err error
	fs.EachError(func(_ string, p int32, e error) {
		if err == nil && !errors.Is(e, context.Canceled) && !errors.Is(e, context.DeadlineExceeded) {
			err = fmt.Errorf("partition %d: %w", p, e)
		}
	})
	fs.EachRecord(func(r *kgo.Record) { f(Record{r.Partition, r.Offset, r.Value}) })
	return errors.Join(err, ctx.Err())
}

func (c *kafkaConsumer) Close() { c.cl.Close() }
