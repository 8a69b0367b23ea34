package broker

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tailrace/tailrace/broker/api"
	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
)

// The methods below implement api.Backend.

// Self is this broker's id.
func (b *Broker) Self() model.BrokerID { return b.o.ID }

// Image is the latest metadata that the replicas have acted on.
func (b *Broker) Image() *control.Image {
	if img := b.host.Image(); img != nil {
		return img
	}
	return b.node.Image()
}

// Replica returns the hosted replica of tp.
func (b *Broker) Replica(tp model.TopicPartition) api.Replica {
	if v, ok := b.host.View(tp).(*replicaView); ok {
		return v
	}
	return nil
}

// view makes the api's view of a replica, once in the replica's life.
func (b *Broker) view(r *partition.Replica) any { return &replicaView{Replica: r, b: b, h: b.host} }

// LeaseValid reports whether this broker may give answers that only a current
// leader can give.
func (b *Broker) LeaseValid() bool { return b.session != nil && b.session.LeaseValid() }

// Submit has the controller decide cmd and waits until this broker acted on the
// result, so that a client reads its own writes here.
func (b *Broker) Submit(ctx context.Context, cmd control.Command) (control.Result, error) {
	res, err := b.node.Submit(ctx, cmd)
	if err != nil || res.Index == 0 {
		return res, err
	}
	return res, b.applier.wait(ctx, res.Index)
}

// producerIDs hands out ids of a block that the metadata log reserved.
type producerIDs struct {
	mu        sync.Mutex // held while a block is reserved: everybody needs it
	next, end int64      // [next, end) is left
}

// take returns an id that nobody else gets. A block that could not be handed
// out whole, after a crash or a lost answer, is never used again.
func (p *producerIDs) take(reserve func() (first int64, n int32, err error)) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == p.end {
		first, n, err := reserve()
		if err != nil {
			return 0, err
		}
		if first < 0 || n <= 0 {
			return 0, fmt.Errorf("allocate producer ids: a block of %d from %d", n, first)
		}
		p.next, p.end = first, first+int64(n)
	}
	p.next++
	return p.next - 1, nil
}

// AllocateProducerID returns an id that nobody else gets.
func (b *Broker) AllocateProducerID(ctx context.Context) (int64, error) {
	return b.producerIDs.take(func() (int64, int32, error) {
		res, err := b.node.Submit(ctx, &control.AllocateProducerIDs{Broker: b.o.ID, Incarnation: b.host.Incarnation()})
		if err == nil && res.Code != 0 {
			err = fmt.Errorf("allocate producer ids: %w: %s", kerr.ErrorForCode(res.Code), res.Message)
		}
		return res.FirstProducerID, int32(res.ProducerIDs), err
	})
}

// Endpoint is where clients reach a broker.
func (b *Broker) Endpoint(_ string, id model.BrokerID) (host string, port int32, ok bool) {
	br := b.Image().Brokers[id]
	if br == nil || br.KafkaPort == 0 {
		return "", 0, false
	}
	return br.KafkaHost, br.KafkaPort, true
}

// NodeConfig is what is set on this node, by Kafka's names.
func (b *Broker) NodeConfig() map[string]string {
	m := map[string]string{
		"node.id": fmt.Sprint(b.o.ID), "broker.id": fmt.Sprint(b.o.ID), "log.dirs": b.o.Dir, "log.dir": b.o.Dir,
		"listeners":            "PLAINTEXT://" + b.kafkaListener.Addr().String(),
		"advertised.listeners": "PLAINTEXT://" + b.advertised(),
	}
	if b.o.Rack != "" {
		m["broker.rack"] = b.o.Rack
	}
	if b.httpListener != nil {
		m["tailrace.http.advertised"] = b.httpURL()
	}
	return m
}

// LogDir describes the data directory.
func (b *Broker) LogDir() api.LogDir {
	d := api.LogDir{Path: b.o.Dir, Total: -1, Free: -1}
	if free, total, err := b.store.FreeSpace(); err == nil {
		d.Free, d.Total = free, total
	}
	if b.store.Poisoned() != nil {
		d.Err = errStorage
	}
	return d
}

// Clock tells time.
func (b *Broker) Clock() clock.Clock { return b.o.Clock }
