package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/history"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// watermark follows a high watermark (I4), and on a leader what it commits
// (I1, I2, I14).
func (o *oracle) watermark(n *node, x *watched, hw, end int64) {
	w := o.w
	if hw < x.hw {
		w.violate(invHWMonotone, "%s on %d: from %d to %d", x.p.name, n.id, x.hw, hw)
	}
	if hw > end {
		w.violate(invHWMonotone, "%s on %d: high watermark %d above the log end %d", x.p.name, n.id, hw, end)
	}
	st := x.r.Status()
	if st.Role != isr.Leader {
		x.leads = -1
		return
	}
	x.leads, x.epochStart = st.Epoch, st.EpochStart
	if hw <= x.hw {
		return
	}
	if len(st.ISR) < o.mins[x.p.tp.Topic] {
		w.violate(invStrictMin, "%s on %d: to %d with in-sync set %v", x.p.name, n.id, hw, st.ISR)
	}
	o.commit(n, x, hw)
}

// commit takes in what a leader holds to be committed below hw.
func (o *oracle) commit(n *node, x *watched, hw int64) {
	p := x.p
	was := p.end
	for _, e := range x.entries {
		if e.next > hw {
			break
		}
		if e.base < p.end {
			continue
		}
		if e.base > p.end && p.end > 0 && !x.blind {
			o.w.violate(invComplete, "%s: leader %d of epoch %d commits offset %d, the last committed is %d", p.name, n.id, x.leads, e.base, p.end)
		}
		if k := o.w.hist.key(p.tp); e.value >= 0 && e.value>>keyShift != int64(k) {
			o.w.violate(invReborn, "%s: leader %d commits %+v, which was sent to %s", p.name, n.id, e, o.w.hist.h.KeyName(history.Key(e.value>>keyShift)))
		}
		p.committed = append(p.committed, e)
		p.end = e.next
		o.w.acted.Committed += e.next - e.base
		if e.pid >= 0 {
			id := producerSeq{e.pid, e.seq}
			if first, twice := p.sequences[id]; twice && first < x.log.Start() {
				// What was deleted is forgotten by replicas that never had it.
				o.w.acted.Forgotten++
			} else if twice {
				o.w.violate(invDedupe, "%s: producer %d sequence %d is at offset %d and at %d", p.name, e.pid, e.seq, first, e.base)
			}
			p.sequences[id] = e.base
		}
	}
	if len(p.committed) > 0 {
		last := p.committed[len(p.committed)-1]
		if hw >= last.next && x.log.Start() <= last.base && !x.blind {
			if got, ok := x.at(last.base); !ok || got != last {
				o.w.violate(invZombie, "%s: leader %d of epoch %d has %+v where %+v is committed", p.name, n.id, x.leads, got, last)
			}
		}
	}
	if p.end > was {
		o.complete(p, fmt.Sprintf("when leader %d of epoch %d moved the high watermark to %d", n.id, x.leads, hw))
	}
}

// acked checks an acknowledgement at the instant the leader gives it (I1).
func (o *oracle) acked(n *node, tp model.TopicPartition, base, next int64, value int64) {
	p := o.part(tp)
	if x := n.watch(tp); x != nil {
		o.follow(n, x)
	}
	o.w.acted.Acks++
	if next > p.end {
		o.w.violate(invAckDurable, "%s: leader %d acknowledges [%d, %d), committed are %d", p.name, n.id, base, next, p.end)
	}
	if e, ok := p.committedAt(base); ok && e.value != value {
		o.w.violate(invAckDurable, "%s: leader %d acknowledges value %d at offset %d, where %+v is committed", p.name, n.id, value, base, e)
	}
	if m := p.meta; m != nil {
		for _, set := range [2][]model.BrokerID{m.ISR, m.ELR} {
			for _, id := range set {
				x := o.w.nodes[id-1].watch(tp)
				if x == nil || x.blind || x.log.Suspect() != segment.Trusted || o.w.nodes[id-1].unknown() {
					continue
				}
				if d := x.log.DurableEnd(); d < next {
					o.w.violate(invAckDurable, "%s: leader %d acknowledges [%d, %d), broker %d of in-sync %v, eligible %v has durable end %d", p.name, n.id, base, next, id, m.ISR, m.ELR, d)
				}
			}
		}
	}
	if k := len(p.acks); k == 0 || p.acks[k-1].end < next {
		p.acks = append(p.acks, ackedAt{o.w.now, next})
	}
}

// replicaFailed: a replica goes offline by itself only when its disk failed it.
func (o *oracle) replicaFailed(n *node, tp model.TopicPartition, err error) {
	if n.disk.dead || n.disk.full || n.disk.syncErrs > 0 || n.faultyDisk() {
		return
	}
	o.w.violate(invFailed, "%s on %d: %v", o.part(tp).name, n.id, err)
}

func (n *node) faultyDisk() bool {
	for _, x := range n.watched {
		if x.log.Suspect() != segment.Trusted || x.blind {
			return true
		}
	}
	return n.w.faults.rotten[n.idx]
}

func nextBatch(b []byte) (batch.Header, []byte, error) { return batch.Next(b) }

// valuesOf returns the values of a batch's records, as clients wrote them.
func valuesOf(raw []byte) []int64 {
	if len(raw) < batch.HeaderLen {
		return nil
	}
	count := int(binary.BigEndian.Uint32(raw[57:]))
	b := raw[batch.HeaderLen:]
	out := make([]int64, 0, count)
	for range count {
		n, k := binary.Varint(b)
		if k <= 0 || int64(len(b)-k) < n || n < 0 {
			return nil
		}
		rec := b[k : k+int(n)]
		b = b[k+int(n):]
		if len(rec) == 0 {
			return nil
		}
		// attributes, timestamp delta, offset delta, null key, value of 8 bytes and more
		rec = rec[1:]
		for range 3 {
			_, k := binary.Varint(rec)
			if k <= 0 {
				return nil
			}
			rec = rec[k:]
		}
		if _, k = binary.Varint(rec); k <= 0 || len(rec) < k+8 {
			return nil
		}
		out = append(out, int64(binary.BigEndian.Uint64(rec[k:])))
	}
	return out
}

// makeBatch builds a batch that carries values; its bytes vary with them.
func makeBatch(b batch.Builder, ts int64, values []int64, pad int) []byte {
	recs := make([]batch.Record, len(values))
	for i, v := range values {
		val := binary.BigEndian.AppendUint64(nil, uint64(v))
		recs[i] = batch.Record{Timestamp: ts, Value: append(val, bytes.Repeat([]byte{byte(v)}, pad)...)}
	}
	return b.Build(recs...)
}
