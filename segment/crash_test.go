package segment

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
)

// longSweep is asked for by the environment: every crash point instead of a
// sample of them.
func longSweep() bool { return os.Getenv("TAILRACE_SWEEP") == "long" }

// logModel is what a log may hold. While an operation that removes batches is
// under way both the old and the new content are possible.
type logModel struct {
	acked    int64 // durable end that the store reported
	start    int64
	possible []content
}

// content is a run of batches from offset base on.
type content struct {
	base int64
	raws [][]byte
}

func (c content) end() int64 {
	end := c.base
	for _, raw := range c.raws {
		h, _ := batch.Parse(raw)
		end = h.NextOffset()
	}
	return end
}

// bytesBetween returns the batches in [from, to), and whether both are
// boundaries of it.
func (c content) bytesBetween(from, to int64) ([]byte, bool) {
	var out []byte
	at, okFrom, okTo := c.base, c.base >= from, c.base == to
	for _, raw := range c.raws {
		h, _ := batch.Parse(raw)
		if h.NextOffset() > from && at < to {
			okFrom = true
			out = append(out, raw...)
		}
		at = h.NextOffset()
		okTo = okTo || at == to
	}
	return out, okTo && (okFrom || from == to)
}

// workload drives a store and knows what must survive at any moment.
type workload struct {
	mu   sync.Mutex
	logs map[model.TopicPartition]*logModel
}

// snapshot copies the model: the slices in it are never changed in place.
func (w *workload) snapshot() map[model.TopicPartition]logModel {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[model.TopicPartition]logModel{}
	for tp, m := range w.logs {
		out[tp] = *m
	}
	return out
}

func (w *workload) update(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

func (w *workload) create(s *Store, cfg LogConfig, tps ...model.TopicPartition) error {
	var specs []CreateSpec
	for _, tp := range tps {
		specs = append(specs, CreateSpec{TP: tp, Config: cfg})
	}
	if _, err := s.Create(specs...); err != nil {
		return err
	}
	w.update(func() {
		for _, tp := range tps {
			w.logs[tp] = &logModel{possible: []content{{}}}
		}
	})
	return nil
}

// append writes a group of batches at the log's end.
func (w *workload) append(s *Store, tp model.TopicPartition, epoch int32, sizes ...int) error {
	l := s.Log(tp)
	m := w.logs[tp]
	cur := m.possible[0]
	raws := append([][]byte(nil), cur.raws...)
	next := l.End()
	var group []byte
	for i, size := range sizes {
		raw := makeBatch(next, epoch, 1+i%3, size)
		next += int64(1 + i%3)
		raws = append(raws, raw)
		group = append(group, raw...)
	}
	grown := content{cur.base, raws}
	w.update(func() { m.possible = []content{grown} }) // a prefix of it covers "not yet"
	_, err := l.Append(group)
	if err != nil {
		w.update(func() { m.possible = []content{grown, cur} })
	}
	return err
}

func (w *workload) commit(s *Store) error {
	done, err := s.Commit()
	w.update(func() {
		for _, c := range done {
			w.logs[c.Log.TP()].acked = c.End
		}
	})
	return err
}

func (w *workload) truncate(s *Store, tp model.TopicPartition, end int64) error {
	m := w.logs[tp]
	old := m.possible[0]
	short := content{base: old.base}
	for _, raw := range old.raws {
		if h, _ := batch.Parse(raw); h.NextOffset() <= end {
			short.raws = append(short.raws, raw)
		}
	}
	w.update(func() {
		m.possible = []content{old, short}
		m.acked = min(m.acked, short.end())
	})
	if err := s.Log(tp).Truncate(end); err != nil {
		return err
	}
	w.update(func() { m.possible = []content{short} })
	return nil
}

func (w *workload) reset(s *Store, tp model.TopicPartition, offset int64) error {
	m := w.logs[tp]
	w.update(func() {
		m.possible = []content{m.possible[0], {base: offset}}
		m.acked = 0
	})
	if err := s.Log(tp).ResetTo(offset); err != nil {
		return err
	}
	w.update(func() {
		m.possible = []content{{base: offset}}
		m.acked, m.start = offset, offset
	})
	return nil
}

func (w *workload) advance(s *Store, tp model.TopicPartition, offset int64) error {
	if err := s.Log(tp).AdvanceStart(offset); err != nil {
		return err
	}
	w.update(func() { w.logs[tp].start = offset })
	return nil
}

// run is the fixed workload: every kind of change, groups of every kind.
func (w *workload) run(s *Store) error {
	cfg := LogConfig{SegmentBytes: 6 << 10}
	steps := []func() error{
		func() error { return w.create(s, cfg, tpN(0), tpN(1), tpN(2)) },
		func() error { return w.append(s, tpN(0), 0, 100) },
		func() error { return w.commit(s) }, // journal
		func() error { return w.append(s, tpN(0), 0, 90, 90) },
		func() error { return w.append(s, tpN(1), 0, 700, 1500, 900) },
		func() error { return w.append(s, tpN(2), 3, 200) },
		func() error { return w.commit(s) }, // mixed
		func() error { return w.append(s, tpN(1), 0, 3000, 2500) },
		func() error { return w.append(s, tpN(1), 1, 3000, 100) }, // rolls
		func() error { return w.commit(s) },                       // direct
		func() error { return w.append(s, tpN(0), 1, 60) },
		func() error { return w.commit(s) },
		func() error { return s.flushJournal() },
		func() error { return w.append(s, tpN(2), 3, 5000, 4000, 90) },
		func() error { return w.append(s, tpN(2), 4, 100, 200) },
		func() error { return w.truncate(s, tpN(2), 3) }, // inside what is not durable
		func() error { return w.append(s, tpN(2), 5, 300, 300) },
		func() error { return w.commit(s) },
		func() error { return w.append(s, tpN(1), 2, 4000, 4000) },
		func() error { return w.commit(s) },
		func() error { return w.truncate(s, tpN(1), 8) }, // below the mark
		func() error { return w.append(s, tpN(1), 6, 128, 4000) },
		func() error { return w.commit(s) },
		func() error { return s.flushMarks() },
		func() error { return w.advance(s, tpN(1), 6) },
		func() error { return s.reap(testStart.AddDate(1, 0, 0)) },
		func() error { return w.reset(s, tpN(2), 100) },
		func() error { return w.append(s, tpN(2), 7, 100) },
		func() error { return w.append(s, tpN(0), 7, 2500, 2500, 2500) },
		func() error { return w.commit(s) },
		func() error { return s.flushJournal() },
		func() error { return w.append(s, tpN(0), 8, 40) },
		func() error { return w.commit(s) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func newWorkload() *workload { return &workload{logs: map[model.TopicPartition]*logModel{}} }

// checkRecovered compares a recovered store with the model: everything
// acknowledged is there, and nothing that was not appended.
func checkRecovered(s *Store, want map[model.TopicPartition]logModel) error {
	for tp, m := range want {
		l := s.Log(tp)
		if l == nil {
			return fmt.Errorf("log %s is gone", tp)
		}
		if l.DurableEnd() != l.End() {
			return fmt.Errorf("log %s: durable end %d, log end %d after recovery", tp, l.DurableEnd(), l.End())
		}
		if l.Suspect() >= Damaged {
			return fmt.Errorf("log %s: suspicion %d, damaged %v", tp, l.Suspect(), l.Damaged())
		}
		if l.End() < m.acked {
			return fmt.Errorf("log %s: recovered end %d, acknowledged %d", tp, l.End(), m.acked)
		}
		if l.Start() < m.start {
			return fmt.Errorf("log %s: recovered start %d, was %d", tp, l.Start(), m.start)
		}
		got, err := readAll(l, l.Start(), l.End(), 1000)
		if err != nil {
			return fmt.Errorf("log %s: %w", tp, err)
		}
		ok := false
		for _, c := range m.possible {
			b, aligned := c.bytesBetween(l.Start(), l.End())
			ok = ok || aligned && bytes.Equal(b, got)
		}
		if !ok {
			return fmt.Errorf("log %s: recovered [%d, %d) is not a prefix of what was appended", tp, l.Start(), l.End())
		}
		if err := checkEpochs(l, got); err != nil {
			return err
		}
	}
	return nil
}

// checkEpochs rebuilds the epoch history from the batches (invariant I20).
func checkEpochs(l *Log, raw []byte) error {
	for len(raw) > 0 {
		h, b, err := batch.Next(raw)
		if err != nil {
			return err
		}
		if e := l.EpochAt(max(h.BaseOffset, l.Start())); e != h.LeaderEpoch {
			return fmt.Errorf("log %s: epoch at %d is %d, batch has %d", l.TP(), h.BaseOffset, e, h.LeaderEpoch)
		}
		raw = raw[len(b):]
	}
	return nil
}

// TestCrashSweep cuts the power before every call on the file system, the
// catalog's included, once losing everything unsynced and once keeping a random
// part of it.
func TestCrashSweep(t *testing.T) {
	rounds := 4
	if longSweep() {
		rounds = 200
	}
	for round := range rounds {
		percent := []int{0, 30, 60, 90}[round%4]
		t.Run(fmt.Sprintf("%d/keep=%d", round, percent), func(t *testing.T) { crashSweep(t, uint64(round), percent) })
	}
}

func crashSweep(t *testing.T, seed uint64, percent int) {
	fs := vfs.NewCrashableMem()
	w := newWorkload()
	var mu sync.Mutex // one crash at a time
	points := 0
	hook := func(op Op) Fault {
		if op.Kind == OpList || op.Kind == OpRead {
			return Fault{}
		}
		mu.Lock()
		defer mu.Unlock()
		if t.Failed() {
			return Fault{}
		}
		points++
		want := w.snapshot() // before the clone: what is acknowledged later need not be in it
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(uint64(op.Index), seed))})
		if err := recoverTwice(clone, want); err != nil {
			t.Errorf("crash before call %d (%s %s): %v", op.Index, op.Kind, op.Name, err)
		}
		return Fault{}
	}
	o := memOptions(fs)
	o.FS = &FaultFS{FS: Mem(fs), Hook: hook}
	s := mustOpen(t, o)
	if err := w.run(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if points < 100 && !t.Failed() {
		t.Fatalf("only %d crash points", points)
	}
}

// recoverTwice recovers, checks, and shows that all that was reported is
// durable: a second power cut right after loses nothing. Then the log goes on.
func recoverTwice(fs *vfs.MemFS, want map[model.TopicPartition]logModel) error {
	s, err := Open(memOptions(fs))
	if err != nil && len(want) == 0 {
		return nil // cut while the catalog was being made: nothing was promised
	}
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	defer s.Close()
	if err := checkRecovered(s, want); err != nil {
		return err
	}
	s2, err := Open(memOptions(fs.CrashClone(vfs.CrashCloneCfg{})))
	if err != nil && len(want) == 0 {
		return nil // as above
	}
	if err != nil {
		return fmt.Errorf("recover again: %w", err)
	}
	defer s2.Close()
	for tp := range want {
		if a, b := s.Log(tp), s2.Log(tp); a.End() != b.End() || a.Start() != b.Start() {
			return fmt.Errorf("log %s: [%d, %d) was reported, a second crash left [%d, %d)", tp, a.Start(), a.End(), b.Start(), b.End())
		}
	}
	if err := checkRecovered(s2, want); err != nil {
		return fmt.Errorf("after a second crash: %w", err)
	}
	for tp := range want {
		l := s2.Log(tp)
		before, err := readAll(l, l.Start(), l.End(), 4000)
		if err != nil {
			return err
		}
		next := makeBatch(l.End(), 50, 2, 900)
		if _, err := l.Append(next); err != nil {
			return fmt.Errorf("append after recovery: %w", err)
		}
		got, err := readAll(l, l.Start(), l.End(), 4000)
		if err != nil || !bytes.Equal(got, append(before, next...)) {
			return fmt.Errorf("log %s is not what it was and one more batch: %v", tp, err)
		}
	}
	_, err = s2.Commit()
	return err
}
