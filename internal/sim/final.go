package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/history"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

// recoveryLimit is how long the cluster may take, in its own time, to be whole
// again after the last fault.
const recoveryLimit = 90 * time.Second

// heal ends all faults and waits until the cluster is whole.
func (w *world) heal() {
	w.calm = true
	w.trace.note("HEAL")
	w.net.calm()
	w.evictAll()
	for _, n := range w.nodes {
		n.disk.full, n.disk.eio, n.disk.countIn, n.slow = false, 0, 0, 0
		n.resume()
		if !n.up {
			w.at(w.now, evStart, n.start)
		}
	}
	healed, limit := w.now, w.now+recoveryLimit
	w.loop(func() bool { return w.now >= limit || w.now > healed+3*time.Second && w.writing(healed) })
	for _, p := range w.prods {
		p.stopped = true
	}
	for _, c := range w.cons {
		c.stopped = true
	}
	next := w.now
	why := ""
	w.loop(func() bool {
		if w.now < next {
			return w.now >= limit
		}
		next = w.now + 100*time.Millisecond
		why = w.unwhole()
		return why == "" || w.now >= limit
	})
	if w.fail == nil && why != "" && w.acted.Wipes+w.acted.BitFlips > 0 && w.offline() {
		// The schedule destroyed the last copy that may lead while a change of
		// metadata was on its way: offline is right, silent loss is not.
		w.acted.LeftOffline++
		w.over = true
		return
	}
	if w.fail == nil && why != "" {
		w.describe()
		w.violate(invRecovery, "after %v: %s", w.now-healed, why)
	}
}

// writing: every producer was acknowledged after the last fault.
func (w *world) writing(since time.Duration) bool {
	for _, p := range w.prods {
		if p.lastAck < since {
			return false
		}
	}
	return true
}

// unwhole says what is not as it should be in a quiet cluster.
func (w *world) unwhole() string {
	img := w.orc.image
	if img == nil || len(w.topics) != 1 || w.topics[0].gone {
		return "no topic"
	}
	for _, p := range w.prods {
		if !p.idle {
			return "a producer waits"
		}
	}
	for _, n := range w.nodes {
		if n.up && n.applied < img.Index {
			return fmt.Sprintf("broker %d applied metadata up to %d of %d", n.id, n.applied, img.Index)
		}
		if b := img.Brokers[n.id]; b == nil || b.Fenced {
			return fmt.Sprintf("broker %d is fenced", n.id)
		}
	}
	for _, n := range w.nodes {
		if why := n.leftovers(); n.up && why != "" {
			return why
		}
	}
	for _, p := range w.orc.order {
		if why := w.unwholePart(p); why != "" {
			return p.name + ": " + why
		}
	}
	for _, n := range w.nodes { // decay that nobody has read yet is found now, and mended
		if !n.sound() {
			return fmt.Sprintf("broker %d has damage", n.id)
		}
	}
	return ""
}

func (w *world) unwholePart(p *part) string {
	m := p.meta
	if m.Leader == model.NoBroker {
		return fmt.Sprintf("no leader; in-sync %v, eligible %v", m.ISR, m.ELR)
	}
	want := len(m.Replicas)
	if s := w.par.syncReplicas; s > 0 {
		want = min(want, s)
	}
	if len(m.ISR) < want {
		return fmt.Sprintf("in-sync %v of %v", m.ISR, m.Replicas)
	}
	for _, id := range m.Replicas {
		x := w.nodes[id-1].watch(p.tp)
		if x == nil {
			return fmt.Sprintf("broker %d has no replica", id)
		}
		if x.log.Suspect() >= segment.Damaged {
			return fmt.Sprintf("broker %d has damage %v", id, x.log.Damaged())
		}
		if st := x.r.Status(); st.Role == isr.Follower && (!st.Confirmed || st.Stale > time.Second) {
			return fmt.Sprintf("broker %d does not follow yet", id)
		}
		if end, hw := x.log.End(), x.log.HighWatermark(); end != p.end || hw != p.end || x.log.DurableEnd() != end || x.r.Status().DurableEnd != end {
			return fmt.Sprintf("broker %d ends at %d, high watermark %d, durable end %d (known %d), committed are %d", id, end, hw, x.log.DurableEnd(), x.r.Status().DurableEnd, p.end)
		}
	}
	return ""
}

// judge reads everything back from every replica and checks the history.
func (w *world) judge() {
	for _, p := range w.orc.order {
		for _, id := range p.meta.Replicas {
			w.readBack(w.nodes[id-1], p)
		}
	}
	if w.par.deleteRecords || w.fail != nil {
		return // what was deleted on purpose looks lost to the checker
	}
	rep := history.Check(w.hist.living(w.orc), history.Options{AllowDuplicates: true, FinalReads: w.hist.final, Dumps: w.hist.dumps})
	if !rep.Valid() {
		w.violate(invHistory, "%s", rep)
	}
}

// readBack reads one replica as a consumer does.
func (w *world) readBack(n *node, p *part) {
	r := n.host.Replica(p.tp)
	if r == nil {
		w.violate(invReadable, "%s: broker %d has no replica", p.name, n.id)
		return
	}
	hs := &w.hist
	k := hs.key(p.tp)
	pos, replica := r.Log().Start(), fmt.Sprint(n.id)
	dump := history.Dump{Key: k, Replica: replica, HighWatermark: r.Log().HighWatermark()}
	var reads []history.Read
	hs.process++
	op := hs.begin(w, history.Op{Process: hs.process, F: history.FPoll, Final: true, Replica: replica})
	for pos < p.end {
		res := n.host.Read(r, partition.ReadRequest{Offset: pos, MaxBytes: 1 << 20, MinOne: true, CurrentEpoch: -1, LastFetchedEpoch: -1, Follower: -1, Now: n.Elapsed()})
		if res.Err != 0 || res.Range == nil {
			w.violate(invReadable, "%s: broker %d answers %d at offset %d of %d (preferred %d): %+v", p.name, n.id, res.Err, pos, p.end, res.PreferredReplica, r.Status())
			return
		}
		raw, err := res.Range.AppendTo(nil)
		res.Range.Release()
		if err != nil || len(raw) == 0 {
			w.violate(invReadable, "%s: broker %d at offset %d: %d bytes, %v", p.name, n.id, pos, len(raw), err)
			return
		}
		if !w.orc.served(n, p.tp, raw) {
			w.violate(invReadable, "%s: broker %d serves damaged bytes at offset %d", p.name, n.id, pos)
			return
		}
		for len(raw) > 0 && w.fail == nil {
			h, b, err := batch.Next(raw)
			if err != nil {
				w.violate(invReadable, "%s: broker %d at offset %d: %v", p.name, n.id, pos, err)
				return
			}
			raw = raw[len(b):]
			for i, v := range valuesOf(b) {
				reads = append(reads, history.Read{Key: k, Offset: h.BaseOffset + int64(i), Value: history.Value(v)})
			}
			dump.Batches = append(dump.Batches, history.Batch{Base: h.BaseOffset, Last: h.LastOffset(), Epoch: h.LeaderEpoch, CRC: h.CRC})
			pos = h.NextOffset()
		}
		if w.fail != nil {
			return
		}
	}
	hs.end(w, op, history.OK).Mops = []history.Mop{history.PollMop(reads...)}
	hs.final = append(hs.final, history.FinalRead{Key: k, Replica: replica, Position: pos, End: p.end})
	hs.dumps = append(hs.dumps, dump)
}

// offline: some partition has no leader.
func (w *world) offline() bool {
	for _, p := range w.orc.order {
		if p.meta.Leader == model.NoBroker {
			return true
		}
	}
	return false
}

// describe notes what every replica thinks, for a cluster that does not recover.
func (w *world) describe() {
	for _, p := range w.orc.order {
		w.trace.note("%d: committed end %d, %+v", p.tp.Partition, p.end, *p.meta)
		for _, n := range w.nodes {
			x := n.watch(p.tp)
			if x == nil {
				continue
			}
			st := x.r.Status()
			w.trace.note("  %d: %v epoch %d/%d in-sync %v start %d [%d %d %d) hw %d suspect %v damaged %v confirmed %v err %v waiting %d", n.id, st.Role, st.Epoch, st.PartitionEpoch, st.ISR, st.EpochStart,
				st.LogStart, st.DurableEnd, st.LogEnd, st.HighWatermark, st.Suspect, st.Damaged, st.Confirmed, st.Err, st.Waiting)
			for _, f := range st.Followers {
				w.trace.note("    %+v", f)
			}
		}
	}
	for _, n := range w.nodes {
		w.trace.note("%d: up %v %+v session %+v", n.id, n.up, n.core.Status(), struct {
			inc    model.Incarnation
			fenced bool
		}{n.sess.inc, n.sess.fenced})
	}
}

// living is the history without what was sent to topics that were deleted
// since: it is lost on purpose.
func (hs *histories) living(o *oracle) *history.History {
	dead := make([]bool, len(hs.h.Keys))
	any := false
	for tp, k := range hs.keys {
		dead[k] = o.deleted(tp.Topic)
		any = any || dead[k]
	}
	if !any {
		return &hs.h
	}
	out := &history.History{Keys: hs.h.Keys}
	for _, op := range hs.h.Ops {
		var mops []history.Mop
		for _, m := range op.Mops {
			if m.Poll {
				m.Reads = slices.DeleteFunc(slices.Clone(m.Reads), func(r history.Read) bool { return dead[r.Key] })
			} else if dead[m.Key] {
				continue
			}
			mops = append(mops, m)
		}
		if op.F != history.FSend || len(mops) > 0 {
			op.Mops = mops
			out.Ops = append(out.Ops, op)
		}
	}
	return out
}
