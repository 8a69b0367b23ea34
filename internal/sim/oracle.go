package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

// The invariants, by the names that a violation gives.
const (
	invAckDurable   = "I1 acknowledged records are durable on the whole in-sync set"
	invComplete     = "I2 every replica that may be elected has all committed records"
	invMatching     = "I3 logs match: one batch for an offset and epoch, and all before it"
	invHWMonotone   = "I4 the high watermark never goes back"
	invStrictMin    = "I4 the high watermark stands still below min.insync.replicas"
	invJoin         = "I6 who joins the in-sync set has caught up"
	invVisible      = "I7 a new leader serves nothing before its high watermark reaches its epoch"
	invEligible     = "I8 in-sync and eligible sets are disjoint parts of the assignment"
	invFenced       = "I10 a fenced broker is not in sync"
	invIncarnation  = "I12 a leader leads under the incarnation that was elected"
	invZombie       = "I14 a deposed leader acknowledges nothing that its successor lacks"
	invEndAnswer    = "I15 end answers cover what was acknowledged a lease before the question"
	invTruncateHow  = "I18 a log is cut only on the answer of a leader"
	invTruncateWhat = "I19 no committed record is cut"
	invDivergeOnly  = "I21 a diverging answer changes only the log end"
	invGossip       = "I17 gossip fences nobody whose lease may be valid"
	invBelongs      = "I22 an answer is taken only in the state that its request told"
	invCommitted    = "I23 consumers get committed records only"
	invStart        = "I25 the log start only grows, up to the high watermark"
	invDedupe       = "I26 a batch of an idempotent producer is in the log once"
	invSequence     = "I26 an idempotent producer's next batch is in sequence"
	invIdentity     = "I37 only logs of deleted topics go away, and they do not come back"
	invReborn       = "I37 a topic has records of its own clients only"
	invQuarantine   = "I37 recovery unlinks nothing"
	invFailed       = "a replica failed without a fault of its disk"
	invReadable     = "acknowledged records can be read from every replica at the end"
	invHistory      = "the clients' history is clean"
	invRecovery     = "the cluster recovers after the last fault"
)

// entry is a batch in a log.
type entry struct {
	base, next int64
	epoch      int32
	crc        uint32
	pid        int64
	seq        int32
	value      int64 // of the first record
}

// part is what is known of one partition from outside.
type part struct {
	tp        model.TopicPartition
	name      string
	meta      *control.Partition // committed, newest
	committed []entry            // below the highest high watermark of any leader, from start
	end       int64              // of committed
	acks      []ackedAt          // how far acknowledgements went, when; newest last
	seen      map[version]uint32 // (offset, epoch) → checksum chained over the log before it
	sequences map[producerSeq]int64
}

// ackedAt: at that time everything below end was acknowledged or lay below
// something that was.
type ackedAt struct {
	at  time.Duration
	end int64
}

// ackedBefore returns how far acknowledgements had gone at a time.
func (p *part) ackedBefore(t time.Duration) int64 {
	for _, a := range slices.Backward(p.acks) {
		if a.at <= t {
			return a.end
		}
	}
	return 0
}

type version struct {
	base  int64
	epoch int32
}

type producerSeq struct {
	pid int64
	seq int32
}

// oracle sees everything at once: committed metadata in log order, and every
// replica's log as it grows and is cut.
type oracle struct {
	w     *world
	image *control.Image // the newest that any node applied
	parts map[model.TopicPartition]*part
	order []*part
	mins  map[model.TopicID]int
}

func newOracle(w *world) *oracle {
	return &oracle{w: w, parts: map[model.TopicPartition]*part{}, mins: map[model.TopicID]int{}}
}

func (o *oracle) part(tp model.TopicPartition) *part {
	p := o.parts[tp]
	if p == nil {
		p = &part{tp: tp, name: fmt.Sprintf("%s-%d", tp.Topic, tp.Partition),
			seen: map[version]uint32{}, sequences: map[producerSeq]int64{}}
		o.parts[tp] = p
		o.order = append(o.order, p)
	}
	return p
}

// truth takes committed metadata, from whichever node applied it first.
func (o *oracle) truth(u control.Update) {
	if o.image != nil && u.Next.Index <= o.image.Index {
		return
	}
	prev := o.image
	o.image = u.Next
	o.lifetimes(prev, u.Next)
	for _, e := range u.Events {
		if e.Kind == control.EventBrokerFenced {
			o.w.acted.Fences++
			o.fenced(e)
		}
	}
	for _, t := range u.Next.SortedTopics() {
		if prev != nil && prev.Topics[t.ID] == t && len(u.Brokers) == 0 {
			continue
		}
		o.mins[t.ID] = control.EffectiveTopicConfig(u.Next, t).MinInsync
		for i, m := range t.Partitions {
			o.partition(u.Next, model.TopicPartition{Topic: t.ID, Partition: int32(i)}, m)
		}
	}
}

// gossipSlack is how much of a lease may be left when its holder is fenced for
// its silence: a controller takes a gap of up to a second between its ticks for
// silence of the others.
const gossipSlack = 1100 * time.Millisecond

// fenced checks that suspicion alone fenced nobody (I17).
func (o *oracle) fenced(e control.Event) {
	n := o.w.nodes[e.Broker-1]
	if e.Detail != control.FenceSuspected.String() || !n.up || n.sess.inc != e.Incarnation {
		return
	}
	if left := n.sess.lease - n.Elapsed(); left > gossipSlack {
		o.w.violate(invGossip, "%d is fenced as suspected with %v of its lease left", n.id, left)
	}
}

func (o *oracle) partition(img *control.Image, tp model.TopicPartition, m *control.Partition) {
	p := o.part(tp)
	old := p.meta
	p.meta = m
	w := o.w
	for _, id := range m.ISR {
		if b := img.Brokers[id]; b == nil || b.Fenced || b.Draining {
			w.violate(invFenced, "%d is in the in-sync set %v of %s", id, m.ISR, p.name)
		}
		if slices.Contains(m.ELR, id) || !slices.Contains(m.Replicas, id) {
			w.violate(invEligible, "%s: in-sync %v, eligible %v, assigned %v", p.name, m.ISR, m.ELR, m.Replicas)
		}
	}
	if len(m.ISR) >= o.mins[tp.Topic] && len(m.ELR) > 0 {
		w.violate(invEligible, "%s: in-sync %v and eligible %v", p.name, m.ISR, m.ELR)
	}
	if old == m {
		return
	}
	o.change(p, old, m)
	o.complete(p, "after a change of metadata")
}

// change counts what a committed change was, and checks who joined.
func (o *oracle) change(p *part, old, m *control.Partition) {
	w := o.w
	if old == nil {
		return
	}
	w.trace.note("%d: leader %d epoch %d/%d in-sync %v eligible %v (committed end %d)", p.tp.Partition, m.Leader, m.LeaderEpoch, m.PartitionEpoch, m.ISR, m.ELR, p.end)
	if m.LeaderEpoch != old.LeaderEpoch {
		w.acted.Epochs++
		if m.Leader != model.NoBroker && m.Leader != old.Leader {
			w.acted.Elections++
		}
	}
	if b := o.image.Brokers[old.Leader]; len(old.ISR) == 1 && slices.Contains(old.ELR, m.Leader) && b.Live() && b.Incarnation == old.LeaderIncarnation {
		w.acted.Successions++
	}
	joined, left := 0, 0
	for _, id := range m.ISR {
		if slices.Contains(old.ISR, id) {
			continue
		}
		joined++
		o.joined(p, m, id)
	}
	for _, id := range old.ISR {
		if !slices.Contains(m.ISR, id) {
			left++
		}
	}
	switch {
	case joined > 0 && left > 0:
		w.acted.Swaps++
	case joined > 0:
		w.acted.Expands++
	case left > 0:
		w.acted.Shrinks++
	}
}

// joined checks the join rule of a new member (I6).
func (o *oracle) joined(p *part, m *control.Partition, id model.BrokerID) {
	n := o.w.nodes[id-1]
	x := n.watch(p.tp)
	if x == nil || x.blind || m.Leader == id {
		return
	}
	if l := o.w.leaderOf(m); l != nil && m.Leader != id {
		if lx := l.watch(p.tp); lx != nil && lx.leads == m.LeaderEpoch && x.durable < lx.epochStart {
			o.w.violate(invJoin, "%d joins %s at durable end %d, epoch %d began at %d", id, p.name, x.log.DurableEnd(), m.LeaderEpoch, lx.epochStart)
		}
	}
	if d := x.log.DurableEnd(); d < p.end {
		o.w.violate(invJoin, "%d joins the in-sync set of %s at durable end %d, committed are %d", id, p.name, d, p.end)
	}
}

func (w *world) leaderOf(m *control.Partition) *node {
	if m.Leader == model.NoBroker {
		return nil
	}
	return w.nodes[m.Leader-1]
}

// complete checks that every running replica that may be elected has every
// committed record on stable storage (I2).
func (o *oracle) complete(p *part, when string) {
	m := p.meta
	if m == nil || p.end == 0 {
		return
	}
	for _, set := range [2][]model.BrokerID{m.ISR, m.ELR} {
		for _, id := range set {
			if why := o.w.nodes[id-1].lacks(p); why != "" {
				o.w.violate(invComplete, "%s: broker %d %s, %s; in-sync %v, eligible %v, epoch %d", p.name, id, why, when, m.ISR, m.ELR, m.LeaderEpoch)
			}
		}
	}
}

// lacks says what a running replica lacks of the committed records.
func (n *node) lacks(p *part) string {
	x := n.watch(p.tp)
	if x == nil || x.blind || x.log.Suspect() != segment.Trusted || n.unknown() {
		return ""
	}
	if d := x.log.DurableEnd(); d < p.end {
		return fmt.Sprintf("has durable end %d, committed are %d", d, p.end)
	}
	if len(p.committed) == 0 {
		return ""
	}
	want := p.committed[len(p.committed)-1]
	if x.log.Start() >= want.next {
		return ""
	}
	if got, ok := x.at(want.base); !ok || got.epoch != want.epoch || got.crc != want.crc {
		return fmt.Sprintf("has %+v at offset %d, committed is %+v", got, want.base, want)
	}
	return ""
}

// unknown: the disk is a copy of an earlier life, and this process is not yet
// registered: the sets name another one.
func (n *node) unknown() bool {
	if n.outdated == 0 {
		return false
	}
	b := n.w.orc.image.Brokers[n.id]
	return b != nil && b.Incarnation <= n.outdated
}

// watched is a running replica's log as the oracle knows it.
type watched struct {
	r   *partition.Replica
	log partition.Log
	p   *part
	// entries of the log from its start on, contiguous.
	entries    []entry
	chain      []uint32 // chained checksum up to and with each entry
	start, end int64
	durable    int64
	hw         int64
	leads      model.LeaderEpoch // -1: it does not lead
	epochStart int64
	blind      bool // the log has damage: what is known of its bytes has gaps
	sore       bool // damage was seen and it was not yet said that it is gone
}

func (n *node) watch(tp model.TopicPartition) *watched {
	if !n.up {
		return nil
	}
	for _, x := range n.watched {
		if x.p.tp == tp {
			return x
		}
	}
	return nil
}

func (x *watched) at(base int64) (entry, bool) {
	i, ok := slices.BinarySearchFunc(x.entries, base, func(e entry, b int64) int { return int(e.base - b) })
	if !ok {
		return entry{}, false
	}
	return x.entries[i], true
}

// opened looks at a process that has just recovered.
func (o *oracle) opened(n *node) {
	o.hosted(n)
	for _, x := range n.watched {
		o.follow(n, x)
		if x.p.meta == nil || !slices.Contains(x.p.meta.ISR, n.id) && !slices.Contains(x.p.meta.ELR, n.id) {
			continue
		}
		if why := n.lacks(x.p); why != "" {
			o.w.violate(invComplete, "%s: broker %d %s, after its recovery; in-sync %v, eligible %v", x.p.name, n.id, why, x.p.meta.ISR, x.p.meta.ELR)
		}
	}
}

// closed forgets a process.
func (o *oracle) closed(n *node) { n.watched = nil }

// hosted follows the set of replicas of a process.
func (o *oracle) hosted(n *node) {
	rs := n.host.Replicas()
	var next []*watched
	for _, x := range n.watched {
		if !slices.Contains(rs, x.r) {
			if !o.deleted(x.p.tp.Topic) {
				o.w.violate(invIdentity, "broker %d dropped %s, whose topic is not deleted", n.id, x.p.name)
			}
			continue
		}
		next = append(next, x)
	}
	for _, r := range rs {
		if !slices.ContainsFunc(next, func(x *watched) bool { return x.r == r }) {
			s := r.Log().Start()
			o.describe(n, r)
			next = append(next, &watched{r: r, log: r.Log(), p: o.part(r.TP()), start: s, end: s, leads: -1, sore: len(r.Log().Damaged()) > 0})
		}
	}
	n.watched = next
}

// describe notes how a log was found.
func (o *oracle) describe(n *node, r *partition.Replica) {
	if !o.w.verbose() {
		return
	}
	l := n.store.Log(r.TP())
	var epochs []string
	for e, last := int32(0), int32(-1); e <= l.LastEpoch(); e++ {
		if got, end := l.EpochEnd(e); got != last {
			last = got
			epochs = append(epochs, fmt.Sprintf("%d<%d", got, end))
		}
	}
	o.w.trace.note("%d: recovered %d: [%d %d %d) suspect %v damaged %v in %d segments, epochs %v, known to be committed %d", n.id, r.TP().Partition,
		l.Start(), l.DurableEnd(), l.End(), l.Suspect(), l.Damaged(), l.Segments(), epochs, o.part(r.TP()).end)
}

// check looks at everything that an event may have changed in a process.
func (o *oracle) check(n *node) {
	for _, x := range n.watched {
		o.follow(n, x)
	}
}

func (o *oracle) follow(n *node, x *watched) {
	end, durable, start, hw := x.log.End(), x.log.DurableEnd(), x.log.Start(), x.log.HighWatermark()
	if end == x.end && durable == x.durable && start == x.start && hw == x.hw {
		return
	}
	if o.w.verbose() {
		o.w.trace.note("%d: %d start %d end %d durable %d hw %d", n.id, x.p.tp.Partition, start, end, durable, hw)
	}
	o.w.trace.mix(uint64(end)<<40 ^ uint64(durable)<<20 ^ uint64(hw) ^ uint64(start)<<50)
	o.ends(n, x, end, start)
	x.durable = durable
	if hw != x.hw || end < x.end {
		o.watermark(n, x, hw, end)
	}
	x.end, x.start, x.hw = end, start, hw
	if start > hw && start > 0 && hw >= 0 {
		o.w.violate(invStart, "%s on %d: log start %d, high watermark %d", x.p.name, n.id, start, hw)
	}
}

// ends follows log start and end.
func (o *oracle) ends(n *node, x *watched, end, start int64) {
	if start < x.start {
		o.w.violate(invStart, "%s on %d: log start went from %d to %d", x.p.name, n.id, x.start, start)
	}
	if start > x.end || end < x.start { // the log was reset
		if end == start {
			x.entries, x.chain, x.end = nil, nil, start
			o.w.acted.OffsetReset++
		}
	}
	switch {
	case end < x.end:
		o.cut(n, x, end)
	case end > x.end:
		o.read(n, x, max(x.end, x.log.Start()), end)
	}
}

// cut checks a truncation (I18, I19).
func (o *oracle) cut(n *node, x *watched, end int64) {
	w := o.w
	w.acted.Truncations++
	w.acted.RecordsCut += x.end - end
	if w.kind != evReply {
		w.violate(invTruncateHow, "%s on %d went from %d to %d in an event of kind %s", x.p.name, n.id, x.end, end, kindNames[w.kind])
	}
	w.trace.note("%d: %d cut from %d to %d", n.id, x.p.tp.Partition, x.end, end)
	i := len(x.entries)
	for i > 0 && x.entries[i-1].next > end {
		i--
		if c, ok := x.p.committedAt(x.entries[i].base); ok && c == x.entries[i] {
			w.violate(invTruncateWhat, "%s on %d was cut to %d: committed %+v is gone", x.p.name, n.id, end, c)
		}
	}
	x.entries, x.chain = x.entries[:i], x.chain[:i]
}

func (p *part) committedAt(base int64) (entry, bool) {
	i, ok := slices.BinarySearchFunc(p.committed, base, func(e entry, b int64) int { return int(e.base - b) })
	if !ok {
		return entry{}, false
	}
	return p.committed[i], true
}

// read follows an append, and compares it with what other replicas have at the
// same offset and epoch (I3). Damage, which is the log's to report, leaves a gap.
func (o *oracle) read(n *node, x *watched, from, end int64) {
	for from < end {
		raw, err := readSome(x.log, from, end)
		if err != nil {
			x.blind = true
			if from = skipDamage(x.log, from); from < 0 {
				return
			}
			continue
		}
		for len(raw) > 0 {
			h, b, err := batch.Next(raw)
			if err != nil || batch.VerifyCRC(b) != nil {
				x.blind = true
				return
			}
			raw = raw[len(b):]
			o.grew(n, x, entryOf(&h, b))
			from = h.NextOffset()
		}
	}
}

// skipDamage returns the end of the damaged range that holds an offset, or -1.
func skipDamage(l partition.Log, at int64) int64 {
	for _, r := range l.Damaged() {
		if r.From <= at && at < r.To {
			return r.To
		}
	}
	return -1
}

// grew takes in one more batch at the end of a log.
func (o *oracle) grew(n *node, x *watched, e entry) {
	prev := uint32(0)
	if k := len(x.chain); k > 0 {
		prev = x.chain[k-1]
	}
	if o.w.par.deleteRecords { // what lies below a leader's log start is not compared
		prev = 0
	}
	chained := mixCRC(prev, &e)
	if !x.blind && (e.base == 0 || len(x.entries) > 0 && x.entries[0].base == 0) {
		v := version{e.base, e.epoch}
		was, known := x.p.seen[v]
		if known && was != chained {
			o.w.violate(invMatching, "%s on %d at offset %d epoch %d: another batch, or another log before it", x.p.name, n.id, e.base, e.epoch)
		}
		x.p.seen[v] = chained
	}
	x.entries, x.chain = append(x.entries, e), append(x.chain, chained)
}

func mixCRC(prev uint32, e *entry) uint32 {
	h := (uint64(prev)+1)*0x9e3779b97f4a7c15 ^ uint64(e.crc)*0xbf58476d1ce4e5b9 ^ uint64(uint32(e.epoch))<<7 ^ uint64(e.next)
	return uint32(h>>32) ^ uint32(h)
}

func entryOf(h *batch.Header, raw []byte) entry {
	e := entry{base: h.BaseOffset, next: h.NextOffset(), epoch: h.LeaderEpoch, crc: h.CRC, pid: h.ProducerID, seq: h.BaseSequence, value: -1}
	if vs := valuesOf(raw); len(vs) > 0 {
		e.value = vs[0]
	}
	return e
}

// readSome returns some batches at from, below end.
func readSome(l partition.Log, from, end int64) ([]byte, error) {
	r, err := l.Read(from, end, 1<<20, true)
	if err != nil {
		return nil, err
	}
	defer r.Release()
	out, err := r.AppendTo(nil)
	if err == nil && len(out) == 0 {
		err = segment.ErrDamaged
	}
	return out, err
}
