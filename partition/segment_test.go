package partition

import (
	"fmt"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// disk is a replica on a real store.
type disk struct {
	t     *testing.T
	dir   string
	self  model.BrokerID
	inc   model.Incarnation
	clock *clock.Manual
	store *segment.Store
	log   *segment.Log
	r     *Replica
	eff   Effects
}

var diskTP = model.TopicPartition{Topic: model.TopicID{1}, Partition: 3}

func (d *disk) open() {
	d.t.Helper()
	s, err := segment.Open(segment.Options{Dir: d.dir, Clock: d.clock})
	if err != nil {
		d.t.Fatal(err)
	}
	logs, err := s.Create(segment.CreateSpec{TP: diskTP, Config: segment.LogConfig{SegmentBytes: 4 << 10}})
	if err != nil {
		d.t.Fatal(err)
	}
	d.inc++
	d.store, d.log = s, logs[0]
	d.r, err = New(Config{Self: d.self, Incarnation: d.inc, Log: Segment(d.log), Clock: d.clock,
		Topic: TopicConfig{Log: segment.LogConfig{SegmentBytes: 4 << 10}}})
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *disk) close() {
	d.t.Helper()
	if err := d.store.Close(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *disk) commit() {
	d.t.Helper()
	done, err := d.store.Commit()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, c := range done {
		if c.Log == d.log {
			d.r.Persisted(c.End, &d.eff)
		}
	}
	d.carry()
}

func (d *disk) carry() {
	for _, x := range d.eff.Done {
		x.Completion.Complete(x.Result)
	}
	d.eff.Reset()
}

func (d *disk) produce(raw []byte) *answer {
	a := &answer{}
	d.r.Append(&AppendRequest{Batches: raw, Acks: -1, Epoch: -1, Done: a}, &d.eff)
	d.carry()
	return a
}

// fetchFrom does round trips until the follower has what the leader has.
func (d *disk) fetchFrom(l *disk) {
	d.t.Helper()
	for range 100 {
		st := d.r.FetchState()
		res := l.r.Read(ReadRequest{Offset: st.Offset, MaxBytes: 2000, MinOne: true, CurrentEpoch: st.Epoch, LastFetchedEpoch: st.LastEpoch,
			Follower: d.self, Incarnation: d.inc}, &l.eff)
		var err error
		switch {
		case res.Err != 0:
			d.t.Fatalf("fetch at %d: error %d", st.Offset, res.Err)
		case res.Diverging != nil:
			err = d.r.Diverged(st.Leader, st.Epoch, *res.Diverging, &d.eff)
		default:
			f := Fetched{Leader: st.Leader, Epoch: st.Epoch, FetchOffset: st.Offset, Generation: st.Generation,
				LeaderHW: res.HighWatermark, LeaderStart: res.LogStart}
			if res.Range != nil {
				if f.Batches, err = res.Range.AppendTo(nil); err != nil {
					d.t.Fatal(err)
				}
				res.Range.Release()
			}
			err = d.r.AppendFetched(f, &d.eff)
		}
		if err != nil {
			d.t.Fatal(err)
		}
		d.carry()
		if d.log.End() == l.log.End() && res.Range == nil && res.Diverging == nil {
			return
		}
	}
	d.t.Fatalf("not caught up: %d of %d", d.log.End(), l.log.End())
}

// Two replicas on real logs: acknowledgement, failover with dedupe, truncation
// of a tail that nobody else had, restart, offsets by time.
func TestOnSegmentLog(t *testing.T) {
	c := clock.NewManual(time.UnixMilli(start))
	m := isr.Meta{Index: 1, Leader: 1, LeaderEpoch: 1, LeaderIncarnation: 1, PartitionEpoch: 1, MinISR: 2, ISR: []model.BrokerID{1, 2}}
	var both [2]*disk
	for i := range both {
		both[i] = &disk{t: t, dir: t.TempDir(), self: model.BrokerID(i + 1), clock: c}
		both[i].open()
		m.Replicas = append(m.Replicas, isr.ReplicaMeta{Broker: model.BrokerID(i + 1), Incarnation: 1, Eligible: true})
	}
	a, b := both[0], both[1]
	publish := func() {
		m.Index++
		for _, d := range both {
			d.r.ApplyMeta(m, &d.eff)
			d.carry()
		}
	}
	replicate := func(f, l *disk) {
		f.fetchFrom(l)
		f.commit()
		l.commit()
		if _, p, ok := f.r.DurableReport(); ok {
			l.r.FollowerDurable(p, &l.eff)
		}
		l.carry()
	}
	publish()
	var answers []*answer
	for i := range int32(20) {
		answers = append(answers, a.produce(idempotent(7, 0, i*10, 10)))
	}
	replicate(b, a)
	for i, x := range answers {
		if got, want := x.String(), fmt.Sprintf("ok at %d", i*10); got != want {
			t.Fatalf("append %d: %s", i, got)
		}
	}
	tail := a.produce(idempotent(7, 0, 200, 10)) // stays on a
	a.commit()

	m.Leader, m.LeaderEpoch, m.PartitionEpoch = 2, 2, 2
	publish()
	if got := tail.String(); got != "error 6" {
		t.Errorf("tail: %s", got)
	}
	retry := b.produce(idempotent(7, 0, 190, 10))
	next := b.produce(batch.Plain(0, 0, batch.Record{Timestamp: start + 5000}, batch.Record{Timestamp: start + 7000}))
	replicate(a, b)
	if retry.String() != "ok at 190" || next.String() != "ok at 200" {
		t.Errorf("retry %v, next %v", retry, next)
	}
	if a.log.End() != 202 || a.log.EpochAt(200) != 2 {
		t.Errorf("old leader ends at %d with epoch %d at 200", a.log.End(), a.log.EpochAt(200))
	}
	for ts, want := range map[int64]OffsetResult{
		start + 5001: {Offset: 201, Timestamp: start + 7000, Epoch: 2}, OffsetMaxTimestamp: {Offset: 201, Timestamp: start + 7000, Epoch: 2},
		OffsetLatest: {Offset: 202, Timestamp: -1, Epoch: 2}, start: {Offset: 0, Timestamp: start, Epoch: 1},
	} {
		if got := b.r.ListOffset(OffsetQuery{Timestamp: ts, CurrentEpoch: -1, Confirmed: true}); got != want {
			t.Errorf("offset for %d: %+v, want %+v", ts, got, want)
		}
	}

	b.r.Close(&b.eff)
	b.close()
	b.open()
	defer a.close()
	defer b.close()
	m.Replicas[1].Incarnation, m.LeaderIncarnation, m.LeaderEpoch, m.PartitionEpoch = b.inc, b.inc, 3, 3
	publish()
	if got := b.r.Status(); got.HighWatermark != 202 || got.LogEnd != 202 || got.Producers != 1 {
		t.Errorf("after restart: watermark %d, end %d, %d producers", got.HighWatermark, got.LogEnd, got.Producers)
	}
	replicate(a, b)
	if got := b.produce(idempotent(7, 0, 170, 10)).String(); got != "ok at 170" {
		t.Errorf("duplicate after restart: %s", got)
	}
}
