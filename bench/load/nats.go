package load

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// The NATS client. A partition is a stream of its own (one Raft group each),
// which is what a partition costs there too; acks are JetStream's.
type natsClient struct {
	o  Options
	nc *nats.Conn
	js nats.JetStreamContext
}

func natsURL(bootstrap []string) string {
	urls := make([]string, len(bootstrap))
	for i, b := range bootstrap {
		urls[i] = "nats://" + b
	}
	return strings.Join(urls, ",")
}

func newNATS(o Options) (*natsClient, error) {
	nc, err := nats.Connect(natsURL(o.Bootstrap), nats.MaxReconnects(-1))
	if err != nil {
		return nil, err
	}
	js, err := nc.JetStream(nats.MaxWait(20 * time.Second))
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &natsClient{o, nc, js}, nil
}

func (n *natsClient) Close() { n.nc.Close() }

func stream(topic string, partition int) string { return fmt.Sprintf("%s_%d", topic, partition) }
func subject(topic string, partition int32) string {
	return fmt.Sprintf("bench.%s.%d", topic, partition)
}

func (n *natsClient) CreateTopic(ctx context.Context, t Topic) error {
	if err := n.TryCreateTopic(ctx, t); err != nil {
		return err
	}
	return n.waitCurrent(ctx, t)
}

func (n *natsClient) TryCreateTopic(ctx context.Context, t Topic) error {
	for p := range t.Partitions {
		_, err := n.js.AddStream(&nats.StreamConfig{Name: stream(t.Name, p), Subjects: []string{subject(t.Name, int32(p))},
			Storage: nats.FileStorage, Replicas: t.Replication}, nats.Context(ctx))
		if err != nil {
			return fmt.Errorf("stream %s: %w", stream(t.Name, p), err)
		}
	}
	return nil
}

// waitCurrent returns when every stream has its replicas in sync.
func (n *natsClient) waitCurrent(ctx context.Context, t Topic) error {
	ctx, cancel := context.WithTimeout(ctx, topicReady)
	defer cancel()
	for p := 0; p < t.Partitions; {
		si, err := n.js.StreamInfo(stream(t.Name, p), nats.Context(ctx))
		if err == nil && current(si) >= t.Replication {
			p++
			continue
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stream %s is not in sync: %w (%w)", stream(t.Name, p), ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

func current(si *nats.StreamInfo) int {
	if si.Cluster == nil || si.Cluster.Leader == "" {
		return 0
	}
	n := 1
	for _, r := range si.Cluster.Replicas {
		if r.Current {
			n++
		}
	}
	return n
}

func (n *natsClient) DeleteTopic(ctx context.Context, t Topic) error {
	var errs []error
	for p := range t.Partitions {
		errs = append(errs, n.js.DeleteStream(stream(t.Name, p), nats.Context(ctx)))
	}
	return errors.Join(errs...)
}

// natsPending bounds the publishes of one producer without an answer.
const natsPending = 4000

type natsProducer struct {
	nc    *nats.Conn
	js    nats.JetStreamContext
	topic string
	other Done
	acks  chan natsAck
	slots chan struct{}
	end   chan struct{} // closed by Close: what has no answer yet gets none
	done  chan struct{}
}

type natsAck struct {
	future nats.PubAckFuture
	done   func(int64, error)
}

func (n *natsClient) Producer(topic string, done Done) (Producer, error) {
	nc, err := nats.Connect(natsURL(n.o.Bootstrap), nats.MaxReconnects(-1))
	if err != nil {
		return nil, err
	}
	js, err := nc.JetStream(nats.PublishAsyncMaxPending(natsPending), nats.MaxWait(20*time.Second))
	if err != nil {
		nc.Close()
		return nil, err
	}
	p := &natsProducer{nc: nc, js: js, topic: topic, other: done, acks: make(chan natsAck, natsPending), slots: make(chan struct{}, natsPending), end: make(chan struct{}), done: make(chan struct{})}
	go p.await()
	return p, nil
}

// await completes publishes in the order of sending; the client completes
// them in the order of the answers, which differs little.
func (p *natsProducer) await() {
	defer close(p.done)
	for a := range p.acks {
		select {
		case ack := <-a.future.Ok():
			a.done(int64(ack.Sequence)-1, nil)
		case err := <-a.future.Err():
			a.done(-1, err)
		case <-p.end:
			a.done(-1, nats.ErrConnectionClosed)
		}
		<-p.slots
	}
}

func (p *natsProducer) Send(partition int32, _, value []byte, done func(int64, error)) {
	if done == nil {
		done = func(_ int64, err error) { p.other(len(value), err) }
	}
	p.slots <- struct{}{}
	f, err := p.js.PublishAsync(subject(p.topic, partition), value)
	if err != nil {
		<-p.slots
		done(-1, err)
		return
	}
	p.acks <- natsAck{f, done}
}

func (p *natsProducer) Flush(ctx context.Context) error {
	select {
	case <-p.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	for range natsPending { // all slots free: await has called every done
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range natsPending {
		<-p.slots
	}
	return nil
}

func (p *natsProducer) Close() { close(p.end); close(p.acks); p.nc.Close(); <-p.done }

type natsConsumer struct {
	nc   *nats.Conn
	msgs chan *nats.Msg
}

// Consumer uses ordered ephemeral consumers, JetStream's fastest way to read.
func (n *natsClient) Consumer(_ context.Context, o ConsumerOptions) (Consumer, error) {
	nc, err := nats.Connect(natsURL(n.o.Bootstrap), nats.MaxReconnects(-1))
	if err != nil {
		return nil, err
	}
	js, err := nc.JetStream(nats.MaxWait(20 * time.Second))
	if err != nil {
		nc.Close()
		return nil, err
	}
	c := &natsConsumer{nc: nc, msgs: make(chan *nats.Msg, 64<<10)}
	start := nats.DeliverAll()
	if o.From == FromEnd {
		start = nats.DeliverNew()
	}
	for p := range o.Partitions {
		_, err := js.Subscribe(subject(o.Topic, int32(p)), func(m *nats.Msg) { c.msgs <- m }, nats.OrderedConsumer(), start, nats.BindStream(stream(o.Topic, p)))
		if err != nil {
			nc.Close()
			return nil, err
		}
	}
	return c, nil
}

func (c *natsConsumer) Poll(ctx context.Context, f func(Record)) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case m := <-c.msgs:
		c.hand(m, f)
	}
	for {
		select {
		case m := <-c.msgs:
			c.hand(m, f)
		default:
			return nil
		}
	}
}

func (c *natsConsumer) hand(m *nats.Msg, f func(Record)) {
	r := Record{Offset: -1, Value: m.Data}
	if md, err := m.Metadata(); err == nil {
		r.Offset = int64(md.Sequence.Stream) - 1
	}
	if i := strings.LastIndexByte(m.Subject, '.'); i >= 0 {
		fmt.Sscan(m.Subject[i+1:], &r.Partition)
	}
	f(r)
}

func (c *natsConsumer) Close() {
	c.nc.Close()
	for { // free a callback that waits on the channel
		select {
		case <-c.msgs:
		default:
			return
		}
	}
}
