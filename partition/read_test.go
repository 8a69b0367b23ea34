package partition

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// consume reads as a consumer.
func (n *node) consume(offset int64, change ...func(*ReadRequest)) ReadResult {
	req := ReadRequest{Offset: offset, MaxBytes: 1 << 20, MinOne: true, CurrentEpoch: -1, LastFetchedEpoch: -1,
		Follower: -1, Now: n.c.clock.Elapsed()}
	for _, fn := range change {
		fn(&req)
	}
	return n.r.Read(req, &n.eff)
}

// span is the offsets of a result, [from, to).
func (c *cluster) span(res ReadResult) (from, to int64) {
	c.t.Helper()
	if res.Range == nil {
		return 0, 0
	}
	b, err := res.Range.AppendTo(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	from = -1
	for len(b) > 0 {
		h, raw, err := batch.Next(b)
		if err != nil {
			c.t.Fatal(err)
		}
		if from < 0 {
			from = h.BaseOffset
		}
		to, b = h.NextOffset(), b[len(raw):]
	}
	return from, to
}

func (c *cluster) wantSpan(what string, res ReadResult, from, to int64) {
	c.t.Helper()
	f, g := c.span(res)
	if res.Err != 0 || f != from || g != to {
		c.t.Errorf("%s: [%d, %d) error %d, want [%d, %d)", what, f, g, res.Err, from, to)
	}
}

func TestConsumersSeeCommittedOnly(t *testing.T) {
	c := newCluster(t, 3)
	l, f := c.node(1), c.node(2)
	l.plain(2)
	c.settle()
	l.plain(3)
	_ = f.fetch()
	c.wantSpan("leader", l.consume(0), 0, 2)
	c.wantSpan("inside a batch", l.consume(1), 0, 2)
	c.wantSpan("at the watermark", l.consume(2), 0, 0)
	c.wantSpan("above the watermark", l.consume(4), 0, 0)
	c.wantNum("beyond the end", int64(l.consume(6).Err), int64(codeOffsetOutOfRange))
	c.wantSpan("follower", f.consume(0), 0, 2)
	c.wantNum("follower's watermark", f.consume(0).HighWatermark, 2)
}

func TestFollowerServesDurableOnly(t *testing.T) {
	c := newCluster(t, 3)
	l, f := c.node(1), c.node(3)
	l.plain(2)
	c.meta.ISR, c.meta.PartitionEpoch = c.meta.ISR[:2], c.meta.PartitionEpoch+1
	c.meta.Replicas[2].Eligible = false // asynchronous
	c.publish()
	for range 2 {
		_ = c.node(2).fetch()
		c.node(2).sync()
		c.node(2).report()
		l.sync()
	}
	_ = f.fetch()
	c.wantNum("its watermark", f.r.Status().HighWatermark, 2)
	res := f.consume(0)
	c.wantSpan("in memory only", res, 0, 0)
	f.sync()
	c.wantSpan("durable", f.consume(0), 0, 2)
}

func TestFollowerRedirectsWithoutError(t *testing.T) {
	c := newCluster(t, 3)
	l, f := c.node(1), c.node(2)
	f.r.SetConfig(TopicConfig{ReadMaxLag: 5 * time.Second})
	l.plain(2)
	c.settle()
	for _, x := range []struct {
		what   string
		offset int64
		want   model.BrokerID
	}{
		{"committed", 0, model.NoBroker},
		{"at its watermark: wait here", 2, model.NoBroker},
		{"beyond its watermark", 3, 1},
	} {
		res := f.consume(x.offset)
		if res.Err != 0 || res.PreferredReplica != x.want || (x.want >= 0 && (!res.NoWait || res.Range != nil)) {
			t.Errorf("%s: preferred %d, error %d, no wait %v", x.what, res.PreferredReplica, res.Err, res.NoWait)
		}
	}
	f.log.start = 1
	if res := f.consume(0); res.PreferredReplica != 1 || res.Err != 0 {
		t.Errorf("below its start: preferred %d, error %d", res.PreferredReplica, res.Err)
	}
	c.pass(6 * time.Second)
	if res := f.consume(1); res.PreferredReplica != 1 {
		t.Error("serves although it has not heard of the leader for too long")
	}
	// An idle partition stays fresh by the session's responses.
	f.r.fetches = &Contacts{}
	f.r.fetches.Heard(1, c.clock.Elapsed()-time.Second)
	if res := f.consume(1); res.PreferredReplica != model.NoBroker {
		t.Error("redirects although the leader's session is alive")
	}
	c.elect(3, 1, 2, 3)
	c.pass(10 * time.Second)
	if res := f.consume(1); res.PreferredReplica != 3 {
		t.Errorf("preferred %d: a new leader was not heard from yet", res.PreferredReplica)
	}
}

func TestNewFollowerIsNotFresh(t *testing.T) {
	c := newCluster(t, 3)
	c.topic.ReadMaxLag = 5 * time.Second
	c.node(1).plain(1)
	c.settle()
	c.crash(2)
	c.restart(2)
	if res := c.node(2).consume(0); res.PreferredReplica != 1 {
		t.Error("serves before its first response")
	}
	c.settle()
	c.wantSpan("caught up", c.node(2).consume(0), 0, 1)
}

func TestReadEpochs(t *testing.T) {
	c := newCluster(t, 3)
	c.elect(1, 1, 2, 3)
	c.node(1).plain(2)
	c.settle()
	for epoch, want := range map[model.LeaderEpoch]int16{1: codeFencedLeaderEpoch, 2: 0, 3: codeUnknownLeaderEpoch, -1: 0} {
		for _, n := range c.nodes {
			res := n.consume(0, func(r *ReadRequest) { r.CurrentEpoch = epoch })
			c.wantNum("epoch", int64(res.Err), int64(want))
		}
	}
	res := c.node(1).consume(1, func(r *ReadRequest) { r.LastFetchedEpoch = 1 })
	if res.Diverging != nil { // epoch 1 has no records here and the consumer's may be stale
		t.Errorf("diverging %+v", *res.Diverging)
	}
	res = c.node(1).consume(2, func(r *ReadRequest) { r.LastFetchedEpoch = 3 })
	if res.Diverging == nil || *res.Diverging != (EpochEnd{2, 2}) {
		t.Errorf("diverging %+v, want epoch 2 end 2", res.Diverging)
	}
}

func TestFollowerFetchIsChecked(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	l.plain(2)
	for _, x := range []struct {
		what   string
		change func(*ReadRequest)
		want   int16
	}{
		{"good", func(*ReadRequest) {}, 0},
		{"old incarnation", func(r *ReadRequest) { r.Incarnation = 0 }, codeStaleBrokerEpoch},
		{"stranger", func(r *ReadRequest) { r.Follower = 9 }, codeStaleBrokerEpoch},
		{"no epoch", func(r *ReadRequest) { r.CurrentEpoch = -1 }, codeNotLeaderOrFollower},
		{"old epoch", func(r *ReadRequest) { r.CurrentEpoch = 0 }, codeFencedLeaderEpoch},
		{"future epoch", func(r *ReadRequest) { r.CurrentEpoch = 2 }, codeUnknownLeaderEpoch},
		{"beyond the end", func(r *ReadRequest) { r.Offset = 3 }, codeOffsetOutOfRange},
	} {
		_, req := c.node(2).request()
		x.change(&req)
		c.wantNum(x.what, int64(l.r.Read(req, &l.eff).Err), int64(x.want))
	}
	_, req := c.node(2).request()
	c.wantNum("at a follower", int64(c.node(3).r.Read(req, &c.node(3).eff).Err), int64(codeNotLeaderOrFollower))
}

func TestFirstFetchIsAnsweredAtOnce(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	c.elect(1, 1, 2, 3)
	_, req := c.node(2).request()
	if res := l.r.Read(req, &l.eff); !res.NoWait {
		t.Error("first fetch of the epoch may wait")
	}
	if res := l.r.Read(req, &l.eff); res.NoWait {
		t.Error("second fetch may not wait")
	}
}

func TestDamagedRangeIsNotServed(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	l.plain(2)
	l.plain(2)
	l.sync()
	l.log.damaged = []segment.OffsetRange{{From: 2, To: 4}}
	c.wantSpan("before", l.consume(0), 0, 2)
	c.wantNum("damaged", int64(l.consume(2).Err), int64(codeStorageError))
	l.open() // producer state skips it
	c.publish()
}

// A follower with a damaged range sends consumers to the leader, who has it;
// it serves what lies around.
func TestDamagedFollowerRedirects(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(2)
	c.node(1).plain(2)
	c.settle()
	f := c.node(2)
	f.log.damaged = []segment.OffsetRange{{From: 2, To: 4}}
	c.wantSpan("before", f.consume(0), 0, 2)
	res := f.consume(2)
	if res.Err != 0 || res.Range != nil || res.PreferredReplica != 1 || !res.NoWait {
		t.Errorf("got %+v, want a redirect to the leader", res)
	}
}

// A damaged follower must not count as in sync: it reports no durable end until
// it is repaired.
func TestDamagedFollowerReportsNothing(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(2)
	c.settle()
	f := c.node(2)
	if _, p, ok := f.r.DurableReport(); !ok || p.End != 2 {
		t.Fatalf("before: %+v, %v", p, ok)
	}
	f.log.damaged = []segment.OffsetRange{{From: 0, To: 2}}
	if _, p, ok := f.r.DurableReport(); ok {
		t.Errorf("reports %+v", p)
	}
	f.log.damaged = nil
	if _, _, ok := f.r.DurableReport(); !ok {
		t.Error("reports nothing after the repair")
	}
}

func TestRepair(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(2)
	c.node(1).plain(2)
	c.settle()
	f := c.node(2)
	good, _ := c.node(1).consume(2).Range.AppendTo(nil)
	rng := segment.OffsetRange{From: 2, To: 4}
	f.log.damaged = []segment.OffsetRange{rng}
	bad := append([]byte(nil), good...)
	bad[len(bad)-1]++
	other, _ := c.node(1).consume(0, func(r *ReadRequest) { r.MaxBytes = 1 }).Range.AppendTo(nil)
	for what, b := range map[string][]byte{"damaged too": bad, "nothing": nil, "another place": other, "short": good[:50]} {
		if err := f.r.Repair(rng, b, &f.eff); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := f.r.Repair(segment.OffsetRange{From: 2, To: 5}, append(bytes.Clone(good), batch.Plain(4, 1, batch.Record{})...), &f.eff); !errors.Is(err, ErrStale) {
		t.Errorf("above the high watermark: %v", err)
	}
	if f.log.repaired != nil {
		t.Fatal("bad bytes were used")
	}
	if err := f.r.Repair(rng, good, &f.eff); err != nil || !bytes.Equal(f.log.repaired, good) {
		t.Errorf("%v, %d bytes", err, len(f.log.repaired))
	}
}

func TestOfflineReplicaServesNothing(t *testing.T) {
	c := newCluster(t, 3)
	c.meta.Leader, c.meta.LeaderEpoch, c.meta.PartitionEpoch = model.NoBroker, 2, 2
	c.publish()
	for _, n := range c.nodes {
		c.wantNum("read", int64(n.consume(0).Err), int64(codeNotLeaderOrFollower))
		res := n.r.ListOffset(OffsetQuery{Timestamp: OffsetEarliest, CurrentEpoch: -1})
		c.wantNum("offsets", int64(res.Err), int64(codeNotLeaderOrFollower))
	}
}

func TestListOffsets(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	l.append(batch.Plain(0, 0, records(3, 5)...), -1) // timestamps +0 +10 +20
	c.settle()
	c.elect(1, 1, 2, 3)
	late := batch.Plain(0, 0, batch.Record{Timestamp: start + 100}, batch.Record{Timestamp: start + 300}, batch.Record{Timestamp: start + 200})
	l.append(late, -1)
	c.settle()
	l.append(batch.Plain(0, 0, batch.Record{Timestamp: start + 900}), -1) // not committed
	for _, x := range []struct {
		what string
		ts   int64
		want OffsetResult
	}{
		{"latest", OffsetLatest, OffsetResult{0, 6, -1, 2}},
		{"earliest", OffsetEarliest, OffsetResult{0, 0, -1, 1}},
		{"earliest local", OffsetEarliestLocal, OffsetResult{0, 0, -1, 1}},
		{"max timestamp", OffsetMaxTimestamp, OffsetResult{0, 4, start + 300, 2}},
		{"latest tiered", OffsetLatestTiered, OffsetResult{0, -1, -1, -1}},
		{"before all", 0, OffsetResult{0, 0, start, 1}},
		{"inside a batch", start + 11, OffsetResult{0, 2, start + 20, 1}},
		{"next batch", start + 21, OffsetResult{0, 3, start + 100, 2}},
		{"out of order", start + 150, OffsetResult{0, 4, start + 300, 2}},
		{"not committed", start + 500, OffsetResult{0, -1, -1, -1}},
		{"unknown", -7, OffsetResult{codeInvalidRequest, -1, -1, -1}},
	} {
		if got := l.r.ListOffset(OffsetQuery{x.ts, -1, true}); got != x.want {
			t.Errorf("%s: %+v, want %+v", x.what, got, x.want)
		}
	}
	for _, ts := range []int64{OffsetLatest, OffsetMaxTimestamp, start} {
		if got := l.r.ListOffset(OffsetQuery{ts, -1, false}); got.Err != codeOffsetNotAvailable {
			t.Errorf("%d without a lease: %+v", ts, got)
		}
	}
	if got := l.r.ListOffset(OffsetQuery{OffsetLatest, 1, true}); got.Err != codeFencedLeaderEpoch {
		t.Errorf("old epoch: %+v", got)
	}
	if got := c.node(2).r.ListOffset(OffsetQuery{OffsetLatest, -1, true}); got.Err != codeNotLeaderOrFollower {
		t.Errorf("follower: %+v", got)
	}
}

func TestOffsetForEpoch(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(2) // epoch 1: 0, 1
	c.settle()
	c.elect(2, 1, 2, 3)
	c.elect(3, 1, 2, 3)
	c.node(3).plain(3) // epoch 3: 2 … 4
	c.settle()
	c.elect(1, 1, 2, 3) // epoch 4: nothing yet
	for asked, want := range map[model.LeaderEpoch]EpochEnd{
		0: {-1, -1}, 1: {1, 2}, 2: {1, 2}, 3: {3, 5}, 4: {4, 5}, 5: {-1, -1},
	} {
		code, got := c.node(1).r.OffsetForEpoch(-1, asked)
		if code != 0 || got != want {
			t.Errorf("epoch %d: %+v error %d, want %+v", asked, got, code, want)
		}
	}
	code, _ := c.node(2).r.OffsetForEpoch(-1, 1)
	c.wantNum("follower", int64(code), int64(codeNotLeaderOrFollower))
}

func TestDeleteRecords(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	l.plain(1)
	l.plain(1)
	c.settle()
	l.plain(1)
	for _, x := range []struct {
		offset, low int64
		code        int16
	}{{1, 1, 0}, {0, 1, 0}, {3, -1, codeOffsetOutOfRange}, {-2, -1, codeOffsetOutOfRange}, {-1, 2, 0}} {
		code, low := l.r.DeleteRecords(x.offset, &l.eff)
		l.carry()
		if code != x.code || low != x.low {
			t.Errorf("delete to %d: error %d, start %d; want %d, %d", x.offset, code, low, x.code, x.low)
		}
	}
	c.wantNum("read", int64(l.consume(1).Err), int64(codeOffsetOutOfRange))
	code, _ := c.node(2).r.DeleteRecords(1, &c.node(2).eff)
	c.wantNum("follower", int64(code), int64(codeNotLeaderOrFollower))
	c.settle()
	c.wantNum("followed", c.node(2).log.Start(), 2)
}

type counter int

func (c *counter) Mark() Waker { return c }
func (c *counter) Wake()       { *c++ }

func TestWatchers(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	var end, hw, role counter
	l.r.Watch(&end, EndMoved)
	l.r.Watch(&hw, HWMoved)
	l.r.Watch(&role, 0)
	l.plain(1)
	if end != 1 || hw != 0 || role != 0 {
		t.Errorf("append: %d %d %d", end, hw, role)
	}
	l.sync()
	if end != 1 || hw != 1 || role != 0 {
		t.Errorf("commit: %d %d %d", end, hw, role)
	}
	l.r.Unwatch(&end)
	c.elect(1, 1)
	if end != 1 || hw != 2 || role != 1 {
		t.Errorf("election: %d %d %d", end, hw, role)
	}
}

func TestStatus(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(2)
	_ = c.node(2).fetch()
	st := c.node(1).r.Status()
	if st.Role != isr.Leader || st.LogEnd != 2 || st.Waiting != 1 || len(st.Followers) != 2 || !st.Visible || len(st.ISR) != 3 {
		t.Errorf("leader: %+v", st)
	}
	st = c.node(2).r.Status()
	if st.Role != isr.Follower || st.LogEnd != 2 || st.DurableEnd != 0 || !st.Confirmed || st.Leader != 1 {
		t.Errorf("follower: %+v", st)
	}
}
