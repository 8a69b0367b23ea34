package sim

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/broker/replicate"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
)

const (
	retryDelay  = 50 * time.Millisecond
	keepAlive   = 400 * time.Millisecond
	callTimeout = 1500 * time.Millisecond
)

// replication is what a broker runs for one leader it follows: a fetch session
// and the reports of durable ends.
type replication struct {
	n        *node
	leader   int
	session  *replicate.Session
	fetching bool
	fetches  uint64 // requests sent
	resting  bool

	follows   []*partition.Replica
	owed      []*partition.Replica
	reporting bool
	reported  time.Duration
}

func (n *node) link(leader model.BrokerID) *replication {
	i := int(leader) - 1
	if n.links[i] == nil {
		n.links[i] = &replication{n: n, leader: i, session: replicate.NewSession(n.id, leader, n.host)}
	}
	return n.links[i]
}

func (l *replication) add(r *partition.Replica) {
	l.session.Add(r)
	if !slices.Contains(l.follows, r) {
		l.follows = append(l.follows, r)
	}
	l.owe(r)
	if l.fetching { // a parked fetch does not know of it
		l.n.call(l.leader, evFetch, callTimeout, func(d *node, reply func(any)) {
			d.answerParked(l.n.idx)
			reply(nil)
		}, func(any, error) {})
		return
	}
	l.n.after(0, evFetch, l.fetch)
}

func (l *replication) remove(r *partition.Replica) {
	l.session.Remove(r.TP())
	gone := func(x *partition.Replica) bool { return x.TP() == r.TP() }
	l.follows = slices.DeleteFunc(l.follows, gone)
	l.owed = slices.DeleteFunc(l.owed, gone)
}

func (l *replication) fetch() {
	n := l.n
	if l.fetching || l.resting || l.session.Empty() || n.fatal != nil {
		return
	}
	l.fetching = true
	req := l.session.Build(n.Elapsed(), n.host.Incarnation())
	from := n.idx
	l.fetches++
	conn := fetchOrder{n.gen, l.fetches}
	n.call(l.leader, evFetch, 500*time.Millisecond+callTimeout, func(d *node, reply func(any)) {
		if d.fetchers[from].before(conn) {
			d.fetchers[from] = conn
			d.serveFetch(from, req, func(resp any) { reply(&fetched{req, resp.(*kmsg.FetchResponse)}) })
		}
	},
		func(v any, err error) {
			l.fetching = false
			if err == nil {
				f := v.(*fetched)
				now := n.Elapsed()
				n.fetches.Heard(model.BrokerID(l.leader+1), now)
				check := n.w.orc.beforeFetched(n, f)
				err = l.session.Apply(f.resp, now)
				check()
			}
			if err == nil {
				l.fetch()
				return
			}
			l.session.Reset()
			l.resting = true
			n.after(retryDelay, evFetch, func() { l.resting = false; l.fetch() })
		})
}

// fetchOrder is the place of a fetch on the connection of a pair of brokers,
// which keeps the order: one that a later one has overtaken is dropped.
type fetchOrder struct {
	gen uint32
	seq uint64
}

func (a fetchOrder) before(b fetchOrder) bool {
	return a.gen < b.gen || a.gen == b.gen && a.seq < b.seq
}

// parkedFetch is a follower's fetch that waits for news at the leader.
type parkedFetch struct {
	d     *node
	from  int
	req   *kmsg.FetchRequest
	reply func(any)
	watch []*partition.Replica
	due   bool
	over  bool
}

// serveFetch is the leader's half of a fetch. It declines sessions: every
// request is a full one.
func (d *node) serveFetch(from int, req *kmsg.FetchRequest, reply func(any)) {
	d.contacts.Heard(model.BrokerID(from+1), d.Elapsed())
	p := &parkedFetch{d: d, from: from, req: req, reply: reply}
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			if r := d.host.Replica(model.TopicPartition{Topic: req.Topics[i].TopicID, Partition: req.Topics[i].Partitions[j].Partition}); r != nil {
				r.Watch(p, partition.EndMoved|partition.HWMoved)
				p.watch = append(p.watch, r)
			}
		}
	}
	d.parked = append(d.parked, p)
	p.answer(false)
	if !p.over {
		d.after(time.Duration(req.MaxWaitMillis)*time.Millisecond, evAnswer, func() { p.answer(true) })
	}
}

// Mark implements partition.Watcher.
func (p *parkedFetch) Mark() partition.Waker { return p }

// Wake implements partition.Waker.
func (p *parkedFetch) Wake() {
	if p.due || p.over {
		return
	}
	p.due = true
	p.d.after(20*time.Microsecond, evAnswer, func() { p.due = false; p.answer(false) })
}

func (d *node) answerParked(from int) {
	for _, p := range slices.Clone(d.parked) {
		if p.from == from {
			p.answer(true)
		}
	}
}

func (p *parkedFetch) answer(now bool) {
	if p.over {
		return
	}
	resp, news := p.d.readFor(p.from, p.req)
	if !news && !now {
		return
	}
	p.over = true
	for _, r := range p.watch {
		r.Unwatch(p)
	}
	p.d.parked = slices.DeleteFunc(p.d.parked, func(x *parkedFetch) bool { return x == p })
	p.reply(resp)
}

// readFor reads everything that a follower asked for. news says that there is
// something to answer with.
func (d *node) readFor(from int, req *kmsg.FetchRequest) (resp *kmsg.FetchResponse, news bool) {
	resp = kmsg.NewPtrFetchResponse()
	for i := range req.Topics {
		rt := &req.Topics[i]
		t := kmsg.NewFetchResponseTopic()
		t.TopicID = rt.TopicID
		for j := range rt.Partitions {
			p, some := d.readOne(from, rt.TopicID, &rt.Partitions[j], req.ReplicaState.Epoch)
			t.Partitions = append(t.Partitions, p)
			news = news || some
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp, news || len(req.Topics) == 0
}

const unknownTopicID = 100

func (d *node) readOne(from int, topic model.TopicID, rp *kmsg.FetchRequestTopicPartition, incarnation int64) (kmsg.FetchResponseTopicPartition, bool) {
	p := kmsg.NewFetchResponseTopicPartition()
	p.Partition = rp.Partition
	r := d.host.Replica(model.TopicPartition{Topic: topic, Partition: rp.Partition})
	if r == nil {
		p.ErrorCode, p.HighWatermark = unknownTopicID, -1
		return p, true
	}
	res := d.host.Read(r, partition.ReadRequest{
		Offset: rp.FetchOffset, MaxBytes: int(min(rp.PartitionMaxBytes, 4096)), MinOne: true, CurrentEpoch: rp.CurrentLeaderEpoch,
		LastFetchedEpoch: rp.LastFetchedEpoch, Follower: model.BrokerID(from + 1), Incarnation: model.Incarnation(incarnation), Now: d.Elapsed(),
	})
	p.ErrorCode, p.HighWatermark, p.LastStableOffset, p.LogStartOffset = res.Err, res.HighWatermark, res.LastStable, res.LogStart
	if res.Diverging != nil {
		p.DivergingEpoch.Epoch, p.DivergingEpoch.EndOffset = res.Diverging.Epoch, res.Diverging.End
		d.w.acted.Divergences++
		d.w.trace.note("%d tells %d: %d diverges at offset %d epoch %d, common up to %+v (leader epoch %d)", d.id, from+1, rp.Partition, rp.FetchOffset, rp.LastFetchedEpoch, *res.Diverging, rp.CurrentLeaderEpoch)
	}
	if res.Range != nil {
		raw, err := res.Range.AppendTo(nil)
		res.Range.Release()
		if err != nil {
			p.ErrorCode = 56 // KAFKA_STORAGE_ERROR
			raw = nil
		}
		p.RecordBatches = raw
	}
	return p, len(p.RecordBatches) > 0 || res.NoWait || p.ErrorCode != 0
}

// owe queues the durable end of r for the leader.
func (l *replication) owe(r *partition.Replica) {
	if !slices.Contains(l.owed, r) {
		l.owed = append(l.owed, r)
	}
	if !slices.Contains(l.follows, r) {
		l.follows = append(l.follows, r)
	}
	if !l.reporting {
		l.n.after(20*time.Microsecond, evReport, l.report)
	}
}

func (l *replication) tick() {
	if len(l.follows) > 0 && l.n.w.now-l.reported >= keepAlive {
		l.report()
	}
	l.fetch()
}

// again queues what was not delivered; all: everything, since the leader may be
// a new process that knows nothing.
func (l *replication) again(rs []*partition.Replica, all bool) {
	if all {
		rs = append(rs, l.follows...)
	}
	for _, r := range rs {
		if slices.Contains(l.follows, r) && !slices.Contains(l.owed, r) {
			l.owed = append(l.owed, r)
		}
	}
}

func (l *replication) report() {
	n := l.n
	if l.reporting || len(l.follows) == 0 || n.fatal != nil {
		return
	}
	l.reporting, l.reported = true, n.w.now
	rep := replicate.DurableReport{Incarnation: n.host.Incarnation()}
	var sent []*partition.Replica
	for _, r := range l.owed {
		leader, pr, ok := r.DurableReport()
		if !ok || int(leader)-1 != l.leader {
			continue
		}
		sent = append(sent, r)
		rep.Ends = append(rep.Ends, replicate.DurableEnd{TP: r.TP(), Epoch: pr.Epoch, End: pr.End})
	}
	l.owed = nil
	body := rep.Append(nil)
	n.call(l.leader, evReport, callTimeout, func(d *node, reply func(any)) {
		rep, err := replicate.DecodeDurableReport(body)
		if err != nil {
			d.w.violate("codec", "durable report: %v", err)
			return
		}
		d.contacts.Heard(n.id, d.Elapsed())
		reply(replicate.TakeReport(d.host, n.id, rep, d.Elapsed()))
	}, func(v any, err error) {
		l.reporting = false
		if err != nil {
			l.again(sent, true)
			n.after(retryDelay, evReport, l.report)
			return
		}
		var refused []*partition.Replica
		for _, i := range v.([]int) {
			refused = append(refused, sent[i])
		}
		fresh := len(l.owed) > 0
		l.again(refused, false)
		switch {
		case fresh:
			n.after(20*time.Microsecond, evReport, l.report)
		case len(refused) > 0:
			n.after(retryDelay/2, evReport, l.report)
		}
	})
}
