package history

import "slices"

// consumer is what the checker knows of one process as a reader.
type consumer struct {
	subscribed bool
	position   map[Key]int32 // dense index of the last read of the last ok poll
}

// checkProcesses finds order violations of polls: within one operation (A7,
// A8) and between operations of one process (A9, A10), reads of own
// uncommitted writes (A6), reads before the send was invoked (P2), and values
// consumed twice by subscribers (A17).
func (ck *checker) checkProcesses() {
	procs := map[int]*consumer{}
	consumed := map[Read]int{}
	for i := range ck.h.Ops {
		op := &ck.h.Ops[i]
		p := procs[op.Process]
		if p == nil {
			p = &consumer{position: map[Key]int32{}}
			procs[op.Process] = p
		}
		switch op.F {
		case FAssign, FSubscribe:
			p.assign(op)
		case FSeek:
			for _, k := range op.Keys {
				delete(p.position, k)
			}
		case FCrash:
			delete(procs, op.Process)
		case FPoll, FTxn:
			ck.checkPoll(op, p)
			ck.checkOwnReads(op)
			if p.subscribed && op.Type == OK {
				count(op, consumed)
			}
		}
	}
	for r, n := range consumed {
		if n > 1 {
			ck.c.add("A17", r.Key, int64(r.Value), "%s value %d was consumed by %d committed operations", ck.h.KeyName(r.Key), r.Value, n)
		}
	}
}

func (p *consumer) assign(op *Op) {
	if op.Type != OK {
		return
	}
	p.subscribed = op.F == FSubscribe
	for k := range p.position {
		if !slices.Contains(op.Keys, k) {
			delete(p.position, k)
		}
	}
}

// count adds one for each value of an operation, however often the operation
// itself delivered it (that is A8).
func count(op *Op, consumed map[Read]int) {
	inOp := map[Read]struct{}{}
	for i := range op.Mops {
		for _, r := range op.Mops[i].Reads {
			inOp[Read{Key: r.Key, Value: r.Value}] = struct{}{}
		}
	}
	for r := range inOp {
		consumed[r]++
	}
}

func (ck *checker) checkPoll(op *Op, p *consumer) {
	inOp := map[Key]int32{}
	for i := range op.Mops {
		for _, r := range op.Mops[i].Reads {
			at := ck.keys[r.Key].index(r.Offset)
			if prev, ok := inOp[r.Key]; ok {
				ck.step("A7", "A8", op, r, at-prev, !slices.Contains(op.Rebalance, r.Key))
			} else if prev, ok := p.position[r.Key]; ok {
				ck.step("A9", "A10", op, r, at-prev, !p.subscribed)
			}
			inOp[r.Key] = at
			ck.checkTime(op, r)
		}
	}
	if op.Type != OK {
		return // an unknown or failed poll does not move the mark
	}
	for k, at := range inOp {
		p.position[k] = at
	}
}

// step reports a read that does not follow its predecessor, where strict.
func (ck *checker) step(skip, back string, op *Op, r Read, delta int32, strict bool) {
	if delta == 1 || !strict {
		return
	}
	code, what := skip, "skipped"
	if delta < 1 {
		code, what = back, "went back over"
	}
	ck.c.add(code, r.Key, r.Offset, "%s process %d %s %d record(s) on the way to offset %d", ck.h.KeyName(r.Key), op.Process, what, abs(delta-1), r.Offset)
}

func abs(n int32) int32 { return max(n, -n) }

// checkTime: a value cannot be read by an operation that was over before the
// send began.
func (ck *checker) checkTime(op *Op, r Read) {
	w, ok := ck.keys[r.Key].writers[r.Value]
	if !ok || !op.known() {
		return
	}
	if sent := ck.h.Ops[w.op].InvokedAt; op.DoneAt < sent {
		ck.c.add("P2", r.Key, r.Offset, "%s value %d was read %.3f ms before its send began", ck.h.KeyName(r.Key), r.Value, ms(sent-op.DoneAt))
	}
}

// checkOwnReads: a transaction must not see its own, uncommitted writes (A6).
func (ck *checker) checkOwnReads(op *Op) {
	if op.F != FTxn {
		return
	}
	own := map[Read]struct{}{}
	for _, m := range op.Mops {
		if !m.Poll {
			own[Read{Key: m.Key, Value: m.Value}] = struct{}{}
		}
	}
	for _, m := range op.Mops {
		for _, r := range m.Reads {
			if _, ok := own[Read{Key: r.Key, Value: r.Value}]; ok {
				ck.c.add("A6", r.Key, r.Offset, "%s process %d read value %d of its own open transaction", ck.h.KeyName(r.Key), op.Process, r.Value)
			}
		}
	}
}

// measureLag computes A16: for each ok poll and each key that the process
// reads, the time since the record after its position was first known to
// exist. It is a lower bound of how stale the poll was.
func (ck *checker) measureLag() {
	known := ck.firstKnown()
	procs := map[int]*consumer{}
	var lags []int64
	for i := range ck.h.Ops {
		op := &ck.h.Ops[i]
		p := procs[op.Process]
		if p == nil {
			p = &consumer{position: map[Key]int32{}}
			procs[op.Process] = p
		}
		switch op.F {
		case FAssign, FSubscribe:
			p.assign(op)
		case FPoll, FTxn:
			if op.Type == OK {
				lags = ck.appendLags(lags, op, p, known)
			}
		}
	}
	if len(lags) == 0 {
		return
	}
	slices.Sort(lags)
	ck.rep.Lag.Polls = len(lags)
	ck.rep.Lag.P50 = lags[len(lags)/2]
	ck.rep.Lag.P99 = lags[len(lags)*99/100]
}

// appendLags adds the lag of one poll for each key that the process reads.
func (ck *checker) appendLags(lags []int64, op *Op, p *consumer, known [][]int64) []int64 {
	for j := range op.Mops {
		for _, r := range op.Mops[j].Reads {
			p.position[r.Key] = ck.keys[r.Key].index(r.Offset)
		}
	}
	for k, at := range p.position {
		lag := int64(0)
		if t := known[k]; int(at)+1 < len(t) {
			lag = max(0, op.InvokedAt-t[at+1])
		}
		lags = append(lags, lag)
		if l := &ck.rep.Lag; lag > l.Max || lag == l.Max && k < l.Key {
			l.Max, l.Key = lag, k
		}
	}
	return lags
}

// firstKnown returns, per key and dense index, the earliest time at which an
// operation that saw this or a later record had completed.
func (ck *checker) firstKnown() [][]int64 {
	known := make([][]int64, len(ck.keys))
	for k, ks := range ck.keys {
		known[k] = make([]int64, len(ks.offsets))
		for i := range known[k] {
			known[k][i] = 1<<63 - 1
		}
	}
	for i := range ck.h.Ops {
		op := &ck.h.Ops[i]
		if op.Type != OK {
			continue
		}
		for j := range op.Mops {
			m := &op.Mops[j]
			if !m.Poll && m.Offset != NoOffset {
				at := ck.keys[m.Key].index(m.Offset)
				known[m.Key][at] = min(known[m.Key][at], op.DoneAt)
			}
			for _, r := range m.Reads {
				at := ck.keys[r.Key].index(r.Offset)
				known[r.Key][at] = min(known[r.Key][at], op.DoneAt)
			}
		}
	}
	for _, t := range known {
		for i := len(t) - 2; i >= 0; i-- {
			t[i] = min(t[i], t[i+1])
		}
	}
	return known
}
