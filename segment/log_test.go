package segment

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
)

// TestLogAgainstModel drives one log by random operations beside a content in
// memory, with clean restarts and crashes, and compares after each.
func TestLogAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fs := vfs.NewCrashableMem()
		cat := NewModelCatalog()
		open := func() *Store {
			o := memOptions(fs)
			o.Catalog = cat
			s, err := Open(o)
			if err != nil {
				rt.Fatalf("open: %v", err)
			}
			return s
		}
		s := open()
		ls, err := s.Create(CreateSpec{TP: tpN(0), Config: LogConfig{SegmentBytes: 3000}})
		if err != nil {
			rt.Fatal(err)
		}
		l, cur, epoch := ls[0], content{}, int32(0)
		step := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				epoch += int32(rapid.IntRange(0, 1).Draw(rt, "epoch"))
				raw := makeBatch(l.End(), epoch, rapid.IntRange(1, 4).Draw(rt, "n"), rapid.IntRange(1, 1200).Draw(rt, "size"))
				_, err := l.Append(raw)
				step(err)
				cur.raws = append(cur.raws[:len(cur.raws):len(cur.raws)], raw)
			},
			"commit": func(*rapid.T) { _, err := s.Commit(); step(err) },
			"flush":  func(*rapid.T) { step(s.flushJournal()) },
			"truncate": func(rt *rapid.T) {
				end := rapid.Int64Range(l.Start(), l.End()).Draw(rt, "end")
				step(l.Truncate(end))
				var kept [][]byte
				for _, raw := range cur.raws {
					if h, _ := batch.Parse(raw); h.NextOffset() <= end {
						kept = append(kept, raw)
					}
				}
				cur.raws = kept
				if l.Start() > cur.end() { // the start was inside a batch that is gone
					cur = content{base: l.Start()}
				}
			},
			"advance": func(rt *rapid.T) {
				to := rapid.SampledFrom(boundaries(cur, l.Start())).Draw(rt, "start")
				if rapid.Bool().Draw(rt, "inside") && to < l.End() {
					to++
				}
				step(l.AdvanceStart(to))
			},
			"reset": func(rt *rapid.T) {
				at := rapid.Int64Range(0, 1000).Draw(rt, "at")
				step(l.ResetTo(at))
				cur = content{base: at}
			},
			"reopen": func(*rapid.T) {
				step(s.Close())
				cat = cat.Reopen()
				s = open()
				l = s.Log(tpN(0))
			},
			"power": func(*rapid.T) {
				_, err := s.Commit()
				step(err)
				fs, cat = clone(fs), cat.Crash(nil)
				s = open()
				l = s.Log(tpN(0))
			},
			"": func(rt *rapid.T) {
				want, ok := cur.bytesBetween(l.Start(), l.End())
				if !ok || l.End() != max(cur.end(), l.Start()) {
					rt.Fatalf("log is [%d, %d), model ends at %d", l.Start(), l.End(), cur.end())
				}
				got, err := readAll(l, l.Start(), l.End(), rapid.IntRange(1, 5000).Draw(rt, "chunk"))
				if err != nil || !bytes.Equal(got, want) {
					rt.Fatalf("read %d bytes, want %d: %v", len(got), len(want), err)
				}
				if err := checkEpochs(l, got); err != nil {
					rt.Fatal(err)
				}
				if l.DurableEnd() > l.End() || l.DurableEnd() < l.Start() {
					rt.Fatalf("durable end %d of [%d, %d)", l.DurableEnd(), l.Start(), l.End())
				}
			},
		})
	})
}

// boundaries are the batch boundaries at or above from.
func boundaries(c content, from int64) []int64 {
	out := []int64{from}
	for _, raw := range c.raws {
		if h, _ := batch.Parse(raw); h.NextOffset() > from {
			out = append(out, h.NextOffset())
		}
	}
	return out
}

func TestReadBounds(t *testing.T) {
	s := mustOpen(t, memOptions(vfs.NewMem()))
	defer s.Close()
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	a, b, c := mustAppend(t, l, 0, 2, 100), mustAppend(t, l, 0, 2, 100), mustAppend(t, l, 0, 2, 100)
	if err := l.AdvanceStart(2); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name          string
		offset, limit int64
		max           int
		minOne        bool
		want          []byte
		err           error
	}{
		{"below the start", 1, 6, 1000, true, nil, ErrOutOfRange},
		{"above the end", 7, 9, 1000, true, nil, ErrOutOfRange},
		{"at the end", 6, 9, 1000, true, nil, nil},
		{"all", 2, 6, 1000, false, append(bytes.Clone(b), c...), nil},
		{"inside a batch", 3, 6, len(b), false, b, nil},
		{"limit inside a batch", 2, 5, 1000, false, b, nil},
		{"limit inside the first batch", 2, 3, 1000, true, nil, nil},
		{"too small", 2, 6, len(b) - 1, false, nil, nil},
		{"too small but one", 2, 6, 1, true, b, nil},
		{"limit at the offset", 4, 4, 1000, true, nil, nil},
	} {
		r, err := l.Read(tc.offset, tc.limit, tc.max, tc.minOne)
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.err)
		}
		if err != nil {
			continue
		}
		got, err := r.AppendTo(nil)
		if err != nil || !bytes.Equal(got, tc.want) || r.Len() != int64(len(tc.want)) {
			t.Errorf("%s: %d bytes (%v), want %d", tc.name, len(got), err, len(tc.want))
		}
		r.Release()
	}
	_ = a
}

func TestAppendRefuses(t *testing.T) {
	s := mustOpen(t, memOptions(vfs.NewMem()))
	defer s.Close()
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	mustAppend(t, l, 3, 2, 50)
	good := makeBatch(2, 3, 1, 50)
	for name, b := range map[string][]byte{
		"gap":         makeBatch(3, 3, 1, 10),
		"overlap":     makeBatch(1, 3, 1, 10),
		"old epoch":   makeBatch(2, 2, 1, 10),
		"cut short":   good[:len(good)-1],
		"second gone": append(bytes.Clone(good), makeBatch(9, 3, 1, 10)...),
	} {
		if _, err := l.Append(b); err == nil {
			t.Errorf("%s was appended", name)
		}
	}
	if l.End() != 2 {
		t.Fatalf("end is %d", l.End())
	}
}

func TestEpochs(t *testing.T) {
	s := mustOpen(t, memOptions(vfs.NewMem()))
	defer s.Close()
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	if e, end := l.EpochEnd(5); e != -1 || end != -1 || l.LastEpoch() != model.NoEpoch {
		t.Fatalf("empty log: %d %d", e, end)
	}
	for _, e := range []int32{2, 2, 5, 7} {
		mustAppend(t, l, e, 10, 10)
	}
	for _, tc := range []struct {
		ask, epoch int32
		end        int64
	}{{1, -1, -1}, {2, 2, 20}, {4, 2, 20}, {5, 5, 30}, {6, 5, 30}, {7, 7, 40}, {9, 7, 40}} {
		if e, end := l.EpochEnd(tc.ask); e != tc.epoch || end != tc.end {
			t.Errorf("end of epoch %d: %d at %d, want %d at %d", tc.ask, e, end, tc.epoch, tc.end)
		}
	}
	if err := l.Truncate(25); err != nil { // inside a batch: the whole batch goes
		t.Fatal(err)
	}
	if l.End() != 20 || l.LastEpoch() != 2 {
		t.Fatalf("after truncation: end %d, epoch %d", l.End(), l.LastEpoch())
	}
}

func TestTimes(t *testing.T) {
	s := mustOpen(t, memOptions(vfs.NewMem()))
	defer s.Close()
	l := mustCreate(t, s, LogConfig{SegmentBytes: 2000}, tpN(0))[0]
	for range 30 {
		mustAppend(t, l, 0, 3, 300) // timestamps are 1000 + offset
	}
	for _, ms := range []int64{0, 1000, 1001, 1044, 1089} {
		got, ok, err := l.OffsetForTime(ms, l.End())
		if want := max(ms-1000, 0); err != nil || !ok || got.Offset != want || got.Timestamp != 1000+want {
			t.Errorf("time %d: %+v %v %v", ms, got, ok, err)
		}
	}
	if _, ok, err := l.OffsetForTime(1090, l.End()); ok || err != nil {
		t.Errorf("time past the end: %v %v", ok, err)
	}
	if _, ok, _ := l.OffsetForTime(1050, 50); ok {
		t.Error("a record at the limit was returned")
	}
	for limit, want := range map[int64]int64{90: 89, 60: 59, 61: 59} {
		if got, ok, err := l.MaxTimestamp(limit); err != nil || !ok || got.Offset != want {
			t.Errorf("max timestamp below %d: %+v %v %v", limit, got, ok, err)
		}
	}
}

func TestRetention(t *testing.T) {
	fs := vfs.NewCrashableMem()
	clk := clock.NewManual(testStart)
	o := memOptions(fs)
	o.Clock = clk
	s := mustOpen(t, o)
	l := mustCreate(t, s, LogConfig{SegmentBytes: 1500, RetentionBytes: 4000}, tpN(0))[0]
	for range 30 {
		mustAppend(t, l, 0, 1, 500)
	}
	mustCommit(t, s)
	maintain := func() {
		t.Helper()
		if err := s.Maintain(clk.Now()); err != nil {
			t.Fatal(err)
		}
	}
	maintain()
	if l.Start() != 0 {
		t.Fatal("retention went above the high watermark")
	}
	l.SetHighWatermark(8)
	maintain()
	if l.Start() == 0 || l.Start() > 8 {
		t.Fatalf("start is %d with high watermark 8", l.Start())
	}
	l.SetHighWatermark(30)
	l.SetRetentionBound(10)
	maintain()
	if l.Start() > 10 {
		t.Fatalf("start is %d with bound 10", l.Start())
	}
	l.SetRetentionBound(-1)
	maintain()
	if b := l.Bytes(); b < 4000 || b > 4000+1500 {
		t.Fatalf("%d bytes are left", b)
	}
	before := len(segmentFiles(t, fs, tpN(0)))
	clk.Advance(2 * time.Minute)
	maintain()
	if after := len(segmentFiles(t, fs, tpN(0))); after >= before || after != l.Segments() {
		t.Fatalf("%d files before the delay, %d after, %d segments", before, after, l.Segments())
	}
	l.SetConfig(LogConfig{SegmentBytes: 1500, RetentionMs: 1})
	maintain()
	if l.Segments() != 0 || l.Start() != 30 {
		t.Fatalf("%d segments after retention by time, start %d", l.Segments(), l.Start())
	}
	start := l.Start()
	s2 := mustOpen(t, memOptions(clone(fs)))
	if s2.Log(tpN(0)).Start() != start {
		t.Fatalf("start is %d after a crash, was %d", s2.Log(tpN(0)).Start(), start)
	}
}

// TestDeleteWithoutFiles: a log that has a directory and no file, as after a power
// cut that lost the first one, leaves nothing behind when it is deleted.
func TestDeleteWithoutFiles(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, memOptions(fs))
	mustCreate(t, s, LogConfig{}, tpN(0))
	if err := s.fs.MkdirAll(s.partitionDir(tpN(0))); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(tpN(0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Maintain(testStart.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if names, err := fs.List("data/segments"); err != nil || len(names) != 0 {
		t.Fatalf("%v is left of a deleted log (%v)", names, err)
	}
}

func TestDeleteAndKV(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := memOptions(fs)
	o.DeleteDelay = -1
	s := mustOpen(t, o)
	ls := mustCreate(t, s, LogConfig{}, tpN(0), tpN(1))
	want := mustAppend(t, ls[0], 0, 3, 300)
	mustAppend(t, ls[1], 0, 3, 300)
	mustCommit(t, s)
	r, err := ls[0].Read(0, 3, 1000, true)
	if err != nil {
		t.Fatal(err)
	}
	var b KVBatch
	b.Set([]byte("k"), []byte("v"))
	if err := s.KV().Apply(&b, true); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(tpN(0), tpN(0), tpN(7)); err != nil {
		t.Fatal(err)
	}
	if err := s.Maintain(testStart.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, err := r.AppendTo(nil); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("a range held over the deletion: %v", err)
	}
	r.Release()
	if _, err := ls[0].Append(makeBatch(3, 0, 1, 1)); !errors.Is(err, ErrClosed) {
		t.Fatalf("append to a deleted log: %v", err)
	}
	s2 := mustOpen(t, memOptions(clone(fs)))
	if refs := s2.Refs(); len(refs) != 1 || refs[0] != tpN(1) {
		t.Fatalf("logs after deletion and crash: %v", refs)
	}
	if v, err := s2.KV().Get([]byte("k")); err != nil || string(v) != "v" {
		t.Fatalf("node key: %q %v", v, err)
	}
	names, err := clone(fs).List("data/quarantine")
	if err != nil || len(names) != 0 {
		t.Fatalf("quarantine has %v after a deletion", names)
	}
}

func TestSnapshotsAndHighWatermark(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, memOptions(fs))
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	for range 5 {
		mustAppend(t, l, 0, 10, 10)
	}
	for _, at := range []int64{10, 20, 40} {
		l.SaveProducerSnapshot(at, fmt.Appendf(nil, "state at %d", at))
	}
	l.SetHighWatermark(45)
	l.SetHighWatermark(30)
	if l.HighWatermark() != 45 {
		t.Fatalf("high watermark %d", l.HighWatermark())
	}
	if err := l.Truncate(35); err != nil {
		t.Fatal(err)
	}
	if at, data, err := l.ProducerSnapshot(); err != nil || at != 20 || string(data) != "state at 20" {
		t.Fatalf("snapshot at %d: %q %v", at, data, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, memOptions(fs))
	l = s.Log(tpN(0))
	if at, _, err := l.ProducerSnapshot(); err != nil || at != 20 || l.HighWatermark() != 30 {
		t.Fatalf("after restart: snapshot at %d, high watermark %d, %v", at, l.HighWatermark(), err)
	}
}

// TestConcurrentReaders: eight readers against an appender, a committer and
// retention see whole, contiguous, right batches only (invariant I23).
func TestConcurrentReaders(t *testing.T) {
	o := Options{Dir: t.TempDir(), IndexBytes: 4 << 10, CacheBytes: 256 << 10, IdleClose: time.Nanosecond, DeleteDelay: -1, JournalGroup: 8 << 10}
	s := mustOpen(t, o)
	l := mustCreate(t, s, LogConfig{SegmentBytes: 64 << 10, RetentionBytes: 256 << 10}, tpN(0))[0]
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			at := int64(0)
			for {
				select {
				case <-done:
					return
				default:
				}
				limit := l.DurableEnd()
				r, err := l.Read(at, limit, 20<<10, true)
				if errors.Is(err, ErrOutOfRange) {
					at = l.Start()
					continue
				}
				if err != nil {
					t.Errorf("read at %d: %v", at, err)
					return
				}
				raw, err := r.AppendTo(nil)
				next := r.Next()
				r.Release()
				if err == nil && len(raw) > 0 {
					_, err = parseBatches(nil, raw, at, 0)
					at = next
				}
				if err != nil {
					t.Errorf("read at %d: %v", at, err)
					return
				}
			}
		})
	}
	for i := range 300 {
		mustAppend(t, l, int32(i/100), 1+i%4, 50+(i*613)%6000)
		if i%3 == 0 {
			mustCommit(t, s)
		}
		l.SetHighWatermark(l.DurableEnd())
		if i%50 == 49 {
			if err := s.Maintain(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(done)
	wg.Wait()
	if l.Start() == 0 {
		t.Error("retention never ran")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRangeToSocket sends small and large ranges to a TCP connection.
func TestRangeToSocket(t *testing.T) {
	s := mustOpen(t, Options{Dir: t.TempDir()})
	defer s.Close()
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	want := mustAppend(t, l, 0, 1, 300)
	for range 3 {
		want = append(want, mustAppend(t, l, 0, 4, 200<<10)...)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan []byte, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			got <- nil
			return
		}
		defer c.Close()
		var b bytes.Buffer
		b.ReadFrom(c)
		got <- b.Bytes()
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < l.End(); {
		r, err := l.Read(at, l.End(), 300<<10, true)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := r.WriteTo(c); err != nil || n != r.Len() {
			t.Fatalf("sent %d of %d: %v", n, r.Len(), err)
		}
		at = r.Next()
		r.Release()
	}
	c.Close()
	if b := <-got; !bytes.Equal(b, want) {
		t.Fatalf("received %d bytes, want %d", len(b), len(want))
	}
}

// TestManyLogsIdle: creating many logs is one sync, idle ones own no file, and
// opening clean ones opens none.
func TestManyLogsIdle(t *testing.T) {
	o := Options{Dir: t.TempDir(), IdleClose: time.Nanosecond, JournalAge: time.Nanosecond}
	s := mustOpen(t, o)
	var tps []model.TopicPartition
	for i := range int32(300) {
		tps = append(tps, tpN(i))
	}
	before := s.Stats()
	ls := mustCreate(t, s, LogConfig{}, tps...)
	if st := s.Stats(); st.CatalogSyncs-before.CatalogSyncs != 1 || st.FileSyncs != 0 || st.DirSyncs != 0 {
		t.Fatalf("creating %d logs: %+v", len(tps), st)
	}
	for _, l := range ls[:50] {
		mustAppend(t, l, 0, 1, 100)
	}
	mustCommit(t, s)
	if st := s.Stats(); st.CatalogSyncs-before.CatalogSyncs > 3 || st.FileSyncs != 0 {
		t.Fatalf("a small group over 50 logs took %+v", st)
	}
	for range 2 {
		if err := s.Maintain(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.OpenFiles != 0 || st.JournalBytes != 0 {
		t.Fatalf("idle store: %+v", st)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o)
	defer s.Close()
	if st := s.Stats(); st.OpenFiles != 0 || st.FileSyncs != 0 || st.Logs != 300 {
		t.Fatalf("opening clean logs: %+v", st)
	}
}
