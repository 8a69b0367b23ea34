//go:build !race

// The race detector allocates too.

package segment

import (
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/internal/model"
)

// forgetful is a catalog that takes every batch and keeps none, so that what is counted
// is the log's own, and no job of Pebble's allocates beside it.
type forgetful struct{ *ModelCatalog }

func (forgetful) Apply(*KVBatch, bool) error { return nil }

// hotStore has n logs on a file system in memory that are long past their first append.
func hotStore(t *testing.T, n int) (*Store, []*Log) {
	t.Helper()
	s := mustOpen(t, Options{FS: Mem(vfs.NewMem()), Dir: "data", Catalog: forgetful{NewModelCatalog()}, IndexBytes: 16 << 20, JournalMax: 1 << 40})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	var tps []model.TopicPartition
	for i := range int32(n) {
		tps = append(tps, tpN(i))
	}
	return s, mustCreate(t, s, LogConfig{SegmentBytes: 1 << 30}, tps...)
}

// TestAllocationBudget: allocations of the hot path. They must not grow with what a log
// holds, and with a group only by what stands here. Growth of slices and of the tail
// cache is spread over many calls and lost in the mean, which is rounded down.
func TestAllocationBudget(t *testing.T) {
	const logs = 10
	s, ls := hotStore(t, logs)
	raw := makeBatch(0, 0, 1, 1<<10)
	add := func(l *Log) {
		restamp(raw, l)
		if _, err := l.Append(raw); err != nil {
			t.Fatal(err)
		}
	}
	commit := func(logs int) func() {
		return func() {
			for _, l := range ls[:logs] {
				add(l)
			}
			if moved := mustCommit(t, s); len(moved) != logs {
				t.Fatalf("%d logs moved, want %d", len(moved), logs)
			}
		}
	}
	read := func(back int64) func() {
		return func() {
			r, err := ls[0].Read(ls[0].End()-back, ls[0].End(), 1<<20, true)
			if err != nil || r.Len() == 0 {
				t.Fatalf("%d bytes, %v", r.Len(), err)
			}
			if _, err := r.WriteTo(io.Discard); err != nil {
				t.Fatal(err)
			}
			r.Release()
		}
	}
	for range 500 {
		commit(logs)()
	}
	for _, tc := range []struct {
		name   string
		fn     func()
		budget float64
	}{
		{"append of 1 KiB", func() { add(ls[0]) }, 0},
		{"append to 1 log and commit in the journal", commit(1), 1},
		{"append to 10 logs and commit in the journal", commit(logs), 1},
		{"read of 1 KiB at the tail", read(1), 2},
		{"read of 16 KiB at the tail", read(16), 2},
		{"read of old data", read(450), 3},
	} {
		got := testing.AllocsPerRun(200, tc.fn)
		t.Logf("%s: %.0f allocations", tc.name, got)
		if got > tc.budget {
			t.Errorf("%s: %.0f allocations, budget %.0f", tc.name, got, tc.budget)
		}
	}
}

// TestCatalogAllocationBudget: one batch in Pebble. Its own goroutines allocate now and then, so
// the least of a few means counts: what every batch costs is in all of them.
func TestCatalogAllocationBudget(t *testing.T) {
	c, err := OpenPebble(PebbleOptions{Dir: "catalog", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	b := tenMarks()
	for _, tc := range []struct {
		name   string
		sync   bool
		budget float64
	}{
		{"unsynced batch", false, 0}, {"synced batch", true, 0},
	} {
		got := 1e9
		for range 5 {
			got = min(got, testing.AllocsPerRun(50, func() {
				if err := c.Apply(b, tc.sync); err != nil {
					t.Fatal(err)
				}
			}))
		}
		t.Logf("%s: %.0f allocations", tc.name, got)
		if got > tc.budget {
			t.Errorf("%s: %.0f allocations, budget %.0f", tc.name, got, tc.budget)
		}
	}
}

// tenMarks is what a group commit gives the catalog when the files of ten logs were
// synced before.
func tenMarks() *KVBatch {
	b := &KVBatch{}
	for i := range int32(10) {
		m := mark{ordinal: 1, pos: 1 << 20, next: 1000}
		b.Set(logKey(tpN(i), kindMark), m.encode())
	}
	return b
}

func BenchmarkCatalogApply(b *testing.B) {
	for name, sync := range map[string]bool{"unsynced": false, "synced": true} {
		b.Run(name, func(b *testing.B) {
			c, err := OpenPebble(PebbleOptions{Dir: b.TempDir(), FS: vfs.Default})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			batch := tenMarks()
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Apply(batch, sync); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
