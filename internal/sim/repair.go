package sim

import (
	"slices"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

// care looks for decay, and mends what is damaged from other replicas. It
// follows the broker's own repairer, without its goroutine.
func (n *node) care() {
	if _, err := n.store.Scrub(64 << 10); err != nil && n.fatal == nil && n.store.Poisoned() != nil {
		n.fatal = err
		return
	}
	if n.sess.inc == 0 {
		return
	}
	for _, x := range n.watched {
		l := n.store.Log(x.p.tp)
		if l == nil {
			continue
		}
		damaged := len(l.Damaged()) > 0
		if !damaged && !x.sore {
			continue
		}
		x.sore = true
		told := l.Suspect()
		n.declare(l, told, func() { n.mend(x, l, told) })
	}
}

// declare tells the controller what state a log is in.
func (n *node) declare(l *segment.Log, state segment.Suspicion, then func()) {
	cmd := &control.ReportLogs{Broker: n.id, Incarnation: n.sess.inc, At: n.Elapsed(), Logs: []control.LogReport{{
		TP: l.TP(), Epoch: l.LastEpoch(), End: l.DurableEnd(), Suspect: state}}}
	n.submit(cmd, func(r control.Result, err error) {
		if err == nil && r.Code == 0 {
			then()
		}
	})
}

func (n *node) mend(x *watched, l *segment.Log, told segment.Suspicion) {
	damaged := l.Damaged()
	if len(damaged) == 0 {
		if told >= segment.Damaged {
			return // it became well meanwhile: the controller does not know
		}
		x.sore = false
		n.w.trace.note("%d: %d is mended", n.id, x.p.tp.Partition)
		n.host.Do(x.p.tp, func(_ *partition.Replica, eff *partition.Effects) { eff.Report = true })
		return
	}
	st := x.r.Status()
	if st.Role == isr.Leader && len(st.ISR) > 1 {
		return // somebody else is to lead first
	}
	for _, d := range damaged {
		units, err := l.RepairUnits(d)
		if err != nil || len(units) == 0 || units[0].To > st.HighWatermark {
			n.w.trace.note("%d: %d cannot be mended at %v: units %v, high watermark %d, %v", n.id, x.p.tp.Partition, d, units, st.HighWatermark, err)
			continue
		}
		n.mendUnit(x, units[0])
	}
}

// mendUnit fetches one range as a consumer does and replaces it.
func (n *node) mendUnit(x *watched, u segment.OffsetRange) {
	m := x.p.meta
	from := int(m.Replicas[n.rng.IntN(len(m.Replicas))]) - 1
	if from == n.idx {
		return
	}
	tp := x.p.tp
	n.call(from, evRequest, time.Second, func(d *node, reply func(any)) {
		reply(d.committedRange(tp, u))
	}, func(v any, err error) {
		raw, _ := v.([]byte)
		if err != nil || len(raw) == 0 {
			return
		}
		n.host.Do(tp, func(r *partition.Replica, eff *partition.Effects) { err = r.Repair(u, raw, eff) })
		if err != nil {
			n.w.trace.note("%d: repair of %d at %v: %v", n.id, tp.Partition, u, err)
		}
	})
}

// committedRange reads committed records that cover a range, or nothing.
func (d *node) committedRange(tp model.TopicPartition, u segment.OffsetRange) []byte {
	var out []byte
	for at := u.From; at < u.To; {
		p := d.consume(tp, at, 1<<20)
		if p.res.Err != 0 || len(p.raw) == 0 {
			return nil
		}
		for raw := p.raw; len(raw) > 0 && at < u.To; {
			h, b, err := nextBatch(raw)
			if err != nil || h.BaseOffset > at || h.NextOffset() <= at {
				return nil
			}
			out, raw, at = append(out, b...), raw[len(b):], h.NextOffset()
		}
	}
	return out
}

// retrust ends the suspicion of logs with a torn tail that are in sync again.
func (n *node) retrust(u control.Update) {
	b := u.Next.Brokers[n.id]
	if b == nil || b.Incarnation != n.host.Incarnation() {
		return
	}
	for _, id := range u.Topics {
		t := u.Next.Topics[id]
		if t == nil {
			continue
		}
		for i, p := range t.Partitions {
			if l := n.store.Log(model.TopicPartition{Topic: id, Partition: int32(i)}); l != nil && slices.Contains(p.ISR, n.id) {
				l.Trust()
			}
		}
	}
}
