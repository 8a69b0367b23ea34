package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/history"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
)

// Kafka error codes that the simulated clients tell apart.
const (
	codeOutOfRange     = 1
	codeCorrupt        = 2
	codeUnknownTopic   = 3
	codeNotLeader      = 6
	codeTimedOut       = 7
	codeOutOfOrder     = 45
	codeOffsetNotAvail = 78
	produceTimeout     = 1500 * time.Millisecond
	clientTimeout      = 2 * time.Second
	retryBudget        = 60
)

// keyShift: the bits of a value from there on say which partition of which
// topic it was sent to, so that a record is known anywhere.
const keyShift = 32

// histories record what the clients did, for the checker.
type histories struct {
	h       history.History
	keys    map[model.TopicPartition]history.Key
	next    []history.Value
	process int
	final   []history.FinalRead
	dumps   []history.Dump
}

func (hs *histories) key(tp model.TopicPartition) history.Key {
	if hs.keys == nil {
		hs.keys = map[model.TopicPartition]history.Key{}
	}
	k, ok := hs.keys[tp]
	if !ok {
		k = history.Key(len(hs.h.Keys))
		hs.keys[tp] = k
		hs.h.Keys = append(hs.h.Keys, fmt.Sprintf("%s-%d", tp.Topic, tp.Partition))
		hs.next = append(hs.next, history.Value(k)<<keyShift)
	}
	return k
}

func (hs *histories) value(k history.Key) history.Value {
	hs.next[k]++
	return hs.next[k]
}

func (hs *histories) begin(w *world, op history.Op) int {
	op.InvokedAt = int64(w.now)
	hs.h.Ops = append(hs.h.Ops, op)
	return len(hs.h.Ops) - 1
}

func (hs *histories) end(w *world, i int, t history.Type) *history.Op {
	op := &hs.h.Ops[i]
	op.Type, op.DoneAt = t, int64(w.now)
	return op
}

// anyTP chooses a partition of a topic that clients know.
func (w *world) anyTP(r *rand.Rand) (model.TopicPartition, bool) {
	if len(w.topics) == 0 {
		return model.TopicPartition{}, false
	}
	t := w.topics[r.IntN(len(w.topics))]
	return model.TopicPartition{Topic: t.id, Partition: int32(r.IntN(t.n))}, true
}

// leaderFor asks some broker's metadata, which may be old, for a leader.
func (w *world) leaderFor(r *rand.Rand, tp model.TopicPartition) (leader int, epoch int32, ok bool) {
	n := w.nodes[r.IntN(len(w.nodes))]
	if !n.up || n.paused || n.host == nil || n.host.Image() == nil {
		return 0, -1, false
	}
	p := n.host.Image().Partition(tp)
	if p == nil || p.Leader == model.NoBroker {
		return 0, -1, false
	}
	return int(p.Leader) - 1, p.LeaderEpoch, true
}

func (w *world) clientCall(to int, serve server, done func(any, error)) {
	w.net.call(nil, w.net.clients(), to, evClient, clientTimeout, serve, done)
}

// producer sends one batch at a time.
type producer struct {
	w          *world
	rng        *rand.Rand
	idempotent bool
	pid        int64
	process    int
	seqs       map[model.TopicPartition]int32
	epochs     map[model.TopicPartition]int32 // newest leader epoch heard of
	stopped    bool
	idle       bool
	lastAck    time.Duration

	// The batch under way.
	tp       model.TopicPartition
	leader   int
	known    bool
	raw      []byte
	seq      int32
	values   []int64
	op       int
	attempts int
	unknown  bool
}

func newProducer(w *world, i int) *producer {
	p := &producer{w: w, rng: w.stream(1000 + uint64(i)), idempotent: i%3 != 2}
	p.reborn()
	w.after(time.Duration(p.rng.IntN(300))*time.Millisecond, evClient, p.next)
	return p
}

// reborn starts a new client life.
func (p *producer) reborn() {
	p.w.hist.process++
	p.process = p.w.hist.process
	p.pid = -1
	if p.idempotent {
		p.pid = int64(p.process)
	}
	p.seqs = map[model.TopicPartition]int32{}
	if p.epochs == nil {
		p.epochs = map[model.TopicPartition]int32{}
	}
}

func (p *producer) think() time.Duration {
	t := p.w.par.think
	return t/2 + time.Duration(p.rng.Int64N(int64(t)))
}

func (p *producer) next() {
	if p.stopped {
		p.idle = true
		return
	}
	tp, ok := p.w.anyTP(p.rng)
	if !ok {
		p.w.after(100*time.Millisecond, evClient, p.next)
		return
	}
	p.tp, p.attempts, p.unknown, p.known = tp, 0, false, p.known && p.tp == tp
	hs := &p.w.hist
	k := hs.key(tp)
	p.values = p.values[:0]
	var mops []history.Mop
	for range 1 + p.rng.IntN(p.w.par.maxBatch) {
		v := hs.value(k)
		p.values = append(p.values, int64(v))
		mops = append(mops, history.SendMop(k, v))
	}
	p.seq = p.seqs[tp]
	b := batch.Builder{ProducerID: p.pid, ProducerEpoch: 0, BaseSequence: p.seq}
	if !p.idempotent {
		b.ProducerEpoch, b.BaseSequence = -1, batch.NoSequence
	}
	p.raw = makeBatch(b, epoch.Add(p.w.now).UnixMilli(), p.values, p.rng.IntN(60))
	p.op = hs.begin(p.w, history.Op{Process: p.process, F: history.FSend, Mops: mops})
	p.attempt()
}

// completion waits for the outcome of an append at the leader.
type completion struct {
	d     *node
	p     *producer
	reply func(any)
	over  bool
	n     int64
	value int64
	tp    model.TopicPartition
}

// Complete implements partition.Completion.
func (c *completion) Complete(res partition.AppendResult) {
	if c.over {
		c.d.w.violate("codec", "an append completed twice")
	}
	c.over = true
	if res.Err == 0 && !c.d.disk.dead {
		c.d.w.orc.acked(c.d, c.tp, res.BaseOffset, res.BaseOffset+c.n, c.value)
	}
	c.reply(res)
}

func (p *producer) attempt() {
	w := p.w
	p.attempts++
	if !p.known {
		leader, epoch, ok := w.leaderFor(p.rng, p.tp)
		if !ok || epoch < p.epochs[p.tp] { // clients do not go back to older metadata (KIP-320)
			p.failed(-2)
			return
		}
		p.leader, p.known, p.epochs[p.tp] = leader, true, epoch
	}
	tp, raw, n, value, acks := p.tp, p.raw, int64(len(p.values)), p.values[0], int16(-1)
	if p.rng.IntN(5) == 0 {
		acks = 1 // waits all the same (P3)
	}
	w.clientCall(p.leader, func(d *node, reply func(any)) {
		r := d.host.Replica(tp)
		if r == nil {
			reply(partition.AppendResult{Err: codeUnknownTopic})
			return
		}
		if d.disk.full {
			reply(partition.AppendResult{Err: 56}) // below the reserve
			return
		}
		c := &completion{d: d, p: p, reply: reply, n: n, value: value, tp: tp}
		d.host.Append(r, &partition.AppendRequest{Batches: append([]byte(nil), raw...), Acks: acks, Epoch: -1, Done: c})
		if !c.over {
			d.after(produceTimeout, evTimeout, func() {
				if !c.over {
					d.host.Do(tp, func(r *partition.Replica, eff *partition.Effects) { r.Cancel(c, eff) })
				}
			})
		}
	}, func(v any, err error) {
		if err != nil {
			p.failed(-1)
			return
		}
		res := v.(partition.AppendResult)
		if res.Err != 0 {
			p.failed(res.Err)
			return
		}
		p.acknowledged(res)
	})
}

func (p *producer) acknowledged(res partition.AppendResult) {
	w := p.w
	op := w.hist.end(w, p.op, history.OK)
	for i := range op.Mops {
		op.Mops[i].Offset = res.BaseOffset + int64(i)
	}
	if p.unknown {
		w.acted.Deduplicated++
	}
	p.lastAck = w.now
	if w.verbose() {
		w.trace.note("producer %d: %d seq %d acknowledged by %d at %d", p.process, p.tp.Partition, p.seq, p.leader+1, res.BaseOffset)
	}
	p.seqs[p.tp] = p.seq + int32(len(p.values))
	w.after(p.think(), evClient, p.next)
}

// failed handles an attempt without success; code -1 is no answer, -2 says that
// nothing was sent.
func (p *producer) failed(code int16) {
	w := p.w
	p.known = false
	if w.verbose() {
		w.trace.note("producer %d: %d seq %d to %d: error %d", p.process, p.tp.Partition, p.seq, p.leader+1, code)
	}
	if code == codeOutOfOrder {
		w.violate(invSequence, "producer %d, sequence %d of %s: OUT_OF_ORDER_SEQUENCE_NUMBER", p.pid, p.seq, w.orc.part(p.tp).name)
	}
	definite := code > 0 && history.Outcome(code, p.unknown) == history.Fail
	if !definite {
		p.unknown = p.unknown || code != -2
	}
	if p.idempotent && p.attempts < retryBudget && !p.stopped && !w.orc.deleted(p.tp.Topic) {
		w.after(time.Duration(20+p.rng.IntN(200))*time.Millisecond, evClient, p.attempt)
		return
	}
	t := history.Info
	switch {
	case definite, code == -2 && !p.unknown:
		t = history.Fail
		w.acted.Refused++
	default:
		w.acted.UnknownOutcomes++
	}
	w.hist.end(w, p.op, t)
	if t == history.Info || p.idempotent {
		p.reborn()
	}
	w.after(p.think()*4, evClient, p.next)
}

// consumer reads all partitions, from any replica.
type consumer struct {
	w       *world
	rng     *rand.Rand
	process int
	pos     map[model.TopicPartition]int64
	stopped bool
	prefer  int
}

func newConsumer(w *world, i int) *consumer {
	c := &consumer{w: w, rng: w.stream(2000 + uint64(i)), pos: map[model.TopicPartition]int64{}, prefer: -1}
	w.hist.process++
	c.process = w.hist.process
	w.after(time.Duration(c.rng.IntN(500))*time.Millisecond, evClient, c.next)
	return c
}

func (c *consumer) again() {
	t := c.w.par.think
	c.w.after(t/2+time.Duration(c.rng.Int64N(int64(t))), evClient, c.next)
}

func (c *consumer) next() {
	tp, ok := c.w.anyTP(c.rng)
	if c.stopped {
		return
	}
	if !ok {
		c.again()
		return
	}
	if c.rng.IntN(6) == 0 {
		c.end(tp)
		return
	}
	if c.w.par.deleteRecords && c.rng.IntN(40) == 0 {
		c.deleteRecords(tp)
		return
	}
	c.poll(tp)
}

func (c *consumer) poll(tp model.TopicPartition) {
	w := c.w
	to := c.rng.IntN(len(w.nodes))
	if c.prefer >= 0 {
		to = c.prefer
	} else if c.rng.IntN(2) == 0 {
		if l, _, ok := w.leaderFor(c.rng, tp); ok {
			to = l
		}
	}
	c.prefer = -1
	k := w.hist.key(tp)
	if _, assigned := c.pos[tp]; !assigned {
		c.pos[tp] = 0
		keys := make([]history.Key, 0, len(c.pos))
		for _, t := range w.topics {
			for i := range t.n {
				if x := (model.TopicPartition{Topic: t.id, Partition: int32(i)}); c.has(x) {
					keys = append(keys, w.hist.key(x))
				}
			}
		}
		w.hist.end(w, w.hist.begin(w, history.Op{Process: c.process, F: history.FAssign, Keys: keys}), history.OK)
	}
	op := w.hist.begin(w, history.Op{Process: c.process, F: history.FPoll})
	offset := c.pos[tp]
	maxBytes := 100 + c.rng.IntN(3000)
	w.clientCall(to, func(d *node, reply func(any)) { reply(d.consume(tp, offset, maxBytes)) }, func(v any, err error) {
		if err != nil {
			w.hist.end(w, op, history.Fail)
			c.again()
			return
		}
		c.take(tp, k, op, v.(*polled))
	})
}

func (c *consumer) has(tp model.TopicPartition) bool { _, ok := c.pos[tp]; return ok }

// polled is what a broker answered to a consumer.
type polled struct {
	res partition.ReadResult
	raw []byte
}

// consume reads for a consumer and checks what leaves the broker.
func (d *node) consume(tp model.TopicPartition, offset int64, maxBytes int) *polled {
	r := d.host.Replica(tp)
	if r == nil {
		return &polled{res: partition.ReadResult{Err: codeUnknownTopic, PreferredReplica: model.NoBroker}}
	}
	st := r.Status()
	res := d.host.Read(r, partition.ReadRequest{Offset: offset, MaxBytes: maxBytes, MinOne: true, CurrentEpoch: -1,
		LastFetchedEpoch: -1, Follower: -1, Now: d.Elapsed()})
	out := &polled{res: res}
	if res.Range == nil {
		return out
	}
	raw, err := res.Range.AppendTo(nil)
	res.Range.Release()
	out.res.Range = nil
	if err != nil {
		out.res.Err = 56
		return out
	}
	out.raw = raw
	w := d.w
	w.acted.Reads++
	if st.Role == isr.Follower {
		w.acted.FollowerReads++
	}
	if len(raw) > 0 && st.Role == isr.Leader && !st.Visible {
		w.violate(invVisible, "%d serves offset %d, high watermark %d, epoch start %d", d.id, offset, st.HighWatermark, st.EpochStart)
	}
	if !w.orc.served(d, tp, raw) {
		out.res.Err, out.raw = codeCorrupt, nil // every client checks the checksums of batches
	}
	return out
}

// served checks that a consumer gets what is committed and nothing else. It is
// false for bytes that no client takes for a batch, from a broker that may take
// them for verified.
func (o *oracle) served(n *node, tp model.TopicPartition, raw []byte) bool {
	p := o.part(tp)
	for len(raw) > 0 {
		h, b, err := batch.Next(raw)
		if err != nil || batch.VerifyCRC(b) != nil {
			if n.trusting() {
				o.w.acted.Trusted++
				return false
			}
			o.w.violate(invCommitted, "%d serves damaged bytes of %s at offset %d: %v", n.id, p.name, h.BaseOffset, err)
			return false
		}
		e := entryOf(&h, b)
		if c, ok := p.committedAt(e.base); !ok || c != e {
			o.w.violate(invCommitted, "%d serves %+v of %s, committed is %+v (end %d)", n.id, e, p.name, c, p.end)
			return false
		}
		raw = raw[len(b):]
	}
	return true
}

func (c *consumer) take(tp model.TopicPartition, k history.Key, op int, v *polled) {
	w := c.w
	var reads []history.Read
	pos := c.pos[tp]
	for raw := v.raw; len(raw) > 0; {
		h, b, err := batch.Next(raw)
		if err != nil {
			break
		}
		raw = raw[len(b):]
		for i, val := range valuesOf(b) {
			if o := h.BaseOffset + int64(i); o >= pos {
				reads = append(reads, history.Read{Key: k, Offset: o, Value: history.Value(val)})
				pos = o + 1
			}
		}
	}
	o := w.hist.end(w, op, history.OK)
	o.Mops = []history.Mop{history.PollMop(reads...)}
	c.pos[tp] = pos
	if v.res.PreferredReplica != model.NoBroker {
		c.prefer = int(v.res.PreferredReplica) - 1
	}
	if v.res.Err == codeOutOfRange && v.res.LogStart > pos {
		c.pos[tp] = v.res.LogStart
		w.hist.end(w, w.hist.begin(w, history.Op{Process: c.process, F: history.FSeek, Keys: []history.Key{k}}), history.OK)
	}
	c.again()
}

// end asks for the end offset, which must cover what was acknowledged before.
func (c *consumer) end(tp model.TopicPartition) {
	w := c.w
	to, _, ok := w.leaderFor(c.rng, tp)
	if !ok {
		c.again()
		return
	}
	p := w.orc.part(tp)
	// A deposed leader may answer until its lease is over; not longer.
	acked := p.ackedBefore(w.now - control.DefaultLease - 10*time.Millisecond)
	w.clientCall(to, func(d *node, reply func(any)) {
		r := d.host.Replica(tp)
		if r == nil {
			reply(partition.OffsetResult{Err: codeUnknownTopic})
			return
		}
		reply(r.ListOffset(partition.OffsetQuery{Timestamp: partition.OffsetLatest, CurrentEpoch: -1, Confirmed: d.leaseValid()}))
	}, func(v any, err error) {
		if err == nil {
			res := v.(partition.OffsetResult)
			if res.Err == 0 {
				w.acted.EndAnswers++
				if res.Offset < acked {
					w.violate(invEndAnswer, "%s: end %d from %d, acknowledged before the question were %d", p.name, res.Offset, to+1, acked)
				}
			} else {
				w.acted.EndRefused++
			}
		}
		c.again()
	})
}

func (c *consumer) deleteRecords(tp model.TopicPartition) {
	w := c.w
	to, _, ok := w.leaderFor(c.rng, tp)
	if !ok {
		c.again()
		return
	}
	offset := c.pos[tp]
	w.clientCall(to, func(d *node, reply func(any)) {
		d.host.Do(tp, func(r *partition.Replica, eff *partition.Effects) {
			if code, _ := r.DeleteRecords(offset, eff); code == 0 {
				w.acted.DeletedRecs++
			}
		})
		reply(nil)
	}, func(any, error) { c.again() })
}
