package partition

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/isr"
)

func TestAckWaitsForDurableEnds(t *testing.T) {
	c := newCluster(t, 3)
	l, a, b := c.node(1), c.node(2), c.node(3)
	ans := l.plain(3)
	for _, f := range []*node{a, b} {
		if err := f.fetch(); err != nil {
			t.Fatal(err)
		}
		f.report() // in memory only
	}
	l.sync()
	c.want("nobody else durable", ans, "waiting")
	a.sync()
	a.report()
	c.want("one follower durable", ans, "waiting")
	b.sync()
	c.want("durable, not reported", ans, "waiting")
	b.report()
	c.want("all durable", ans, "ok at 0")
	c.wantNum("high watermark", l.r.Status().HighWatermark, 3)

	ans = l.plain(1)
	c.settleExcept(1)
	c.want("leader itself not durable", ans, "waiting")
	l.sync()
	c.want("leader durable", ans, "ok at 3")
	c.check()
}

// settleExcept lets all but one node make progress.
func (c *cluster) settleExcept(id int) {
	for range 3 {
		for _, n := range c.nodes {
			if int(n.id) != id {
				_ = n.fetch()
				n.sync()
				n.report()
			}
		}
	}
}

func TestPowerCutOfAllKeepsAcknowledged(t *testing.T) {
	c := newCluster(t, 3)
	acked := c.node(1).plain(2)
	c.settle()
	lost := c.node(1).plain(2)
	_ = c.node(2).fetch()
	for id := 1; id <= 3; id++ {
		c.crash(id)
	}
	c.want("acknowledged", acked, "ok at 0")
	c.want("unacknowledged", lost, "waiting")
	for id := 1; id <= 3; id++ {
		c.wantNum("end after power cut", c.node(id).log.End(), 2)
	}
	for id := 1; id <= 3; id++ {
		c.restart(id)
	}
	c.settle()
	leader := c.node(int(c.meta.Leader))
	ans := leader.plain(1)
	c.settle()
	c.want("after restart", ans, "ok at 2")
	c.check()
}

func TestMinISRRefusedBeforeAppend(t *testing.T) {
	c := newCluster(t, 3)
	c.meta.ISR, c.meta.PartitionEpoch = c.meta.ISR[:1], c.meta.PartitionEpoch+1
	for i := range c.meta.Replicas[1:] {
		c.meta.Replicas[i+1].Eligible = false
	}
	c.publish()
	ans := c.node(1).plain(1)
	c.want("below the minimum", ans, "error 19")
	c.wantNum("nothing appended", c.node(1).log.End(), 0)

	c = newCluster(t, 3)
	c.pass(isr.HeardMax + time.Second)
	c.want("nobody heard from", c.node(1).plain(1), "error 19")
	c.wantNum("nothing appended", c.node(1).log.End(), 0)
	contacts := &Contacts{}
	c.node(1).r.contacts = contacts
	contacts.Heard(2, c.clock.Elapsed())
	c.want("heard from one", c.node(1).plain(1), "waiting")
}

func TestShrinkAfterAppendFailsOnlyAtDeadline(t *testing.T) {
	c := newCluster(t, 3)
	ans := c.node(1).plain(1)
	c.meta.ISR, c.meta.PartitionEpoch = c.meta.ISR[:1], c.meta.PartitionEpoch+1
	for i := range c.meta.Replicas[1:] {
		c.meta.Replicas[i+1].Eligible = false
	}
	c.publish()
	c.node(1).sync()
	c.want("below the minimum", ans, "waiting")
	c.wantNum("high watermark", c.node(1).r.Status().HighWatermark, 0)
	if !c.node(1).r.Cancel(ans, &c.node(1).eff) {
		t.Fatal("not cancelled")
	}
	c.node(1).carry()
	c.want("at the deadline", ans, "error 20")
	if c.node(1).r.Cancel(ans, &c.node(1).eff) {
		t.Error("cancelled twice")
	}
}

func TestZombieLeaderCannotAcknowledge(t *testing.T) {
	c := newCluster(t, 3)
	zombie := c.node(1)
	zombie.cut = true
	c.elect(2, 2, 3)
	ans := zombie.plain(2) // it does not know
	zombie.sync()
	before := c.node(2).plain(1)
	c.settle()
	c.want("zombie", ans, "waiting")
	c.want("new leader", before, "ok at 0")
	// A late report of the old epoch does not count in it either.
	zombie.r.FollowerDurable(isr.Progress{Broker: 2, Incarnation: 1, Epoch: 1, End: 0}, &zombie.eff)
	zombie.carry()
	c.want("zombie", ans, "waiting")
	// Followers that saw the new epoch refuse the old one's records.
	st, req := c.node(3).request()
	req.CurrentEpoch = 1
	res := zombie.r.Read(req, &zombie.eff)
	if err := c.node(3).take(st, res); err == nil && c.node(3).log.End() != 1 {
		t.Errorf("follower took records of a deposed leader, end %d", c.node(3).log.End())
	}
	zombie.cut = false
	c.publish()
	c.want("zombie learns it", ans, "error 6")
	c.settle()
	c.wantNum("zombie's end", zombie.log.End(), 1)
	c.check()
}

// KIP-101 scenario 1: a follower whose watermark is old restarts and becomes
// leader. It must not have cut what was committed.
func TestRestartDoesNotCutToHighWatermark(t *testing.T) {
	c := newCluster(t, 2)
	ans := c.node(1).plain(2)
	_ = c.node(2).fetch()
	for _, n := range c.nodes {
		n.sync()
		n.report()
	}
	c.want("committed", ans, "ok at 0")
	c.wantNum("follower's watermark is old", c.node(2).r.Status().HighWatermark, 0)
	c.crash(2)
	c.restart(2)
	c.crash(1)
	c.elect(2, 2, 1)
	c.wantNum("kept", c.node(2).log.End(), 2)
	if c.node(2).r.Status().Visible {
		t.Error("visible below the start of the epoch (I7)")
	}
	res := c.node(2).r.ListOffset(OffsetQuery{Timestamp: OffsetLatest, CurrentEpoch: -1, Confirmed: true})
	c.wantNum("latest", int64(res.Err), int64(codeOffsetNotAvailable))
}

// KIP-101 scenario 2: both lost power with different tails; the logs must not
// diverge.
func TestDivergentTailsAfterPowerCut(t *testing.T) {
	c := newCluster(t, 2)
	c.meta.MinISR = 1
	c.publish()
	c.node(1).plain(1)
	c.settle()
	c.node(1).plain(1) // epoch 1 at 1, only on the old leader
	c.node(1).sync()
	c.crash(1)
	c.elect(2, 2)
	c.node(2).plain(1) // epoch 2 at 1
	c.node(2).sync()
	c.restart(1)
	c.settle()
	if got := c.node(1).log.batches[1].epoch; got != 2 {
		t.Errorf("offset 1 on the old leader is of epoch %d, want 2", got)
	}
	c.wantNum("end", c.node(1).log.End(), 2)
	c.check()
}

// KIP-279: two fast failovers leave the new leader without the follower's last
// epoch. The answer is the largest epoch not above it; truncation iterates.
func TestTwoFastFailovers(t *testing.T) {
	c := newCluster(t, 3)
	c.meta.MinISR = 1
	c.publish()
	c.node(1).plain(2)
	c.settle()
	for _, n := range c.nodes {
		n.cut = true
	}
	c.node(1).cut = false
	c.elect(1, 1) // epoch 2: only on 1
	c.node(1).plain(1)
	c.node(1).plain(1)
	c.node(1).log.commit() // on its disk, but not committed
	c.node(1).cut, c.node(2).cut = true, false
	c.elect(2, 2) // epoch 3: only on 2
	c.node(2).plain(1)
	c.node(2).log.commit()
	c.node(2).cut, c.node(3).cut = true, false
	c.elect(3, 3) // epoch 4: knows neither
	c.node(3).plain(1)
	c.node(3).sync()
	for _, n := range c.nodes {
		n.cut = false
	}
	c.publish()
	c.settle()
	c.pass(5 * time.Second)
	c.settle()
	want := strings.Join(c.node(3).below(100), " ")
	for _, n := range c.nodes {
		if got := strings.Join(n.below(100), " "); got != want {
			t.Errorf("log of %d: %s, want %s", n.id, got, want)
		}
	}
	c.check()
}

// KAFKA-7128: a follower at the high watermark but below the start of the
// leader's epoch is not in sync.
func TestJoinBelowEpochStart(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(1)
	c.settle()
	ans := c.node(1).plain(1) // reaches 2, not 3; commits nowhere
	_ = c.node(2).fetch()
	c.node(2).sync()
	c.crash(1)
	c.meta.Replicas[0].Eligible = false
	c.elect(2, 2)
	c.want("old leader's", ans, "waiting")
	n := c.node(3)
	st, req := n.request()
	res := c.node(2).r.Read(req, &c.node(2).eff)
	res.Range = nil // an answer without records, as if the position had been reported first
	_ = n.take(st, res)
	n.report()
	c.wantNum("proposals at the watermark", int64(len(c.proposals)), 0)
	c.settle()
	c.wantNum("in sync after catching up", int64(len(c.meta.ISR)), 2)
	c.wantNum("the earlier record survived", c.node(3).log.End(), 2)
	c.check()
}

// A restarted broker is out of the in-sync set until it is caught up under its
// new incarnation; what it reported before does not count.
func TestRegistrationReset(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(1)
	c.settle()
	old := isr.Progress{Broker: 3, Incarnation: 1, Epoch: 1, End: 99}
	c.crash(3)
	c.restart(3)
	c.wantNum("in sync", int64(len(c.meta.ISR)), 2)
	ans := c.node(1).plain(1)
	c.node(1).r.FollowerDurable(old, &c.node(1).eff)
	c.node(1).carry()
	c.wantNum("proposals by an old incarnation", int64(len(c.proposals)), 0)
	c.settle()
	c.want("produce", ans, "ok at 1")
	c.wantNum("back in sync", int64(len(c.meta.ISR)), 3)
}

// A leader that restarts before anyone notices must not lead on: its offsets
// could be used twice in one epoch.
func TestRestartedLeaderDoesNotLeadItsOldEpoch(t *testing.T) {
	c := newCluster(t, 3)
	n := c.node(1)
	n.plain(2)
	_ = c.node(2).fetch() // 2 has the records that 1 is about to lose
	n.log.crash()
	n.inc++
	n.open()
	m := c.meta
	n.r.ApplyMeta(m, &n.eff) // still says that broker 1 leads
	n.carry()
	if got := n.r.Status().Role; got != isr.Offline {
		t.Errorf("role %v, want offline", got)
	}
	c.want("produce", n.plain(1), "error 6")
}

func TestTruncationBelowHighWatermarkStops(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(3)
	c.settle()
	f := c.node(2)
	err := f.r.Diverged(1, 1, EpochEnd{Epoch: 0, End: 1}, &f.eff)
	if !errors.Is(err, ErrBelowHighWatermark) {
		t.Fatalf("error %v, want ErrBelowHighWatermark", err)
	}
	if !errors.Is(f.eff.Failed, ErrBelowHighWatermark) || !f.eff.Role {
		t.Errorf("effects %+v: no alarm", f.eff)
	}
	c.wantNum("end", f.log.End(), 3)
	if st := f.r.Status(); st.Role != isr.Offline || st.Err == nil {
		t.Errorf("status %v %v", st.Role, st.Err)
	}
	if err := f.fetch(); err != nil {
		t.Errorf("an offline replica fetches: %v", err)
	}
}

// I22: a response is applied only to the state that its request came from.
func TestStaleResponses(t *testing.T) {
	c := newCluster(t, 3)
	f, l := c.node(2), c.node(1)
	l.plain(1)
	st, req := f.request()
	res := l.r.Read(req, &l.eff)
	body, _ := res.Range.AppendTo(nil)
	ok := Fetched{Leader: 1, Epoch: 1, FetchOffset: 0, Generation: st.Generation, Batches: body, LeaderHW: 1}
	for name, change := range map[string]func(*Fetched){
		"leader":     func(f *Fetched) { f.Leader = 3 },
		"epoch":      func(f *Fetched) { f.Epoch = 2 },
		"generation": func(f *Fetched) { f.Generation++ },
	} {
		x := ok
		change(&x)
		if err := f.r.AppendFetched(x, &f.eff); !errors.Is(err, ErrStale) {
			t.Errorf("%s: error %v, want ErrStale", name, err)
		}
	}
	if err := f.r.AppendFetched(ok, &f.eff); err != nil {
		t.Fatal(err)
	}
	if err := f.r.AppendFetched(ok, &f.eff); !errors.Is(err, ErrStale) {
		t.Errorf("twice: error %v, want ErrStale", err)
	}
	c.wantNum("end", f.log.End(), 1)
	if err := l.r.AppendFetched(ok, &l.eff); !errors.Is(err, ErrStale) {
		t.Errorf("leader: error %v, want ErrStale", err)
	}
}

func TestCorruptResponses(t *testing.T) {
	c := newCluster(t, 3)
	f := c.node(2)
	good := batch.Plain(0, 1, batch.Record{Value: []byte("x")})
	for name, b := range map[string][]byte{
		"checksum":  append(append([]byte(nil), good[:len(good)-1]...), good[len(good)-1]^1),
		"offset":    batch.Plain(5, 1, batch.Record{Value: []byte("x")}),
		"epoch":     batch.Plain(0, 2, batch.Record{Value: []byte("x")}),
		"no epoch":  batch.Plain(0, -1, batch.Record{Value: []byte("x")}),
		"gap":       append(append([]byte(nil), good...), batch.Plain(2, 1, batch.Record{})...),
		"old epoch": append(append([]byte(nil), good...), batch.Plain(1, 0, batch.Record{})...),
	} {
		err := f.r.AppendFetched(Fetched{Leader: 1, Epoch: 1, Batches: b, LeaderHW: 1}, &f.eff)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: error %v, want ErrCorrupt", name, err)
		}
	}
	c.wantNum("end", f.log.End(), 0)
	partial := append(append([]byte(nil), good...), good[:30]...)
	if err := f.r.AppendFetched(Fetched{Leader: 1, Epoch: 1, Batches: partial}, &f.eff); err != nil {
		t.Fatalf("partial last batch: %v", err)
	}
	c.wantNum("end", f.log.End(), 1)
}

// A durable end from before the truncation is not reported, and a group commit
// that was under way during it does not make the new records durable.
func TestDurableEndAcrossTruncation(t *testing.T) {
	c := newCluster(t, 3)
	c.node(1).plain(1)
	c.settle()
	for range 3 {
		c.node(1).plain(1)
	}
	c.node(1).sync()
	c.elect(2, 2, 3)
	n := c.node(1)
	if _, _, ok := n.r.DurableReport(); ok {
		t.Error("reports before its log was found to match")
	}
	if err := n.fetch(); err != nil {
		t.Fatal(err)
	}
	c.wantNum("truncated", n.log.End(), 1)
	if _, _, ok := n.r.DurableReport(); ok {
		t.Error("reports after truncation, before its log was found to match")
	}
	c.node(2).plain(3)
	if err := n.fetch(); err != nil {
		t.Fatal(err)
	}
	n.r.Persisted(4, &n.eff) // of the old records
	n.carry()
	_, p, ok := n.r.DurableReport()
	if !ok || p.End != 1 {
		t.Errorf("reports %d (%v), want 1", p.End, ok)
	}
}

// A group commit that ran between the write and the move of the log end is not
// told twice: the response's own effects ask for the report.
func TestCommitOvertakesLogEnd(t *testing.T) {
	c := newCluster(t, 3)
	f := c.node(2)
	c.node(1).plain(2)
	f.log.onAppend = func() { f.log.durable = 2 }
	st, req := f.request()
	res := c.node(1).r.Read(req, &c.node(1).eff)
	body, _ := res.Range.AppendTo(nil)
	err := f.r.AppendFetched(Fetched{Leader: 1, Epoch: 1, FetchOffset: st.Offset, Batches: body}, &f.eff)
	if err != nil || !f.eff.Report {
		t.Errorf("error %v, report %v", err, f.eff.Report)
	}
	if _, p, ok := f.r.DurableReport(); !ok || p.End != 2 {
		t.Errorf("reports %d (%v), want 2", p.End, ok)
	}
}

func TestFetchBelowLeaderStart(t *testing.T) {
	c := newCluster(t, 3)
	c.node(3).cut = true
	l := c.node(1)
	c.meta.ISR, c.meta.PartitionEpoch = c.meta.ISR[:2], c.meta.PartitionEpoch+1
	c.meta.Replicas[2].Eligible = false
	c.publish()
	l.sequenced(7, 0, 0, 5)
	for range 3 {
		_ = c.node(2).fetch()
		c.node(2).sync()
		c.node(2).report()
		l.sync()
	}
	code, low := l.r.DeleteRecords(-1, &l.eff)
	l.carry()
	c.wantNum("error", int64(code), 0)
	c.wantNum("low watermark", low, 5)
	_ = c.node(2).fetch()
	c.wantNum("followed by 2", c.node(2).log.Start(), 5)
	if err := c.node(3).fetch(); err != nil {
		t.Fatal(err)
	}
	c.wantNum("reset of 3", c.node(3).log.Start(), 5)
	c.wantNum("reset of 3", c.node(3).log.End(), 5)
	c.wantNum("watermark of 3", c.node(3).r.Status().HighWatermark, 5)
	l.plain(1)
	_ = c.node(3).fetch()
	c.wantNum("goes on", c.node(3).log.End(), 6)
}

// Metadata that arrives during a write is adopted after it: a record of one
// epoch never lands behind the start of the next.
func TestMetadataDuringWrite(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	var during Effects
	queued := &answer{}
	l.log.onAppend = func() {
		l.log.onAppend = nil
		m := c.meta
		m.Index, m.LeaderEpoch, m.PartitionEpoch = m.Index+1, 2, 9
		l.r.ApplyMeta(m, &during)
		l.r.Append(&AppendRequest{Batches: batch.Plain(0, 0, batch.Record{}), Acks: -1, Epoch: -1, Done: queued}, &during)
	}
	ans := l.plain(2)
	c.want("written in the old epoch", ans, "error 6")
	c.want("queued in the old epoch", queued, "error 6")
	if during.Role || len(during.Done) > 0 {
		t.Errorf("effects during the write: %+v", during)
	}
	st := l.r.Status()
	c.wantNum("epoch", int64(st.Epoch), 2)
	c.wantNum("epoch start", st.EpochStart, 2)
	c.wantNum("end", st.LogEnd, 2)
}

func TestFailedWriteTakesReplicaOffline(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	waits := l.plain(1)
	queued := &answer{}
	l.log.onAppend = func() {
		l.log.onAppend = nil
		l.r.Append(&AppendRequest{Batches: batch.Plain(0, 0, batch.Record{}), Acks: -1, Epoch: -1, Done: queued}, &Effects{})
		l.log.appendErr = errors.New("disk on fire")
	}
	failed := &answer{}
	l.r.Append(&AppendRequest{Batches: batch.Plain(0, 0, batch.Record{}), Acks: -1, Epoch: -1, Done: failed}, &l.eff)
	if l.eff.Failed == nil {
		t.Error("no alarm")
	}
	l.carry()
	c.want("the write", failed, "error 56")
	c.want("queued behind it", queued, "error 56")
	c.want("waiting for the watermark", waits, "error 56")
	c.want("later", l.plain(1), "error 56")
	c.wantNum("end", l.r.Status().LogEnd, 1)
	res := l.r.Read(ReadRequest{Follower: -1, CurrentEpoch: -1, LastFetchedEpoch: -1, MaxBytes: 100}, &l.eff)
	c.wantNum("read", int64(res.Err), int64(codeStorageError))
}
