package segment

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/internal/model"
)

// TestEveryLogHasItsTurn: with few logs Maintain looks at each of them; with
// many it is bounded, and a round still reaches all, also while logs come and go.
func TestEveryLogHasItsTurn(t *testing.T) {
	s := mustOpen(t, memOptions(vfs.NewCrashableMem()))
	logs := mustCreate(t, s, LogConfig{}, tpN(0), tpN(1))
	if got := s.turn(); len(got) != len(logs) {
		t.Fatalf("%d of %d logs", len(got), len(logs))
	}
	var tps []model.TopicPartition
	for i := int32(2); i < 3*roundLogs+10; i++ {
		tps = append(tps, tpN(i))
	}
	mustCreate(t, s, LogConfig{}, tps...)
	for _, gone := range [][]model.TopicPartition{nil, tps[2*roundLogs:]} {
		if err := s.Delete(gone...); err != nil {
			t.Fatal(err)
		}
		seen := map[*Log]bool{}
		for range 2 * (len(s.Refs())/roundLogs + 1) {
			part := s.turn()
			if len(part) > roundLogs {
				t.Fatalf("%d logs at once", len(part))
			}
			for _, l := range part {
				seen[l] = true
			}
		}
		if len(seen) != len(s.Refs()) {
			t.Fatalf("a round reached %d of %d logs", len(seen), len(s.Refs()))
		}
	}
}

// TestHighWatermarkCheckpoints: whatever moves a high watermark, the next call of
// Maintain saves it, again after a first time, and one that did not move costs
// nothing.
func TestHighWatermarkCheckpoints(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := memOptions(fs)
	s := mustOpen(t, o)
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	for range 6 {
		mustAppend(t, l, 1, 1, 100)
	}
	mustCommit(t, s)
	saved := func(want int64) {
		t.Helper()
		if err := s.Maintain(o.Clock.Now()); err != nil {
			t.Fatal(err)
		}
		v, err := s.catalog.Get(logKey(l.tp, kindHW))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := readNumber(nil, v); err != nil || got != want {
			t.Fatalf("saved %d (%v), want %d", got, err, want)
		}
	}
	l.SetHighWatermark(2)
	l.SetHighWatermark(3)
	saved(3)
	l.SetHighWatermark(1)
	if len(s.moved) != 0 {
		t.Fatal("a high watermark that did not move is to be saved")
	}
	l.SetHighWatermark(4)
	saved(4)
	if err := l.AdvanceStart(5); err != nil {
		t.Fatal(err)
	}
	saved(5)
}
