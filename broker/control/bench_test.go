package control

import (
	"fmt"
	"testing"

	"github.com/tailrace/tailrace/internal/model"
)

// benchImage has n partitions of factor 3 on 3 brokers, 100 a topic, each led
// by broker 1.
func benchImage(b testing.TB, n int) *Image {
	w := newWorld(b)
	img := w.img
	apply := func(index uint64, records ...Record) {
		next, _, err := Apply(img, index, records)
		if err != nil {
			b.Fatal(err)
		}
		img = next
	}
	index := uint64(2)
	for id := model.BrokerID(1); id <= 3; id++ {
		apply(index, &BrokerRegistered{Broker: Broker{ID: id, StorageID: storageOf(fmt.Sprint(id))}})
		index++
	}
	replicas := []model.BrokerID{1, 2, 3}
	dirs := []model.StorageID{storageOf("1"), storageOf("2"), storageOf("3")}
	var records []Record
	for i := range n {
		tp := model.TopicPartition{Topic: model.TopicID{byte(i / 100), byte(i / 100 >> 8), 1}, Partition: int32(i % 100)}
		if i%100 == 0 {
			records = append(records, &TopicCreated{ID: tp.Topic, Name: fmt.Sprintf("topic-%06d", i/100)})
		}
		records = append(records, &PartitionCreated{TP: tp, Replicas: replicas, Directories: dirs, ISR: replicas, Leader: 1, LeaderIncarnation: 2})
	}
	apply(index, records...)
	return img
}

// BenchmarkFence10k decides, encodes, decodes and applies the death of a
// broker that leads 10,000 partitions: one batch well under 1 MiB.
func BenchmarkFence10k(b *testing.B) {
	img := benchImage(b, 10_000)
	v := NewVolatile(DefaultGrace)
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		size = fence(b, img, v, 10_000)
	}
	b.ReportMetric(float64(size)/10_000, "B/partition")
}

// fence takes the death of a broker that leads n partitions through decision,
// codec and application, and returns the size of the batch. The image stays.
func fence(tb testing.TB, img *Image, v *Volatile, n int) int {
	records, _, err := Decide(img, v, &FenceBroker{Broker: 1, Reason: FenceRefused}, Input{Index: img.Index + 1})
	if err != nil || len(records) != n+1 {
		tb.Fatalf("%d records, %v", len(records), err)
	}
	batch := encodeBatch(img.Index+1, records)
	index, decoded, err := decodeBatch(batch)
	if err != nil {
		tb.Fatal(err)
	}
	if _, _, err := Apply(img, index, decoded); err != nil {
		tb.Fatal(err)
	}
	return len(batch)
}

// TestCatalogAllocations: allocations of one partition's change of leader, from
// the decision to the new image.
func TestCatalogAllocations(t *testing.T) {
	const n, budget = 1000, 11
	img, v := benchImage(t, n), NewVolatile(DefaultGrace)
	if got := testing.AllocsPerRun(5, func() { fence(t, img, v, n) }) / n; got > budget {
		t.Errorf("%.1f allocations a partition, budget %d", got, budget)
	} else {
		t.Logf("%.1f allocations a partition", got)
	}
}

func BenchmarkSnapshot10k(b *testing.B) {
	img := benchImage(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeImage(EncodeImage(img)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(EncodeImage(img)))/10_000, "B/partition")
}
