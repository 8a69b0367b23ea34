package history

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"
)

// world is a perfect log that makes valid histories.
type world struct {
	rng  *rand.Rand
	now  int64
	h    *History
	logs [][]Read // per key, with offset gaps as control records leave them
	next []Value
}

func newWorld(seed int64, keys int) *world {
	w := &world{rng: rand.New(rand.NewSource(seed)), h: &History{}, logs: make([][]Read, keys), next: make([]Value, keys)}
	for k := range keys {
		w.h.Keys = append(w.h.Keys, fmt.Sprintf("t/%d", k))
	}
	return w
}

func (w *world) tick() int64 { w.now += 1000 + w.rng.Int63n(1000); return w.now }

func (w *world) add(op Op) {
	op.InvokedAt, op.DoneAt = w.tick(), w.tick()
	w.h.Ops = append(w.h.Ops, op)
}

// send appends n values to k and records their send with outcome t; applied
// says whether an unknown write took effect.
func (w *world) send(process int, k Key, n int, t Type, applied bool) {
	op := Op{Process: process, F: FSend, Type: t}
	for range n {
		m := SendMop(k, w.next[k])
		w.next[k]++
		if t == OK || applied {
			offset := int64(len(w.logs[k])) + 3*int64(len(w.logs[k])/50)
			w.logs[k] = append(w.logs[k], Read{k, offset, m.Value})
			if t == OK {
				m.Offset = offset
			}
		}
		op.Mops = append(op.Mops, m)
	}
	w.add(op)
}

// poll reads up to n records of k from index at.
func (w *world) poll(process int, k Key, at, n int, final bool, replica string) int {
	end := min(at+n, len(w.logs[k]))
	w.add(Op{Process: process, F: FPoll, Type: OK, Final: final, Replica: replica,
		Mops: []Mop{PollMop(slices.Clone(w.logs[k][at:end])...)}})
	return end
}

// finish reads every key through three replicas.
func (w *world) finish() Options {
	var o Options
	for r := range 3 {
		replica := fmt.Sprintf("broker %d", r+1)
		for k := range w.logs {
			for at := 0; at < len(w.logs[k]); {
				at = w.poll(100+r, Key(k), at, 20, true, replica)
			}
			if n := len(w.logs[k]); n > 0 {
				end := w.logs[k][n-1].Offset + 1
				o.FinalReads = append(o.FinalReads, FinalRead{Key: Key(k), Replica: replica, Position: end, End: end})
			}
		}
	}
	return o
}

// valid makes a random valid history: two producers, two consumers.
func valid(seed int64, ops int) (*History, Options) {
	w := newWorld(seed, 3)
	var at [2][3]int
	writer := [2]int{0, 1}
	for range ops {
		c, k := w.rng.Intn(2), Key(w.rng.Intn(3))
		switch n := w.rng.Intn(20); {
		case n < 9:
			w.send(writer[c], k, 1+w.rng.Intn(3), OK, true)
		case n == 9:
			w.send(writer[c], k, 1, Info, w.rng.Intn(2) == 0)
			writer[c] += 200 // an unknown outcome ends the process
		case n == 10:
			w.send(writer[c], k, 1, Fail, false)
		default:
			at[c][k] = w.poll(10+c, k, at[c][k], 1+w.rng.Intn(5), false, "")
		}
	}
	for k := range Key(3) {
		w.send(writer[0], k, 2, OK, true)
	}
	return w.h, w.finish()
}

func TestValidHistoriesPass(t *testing.T) {
	for seed := range int64(50) {
		h, o := valid(seed, 300)
		if rep := Check(h, o); !rep.Valid() {
			t.Fatalf("seed %d:\n%s", seed, rep)
		}
	}
}

func TestReportIsDeterministic(t *testing.T) {
	h, o := valid(7, 2000)
	for i := range h.Ops { // break much, so that examples overflow
		for _, m := range h.Ops[i].Mops {
			if len(m.Reads) > 1 {
				m.Reads[0].Value++
			}
		}
	}
	want := Check(h, o).String()
	for range 10 {
		if got := Check(h, o).String(); got != want {
			t.Fatalf("two checks of one history differ:\n%s\n%s", want, got)
		}
	}
}

// mutate changes one record of a final read, or one acknowledgement. Any such
// change contradicts what the other replicas and the producers say.
func mutate(rng *rand.Rand, h *History) (string, bool) {
	kind := rng.Intn(5)
	if kind == 4 {
		return mutateAck(rng, h)
	}
	var polls []*Mop
	for i := range h.Ops {
		if h.Ops[i].Final && len(h.Ops[i].Mops[0].Reads) > 1 {
			polls = append(polls, &h.Ops[i].Mops[0])
		}
	}
	m := polls[rng.Intn(len(polls))]
	i := rng.Intn(len(m.Reads))
	switch kind {
	case 0:
		m.Reads = slices.Delete(m.Reads, i, i+1)
		return "drop", true
	case 1:
		m.Reads = slices.Insert(m.Reads, i, m.Reads[i])
		return "duplicate", true
	case 2:
		j := rng.Intn(len(m.Reads) - 1)
		m.Reads[j], m.Reads[j+1] = m.Reads[j+1], m.Reads[j]
		return "swap", true
	}
	if rng.Intn(2) == 0 {
		m.Reads[i].Value += Value(1 + rng.Intn(5))
		return "alter value", true
	}
	m.Reads[i].Offset += int64(1 + rng.Intn(5))
	return "alter offset", true
}

func mutateAck(rng *rand.Rand, h *History) (string, bool) {
	op := &h.Ops[rng.Intn(len(h.Ops))]
	if op.F != FSend || op.Type != OK {
		return "", false
	}
	op.Mops[0].Offset += int64(1 + rng.Intn(5))
	return "alter acknowledged offset", true
}

func TestEveryMutationIsFound(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	kinds := map[string]int{}
	for done := 0; done < 1000; {
		h, o := valid(int64(done), 120)
		kind, ok := mutate(rng, h)
		if !ok {
			continue
		}
		kinds[kind]++
		done++
		if rep := Check(h, o); rep.Valid() {
			t.Fatalf("mutation %d (%s) was not found:\n%s", done, kind, rep)
		}
	}
	if len(kinds) != 6 {
		t.Fatalf("mutations tried: %v, want 6 kinds", kinds)
	}
}

// A record missing in the middle of a consumer's session is found without any
// final phase.
func TestDropInsideASessionIsFound(t *testing.T) {
	w := newWorld(1, 1)
	w.send(1, 0, 30, OK, true)
	for at := 0; at < 30; {
		at = w.poll(2, 0, at, 7, false, "")
	}
	m := &w.h.Ops[2].Mops[0]
	m.Reads = m.Reads[1:] // first record of the second poll
	if rep := Check(w.h, Options{}); !rep.Has("A9") || rep.Valid() {
		t.Fatalf("want A9:\n%s", rep)
	}
}

func BenchmarkCheckMillionOps(b *testing.B) {
	w := newWorld(1, 6)
	at := make([]int, 6)
	for len(w.h.Ops) < 1_000_000 {
		k := Key(w.rng.Intn(6))
		w.send(int(k), k, 1, OK, true)
		if len(w.h.Ops)%3 == 0 {
			at[k] = w.poll(10, k, at[k], 20, false, "")
		}
	}
	o := w.finish()
	b.ReportAllocs()
	for b.Loop() {
		if rep := Check(w.h, o); !rep.Valid() {
			b.Fatal(rep)
		}
	}
	b.ReportMetric(float64(len(w.h.Ops))*float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}
