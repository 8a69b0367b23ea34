package replicate

import (
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

const inc = model.Incarnation(5)

func tpN(n int32) model.TopicPartition {
	return model.TopicPartition{Topic: model.TopicID{1, 6: 0x40, 8: 0x80}, Partition: n}
}

// broker is a set of replicas on a disk in memory. It implements Host.
type broker struct {
	t     *testing.T
	self  model.BrokerID
	clock *clock.Manual
	store *segment.Store

	mu       sync.Mutex
	replicas map[model.TopicPartition]*partition.Replica
	epoch    map[model.TopicPartition]int32
	proposed []isr.Proposal
}

// newBroker returns broker self with n partitions that leader leads in epoch 1,
// replicated on brokers 1 and 2.
func newBroker(t *testing.T, self, leader model.BrokerID, n int32) *broker {
	t.Helper()
	c := clock.NewManual(time.Unix(1e9, 0))
	store, err := segment.Open(segment.Options{Dir: "data", FS: segment.Mem(vfs.NewMem()), Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	b := &broker{t: t, self: self, clock: c, store: store, replicas: map[model.TopicPartition]*partition.Replica{}, epoch: map[model.TopicPartition]int32{}}
	for i := range n {
		logs, err := store.Create(segment.CreateSpec{TP: tpN(i)})
		if err != nil {
			t.Fatal(err)
		}
		r, err := partition.New(partition.Config{Self: self, Incarnation: inc, Log: partition.Segment(logs[0]), Clock: c})
		if err != nil {
			t.Fatal(err)
		}
		b.replicas[tpN(i)] = r
		b.lead(tpN(i), leader)
	}
	return b
}

// lead starts the next leader epoch.
func (b *broker) lead(tp model.TopicPartition, leader model.BrokerID) {
	b.epoch[tp]++
	e := b.epoch[tp]
	m := isr.Meta{Index: uint64(10 * e), Leader: leader, LeaderEpoch: e, LeaderIncarnation: inc, PartitionEpoch: e, MinISR: 1,
		ISR: []model.BrokerID{1, 2}, LagMax: time.Minute}
	for id := model.BrokerID(1); id <= 2; id++ {
		m.Replicas = append(m.Replicas, isr.ReplicaMeta{Broker: id, Incarnation: inc, Eligible: true})
	}
	b.Do(tp, func(r *partition.Replica, eff *partition.Effects) { r.ApplyMeta(m, eff) })
}

func (b *broker) Incarnation() model.Incarnation { return inc }

func (b *broker) Do(tp model.TopicPartition, f func(*partition.Replica, *partition.Effects)) bool {
	b.mu.Lock()
	r := b.replicas[tp]
	b.mu.Unlock()
	if r == nil {
		return false
	}
	var eff partition.Effects
	f(r, &eff)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.proposed = append(b.proposed, eff.Proposals...)
	return true
}

// Together implements Applier.
func (b *broker) Together(f func(do partition.Do)) { f(b.Do) }

func (b *broker) commit() {
	b.t.Helper()
	done, err := b.store.Commit()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range done {
		b.Do(c.Log.TP(), func(r *partition.Replica, eff *partition.Effects) { r.Persisted(c.End, eff) })
	}
}

// eventually polls with patience: the machine may be slow.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
