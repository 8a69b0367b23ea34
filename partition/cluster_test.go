package partition

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
)

// cluster is three replicas of one partition and a controller, driven step by
// step: nothing happens unless a test makes it happen.
type cluster struct {
	t         *testing.T
	clock     *clock.Manual
	topic     TopicConfig
	nodes     []*node // broker ids 1…
	meta      isr.Meta
	proposals []isr.Proposal
	from      []*node // who sent each
}

// node is a broker with one replica.
type node struct {
	c    *cluster
	id   model.BrokerID
	inc  model.Incarnation
	log  *memLog
	r    *Replica
	eff  Effects
	down bool
	// cut: hears nothing of the controller.
	cut bool
}

// answer is a completion that remembers what it was told.
type answer struct {
	n   int
	res AppendResult
}

func (a *answer) Complete(res AppendResult) { a.n, a.res = a.n+1, res }

func (a *answer) String() string {
	switch {
	case a.n == 0:
		return "waiting"
	case a.n > 1:
		return fmt.Sprintf("answered %d times", a.n)
	case a.res.Err != 0:
		return fmt.Sprintf("error %d", a.res.Err)
	}
	return fmt.Sprintf("ok at %d", a.res.BaseOffset)
}

const start = 1_700_000_000_000

// newCluster has leader 1 in epoch 1, everyone in sync, everything settled.
func newCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, clock: clock.NewManual(time.UnixMilli(start))}
	c.meta = isr.Meta{Index: 100, Leader: 1, LeaderEpoch: 1, LeaderIncarnation: 1, PartitionEpoch: 1,
		MinISR: min(2, n), LagMax: 10 * time.Second, StallMax: 200 * time.Millisecond}
	for id := model.BrokerID(1); int(id) <= n; id++ {
		c.nodes = append(c.nodes, &node{c: c, id: id, inc: 1, log: newMemLog()})
		c.meta.Replicas = append(c.meta.Replicas, isr.ReplicaMeta{Broker: id, Incarnation: 1, Eligible: true})
		c.meta.ISR = append(c.meta.ISR, id)
	}
	for _, nd := range c.nodes {
		nd.open()
	}
	c.publish()
	c.settle()
	return c
}

func (n *node) open() {
	r, err := New(Config{Self: n.id, Incarnation: n.inc, Log: n.log, Clock: n.c.clock, Topic: n.c.topic})
	if err != nil {
		n.c.t.Fatalf("open %d: %v", n.id, err)
	}
	n.r, n.down = r, false
}

// carry carries out the effects of the last call.
func (n *node) carry() {
	for _, d := range n.eff.Done {
		d.Completion.Complete(d.Result)
	}
	for _, p := range n.eff.Proposals {
		n.c.proposals = append(n.c.proposals, p)
		n.c.from = append(n.c.from, n)
	}
	notify(n.r, &n.eff)
	n.eff.Reset()
}

func (c *cluster) node(id int) *node { return c.nodes[id-1] }

// publish gives the committed metadata to all who can hear.
func (c *cluster) publish() {
	c.meta.Index++
	m := c.meta
	m.ISR, m.Replicas = slices.Clone(m.ISR), slices.Clone(m.Replicas)
	for _, n := range c.nodes {
		if !n.down && !n.cut {
			n.r.ApplyMeta(m, &n.eff)
			n.carry()
		}
	}
}

// elect commits a new leader and in-sync set.
func (c *cluster) elect(leader int, inSync ...model.BrokerID) {
	c.meta.Leader = model.BrokerID(leader)
	c.meta.LeaderIncarnation = c.node(leader).inc
	c.meta.LeaderEpoch++
	c.meta.PartitionEpoch++
	c.meta.ISR = inSync
	c.publish()
}

// control commits or rejects the proposals that were sent.
func (c *cluster) control() {
	proposals, from := c.proposals, c.from
	c.proposals, c.from = nil, nil
	for i, p := range proposals {
		outcome := isr.Rejected
		if p.LeaderEpoch == c.meta.LeaderEpoch && p.PartitionEpoch == c.meta.PartitionEpoch && c.eligible(p.ISR) {
			outcome = isr.Committed
			c.meta.PartitionEpoch++
			c.meta.ISR = nil
			for _, m := range p.ISR {
				c.meta.ISR = append(c.meta.ISR, m.Broker)
			}
			c.publish()
		}
		if n := from[i]; !n.down && !n.cut {
			n.r.ProposalOutcome(p.ID, outcome, &n.eff)
			n.carry()
		}
	}
}

func (c *cluster) eligible(ms []isr.Member) bool {
	for _, m := range ms {
		r := c.meta.Replicas[m.Broker-1]
		if !r.Eligible || r.Incarnation != m.Incarnation {
			return false
		}
	}
	return true
}

// crash kills a node: what was not durable is gone.
func (c *cluster) crash(id int) {
	n := c.node(id)
	n.down = true
	n.log.crash()
}

// restart brings a node back under a new registration, which removes it from
// the in-sync set; if it led, the next member is elected.
func (c *cluster) restart(id int) {
	n := c.node(id)
	n.inc++
	n.open()
	c.meta.Replicas[id-1].Incarnation = n.inc
	if len(c.meta.ISR) > 1 {
		c.meta.ISR = slices.DeleteFunc(slices.Clone(c.meta.ISR), func(b model.BrokerID) bool { return int(b) == id })
	}
	c.meta.PartitionEpoch++
	if int(c.meta.Leader) == id {
		c.meta.Leader = c.meta.ISR[0]
		c.meta.LeaderIncarnation = c.node(int(c.meta.Leader)).inc
		c.meta.LeaderEpoch++
	}
	c.publish()
}

func (n *node) append(raw []byte, acks int16) *answer {
	a := &answer{}
	n.r.Append(&AppendRequest{Batches: raw, Acks: acks, Epoch: -1, Done: a}, &n.eff)
	n.carry()
	return a
}

// plain produces n records without producer state.
func (n *node) plain(records int) *answer {
	recs := make([]batch.Record, records)
	for i := range recs {
		recs[i] = batch.Record{Timestamp: n.c.clock.Now().UnixMilli(), Value: []byte(fmt.Sprintf("%d-%d", n.id, i))}
	}
	return n.append(batch.Plain(0, 0, recs...), -1)
}

// sequenced produces records of an idempotent producer.
func (n *node) sequenced(pid int64, epoch int16, seq int32, records int) *answer {
	return n.append(idempotent(pid, epoch, seq, records), -1)
}

func idempotent(pid int64, epoch int16, seq int32, records int) []byte {
	recs := make([]batch.Record, records)
	for i := range recs {
		recs[i] = batch.Record{Timestamp: start, Key: []byte("k"), Value: []byte(fmt.Sprint(pid, epoch, seq, i))}
	}
	return batch.Builder{ProducerID: pid, ProducerEpoch: epoch, BaseSequence: seq}.Build(recs...)
}

// sync is the node's group commit.
func (n *node) sync() {
	n.log.commit()
	n.r.Persisted(n.log.durable, &n.eff)
	n.carry()
}

// request is the fetch that the node would send now.
func (n *node) request() (FetchState, ReadRequest) {
	st := n.r.FetchState()
	return st, ReadRequest{Offset: st.Offset, MaxBytes: 1 << 20, MinOne: true, CurrentEpoch: st.Epoch,
		LastFetchedEpoch: st.LastEpoch, Follower: n.id, Incarnation: n.inc, Now: n.c.clock.Elapsed()}
}

// fetch does one round trip to the node's leader.
func (n *node) fetch() error {
	st, req := n.request()
	if !st.Following {
		return nil
	}
	l := n.c.node(int(st.Leader))
	if l.down {
		return nil
	}
	res := l.r.Read(req, &l.eff)
	l.carry()
	return n.take(st, res)
}

// take applies the response to the request that was made in state st.
func (n *node) take(st FetchState, res ReadResult) error {
	defer n.carry()
	f := Fetched{Leader: st.Leader, Epoch: st.Epoch, FetchOffset: st.Offset, Generation: st.Generation,
		LeaderHW: res.HighWatermark, LeaderStart: res.LogStart, Now: n.c.clock.Elapsed()}
	switch {
	case res.Diverging != nil:
		return n.r.Diverged(st.Leader, st.Epoch, *res.Diverging, &n.eff)
	case res.Err == codeOffsetOutOfRange:
		return n.r.FetchOutOfRange(f, &n.eff)
	case res.Err != 0:
		return fmt.Errorf("fetch: error %d", res.Err)
	case res.Range != nil:
		f.Batches, _ = res.Range.AppendTo(nil)
		res.Range.Release()
	}
	return n.r.AppendFetched(f, &n.eff)
}

// report sends the node's durable end to its leader.
func (n *node) report() {
	leader, p, ok := n.r.DurableReport()
	if l := n.c.nodes; ok && !l[leader-1].down {
		n.c.node(int(leader)).r.FollowerDurable(p, &n.c.node(int(leader)).eff)
		n.c.node(int(leader)).carry()
	}
}

// settle lets everyone who is up catch up and agree.
func (c *cluster) settle() {
	c.t.Helper()
	for range 12 {
		for _, n := range c.nodes {
			if n.down {
				continue
			}
			if err := n.fetch(); err != nil && n.r.Status().Err != nil {
				c.t.Fatalf("fetch of %d: %v", n.id, err)
			}
			n.sync()
			n.report()
			n.r.Tick(c.clock.Elapsed(), &n.eff)
			n.carry()
		}
		c.control()
	}
}

// pass lets time pass.
func (c *cluster) pass(d time.Duration) { c.clock.Advance(d) }

// check compares the logs below each pair's lesser high watermark (I3), and the
// producer state with one rebuilt from the log (I20).
func (c *cluster) check() {
	c.t.Helper()
	for _, a := range c.nodes {
		for _, b := range c.nodes {
			upTo := min(a.r.Status().HighWatermark, b.r.Status().HighWatermark)
			x, y := a.below(upTo), b.below(upTo)
			if !slices.Equal(x, y) && a.log.start == b.log.start {
				c.t.Errorf("logs of %d and %d differ below %d:\n%v\n%v", a.id, b.id, upTo, x, y)
			}
		}
	}
}

// below lists the batches below an offset as base/epoch/checksum.
func (n *node) below(offset int64) (out []string) {
	for _, b := range n.log.batches {
		if b.base < offset {
			out = append(out, fmt.Sprintf("%d/%d/%08x", b.base, b.epoch, batch.Checksum(b.raw)))
		}
	}
	return out
}

func (c *cluster) want(what string, got fmt.Stringer, want string) {
	c.t.Helper()
	if got.String() != want {
		c.t.Errorf("%s: %v, want %s", what, got, want)
	}
}

func (c *cluster) wantNum(what string, got, want int64) {
	c.t.Helper()
	if got != want {
		c.t.Errorf("%s: %d, want %d", what, got, want)
	}
}

// notify carries the news of a call out.
func notify(r *Replica, eff *Effects) {
	var w Wakes
	r.Mark(eff, &w)
	w.Wake()
}
