package partition

import (
	"sync"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// nullLog takes appends and forgets them.
type nullLog struct {
	*memLog
	mu sync.Mutex
}

func (l *nullLog) Append(b []byte) (segment.AppendInfo, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	info := segment.AppendInfo{Base: l.end, Bytes: len(b)}
	for len(b) > 0 {
		h, raw, err := batch.Next(b)
		if err != nil {
			return info, err
		}
		l.end = h.NextOffset()
		b = b[len(raw):]
	}
	info.Next = l.end
	return info, nil
}

func (l *nullLog) End() int64        { l.mu.Lock(); defer l.mu.Unlock(); return l.end }
func (l *nullLog) DurableEnd() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.durable }
func (l *nullLog) commit() int64     { l.mu.Lock(); defer l.mu.Unlock(); l.durable = l.end; return l.end }

type tally struct {
	mu         sync.Mutex
	done, errs int
}

func (c *tally) Complete(res AppendResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done++
	if res.Err != 0 {
		c.errs++
	}
}

// hotLeader is a leader with two followers whose progress the caller makes up.
func hotLeader(tb testing.TB) (*Replica, *nullLog) {
	tb.Helper()
	log := &nullLog{memLog: newMemLog()}
	r, err := New(Config{Self: 1, Incarnation: 1, Log: log, Clock: clock.NewManual(time.UnixMilli(start))})
	if err != nil {
		tb.Fatal(err)
	}
	m := isr.Meta{Leader: 1, LeaderEpoch: 1, LeaderIncarnation: 1, ISR: []model.BrokerID{1, 2, 3}, MinISR: 2}
	for id := range model.BrokerID(3) {
		m.Replicas = append(m.Replicas, isr.ReplicaMeta{Broker: id + 1, Incarnation: 1, Eligible: true})
	}
	var eff Effects
	r.ApplyMeta(m, &eff)
	for id := model.BrokerID(2); id <= 3; id++ {
		if res := r.Read(ReadRequest{Follower: id, Incarnation: 1, CurrentEpoch: 1, LastFetchedEpoch: -1}, &eff); res.Err != 0 {
			tb.Fatal(res.Err)
		}
	}
	return r, log
}

// appendOnce is one produce and all that acknowledges it.
func appendOnce(r *Replica, log *nullLog, req *AppendRequest, eff *Effects) {
	eff.Reset()
	r.Append(req, eff)
	end := log.commit()
	r.Persisted(end, eff)
	for id := model.BrokerID(2); id <= 3; id++ {
		r.FollowerDurable(isr.Progress{Broker: id, Incarnation: 1, Epoch: 1, End: end}, eff)
	}
	for _, d := range eff.Done {
		d.Completion.Complete(d.Result)
	}
	notify(r, eff)
}

func BenchmarkAppend(b *testing.B) {
	r, log := hotLeader(b)
	var done tally
	var eff Effects
	req := &AppendRequest{Batches: batch.Plain(0, 0, records(10, 100)...), Acks: -1, Epoch: -1, Done: &done}
	b.SetBytes(int64(len(req.Batches)))
	b.ReportAllocs()
	for b.Loop() {
		appendOnce(r, log, req, &eff)
	}
	if done.done != b.N || done.errs != 0 {
		b.Fatalf("%d answers, %d errors of %d", done.done, done.errs, b.N)
	}
}

// The path of a produce allocates nothing in this package.
func TestAppendAllocations(t *testing.T) {
	r, log := hotLeader(t)
	var done tally
	var eff Effects
	for what, req := range map[string]*AppendRequest{
		"plain": {Batches: batch.Plain(0, 0, records(10, 100)...), Acks: -1, Epoch: -1, Done: &done},
	} {
		for range 1000 {
			appendOnce(r, log, req, &eff)
		}
		if got := testing.AllocsPerRun(1000, func() { appendOnce(r, log, req, &eff) }); got > 0 {
			t.Errorf("%s: %v allocations per append", what, got)
		}
	}
	if done.errs > 0 {
		t.Errorf("%d appends failed", done.errs)
	}
}

// Producers, a syncer, followers, readers and metadata at the same time; for the
// race detector, and: every append is answered once, and offsets are unique.
func TestConcurrentUse(t *testing.T) {
	r, log := hotLeader(t)
	const producers, each = 8, 200
	var wg sync.WaitGroup
	stop := make(chan struct{})
	results := make([][]answer, producers)
	carry := func(eff *Effects) {
		if eff.Failed != nil {
			t.Error(eff.Failed)
		}
		for _, d := range eff.Done {
			d.Completion.Complete(d.Result)
		}
		notify(r, eff)
		eff.Reset()
	}
	var background sync.WaitGroup
	background.Go(func() {
		var eff Effects
		for {
			select {
			case <-stop:
				return
			default:
			}
			end := log.commit()
			r.Persisted(end, &eff)
			for id := model.BrokerID(2); id <= 3; id++ {
				r.FollowerDurable(isr.Progress{Broker: id, Incarnation: 1, Epoch: 1, End: end}, &eff)
			}
			r.Tick(0, &eff)
			carry(&eff)
			if st := r.Status(); st.HighWatermark > st.LogEnd {
				t.Errorf("high watermark %d above the end %d", st.HighWatermark, st.LogEnd)
			}
		}
	})
	for p := range producers {
		results[p] = make([]answer, each)
		wg.Go(func() {
			eff := Effects{Flush: carry}
			for i := range each {
				r.Append(&AppendRequest{Batches: idempotent(int64(p), 0, int32(i), 1), Acks: -1, Epoch: -1, Done: &results[p][i]}, &eff)
				carry(&eff)
			}
		})
	}
	wg.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for r.Status().HighWatermark < producers*each && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	close(stop)
	background.Wait()
	seen := map[int64]bool{}
	for p := range results {
		last := int64(-1)
		for i, a := range results[p] {
			if a.n != 1 || a.res.Err != 0 || seen[a.res.BaseOffset] || a.res.BaseOffset <= last {
				t.Fatalf("append %d of %d: %v after offset %d", i, p, &a, last)
			}
			last = a.res.BaseOffset
			seen[last] = true
		}
	}
}
