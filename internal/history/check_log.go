package history

// checkLog finds what is wrong with the log itself: two values at one offset
// (A1), one value at two offsets (A2), values that nobody sent (P1), values of
// rejected writes (A5), and lost writes (A3).
func (ck *checker) checkLog() {
	for i, ks := range ck.keys {
		k := Key(i)
		ck.checkPlaces(k, ks)
		ck.checkReadValues(k, ks)
		ck.checkLost(k, ks)
	}
}

func (ck *checker) checkPlaces(k Key, ks *keyState) {
	seen := make(map[Value]int64, len(ks.places))
	for i, p := range ks.places {
		if i > 0 && ks.places[i-1].offset == p.offset {
			ck.c.add("A1", k, p.offset, "%s offset %d holds %d and %d", ck.h.KeyName(k), p.offset, ks.places[i-1].value, p.value)
		}
		if o, ok := seen[p.value]; ok {
			ck.c.add("A2", k, p.offset, "%s value %d is at offsets %d and %d", ck.h.KeyName(k), p.value, o, p.offset)
		}
		seen[p.value] = p.offset
	}
}

func (ck *checker) checkReadValues(k Key, ks *keyState) {
	for v := range ks.read {
		w, ok := ks.writers[v]
		switch {
		case !ok:
			ck.c.add("P1", k, int64(v), "%s value %d was read, but nobody sent it", ck.h.KeyName(k), v)
		case w.typ == Fail:
			ck.c.add("A5", k, int64(v), "%s value %d was read, but its write was rejected: %s", ck.h.KeyName(k), v, ck.h.Ops[w.op].Error)
		}
	}
}

// checkLost: whatever lies before a value that was read must have been
// readable too. The bound is the furthest value read, by its first index.
func (ck *checker) checkLost(k Key, ks *keyState) {
	bound := int32(-1)
	for v := range ks.read {
		bound = max(bound, ks.spans[v].first)
	}
	for v, w := range ks.writers {
		s, ok := ks.spans[v]
		if !ok || s.last > bound || w.typ == Fail {
			continue
		}
		if _, ok := ks.read[v]; ok || !ck.committed(&ck.h.Ops[w.op]) {
			continue
		}
		ck.c.add("A3", k, int64(v), "%s value %d, %s at offset %d, was never read though later offsets were", ck.h.KeyName(k), v, w.typ, w.offset)
	}
}

// checkWrites finds order violations of sends: within one operation (A12,
// A13) and within one process (A11), both in the order of the log.
func (ck *checker) checkWrites() {
	last := map[int]map[Key]int32{} // process → key → index of its last send
	for i := range ck.h.Ops {
		op := &ck.h.Ops[i]
		if op.Type == Fail || (op.F != FSend && op.F != FTxn) {
			continue
		}
		mine := last[op.Process]
		if mine == nil {
			mine = map[Key]int32{}
			last[op.Process] = mine
		}
		ck.checkOpWrites(op, mine)
	}
}

func (ck *checker) checkOpWrites(op *Op, last map[Key]int32) {
	inOp := map[Key]int32{}
	for _, m := range op.Mops {
		if m.Poll {
			continue
		}
		s, ok := ck.keys[m.Key].spans[m.Value]
		if !ok {
			continue
		}
		prev, again := inOp[m.Key]
		if !again {
			if p, ok := last[m.Key]; ok && s.first <= p {
				ck.c.add("A11", m.Key, int64(m.Value), "%s process %d: value %d lies before the process's previous send", ck.h.KeyName(m.Key), op.Process, m.Value)
			}
		} else if s.first <= prev {
			ck.c.add("A12", m.Key, int64(m.Value), "%s process %d: value %d lies before an earlier send of the same operation", ck.h.KeyName(m.Key), op.Process, m.Value)
		} else if s.first > prev+1 {
			ck.c.add("A13", m.Key, int64(m.Value), "%s process %d: foreign values before %d", ck.h.KeyName(m.Key), op.Process, m.Value)
		}
		inOp[m.Key] = s.first
	}
	for k, ix := range inOp {
		last[k] = ix
	}
}

// checkSessions: within one producer session, acknowledged offsets grow in the
// order of the sends (B10), however many requests were in flight.
func (ck *checker) checkSessions() {
	type session struct {
		process int
		key     Key
	}
	last := map[session]place{}
	for i := range ck.h.Ops {
		op := &ck.h.Ops[i]
		if op.Type != OK {
			continue
		}
		for _, m := range op.Mops {
			if m.Poll || m.Offset == NoOffset {
				continue
			}
			s := session{op.Process, m.Key}
			if p, ok := last[s]; ok && m.Offset <= p.offset {
				ck.c.add("B10", m.Key, m.Offset, "%s process %d: value %d was acknowledged at offset %d after value %d at %d",
					ck.h.KeyName(m.Key), op.Process, m.Value, m.Offset, p.value, p.offset)
			}
			last[s] = place{m.Offset, m.Value}
		}
	}
}
