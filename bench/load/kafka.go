package load

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type kafka struct {
	o     Options
	admin *kgo.Client
}

func newKafka(o Options) (*kafka, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(o.Bootstrap...))
	if err != nil {
		return nil, err
	}
	return &kafka{o: o, admin: cl}, nil
}

func (k *kafka) Close() { k.admin.Close() }

// topicReady is how long a new topic may take to have a leader everywhere.
const topicReady = 60 * time.Second

func (k *kafka) CreateTopic(ctx context.Context, t Topic) error {
	ctx, cancel := context.WithTimeout(ctx, topicReady)
	defer cancel()
	adm := kadm.NewClient(k.admin)
	if err := k.create(ctx, t); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", t.Name, err)
	}
	for {
		if k.ready(ctx, adm, t) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("topic %s: not every partition has a leader: %w", t.Name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (k *kafka) create(ctx context.Context, t Topic) error {
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Name, int32(t.Partitions), int16(t.Replication)
	for i, replicas := range t.Assignment {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = int32(i), replicas
		rt.ReplicaAssignment = append(rt.ReplicaAssignment, a)
		rt.NumPartitions, rt.ReplicationFactor = -1, -1
	}
	set := func(name string, v int) {
		if v > 0 {
			c := kmsg.NewCreateTopicsRequestTopicConfig()
			c.Name, c.Value = name, kmsg.StringPtr(strconv.Itoa(v))
			rt.Configs = append(rt.Configs, c)
		}
	}
	set("min.insync.replicas", t.MinInSync)
	set("sync.replicas", t.SyncSet)
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics, req.TimeoutMillis = append(req.Topics, rt), int32(topicReady/time.Millisecond)
	resp, err := req.RequestWith(ctx, k.admin)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return fmt.Errorf("%w %s", err, deref(t.ErrorMessage))
		}
	}
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (k *kafka) ready(ctx context.Context, adm *kadm.Client, t Topic) bool {
	md, err := adm.Metadata(ctx, t.Name)
	if err != nil {
		return false
	}
	parts := md.Topics[t.Name].Partitions
	for _, p := range parts {
		if p.Err != nil || p.Leader < 0 {
			return false
		}
	}
	return len(parts) >= t.Partitions
}

func (k *kafka) DeleteTopic(ctx context.Context, t Topic) error {
	_, err := kadm.NewClient(k.admin).DeleteTopic(ctx, t.Name)
	return err
}

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
		ends, err := kadm.NewClient(k.admin).ListEndOffsets(ctx, o.Topic)
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return nil, fmt.Errorf("end offsets of %s: %w", o.Topic, err)
		}
		ends.Each(func(l kadm.ListedOffset) { parts[l.Partition] = kgo.NewOffset().At(l.Offset) })
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
