package host

import (
	"fmt"
	"maps"
	"testing"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
)

// wide is a rig with a topic of n partitions, which broker 1 has all of.
func wide(t testing.TB, n int) (*rig, *control.Image) {
	r := newRig(t)
	r.recover(r.image())
	parts := make([]*control.Partition, n)
	for i := range parts {
		parts[i] = part(1, 1, 1, 2)
	}
	img := r.image(parts...)
	r.apply(img)
	r.h.Tick()
	return r, img
}

// change returns the next image, in which some partitions have a new leader
// epoch and all else is shared.
func change(img *control.Image, partitions ...int) *control.Image {
	next, t := *img, *img.Topics[topic]
	next.Index++
	t.Partitions = append([]*control.Partition(nil), t.Partitions...)
	for _, p := range partitions {
		at := *t.Partitions[p]
		at.LeaderEpoch++
		at.PartitionEpoch++
		t.Partitions[p] = &at
	}
	next.Topics, next.TopicsByName = map[model.TopicID]*control.Topic{topic: &t}, map[string]*control.Topic{"t": &t}
	return &next
}

func (r *rig) active() int {
	r.h.activeMu.Lock()
	defer r.h.activeMu.Unlock()
	return len(r.h.active)
}

// idle forgets who waits for a tick.
func (r *rig) idle() {
	r.h.activeMu.Lock()
	defer r.h.activeMu.Unlock()
	for _, m := range r.h.active {
		m.active.Store(false)
	}
	r.h.active = nil
}

// TestApplyReachesWhatChanged: an update reaches the replicas whose partition,
// brokers or settings changed, and no others.
func TestApplyReachesWhatChanged(t *testing.T) {
	r, img := wide(t, 20)
	step := func(what string, next *control.Image, want int) {
		t.Helper()
		r.idle()
		r.apply(next)
		if got := r.active(); got != want {
			t.Errorf("%s: reached %d replicas, want %d", what, got, want)
		}
		img = next
	}
	step("two partitions", change(img, 3, 7), 2)
	if e := r.h.Replica(tpN(7)).Status().Epoch; e != 2 {
		t.Errorf("leader epoch %d after the change", e)
	}
	step("none", change(img), 0)
	brokers := change(img)
	brokers.Brokers = maps.Clone(brokers.Brokers)
	brokers.Brokers[2] = &control.Broker{ID: 2, Incarnation: 6}
	step("a replica's broker", brokers, 20)
	brokers = change(img)
	brokers.Brokers = maps.Clone(brokers.Brokers)
	brokers.Brokers[3] = &control.Broker{ID: 3, Incarnation: 6}
	step("a broker without replicas", brokers, 0)
	settings := change(img)
	settings.Topics[topic].ConfigIndex = settings.Index
	step("settings", settings, 20)
}

// BenchmarkApplyOne is an update of one partition of a topic with many.
func BenchmarkApplyOne(b *testing.B) {
	for _, n := range []int{100, 3000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, img := wide(b, n)
			b.ReportAllocs()
			for b.Loop() {
				img = change(img, n/2)
				r.apply(img)
				r.h.Tick()
			}
		})
	}
}
