package history

import (
	"slices"
	"time"
)

// Options are the promises that the run was made under and what was observed
// beside the history. The zero value is the strict one.
type Options struct {
	AllowDuplicates bool // producers were not idempotent: A2 is counted, not bad
	ExactlyOnce     bool // consumers commit in transactions: A17 is bad
	ReadUncommitted bool // A6 is allowed; A5 stays bad, since a rejection is definite

	FinalReads   []FinalRead   // B1: how far each final reader came
	Dumps        []Dump        // B2: batches of each replica
	Observations []Observation // B3: offsets that brokers told
	LastFault    time.Duration // B9: end of the last fault on the history's clock; 0 skips the check
	Recovery     time.Duration // B9: how soon after it every key must accept writes; default 30 s
	Progress     []Progress    // B9: other things that must move, such as consumer groups
}

// sendRef is what is known of one value's writer.
type sendRef struct {
	op     int32
	offset int64
	typ    Type
}

// span is the first and last dense index at which a value occurs.
type span struct{ first, last int32 }

// place is one (offset, value) that somebody reported.
type place struct {
	offset int64
	value  Value
}

// keyState is everything the passes need of one key.
type keyState struct {
	writers map[Value]sendRef
	read    map[Value]struct{} // values that an ok poll delivered
	places  []place            // sorted, distinct
	offsets []int64            // dense index → offset
	spans   map[Value]span
}

// index returns the dense index of an offset, or -1.
func (ks *keyState) index(offset int64) int32 {
	i, ok := slices.BinarySearch(ks.offsets, offset)
	if !ok {
		return -1
	}
	return int32(i)
}

type checker struct {
	h    *History
	o    Options
	keys []*keyState
	c    *collector
	rep  Report
}

// Check finds every anomaly in h. It makes a fixed number of passes over the
// operations and one sort per key; the result is the same for the same input.
func Check(h *History, o Options) *Report {
	if o.Recovery == 0 {
		o.Recovery = 30 * time.Second
	}
	ck := &checker{h: h, o: o, c: newCollector()}
	ck.collect()
	ck.order()
	ck.checkLog()
	ck.checkWrites()
	ck.checkSessions()
	ck.checkProcesses()
	ck.checkFinal()
	ck.checkDumps()
	ck.checkBounds()
	ck.checkLiveness()
	ck.measureLag()
	ck.rep.Findings = ck.c.findings(ck.verdict)
	return &ck.rep
}

func (ck *checker) verdict(code string) Verdict {
	switch code {
	case "A13":
		return Allowed
	case "A2":
		return allowedIf(ck.o.AllowDuplicates)
	case "A6":
		return allowedIf(ck.o.ReadUncommitted)
	case "A17":
		return allowedIf(!ck.o.ExactlyOnce)
	case "A4":
		return allowedIf(!ck.hasFinal())
	}
	return Bad
}

func allowedIf(b bool) Verdict {
	if b {
		return Allowed
	}
	return Bad
}

func (ck *checker) hasFinal() bool {
	return slices.ContainsFunc(ck.h.Ops, func(o Op) bool { return o.Final })
}

func (ck *checker) key(k Key) *keyState {
	for int(k) >= len(ck.keys) {
		ck.keys = append(ck.keys, &keyState{writers: map[Value]sendRef{}, read: map[Value]struct{}{}})
	}
	return ck.keys[k]
}

// collect makes the first pass: writers, values read, counts.
func (ck *checker) collect() {
	for i := range ck.h.Ops {
		op := &ck.h.Ops[i]
		ck.rep.Ops++
		for j := range op.Mops {
			ck.collectMop(int32(i), op, &op.Mops[j])
		}
	}
}

func (ck *checker) collectMop(ix int32, op *Op, m *Mop) {
	if m.Poll {
		for _, r := range m.Reads {
			ck.rep.Reads++
			ks := ck.key(r.Key)
			ks.places = append(ks.places, place{r.Offset, r.Value})
			if op.Type == OK {
				ks.read[r.Value] = struct{}{}
			}
		}
		return
	}
	ck.rep.Sends++
	switch op.Type {
	case OK:
		ck.rep.Acked++
	case Fail:
		ck.rep.Failed++
	default:
		ck.rep.Unknown++
	}
	ck.key(m.Key).writers[m.Value] = sendRef{op: ix, offset: m.Offset, typ: op.Type}
}

// committed reports whether op must have taken effect: it was acknowledged,
// or its outcome is unknown and some ok poll saw one of its values.
func (ck *checker) committed(op *Op) bool {
	if op.Type == OK {
		return true
	}
	if op.Type == Fail {
		return false
	}
	for i := range op.Mops {
		m := &op.Mops[i]
		if m.Poll {
			continue
		}
		if _, ok := ck.keys[m.Key].read[m.Value]; ok {
			return true
		}
	}
	return false
}

// order makes the second pass: the version order of each key from all polls
// and from the sends that must have committed.
func (ck *checker) order() {
	for i := range ck.h.Ops {
		op := &ck.h.Ops[i]
		if op.Type == Fail || !ck.committed(op) {
			continue
		}
		for _, m := range op.Mops {
			if !m.Poll && m.Offset != NoOffset {
				ks := ck.keys[m.Key]
				ks.places = append(ks.places, place{m.Offset, m.Value})
			}
		}
	}
	for _, ks := range ck.keys {
		ks.build()
	}
}

func (ks *keyState) build() {
	slices.SortFunc(ks.places, func(a, b place) int {
		if a.offset != b.offset {
			return cmp(a.offset, b.offset)
		}
		return cmp(int64(a.value), int64(b.value))
	})
	ks.places = slices.Compact(ks.places)
	ks.spans = make(map[Value]span, len(ks.places))
	for _, p := range ks.places {
		if n := len(ks.offsets); n == 0 || ks.offsets[n-1] != p.offset {
			ks.offsets = append(ks.offsets, p.offset)
		}
		at := int32(len(ks.offsets) - 1)
		s, ok := ks.spans[p.value]
		if !ok {
			s.first = at
		}
		s.last = at
		ks.spans[p.value] = s
	}
}

func cmp(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
