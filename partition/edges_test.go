package partition

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
)

func TestNewEpochMustBeConfirmedBeforeReporting(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(2)
	c.settle()
	f := c.node(3)
	if _, _, ok := f.r.DurableReport(); !ok {
		t.Fatal("a settled follower does not report")
	}
	c.elect(2, 2, 3)
	if _, _, ok := f.r.DurableReport(); ok {
		t.Error("reports to a new leader before its log was found to match")
	}
	if err := f.fetch(); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := f.r.DurableReport(); !ok {
		t.Error("does not report after a matching fetch")
	}
}

func TestTruncationEndsReporting(t *testing.T) {
	c := newCluster(t, 3)
	f := c.node(3)
	c.node(1).plain(1)
	c.node(1).plain(1)
	if err := f.fetch(); err != nil {
		t.Fatal(err)
	}
	if err := f.r.Diverged(1, 1, EpochEnd{Epoch: 1, End: 1}, &f.eff); err != nil {
		t.Fatal(err)
	}
	c.wantNum("end", f.log.End(), 1)
	if _, _, ok := f.r.DurableReport(); ok {
		t.Error("reports after a truncation, before its log was found to match")
	}
}

// I7: a new leader gives no consumer anything below the start of its epoch,
// since the old leader may have shown a higher watermark.
func TestNewLeaderIsNotRead(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(2)
	_ = c.node(2).fetch()
	c.elect(2, 2, 3)
	l := c.node(2)
	c.wantNum("read", int64(l.consume(0).Err), int64(codeOffsetNotAvailable))
	c.wantNum("latest", int64(l.r.ListOffset(OffsetQuery{OffsetLatest, -1, true}).Err), int64(codeOffsetNotAvailable))
	if got := l.r.ListOffset(OffsetQuery{OffsetEarliest, -1, true}); got.Err != 0 {
		t.Errorf("earliest: %+v", got)
	}
	c.settle()
	c.wantSpan("after it is visible", l.consume(0), 0, 2)
}

// The log start follows the leader's, never past what is known to be committed.
func TestLogStartStaysBelowHighWatermark(t *testing.T) {
	c := newCluster(t, 3)
	f := c.node(2)
	bytes := append(batch.Plain(0, 1, records(1, 1)...), batch.Plain(1, 1, records(1, 1)...)...)
	err := f.r.AppendFetched(Fetched{Leader: 1, Epoch: 1, Batches: bytes, LeaderHW: 1, LeaderStart: 2}, &f.eff)
	if err != nil {
		t.Fatal(err)
	}
	c.wantNum("log start", f.log.Start(), 1)
}

// After a reset nothing is known of what producers wrote in between, so that
// their next sequence must be taken.
func TestResetForgetsProducers(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).sequenced(7, 0, 0, 1)
	c.settle()
	f := c.node(3)
	c.wantNum("producers", int64(f.r.Status().Producers), 1)
	err := f.r.FetchOutOfRange(Fetched{Leader: 1, Epoch: 1, FetchOffset: 1, LeaderStart: 9}, &f.eff)
	if err != nil {
		t.Fatal(err)
	}
	c.wantNum("producers", int64(f.r.Status().Producers), 0)
	c.wantNum("end", f.r.FetchState().Offset, 9)
	if err := f.r.FetchOutOfRange(Fetched{Leader: 1, Epoch: 1, FetchOffset: 9, LeaderStart: 9}, &f.eff); !errors.Is(err, ErrStale) {
		t.Errorf("nothing is missing: %v", err)
	}
}

// A replica that failed by another path during a write answers that write too.
func TestFailureElsewhereDuringWrite(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	var during Effects
	l.log.onAppend = func() { l.r.Fail(errors.New("group commit failed"), &during) }
	ans := l.plain(1)
	c.want("the write", ans, "error 56")
	if during.Failed == nil {
		t.Error("no alarm")
	}
}

// A truncation does not start a producer's idle time anew.
func TestTruncationKeepsIdleTime(t *testing.T) {
	c := newCluster(t, 3)
	c.topic.ProducerIDExpires = time.Hour
	f := c.node(3)
	f.r.SetConfig(c.topic)
	c.node(1).sequenced(7, 0, 0, 1)
	c.settle()
	c.node(1).plain(1)
	if err := f.fetch(); err != nil {
		t.Fatal(err)
	}
	c.pass(40 * time.Minute)
	if err := f.r.Diverged(1, 1, EpochEnd{Epoch: 1, End: 1}, &f.eff); err != nil {
		t.Fatal(err)
	}
	c.wantNum("producers", int64(f.r.Status().Producers), 1)
	c.pass(40 * time.Minute)
	f.r.Tick(c.clock.Elapsed(), &f.eff)
	c.wantNum("producers after an idle hour", int64(f.r.Status().Producers), 0)
}

// A record that no common epoch covers is cut away down to the log start.
func TestNoCommonEpoch(t *testing.T) {
	c := newCluster(t, 3)
	f := c.node(3)
	bytes := batch.Plain(0, 1, records(2, 1)...)
	if err := f.r.AppendFetched(Fetched{Leader: 1, Epoch: 1, Batches: bytes}, &f.eff); err != nil {
		t.Fatal(err)
	}
	if err := f.r.Diverged(1, 1, EpochEnd{Epoch: 0, End: 1}, &f.eff); err != nil {
		t.Fatal(err)
	}
	c.wantNum("end", f.log.End(), 0)
}

// A writer that goes on for others carries effects out between its writes.
func TestFlushBetweenWrites(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	flushed := 0
	eff := Effects{Flush: func(e *Effects) {
		flushed++
		if !e.Dirty || !e.EndMoved {
			t.Errorf("effects %+v", e)
		}
	}}
	more := 3
	l.log.onAppend = func() {
		if more > 0 {
			more--
			l.r.Append(&AppendRequest{Batches: batch.Plain(0, 0, records(1, 1)...), Acks: -1, Epoch: -1}, &Effects{})
		}
	}
	l.r.Append(&AppendRequest{Batches: batch.Plain(0, 0, records(1, 1)...), Acks: -1, Epoch: -1}, &eff)
	c.wantNum("flushed", int64(flushed), 3)
	c.wantNum("end", l.log.End(), 4)
	if !eff.Dirty || eff.Flush == nil {
		t.Error("the last write's effects are the call's")
	}
}

// A follower without room keeps its log and goes on when there is room: a full
// disk is no storage error, and nobody restarts a broker to clear it.
func TestFollowerOnFullDiskGoesOn(t *testing.T) {
	c := newCluster(t, 3)
	f := c.node(3)
	c.node(1).plain(1)
	f.log.appendErr = fmt.Errorf("write: %w", syscall.ENOSPC)
	if err := f.fetch(); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("fetch on a full disk: %v", err)
	}
	if f.eff.Failed != nil || !f.r.FetchState().Following || f.log.End() != 0 {
		t.Fatalf("offline: %v, log end %d", f.eff.Failed, f.log.End())
	}
	f.log.appendErr = nil
	if err := f.fetch(); err != nil {
		t.Fatal(err)
	}
	c.wantNum("end", f.log.End(), 1)
}

// A leader without room fails what it could not write and what queued behind
// it, and takes the next append at the offset that it did not use.
func TestLeaderOnFullDiskGoesOn(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	l.plain(1)
	var second *answer
	l.log.appendErr = fmt.Errorf("write: %w", syscall.ENOSPC)
	l.log.onAppend = func() {
		if second == nil {
			second = &answer{}
			second = l.sequenced(7, 0, 0, 1) // queues behind the write that is about to fail
		}
	}
	c.want("the write", l.plain(1), "error 56")
	c.want("what queued behind it", second, "error 56")
	if l.eff.Failed != nil || l.log.End() != 1 {
		t.Fatalf("offline: %v, log end %d", l.eff.Failed, l.log.End())
	}
	l.log.appendErr, l.log.onAppend = nil, nil
	again := l.sequenced(7, 0, 0, 1)
	l.sync()
	c.want("the retry", again, "ok at 1")
}
