package history

import (
	"fmt"
	"slices"
	"time"
)

// FinalRead says how far one final reader came on one key.
type FinalRead struct {
	Key      Key
	Replica  string // as in Op.Replica
	Position int64  // the next offset it would read
	End      int64  // the end offset that a confirmed leader gave before
}

// finalReader is what one final reader saw of one key.
type finalReader struct {
	key     Key
	replica string
}

type finalView struct {
	values map[Value]struct{}
	next   int64 // one past the furthest offset it reached
}

// checkFinal compares what was acknowledged with what can be read after the
// run: A4 over all readers, B1 for each replica that was read to its end.
func (ck *checker) checkFinal() {
	for i, ks := range ck.keys {
		ck.checkUnseen(Key(i), ks)
	}
	views := map[finalReader]*finalView{}
	view := func(k Key, replica string) *finalView {
		id := finalReader{k, replica}
		if views[id] == nil {
			views[id] = &finalView{values: map[Value]struct{}{}}
		}
		return views[id]
	}
	for _, f := range ck.o.FinalReads {
		view(f.Key, f.Replica).next = f.Position
		if f.Position < f.End {
			ck.c.add("B1", f.Key, f.Position, "%s replica %q: the final read stopped at offset %d, the confirmed end is %d", ck.h.KeyName(f.Key), f.Replica, f.Position, f.End)
		}
	}
	for i := range ck.h.Ops {
		op := &ck.h.Ops[i]
		if !op.Final || op.Type != OK {
			continue
		}
		for j := range op.Mops {
			for _, r := range op.Mops[j].Reads {
				v := view(r.Key, op.Replica)
				v.values[r.Value] = struct{}{}
				v.next = max(v.next, r.Offset+1)
			}
		}
	}
	for id, v := range views {
		ck.checkView(id, v)
	}
}

func (ck *checker) checkUnseen(k Key, ks *keyState) {
	for v, w := range ks.writers {
		if _, ok := ks.read[v]; !ok && w.typ == OK {
			ck.c.add("A4", k, int64(v), "%s value %d, acknowledged at offset %d, was never read", ck.h.KeyName(k), v, w.offset)
		}
	}
}

// checkView: a final reader has every acknowledged value, and every record
// below its position that anybody else has seen.
func (ck *checker) checkView(id finalReader, v *finalView) {
	if int(id.key) >= len(ck.keys) {
		return
	}
	ks := ck.keys[id.key]
	for val, w := range ks.writers {
		if _, ok := v.values[val]; !ok && w.typ == OK {
			ck.c.add("B1", id.key, int64(val), "%s replica %q does not have value %d, acknowledged at offset %d", ck.h.KeyName(id.key), id.replica, val, w.offset)
		}
	}
	for _, p := range ks.places {
		if p.offset >= v.next {
			break
		}
		if _, ok := v.values[p.value]; !ok && ks.writers[p.value].typ != OK {
			ck.c.add("B1", id.key, int64(p.value), "%s replica %q does not have value %d, which others read at offset %d", ck.h.KeyName(id.key), id.replica, p.value, p.offset)
		}
	}
}

// Batch is one batch of a replica's log as it lies on disk.
type Batch struct {
	Base, Last int64 // first and last offset
	Epoch      int32 // leader epoch
	CRC        uint32
}

// Dump is one replica of one key: its batches in order, from its log start to
// its high watermark at least.
type Dump struct {
	Key           Key
	Replica       string
	HighWatermark int64
	Batches       []Batch
}

// checkDumps: replicas hold the same batches from the greatest log start up to
// the least high watermark (B2).
func (ck *checker) checkDumps() {
	byKey := map[Key][]Dump{}
	for _, d := range ck.o.Dumps {
		byKey[d.Key] = append(byKey[d.Key], d)
	}
	for k, dumps := range byKey {
		slices.SortFunc(dumps, func(a, b Dump) int { return slices.Compare([]byte(a.Replica), []byte(b.Replica)) })
		start, end := int64(0), int64(1<<63-1)
		for _, d := range dumps {
			end = min(end, d.HighWatermark)
			if len(d.Batches) > 0 {
				start = max(start, d.Batches[0].Base)
			}
		}
		want := within(dumps[0].Batches, start, end)
		for _, d := range dumps[1:] {
			ck.compareDump(k, dumps[0].Replica, want, d.Replica, within(d.Batches, start, end))
		}
	}
}

// within returns the batches that lie between two offsets.
func within(b []Batch, start, end int64) []Batch {
	i, _ := slices.BinarySearchFunc(b, start, func(x Batch, o int64) int { return cmp(x.Base, o) })
	j, _ := slices.BinarySearchFunc(b, end, func(x Batch, o int64) int { return cmp(x.Base, o) })
	return b[i:max(i, j)]
}

func (ck *checker) compareDump(k Key, nameA string, a []Batch, nameB string, b []Batch) {
	for i := 0; i < max(len(a), len(b)); i++ {
		switch {
		case i >= len(a):
			ck.c.add("B2", k, b[i].Base, "%s: %s has a batch at offset %d, %s ends before it", ck.h.KeyName(k), nameB, b[i].Base, nameA)
			return
		case i >= len(b):
			ck.c.add("B2", k, a[i].Base, "%s: %s has a batch at offset %d, %s ends before it", ck.h.KeyName(k), nameA, a[i].Base, nameB)
			return
		case a[i] != b[i]:
			ck.c.add("B2", k, a[i].Base, "%s: %s has %s, %s has %s", ck.h.KeyName(k), nameA, a[i], nameB, b[i])
			return
		}
	}
}

// String describes a batch.
func (b Batch) String() string {
	return fmt.Sprintf("offsets %d-%d, epoch %d, CRC %08x", b.Base, b.Last, b.Epoch, b.CRC)
}

// NotTold stands for a bound that an observation does not have.
const NotTold int64 = -1

// Observation is what one broker said about one key, at one time. Bounds that
// were not told are NotTold.
type Observation struct {
	Key           Key
	Observer      string // the broker, and its incarnation where bounds may restart with it
	Invoked, Done int64  // ns on the history's clock
	LogStart      int64
	LastStable    int64
	HighWatermark int64
	Latest        int64 // a linearizable end offset (ListOffsets latest from a confirmed leader)
	LeaderEpoch   int64
}

// checkBounds: each observer's bounds never go back, LSO ≤ high watermark, log
// start ≤ high watermark, and an end offset covers what was acknowledged
// before it was asked for (B3).
func (ck *checker) checkBounds() {
	obs := slices.Clone(ck.o.Observations)
	slices.SortStableFunc(obs, func(a, b Observation) int { return cmp(a.Invoked, b.Invoked) })
	last := map[string]Observation{}
	for i := range obs {
		o := &obs[i]
		ck.checkRelations(o)
		id := fmt.Sprintf("%d %s", o.Key, o.Observer)
		if p, ok := last[id]; ok {
			ck.checkMonotonic(o, &p)
		}
		last[id] = *o
	}
	ck.checkLatest(obs)
}

func (ck *checker) checkRelations(o *Observation) {
	told := func(v int64) bool { return v != NotTold }
	if told(o.HighWatermark) && told(o.LastStable) && o.LastStable > o.HighWatermark {
		ck.c.add("B3", o.Key, o.Invoked, "%s %s: last stable offset %d is above the high watermark %d", ck.h.KeyName(o.Key), o.Observer, o.LastStable, o.HighWatermark)
	}
	if told(o.HighWatermark) && told(o.LogStart) && o.LogStart > o.HighWatermark {
		ck.c.add("B3", o.Key, o.Invoked, "%s %s: log start %d is above the high watermark %d", ck.h.KeyName(o.Key), o.Observer, o.LogStart, o.HighWatermark)
	}
}

func (ck *checker) checkMonotonic(o, p *Observation) {
	bounds := []struct {
		name     string
		now, was int64
	}{
		{"log start", o.LogStart, p.LogStart}, {"last stable offset", o.LastStable, p.LastStable},
		{"high watermark", o.HighWatermark, p.HighWatermark}, {"end offset", o.Latest, p.Latest},
		{"leader epoch", o.LeaderEpoch, p.LeaderEpoch},
	}
	for _, b := range bounds {
		if b.now != NotTold && b.was != NotTold && b.now < b.was {
			ck.c.add("B3", o.Key, o.Invoked, "%s %s: %s went back from %d to %d", ck.h.KeyName(o.Key), o.Observer, b.name, b.was, b.now)
		}
	}
}

// checkLatest merges acknowledgements and end offsets by time.
func (ck *checker) checkLatest(obs []Observation) {
	type ack struct {
		at     int64
		key    Key
		offset int64
	}
	var acks []ack
	for i := range ck.h.Ops {
		op := &ck.h.Ops[i]
		for _, m := range op.Mops {
			if op.Type == OK && !m.Poll && m.Offset != NoOffset {
				acks = append(acks, ack{op.DoneAt, m.Key, m.Offset})
			}
		}
	}
	slices.SortFunc(acks, func(a, b ack) int { return cmp(a.at, b.at) })
	acked := map[Key]int64{}
	for _, o := range obs {
		for len(acks) > 0 && acks[0].at < o.Invoked {
			acked[acks[0].key] = max(acked[acks[0].key], acks[0].offset+1)
			acks = acks[1:]
		}
		if o.Latest != NotTold && o.Latest < acked[o.Key] {
			ck.c.add("B3", o.Key, o.Invoked, "%s %s: end offset %d, though offset %d was acknowledged before", ck.h.KeyName(o.Key), o.Observer, o.Latest, acked[o.Key]-1)
		}
	}
}

// Progress is something that must move after the last fault: a consumer
// group, a client. At is when it first did, on the history's clock; Never is
// set if it did not.
type Progress struct {
	Name  string
	At    time.Duration
	Never bool
}

// checkLiveness: within the recovery time after the last fault every key that
// was written to accepts a write and everything in Progress moves (B9).
func (ck *checker) checkLiveness() {
	if ck.o.LastFault == 0 {
		return
	}
	deadline := int64(ck.o.LastFault + ck.o.Recovery)
	first := make([]int64, len(ck.keys))
	for i := range ck.h.Ops {
		op := &ck.h.Ops[i]
		if op.Type != OK || op.InvokedAt < int64(ck.o.LastFault) {
			continue
		}
		for _, m := range op.Mops {
			if !m.Poll && (first[m.Key] == 0 || op.DoneAt < first[m.Key]) {
				first[m.Key] = op.DoneAt
			}
		}
	}
	for i, ks := range ck.keys {
		if len(ks.writers) == 0 || first[i] != 0 && first[i] <= deadline {
			continue
		}
		ck.c.add("B9", Key(i), 0, "%s accepted no write within %s after the last fault", ck.h.KeyName(Key(i)), ck.o.Recovery)
	}
	for i, p := range ck.o.Progress {
		if p.Never || int64(p.At) > deadline {
			ck.c.add("B9", Key(len(ck.keys)), int64(i), "%s did not move within %s after the last fault", p.Name, ck.o.Recovery)
		}
	}
}
