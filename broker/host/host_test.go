package host

import (
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

var topic = model.TopicID{1, 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, 15, 16}

var tp0 = model.TopicPartition{Topic: topic}

// output records what the host asks for.
type output struct {
	dirty     int
	follows   [][2]model.BrokerID
	reports   []model.BrokerID
	proposals []isr.Proposal
	failed    []error
	calls     int // of Report
}

func (o *output) Dirty() { o.dirty++ }
func (o *output) Propose(_ model.TopicPartition, p isr.Proposal) {
	o.proposals = append(o.proposals, p)
}
func (o *output) Report(leader model.BrokerID, rs []*partition.Replica) {
	o.calls++
	for range rs {
		o.reports = append(o.reports, leader)
	}
}
func (o *output) Failed(_ model.TopicPartition, err error) { o.failed = append(o.failed, err) }
func (o *output) Following(_ *partition.Replica, from, to model.BrokerID) {
	o.follows = append(o.follows, [2]model.BrokerID{from, to})
}

// rig is the host of broker 1, on a disk in memory.
type rig struct {
	t     testing.TB
	fs    *vfs.MemFS
	store *segment.Store
	h     *Host
	out   *output
	lease bool
	img   *control.Image
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, fs: vfs.NewMem(), lease: true, img: &control.Image{}}
	r.open()
	return r
}

func (r *rig) open() {
	r.t.Helper()
	c := clock.NewManual(time.Unix(1e9, 0))
	store, err := segment.Open(segment.Options{Dir: "data", FS: segment.Mem(r.fs), Clock: c})
	if err != nil {
		r.t.Fatal(err)
	}
	r.store, r.out = store, &output{}
	r.h = New(Options{Self: 1, Store: store, Clock: c, Output: r.out, LeaseValid: func() bool { return r.lease }})
	r.h.Register(5)
	r.t.Cleanup(func() { store.Close() })
}

func (r *rig) reopen() {
	r.t.Helper()
	r.h.Close()
	if err := r.store.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.open()
}

// part is a partition whose leader was elected under incarnation 5.
func part(leader model.BrokerID, epoch int32, replicas ...model.BrokerID) *control.Partition {
	return &control.Partition{Leader: leader, LeaderEpoch: epoch, LeaderIncarnation: 5, PartitionEpoch: epoch, Replicas: replicas, ISR: replicas}
}

// image returns the next one, with a topic of these partitions; none of them
// means no topic.
func (r *rig) image(parts ...*control.Partition) *control.Image {
	img := &control.Image{Index: r.img.Index + 10, Brokers: map[model.BrokerID]*control.Broker{},
		Topics: map[model.TopicID]*control.Topic{}, TopicsByName: map[string]*control.Topic{}, Deleted: map[model.TopicID]struct{}{}}
	for id := range model.BrokerID(4) {
		img.Brokers[id] = &control.Broker{ID: id, Incarnation: 5}
	}
	if len(parts) > 0 {
		t := &control.Topic{ID: topic, Name: "t", Config: map[string]string{"min.insync.replicas": "1"}, Partitions: parts}
		img.Topics[topic], img.TopicsByName["t"] = t, t
	}
	return img
}

func (r *rig) recover(img *control.Image) {
	r.t.Helper()
	if err := r.h.Recover(img); err != nil {
		r.t.Fatal(err)
	}
	r.img = img
}

func (r *rig) apply(img *control.Image) {
	r.t.Helper()
	u := control.Update{Prev: r.img, Next: img, Topics: []model.TopicID{topic}}
	if err := r.h.ApplyUpdate(u); err != nil {
		r.t.Fatal(err)
	}
	r.img = img
}

// answer is where an append is completed.
type answer struct{ results []partition.AppendResult }

func (a *answer) Complete(res partition.AppendResult) { a.results = append(a.results, res) }

func (r *rig) append(replica *partition.Replica) *answer {
	a := &answer{}
	r.h.Append(replica, &partition.AppendRequest{Batches: batch.Plain(0, 0, batch.Record{Value: []byte("v")}), Acks: -1, Epoch: -1, Done: a})
	return a
}

func (r *rig) commit() {
	r.t.Helper()
	if err := r.h.Commit(); err != nil {
		r.t.Fatal(err)
	}
}

func (a *answer) want(t *testing.T, err int16, base int64) {
	t.Helper()
	if len(a.results) != 1 || a.results[0].Err != err || a.results[0].BaseOffset != base {
		t.Errorf("answers %+v, want one with error %d and base offset %d", a.results, err, base)
	}
}

func TestAcknowledgedAfterCommit(t *testing.T) {
	r := newRig(t)
	r.apply(r.image(part(1, 1, 1)))
	a := r.append(r.h.Replica(tp0))
	if len(a.results) != 0 || r.out.dirty == 0 {
		t.Fatalf("before the commit: answers %v, %d commits asked for", a.results, r.out.dirty)
	}
	r.commit()
	a.want(t, 0, 0)
}

func TestNoAcknowledgementWithoutLease(t *testing.T) {
	r := newRig(t)
	r.apply(r.image(part(1, 1, 1)))
	a := r.append(r.h.Replica(tp0))
	r.lease = false
	r.commit()
	a.want(t, errNotLeader, -1)
}

func TestFollowingIsTold(t *testing.T) {
	r := newRig(t)
	for _, p := range []*control.Partition{part(2, 1, 1, 2, 3), part(2, 2, 1, 2, 3), part(3, 3, 1, 2, 3), part(1, 4, 1, 2, 3), part(-1, 5, 1, 2, 3)} {
		r.apply(r.image(p))
	}
	want := [][2]model.BrokerID{{-1, 2}, {2, 2}, {2, 3}, {3, -1}, {-1, -1}}
	if !slices.Equal(r.out.follows, want) {
		t.Errorf("told %v, want %v", r.out.follows, want)
	}
}

func TestOldUpdateIsIgnored(t *testing.T) {
	r := newRig(t)
	old := r.image(part(2, 1, 1, 2))
	r.apply(old)
	r.apply(r.image(part(1, 2, 1, 2)))
	if err := r.h.ApplyUpdate(control.Update{Prev: old, Next: old, Topics: []model.TopicID{topic}}); err != nil {
		t.Fatal(err)
	}
	if st := r.h.Replica(tp0).Status(); st.Role != isr.Leader || r.h.Image() != r.img {
		t.Errorf("role %v at index %d", st.Role, r.h.Image().Index)
	}
}

// A leadership that an earlier life of this broker won is not this one's.
func TestNewIncarnationEndsLeadership(t *testing.T) {
	r := newRig(t)
	r.apply(r.image(part(1, 1, 1)))
	a := r.append(r.h.Replica(tp0))
	r.h.Register(17)
	a.want(t, errNotLeader, -1)
	r.append(r.h.Replica(tp0)).want(t, errNotLeader, -1)
	if got := r.h.Incarnation(); got != 17 {
		t.Errorf("incarnation %d", got)
	}
}

// Only a tombstone deletes records; metadata that lost a topic does not.
func TestOnlyTombstonesDelete(t *testing.T) {
	r := newRig(t)
	r.apply(r.image(part(1, 1, 1), part(2, 1, 2)))
	if got := r.store.Refs(); !slices.Equal(got, []model.TopicPartition{tp0}) {
		t.Fatalf("logs %v, want that of the assigned partition", got)
	}
	held := r.h.Replica(tp0)
	a := r.append(held)
	r.apply(r.image())
	if r.store.Log(tp0) == nil {
		t.Fatal("a topic that metadata does not know was deleted")
	}
	gone := r.image()
	gone.Deleted[topic] = struct{}{}
	r.apply(gone)
	if r.store.Log(tp0) != nil || r.h.Replica(tp0) != nil {
		t.Error("the deleted topic is still there")
	}
	a.want(t, errNotLeader, -1)
	r.append(held).want(t, errNotLeader, -1)
	if res := r.h.Read(held, partition.ReadRequest{Follower: -1, CurrentEpoch: -1, LastFetchedEpoch: -1}); res.Err != errNotLeader || res.Range != nil {
		t.Errorf("read of a deleted topic: %+v", res)
	}
	if r.h.Do(tp0, func(*partition.Replica, *partition.Effects) { t.Error("ran on a deleted replica") }) {
		t.Error("says that it holds a deleted replica")
	}
}

func TestRecover(t *testing.T) {
	r := newRig(t)
	r.apply(r.image(part(1, 1, 1)))
	a := r.append(r.h.Replica(tp0))
	r.commit()
	a.want(t, 0, 0)

	r.reopen()
	r.recover(r.image()) // the metadata has not caught up
	if r.h.Replica(tp0) != nil || r.store.Log(tp0) == nil {
		t.Fatal("a log without metadata must be kept, without a replica")
	}
	rep := r.h.Reports()
	if len(rep) != 1 || rep[0].TP != tp0 || rep[0].End != 1 || rep[0].Epoch != 1 || rep[0].Suspect != segment.Trusted {
		t.Errorf("reports %+v", rep)
	}

	r.reopen()
	r.recover(r.image(part(1, 1, 1)))
	if st := r.h.Replica(tp0).Status(); st.LogEnd != 1 || st.Role != isr.Offline {
		t.Errorf("end %d, %v: want the record, and no role before metadata is applied", st.LogEnd, st.Role)
	}
	r.apply(r.image(part(1, 2, 1)))
	b := r.append(r.h.Replica(tp0))
	r.commit()
	b.want(t, 0, 1)

	r.reopen()
	gone := r.image()
	gone.Deleted[topic] = struct{}{}
	r.recover(gone)
	if len(r.store.Refs()) != 0 {
		t.Errorf("logs %v of a topic that was deleted meanwhile", r.store.Refs())
	}
}

func TestFailedReplicaAnswers(t *testing.T) {
	r := newRig(t)
	r.apply(r.image(part(1, 1, 1)))
	r.h.Do(tp0, func(p *partition.Replica, e *partition.Effects) { p.Fail(segment.ErrPoisoned, e) })
	if len(r.out.failed) != 1 {
		t.Fatalf("failures %v", r.out.failed)
	}
	a := r.append(r.h.Replica(tp0))
	if len(a.results) != 1 || a.results[0].Err == 0 {
		t.Errorf("answers %+v of a failed replica", a.results)
	}
}

// TestViewCostsNoAllocation: a request looks up each of its partitions.
func TestViewCostsNoAllocation(t *testing.T) {
	r := newRig(t)
	made := 0
	r.h.o.View = func(p *partition.Replica) any { made++; return p }
	r.apply(r.image(part(1, 1, 1), part(2, 1, 2, 3)))
	held, other := model.TopicPartition{Topic: topic}, model.TopicPartition{Topic: topic, Partition: 1}
	if got := r.h.View(held); got != r.h.Replica(held) || made != 1 {
		t.Fatalf("view is %v, made %d times", got, made)
	}
	if got := r.h.View(other); got != nil {
		t.Fatalf("view of a replica that is not held: %v", got)
	}
	if n := testing.AllocsPerRun(100, func() { r.h.View(held) }); n != 0 {
		t.Fatalf("%v allocations a lookup", n)
	}
}

// TestAwake: ticking only after Awake misses nothing, and what is idle wakes
// nobody.
func TestAwake(t *testing.T) {
	r := newRig(t)
	r.recover(r.image())
	awake := func() bool {
		select {
		case <-r.h.Awake():
			return true
		default:
			return false
		}
	}
	if awake() {
		t.Fatal("awake without a replica")
	}
	r.apply(r.image(part(1, 1, 1, 2))) // broker 2 is in sync and follows nobody yet
	if !awake() {
		t.Fatal("not awake after new metadata")
	}
	r.append(r.h.Replica(tp0))
	r.h.Tick()
	if !awake() {
		t.Fatal("a follower is behind, and nobody is to tick again")
	}
	r.apply(r.image(part(2, 2, 1, 2)))
	for range 3 {
		r.h.Tick()
		awake()
	}
	if r.h.Tick(); awake() {
		t.Fatal("an idle follower asks for ticks")
	}
}

// TestTicksTakeTurns: no Tick looks at more than maxTicks replicas, those that
// it leaves come next, and Awake says that they are there.
func TestTicksTakeTurns(t *testing.T) {
	const n = 2*maxTicks + 7
	r := newRig(t)
	parts := make([]*control.Partition, n)
	for i := range parts {
		parts[i] = part(1, 1, 1) // alone, so that one tick is enough
	}
	r.apply(r.image(parts...))
	waiting := func() (left int) {
		for _, m := range r.h.members() {
			if m.active.Load() {
				left++
			}
		}
		return left
	}
	if got := waiting(); got != n {
		t.Fatalf("%d of %d replicas wait for their first tick", got, n)
	}
	for round, left := 1, n; left > 0; round++ {
		select {
		case <-r.h.Awake():
		default:
			t.Fatalf("nothing to tick in round %d, %d replicas wait", round, left)
		}
		r.h.Tick()
		left = max(0, left-maxTicks)
		if got := waiting(); got != left {
			t.Fatalf("%d replicas wait after round %d, want %d", got, round, left)
		}
	}
}
