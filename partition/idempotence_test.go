package partition

import (
	"math"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
)

func TestDuplicateWaitsLikeItsOriginal(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	first := l.sequenced(7, 0, 0, 3)
	retry := l.sequenced(7, 0, 0, 3)
	c.want("retry before commit", retry, "waiting")
	c.wantNum("appended once", l.log.End(), 3)
	c.settle()
	c.want("original", first, "ok at 0")
	c.want("retry", retry, "ok at 0")
	c.want("retry after commit", l.sequenced(7, 0, 0, 3), "ok at 0")
	c.wantNum("appended once", l.log.End(), 3)
}

func TestDuplicateOfQueued(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	next, retry, gap, queuedRetry := &answer{}, &answer{}, &answer{}, &answer{}
	send := func(seq int32, a *answer) {
		l.r.Append(&AppendRequest{Batches: idempotent(7, 0, seq, 1), Acks: -1, Epoch: -1, Done: a}, &l.eff)
	}
	l.log.onAppend = func() { // while sequence 0 is being written
		l.log.onAppend = nil
		send(0, retry)
		send(1, next)
		send(3, gap)
		send(1, queuedRetry)
	}
	ans := l.sequenced(7, 0, 0, 1)
	c.want("gap behind the queue", gap, "error 45")
	c.wantNum("end", l.log.End(), 2)
	c.settle()
	c.want("original", ans, "ok at 0")
	c.want("retry of the one in flight", retry, "ok at 0")
	c.want("queued", next, "ok at 1")
	c.want("retry of the queued one", queuedRetry, "ok at 1")
}

func TestSequenceRules(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	for i := range int32(7) {
		l.sequenced(7, 3, i*2, 2)
	}
	l.sync()
	for _, x := range []struct {
		what    string
		epoch   int16
		seq     int32
		records int
		want    string
	}{
		{"last", 3, 12, 2, "ok at 12"},
		{"fifth from the end", 3, 4, 2, "ok at 4"},
		{"older than the window", 3, 2, 2, "error 45"},
		{"another range", 3, 12, 1, "error 45"},
		{"gap", 3, 15, 1, "error 45"},
		{"old epoch", 2, 14, 1, "error 47"},
		{"new epoch in the middle", 4, 14, 1, "error 45"},
		{"new epoch", 4, 0, 1, "ok at 14"},
		{"epoch before it", 3, 14, 1, "error 47"},
		{"next", 4, 1, 1, "ok at 15"},
	} {
		ans := l.sequenced(7, x.epoch, x.seq, x.records)
		l.sync()
		c.want(x.what, ans, x.want)
	}
	ans := l.sequenced(8, 0, 41, 1)
	l.sync()
	c.want("unknown producer, any first sequence", ans, "ok at 16")
}

func TestSequenceWrap(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	l.sequenced(7, 0, math.MaxInt32-1, 1)
	across := l.sequenced(7, 0, math.MaxInt32, 3) // MaxInt32, 0, 1
	after := l.sequenced(7, 0, 2, 1)
	gap := l.sequenced(7, 0, 4, 1)
	l.sync()
	c.want("across", across, "ok at 1")
	c.want("after", after, "ok at 4")
	c.want("gap", gap, "error 45")
	c.want("retry across", l.sequenced(7, 0, math.MaxInt32, 3), "ok at 1")
}

// I26: the next leader knows what the last one appended: a retry after a
// failover is answered with the original offset.
func TestDedupeAcrossFailover(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).sequenced(7, 0, 0, 2)
	_ = c.node(2).fetch()
	_ = c.node(3).fetch()
	c.node(2).sync()
	c.node(3).sync()
	c.crash(1) // before anyone was told
	c.meta.Replicas[0].Eligible = false
	c.elect(2, 2, 3)
	retry := c.node(2).sequenced(7, 0, 0, 2)
	c.want("not committed in the new epoch yet", retry, "waiting")
	c.settle()
	c.want("retry", retry, "ok at 0")
	next := c.node(2).sequenced(7, 0, 2, 1)
	c.settle()
	c.want("next", next, "ok at 2")
	c.wantNum("end", c.node(2).log.End(), 3)
}

// What was truncated is forgotten: its sequence is new again.
func TestTruncationUndoesProducerState(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).sequenced(7, 0, 0, 1)
	c.settle()
	c.node(1).sequenced(7, 0, 1, 1) // stays here
	c.node(1).sequenced(9, 0, 0, 1)
	c.node(1).sync()
	c.elect(2, 2, 3)
	c.settle()
	c.wantNum("truncated", c.node(1).log.End(), 1)
	c.wantNum("producers", int64(c.node(1).r.Status().Producers), 1)
	c.elect(1, 1, 2, 3)
	c.settle()
	c.want("gap", c.node(1).sequenced(7, 0, 2, 1), "error 45")
	ans := c.node(1).sequenced(7, 0, 1, 1)
	c.settle()
	c.want("sequence of the truncated", ans, "ok at 1")
	c.check()
}

// I27: state survives a restart by snapshot and log, and the deletion of the
// batches that it came from.
func TestProducerStateSurvivesRestart(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	l.sequenced(7, 2, 0, 3)
	l.sync()
	l.r.DeleteRecords(-1, &l.eff)
	l.carry()
	l.r.Tick(c.clock.Elapsed(), &l.eff)
	l.carry()
	if len(l.log.snapshots) != 1 {
		t.Fatalf("%d snapshots", len(l.log.snapshots))
	}
	l.sequenced(8, 0, 0, 2) // after the snapshot: from the log
	l.sync()
	c.crash(1)
	l.open()
	c.publish()
	c.want("from the snapshot", l.sequenced(7, 2, 0, 3), "ok at 0")
	c.want("from the log", l.sequenced(8, 0, 0, 2), "ok at 3")
	c.want("gap", l.sequenced(7, 2, 4, 1), "error 45")
}

// A snapshot is saved only when the high watermark covers it, so that it is
// never one of records that are truncated later.
func TestSnapshotWaitsForHighWatermark(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	l.sequenced(7, 0, 0, 1)
	c.pass(snapshotEvery)
	l.r.Tick(c.clock.Elapsed(), &l.eff)
	l.carry()
	if len(l.log.snapshots) != 0 {
		t.Error("saved above the high watermark")
	}
	c.settle()
	if got := l.log.snapshots[1]; got == nil {
		t.Errorf("snapshots %v, want one at 1", l.log.snapshots)
	}
}

func TestCloseSavesSnapshot(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	waits := l.sequenced(7, 0, 0, 1)
	l.sync()
	l.r.Close(&l.eff)
	l.carry()
	c.want("answered before", waits, "ok at 0")
	if l.log.snapshots[1] == nil {
		t.Error("no snapshot")
	}
	c.want("append after close", l.plain(1), "error 6")
}

func TestProducersExpire(t *testing.T) {
	c := newCluster(t, 1)
	c.topic.ProducerIDExpires = time.Hour
	l := c.node(1)
	l.r.SetConfig(c.topic)
	l.sequenced(7, 0, 0, 1)
	c.pass(40 * time.Minute)
	l.sequenced(8, 0, 0, 1)
	l.r.Tick(c.clock.Elapsed(), &l.eff)
	c.wantNum("producers", int64(l.r.Status().Producers), 2)
	c.pass(40 * time.Minute)
	l.r.Tick(c.clock.Elapsed(), &l.eff)
	c.wantNum("producers", int64(l.r.Status().Producers), 1)
	ans := l.sequenced(7, 0, 5, 1)
	l.sync()
	c.want("after expiry any sequence", ans, "ok at 2")
}

func TestSnapshotRoundTrip(t *testing.T) {
	ps := producers{}
	for id := range int64(4) {
		for s := range int32(id + 3) {
			h := batch.Header{BaseOffset: id*100 + int64(s), ProducerID: id, ProducerEpoch: int16(id), BaseSequence: s}
			ps.apply(&h, 5)
		}
	}
	b := ps.encode()
	got, err := decodeProducers(b)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.encode()) != string(b) || len(got.byID) != 4 || got.byID[3].lastSequence() != 5 {
		t.Errorf("got %+v", got)
	}
	for n := range b {
		if _, err := decodeProducers(b[:n]); err == nil {
			t.Fatalf("%d of %d bytes decode", n, len(b))
		}
	}
	if _, err := decodeProducers(append(b, 0)); err == nil {
		t.Error("trailing byte accepted")
	}
}

func FuzzDecodeProducers(f *testing.F) {
	ps := producers{}
	ps.apply(&batch.Header{ProducerID: 1}, 5)
	f.Add(ps.encode())
	f.Add([]byte{1, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		ps, err := decodeProducers(b)
		if err == nil && len(ps.byID)*snapshotProducer > len(b) {
			t.Errorf("%d producers in %d bytes", len(ps.byID), len(b))
		}
	})
}

// A damaged snapshot is derivable: the log is replayed instead.
func TestDamagedSnapshotIsIgnored(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	l.sequenced(7, 0, 0, 2)
	l.sync()
	l.log.snapshots[2] = []byte("rubbish")
	l.open()
	c.publish()
	c.want("duplicate", l.sequenced(7, 0, 0, 2), "ok at 0")
}

func TestPrivateAppendIsFenced(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	for epoch, want := range map[model.LeaderEpoch]string{0: "error 74", 1: "waiting", 2: "error 75"} {
		a := &answer{}
		l.r.Append(&AppendRequest{Batches: batch.Plain(0, 0, batch.Record{}), Acks: -1, Epoch: epoch, Done: a}, &l.eff)
		l.carry()
		c.want("epoch", a, want)
	}
}
