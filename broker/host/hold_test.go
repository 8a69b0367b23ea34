package host

import (
	"testing"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
)

func tpN(n int32) model.TopicPartition { return model.TopicPartition{Topic: topic, Partition: n} }

// woken counts how often it is woken, and with how many marks at that time.
type woken struct{ marks, wakes int }

func (w *woken) Mark() partition.Waker { w.marks++; return w }
func (w *woken) Wake()                 { w.wakes++ }

// pair is a rig with two partitions that broker 1 leads, and a watcher of both.
func pair(t *testing.T) (*rig, *woken) {
	r := newRig(t)
	r.recover(r.image())
	r.apply(r.image(part(1, 1, 1), part(1, 1, 1)))
	w := &woken{}
	for n := range int32(2) {
		r.h.Replica(tpN(n)).Watch(w, partition.EndMoved|partition.HWMoved)
	}
	r.out.dirty = 0
	return r, w
}

// TestAppendsAreHeldTogether: the appends of one request ask for one commit and
// wake a parked fetch once, with all of them.
func TestAppendsAreHeldTogether(t *testing.T) {
	r, w := pair(t)
	var done answer
	a := r.h.Appends()
	for n := range int32(2) {
		a.Append(r.h.Replica(tpN(n)), &partition.AppendRequest{Batches: batch.Plain(0, 0, batch.Record{Value: []byte("v")}), Acks: -1, Epoch: -1, Done: &done})
	}
	if r.out.dirty != 0 || w.wakes != 0 {
		t.Errorf("before the end: %d times dirty, %d wakes", r.out.dirty, w.wakes)
	}
	a.End()
	if r.out.dirty != 1 || w.marks != 2 || w.wakes != 1 {
		t.Errorf("after the end: %d times dirty, %d marks, %d wakes, want 1, 2, 1", r.out.dirty, w.marks, w.wakes)
	}
	r.commit()
	if len(done.results) != 2 || w.marks != 4 || w.wakes != 2 {
		t.Errorf("after the commit: %d answers, %d marks, %d wakes, want 2, 4, 2", len(done.results), w.marks, w.wakes)
	}
}

// TestHoldIsBounded: what is appended is not kept from the disk and the
// followers until a large request is appended whole.
func TestHoldIsBounded(t *testing.T) {
	r, w := pair(t)
	a := r.h.Appends()
	a.Append(r.h.Replica(tpN(0)), &partition.AppendRequest{
		Batches: batch.Plain(0, 0, batch.Record{Value: make([]byte, holdBytes)}), Acks: -1, Epoch: -1, Done: &answer{},
	})
	if r.out.dirty != 1 || w.wakes != 1 {
		t.Errorf("after %d bytes: %d times dirty, %d wakes", holdBytes, r.out.dirty, w.wakes)
	}
	a.End()
	if r.out.dirty != 1 || w.wakes != 1 {
		t.Errorf("in the end: %d times dirty, %d wakes", r.out.dirty, w.wakes)
	}
}

// TestTogetherSendsReportsTogether: reports to one leader go out in one call,
// and to each leader its own.
func TestTogetherSendsReportsTogether(t *testing.T) {
	r := newRig(t)
	r.recover(r.image())
	r.apply(r.image(part(2, 1, 1, 2), part(3, 1, 1, 3), part(2, 1, 1, 2)))
	r.out.reports, r.out.calls = nil, 0
	r.h.Together(func(do partition.Do) {
		for n := range int32(3) {
			if !do(tpN(n), func(_ *partition.Replica, eff *partition.Effects) { eff.Report = true }) {
				t.Fatal("no replica")
			}
		}
		if do(tpN(7), func(*partition.Replica, *partition.Effects) { t.Error("ran without a replica") }) {
			t.Error("a replica that is not there")
		}
		if r.out.calls != 0 {
			t.Error("a report before the end")
		}
	})
	if r.out.calls != 2 || len(r.out.reports) != 3 || r.out.reports[0] != 2 || r.out.reports[1] != 2 || r.out.reports[2] != 3 {
		t.Errorf("%d calls, to leaders %v", r.out.calls, r.out.reports)
	}
}
