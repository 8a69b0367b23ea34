package dev

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tailrace/tailrace/broker"
	"github.com/tailrace/tailrace/broker/event"
	"github.com/tailrace/tailrace/client"
)

func quickScrub(o *broker.Options) { o.ScrubPeriod = time.Second }

func noScrub(o *broker.Options) { o.ScrubBytes = -1 }

// readEverywhere reads through every replica until stop is called, and checks
// what it gets.
func (r *rig) readEverywhere(topic string, want [][]byte) (stop func()) {
	var done atomic.Bool
	var readers sync.WaitGroup
	readers.Go(func() {
		for !done.Load() && !r.t.Failed() {
			for id := int32(1); id <= 3; id++ {
				r.read(topic, client.Broker(id), want)
			}
		}
	})
	return func() { done.Store(true); readers.Wait() }
}

// TestDamagedFollower: a byte of a sealed segment of a follower flips while it
// is down. The scrubber finds it, nobody ever reads it, and it is replaced from
// the leader.
func TestDamagedFollower(t *testing.T) {
	r := newRig(t, quickScrub)
	want := r.fill("t", 120)
	leader, _ := r.state("t")
	id := int(leader%3 + 1)
	r.stop(id)
	r.flip(r.files(id)[1])
	if err := r.start(id); err != nil {
		t.Fatal(err)
	}
	for id := int32(1); id <= 3; id++ {
		r.read("t", client.Broker(id), want)
	}
	r.wait("the damage to be found", func() bool { return len(seen[event.CorruptionFound](r, id, nil)) > 0 })
	r.wait("its repair", func() bool {
		return len(seen(r, id, func(e event.Repaired) bool { return e.Source > 0 && int(e.Source) != id })) > 0
	})
	r.waitISR("t", 3)
	for id := int32(1); id <= 3; id++ {
		if served := r.read("t", client.Broker(id), want); served[id] != int64(len(want)) {
			t.Errorf("after the repair broker %d served %v", id, served)
		}
	}
	r.sameBytes()
}

// TestDamagedLeader: a leader that meets damage gives its leadership up before
// anything else, and is repaired as a follower.
func TestDamagedLeader(t *testing.T) {
	r := newRig(t, noScrub)
	want := r.fill("t", 120)
	leader, _ := r.state("t")
	id := int(leader)
	r.stop(id)
	r.flip(r.files(id)[1])
	if err := r.start(id); err != nil {
		t.Fatal(err)
	}
	r.waitISR("t", 3)
	// It is the preferred replica: its leadership comes back, or is sent.
	r.wait("the old leader to lead again", func() bool {
		cl := r.kafka()
		defer cl.Close()
		_, _ = kadm.NewClient(cl).ElectLeaders(r.ctx, kadm.ElectPreferredReplica, nil)
		l, _ := r.state("t")
		return l == leader
	})
	if n := len(seen[event.CorruptionFound](r, id, nil)); n != 0 {
		t.Fatalf("the damage was found %d times before anybody read it", n)
	}
	r.wait("the leader to step down", func() bool {
		// A broker that has not heard of the change yet sends the client to a
		// follower, which serves it too: read until the leader was asked.
		r.read("t", client.Leader(), want)
		return len(seen(r, id, func(e event.SteppedDown) bool { return e.Topic == "t" })) > 0
	})
	r.wait("the repair", func() bool { return len(seen[event.Repaired](r, id, nil)) > 0 })
	r.waitISR("t", 3)
	r.read("t", client.Broker(leader), want)
	r.sameBytes()
}

// TestMissingSegment: a whole segment file is gone. Its records are taken from
// another replica.
func TestMissingSegment(t *testing.T) {
	r := newRig(t, quickScrub)
	want := r.fill("t", 120)
	leader, _ := r.state("t")
	id := int(leader%3 + 1)
	r.stop(id)
	gone := r.files(id)[1]
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if err := r.start(id); err != nil {
		t.Fatal(err)
	}
	stop := r.readEverywhere("t", want)
	defer stop()
	r.wait("the missing file to be noticed", func() bool {
		return len(seen(r, id, func(e event.SegmentMissing) bool { return e.File == gone })) > 0
	})
	r.wait("its repair", func() bool { return len(seen[event.Repaired](r, id, nil)) > 0 })
	r.waitISR("t", 3)
	stop()
	r.read("t", client.Broker(int32(id)), want)
	r.sameBytes()
}

// TestTornTail: garbage behind the durable end is cut at the start; the log is
// suspect until it is in sync again.
func TestTornTail(t *testing.T) {
	r := newRig(t, noScrub)
	want := r.fill("t", 80)
	leader, _ := r.state("t")
	id := int(leader%3 + 1)
	r.stop(id)
	files := r.files(id)
	f, err := os.OpenFile(files[len(files)-1], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(slices.Repeat([]byte("garbage "), 100)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.start(id); err != nil {
		t.Fatal(err)
	}
	r.wait("the torn tail to be noticed", func() bool { return len(seen[event.TornTail](r, id, nil)) > 0 })
	r.wait("the log to be trusted again", func() bool { return len(seen[event.Trusted](r, id, nil)) > 0 })
	r.waitISR("t", 3)
	r.read("t", client.Broker(int32(id)), want)
	r.sameBytes()
}
