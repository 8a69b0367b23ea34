package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Sarama's metrics tick for ever.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// memRange is records in memory that count their releases.
type memRange struct {
	b        []byte
	released func()
}

func (r *memRange) Len() int64 { return int64(len(r.b)) }
func (r *memRange) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(r.b)
	return int64(n), err
}
func (r *memRange) AppendTo(dst []byte) ([]byte, error) { return append(dst, r.b...), nil }
func (r *memRange) Release()                            { r.released() }

// fakeReplica is a log in memory whose high watermark moves when told to.
type fakeReplica struct {
	mu       sync.Mutex
	batches  [][]byte
	bases    []int64
	start    int64
	end, hw  int64
	err      int16 // of every read and append
	hold     bool  // appends complete only by commit
	waiting  []partition.Finished
	watchers map[partition.Watcher]partition.Kind
	reads    int
	pinned   int
	last     partition.ReadRequest
	redirect model.BrokerID
	diverge  *partition.EpochEnd
	noWait   bool // a follower's read is to be answered at once, whatever it found
	autoHW   bool
}

func newFakeReplica() *fakeReplica {
	return &fakeReplica{watchers: make(map[partition.Watcher]partition.Kind), redirect: model.NoBroker, autoHW: true}
}

func (r *fakeReplica) Append(req *partition.AppendRequest) {
	r.mu.Lock()
	if r.err != 0 {
		code := r.err
		r.mu.Unlock()
		req.Done.Complete(partition.AppendResult{Err: code, BaseOffset: -1, LogAppendTime: -1, LogStart: -1})
		return
	}
	h, raw, err := batch.Next(req.Batches)
	if err != nil {
		r.mu.Unlock()
		req.Done.Complete(partition.AppendResult{Err: kerr.CorruptMessage.Code, BaseOffset: -1, LogAppendTime: -1, LogStart: -1})
		return
	}
	raw = bytes.Clone(raw)
	batch.Stamp(raw, r.end, 3)
	res := partition.AppendResult{BaseOffset: r.end, LogAppendTime: -1, LogStart: r.start}
	r.batches, r.bases = append(r.batches, raw), append(r.bases, r.end)
	r.end += int64(h.LastOffsetDelta) + 1
	kinds := partition.EndMoved
	if r.hold {
		r.waiting = append(r.waiting, partition.Finished{Completion: req.Done, Result: res})
	} else if r.autoHW {
		r.hw, kinds = r.end, kinds|partition.HWMoved
	}
	hold := r.hold
	r.mu.Unlock()
	if !hold {
		req.Done.Complete(res)
	}
	r.notify(kinds)
}

// commit moves the high watermark to the end and completes what waits.
func (r *fakeReplica) commit() {
	r.mu.Lock()
	done := r.waiting
	r.waiting, r.hw = nil, r.end
	r.mu.Unlock()
	for _, f := range done {
		f.Completion.Complete(f.Result)
	}
	r.notify(partition.HWMoved)
}

func (r *fakeReplica) notify(kinds partition.Kind) {
	r.mu.Lock()
	var wake []partition.Watcher
	for w, k := range r.watchers {
		if (k|partition.RoleChanged)&kinds != 0 {
			wake = append(wake, w)
		}
	}
	r.mu.Unlock()
	var wakes partition.Wakes
	for _, w := range wake {
		if x := w.Mark(); x != nil {
			wakes = append(wakes, x)
		}
	}
	wakes.Wake()
}

func (r *fakeReplica) Cancel(c partition.Completion) {
	r.mu.Lock()
	var found bool
	for i, f := range r.waiting {
		if f.Completion == c {
			r.waiting = append(r.waiting[:i], r.waiting[i+1:]...)
			found = true
			break
		}
	}
	r.mu.Unlock()
	if found {
		c.Complete(partition.AppendResult{Err: kerr.RequestTimedOut.Code, BaseOffset: -1, LogAppendTime: -1, LogStart: -1})
	}
}

func (r *fakeReplica) Read(req partition.ReadRequest) partition.ReadResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	r.last = req
	res := partition.ReadResult{Err: r.err, HighWatermark: r.hw, LastStable: r.hw, LogStart: r.start, PreferredReplica: model.NoBroker, Leader: 1, LeaderEpoch: 3}
	limit := r.hw
	if req.Follower >= 0 {
		limit = r.end
	}
	switch {
	case r.err != 0:
		return res
	case req.Offset < r.start || req.Offset > r.end:
		res.Err = kerr.OffsetOutOfRange.Code
		return res
	case r.diverge != nil && req.Follower >= 0:
		res.Diverging, res.NoWait = r.diverge, true
		return res
	case r.redirect != model.NoBroker && req.Rack != "":
		res.PreferredReplica, res.NoWait = r.redirect, true
		return res
	}
	var out []byte
	for i, b := range r.batches {
		next := r.end
		if i+1 < len(r.bases) {
			next = r.bases[i+1]
		}
		if next <= req.Offset || r.bases[i] >= limit {
			continue
		}
		if len(out)+len(b) > req.MaxBytes && (len(out) > 0 || !req.MinOne) {
			break
		}
		out = append(out, b...)
	}
	res.NoWait = r.noWait && req.Follower >= 0
	if len(out) > 0 {
		r.pinned++
		res.Range = &memRange{out, func() { r.mu.Lock(); r.pinned--; r.mu.Unlock() }}
	}
	return res
}

// fakeAppends hands each append over at once.
type fakeAppends struct{}

func (fakeAppends) Append(r Replica, req *partition.AppendRequest) { r.Append(req) }
func (fakeAppends) End()                                           {}

func (r *fakeReplica) Watch(w partition.Watcher, kinds partition.Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[w] = kinds
}

func (r *fakeReplica) Unwatch(w partition.Watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watchers, w)
}

func (r *fakeReplica) ListOffset(q partition.OffsetQuery) partition.OffsetResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.err != 0:
		return partition.OffsetResult{Err: r.err, Offset: -1, Timestamp: -1, Epoch: -1}
	case q.Timestamp == partition.OffsetLatest && !q.Confirmed:
		return partition.OffsetResult{Err: kerr.OffsetNotAvailable.Code, Offset: -1, Timestamp: -1, Epoch: -1}
	case q.Timestamp == partition.OffsetLatest:
		return partition.OffsetResult{Offset: r.hw, Timestamp: -1, Epoch: 3}
	case q.Timestamp == partition.OffsetEarliest || q.Timestamp == partition.OffsetEarliestLocal:
		return partition.OffsetResult{Offset: r.start, Timestamp: -1, Epoch: 2}
	case q.Timestamp < 0:
		return partition.OffsetResult{Offset: -1, Timestamp: -1, Epoch: -1}
	}
	return partition.OffsetResult{Offset: r.start, Timestamp: q.Timestamp, Epoch: 2}
}

func (r *fakeReplica) OffsetForEpoch(current, asked model.LeaderEpoch) (int16, partition.EpochEnd) {
	if asked > 3 {
		return 0, partition.EpochEnd{Epoch: -1, End: -1}
	}
	return r.err, partition.EpochEnd{Epoch: asked, End: 7}
}

func (r *fakeReplica) DeleteRecords(offset int64) (int16, int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if offset == -1 {
		offset = r.hw
	}
	if offset > r.hw {
		return kerr.OffsetOutOfRange.Code, -1
	}
	r.start = max(r.start, offset)
	return 0, r.start
}

func (r *fakeReplica) Status() partition.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := partition.Status{HighWatermark: r.hw, LogEnd: r.end, LogStart: r.start}
	for _, b := range r.batches {
		st.Bytes += int64(len(b))
	}
	return st
}

func (r *fakeReplica) counts() (reads, pinned, watchers int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reads, r.pinned, len(r.watchers)
}

// fakeBackend is broker 1 of a cluster of three. Topic "t" has two partitions
// that it leads, "other" one that broker 2 leads and 1 follows, "far" one that
// is not here.
type fakeBackend struct {
	mu       sync.Mutex
	image    *control.Image
	replicas map[model.TopicPartition]Replica
	clock    clock.Clock
	noLease  bool
	nextID   int64
	idErr    error
	submit   func(context.Context, control.Command) (control.Result, error)
	node     map[string]string
	events   []Event
	hidden   map[model.BrokerID]bool // without an endpoint for clients
}

const testCluster = "tailrace-test-cluster"

func topicID(n byte) model.TopicID { return model.TopicID{6: 0x40, 8: 0x80, 15: n} }

func newFakeBackend() *fakeBackend {
	img := &control.Image{Index: 42, ClusterID: testCluster, Brokers: map[model.BrokerID]*control.Broker{}, TopicsByName: map[string]*control.Topic{}, Topics: map[model.TopicID]*control.Topic{}}
	for id := model.BrokerID(1); id <= 3; id++ {
		img.Brokers[id] = &control.Broker{ID: id, Incarnation: model.Incarnation(id), Rack: fmt.Sprintf("r%d", id)}
	}
	b := &fakeBackend{image: img, replicas: map[model.TopicPartition]Replica{}, clock: clock.NewReal(), nextID: 100, hidden: map[model.BrokerID]bool{}}
	b.addTopic("t", topicID(1), 1, 2)
	b.addTopic("other", topicID(2), 2, 1)
	b.addTopic("far", topicID(3), 2, 1)
	delete(b.replicas, model.TopicPartition{Topic: topicID(3)})
	return b
}

// addTopic makes a topic whose partitions are all led by one broker.
func (b *fakeBackend) addTopic(name string, id model.TopicID, leader model.BrokerID, partitions int) {
	t := &control.Topic{ID: id, Name: name}
	for p := range partitions {
		t.Partitions = append(t.Partitions, &control.Partition{Replicas: []model.BrokerID{1, 2, 3}, Directories: make([]model.StorageID, 3), ISR: []model.BrokerID{1, 2}, Leader: leader, LeaderEpoch: 3})
		b.replicas[model.TopicPartition{Topic: id, Partition: int32(p)}] = newFakeReplica()
	}
	b.image.Topics[id], b.image.TopicsByName[name] = t, t
}

func (b *fakeBackend) replica(topic string, p int32) *fakeReplica {
	return b.replicas[model.TopicPartition{Topic: b.image.TopicsByName[topic].ID, Partition: p}].(*fakeReplica)
}

func (b *fakeBackend) Appends() Appends { return fakeAppends{} }

func (b *fakeBackend) Self() model.BrokerID          { return 1 }
func (b *fakeBackend) Image() *control.Image         { b.mu.Lock(); defer b.mu.Unlock(); return b.image }
func (b *fakeBackend) LeaseValid() bool              { return !b.noLease }
func (b *fakeBackend) Clock() clock.Clock            { return b.clock }
func (b *fakeBackend) LogDir() LogDir                { return LogDir{Path: "/data", Total: 1000, Free: 400} }
func (b *fakeBackend) NodeConfig() map[string]string { return b.node }

func (b *fakeBackend) Replica(tp model.TopicPartition) Replica {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r, ok := b.replicas[tp]; ok {
		return r
	}
	return nil
}

func (b *fakeBackend) Submit(ctx context.Context, cmd control.Command) (control.Result, error) {
	if b.submit == nil {
		return control.Result{}, errors.New("no controller")
	}
	return b.submit(ctx, cmd)
}

func (b *fakeBackend) AllocateProducerID(context.Context) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nextID++
	return b.nextID, b.idErr
}

func (b *fakeBackend) Endpoint(listener string, id model.BrokerID) (string, int32, bool) {
	return fmt.Sprintf("host%d", id), 9091 + int32(id), b.Image().Brokers[id] != nil && !b.hidden[id]
}

func (b *fakeBackend) Event(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
}

func (b *fakeBackend) eventKinds() (kinds []EventKind) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// answer is what a responder got.
type answer struct {
	parts   []wire.Part
	body    []byte
	silent  bool
	closed  error
	Version int16
}

// fakeConn collects the answer to one request.
type fakeConn struct {
	t        testing.TB
	ch       chan answer
	done     chan struct{}
	detached bool
}

func newFakeConn(t testing.TB) *fakeConn {
	return &fakeConn{t: t, ch: make(chan answer, 4), done: make(chan struct{})}
}

func (c *fakeConn) Reply(parts ...wire.Part) {
	var b bytes.Buffer
	for _, p := range parts {
		if p.Payload == nil {
			b.Write(p.Bytes)
			continue
		}
		if n, err := p.Payload.WriteTo(&b); err != nil || n != p.Payload.Len() {
			c.t.Errorf("payload wrote %d of %d: %v", n, p.Payload.Len(), err)
		}
		p.Payload.Release()
	}
	c.ch <- answer{parts: parts, body: b.Bytes()}
}
func (c *fakeConn) NoReply()              { c.ch <- answer{silent: true} }
func (c *fakeConn) Close(reason error)    { c.ch <- answer{closed: reason} }
func (c *fakeConn) Done() <-chan struct{} { return c.done }
func (c *fakeConn) Detach()               { c.detached = true }

// wait returns the answer, and fails if there is none or more than one.
func (c *fakeConn) wait() answer {
	c.t.Helper()
	select {
	case a := <-c.ch:
		select {
		case <-c.ch:
			c.t.Fatal("answered twice")
		default:
		}
		return a
	case <-time.After(patience):
		c.t.Fatal("no answer")
		return answer{}
	}
}

func (c *fakeConn) answered() bool { return len(c.ch) > 0 }

// client is a test's connection to a server.
type client struct {
	t    testing.TB
	s    *Server
	peer Peer
}

func newTestServer(t testing.TB, b *fakeBackend, o Options) *client {
	s := New(b, o)
	t.Cleanup(s.Close)
	return &client{t, s, Peer{Principal: "User:ANONYMOUS", Listener: "PLAINTEXT", Remote: "127.0.0.1:50000", Broker: -1}}
}

// start sends a request without waiting for the answer.
func (c *client) start(req kmsg.Request) *fakeConn {
	c.t.Helper()
	return c.raw(req.Key(), req.GetVersion(), req.AppendTo(nil))
}

func (c *client) raw(key, version int16, body []byte) *fakeConn {
	conn := newFakeConn(c.t)
	c.send(conn, key, version, body)
	return conn
}

func (c *client) send(conn *fakeConn, key, version int16, body []byte) {
	c.s.serve(&call{s: c.s, version: version, clientID: "test", body: body, peer: c.peer, out: conn}, key)
}

// do sends a request and decodes the response.
func (c *client) do(req kmsg.Request) kmsg.Response {
	c.t.Helper()
	return c.decode(req, c.start(req).wait())
}

func (c *client) decode(req kmsg.Request, a answer) kmsg.Response {
	c.t.Helper()
	if a.closed != nil || a.silent {
		c.t.Fatalf("key %d version %d: no response (closed: %v)", req.Key(), req.GetVersion(), a.closed)
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	if err := resp.ReadFrom(a.body); err != nil {
		c.t.Fatalf("key %d version %d: response does not decode: %v", req.Key(), req.GetVersion(), err)
	}
	if again := resp.AppendTo(nil); !bytes.Equal(again, a.body) {
		c.t.Fatalf("key %d version %d: response has %d bytes, kmsg writes %d", req.Key(), req.GetVersion(), len(a.body), len(again))
	}
	return resp
}

// eventually polls until ok, which must become true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (b *fakeBackend) tp(topic string, p int32) model.TopicPartition {
	return model.TopicPartition{Topic: b.image.TopicsByName[topic].ID, Partition: p}
}
