package api

import (
	"bytes"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type fetchPart struct {
	topic     string
	partition int32
	offset    int64
}

var testTopicIDs = map[string]model.TopicID{"t": topicID(1), "other": topicID(2), "far": topicID(3), "wide": topicID(4)}

func listOffsetsRequest(version int16, topic string, p int32, timestamp int64) *kmsg.ListOffsetsRequest {
	part := kmsg.NewListOffsetsRequestTopicPartition()
	part.Partition, part.Timestamp = p, timestamp
	return &kmsg.ListOffsetsRequest{Version: version, ReplicaID: -1, Topics: []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{part}}}}
}

// fetchRequest is a consumer's fetch that does not wait.
func fetchRequest(version int16, session, epoch int32, parts ...fetchPart) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.ReplicaState.ID = version, -1, -1
	req.SessionID, req.SessionEpoch = session, epoch
	req.MinBytes, req.MaxBytes = 1, 1<<20
	for _, p := range parts {
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.FetchOffset, part.PartitionMaxBytes = p.partition, p.offset, 1<<20
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != p.topic {
			req.Topics = append(req.Topics, kmsg.FetchRequestTopic{Topic: p.topic, TopicID: testTopicIDs[p.topic]})
		}
		topic := &req.Topics[len(req.Topics)-1]
		topic.Partitions = append(topic.Partitions, part)
	}
	return req
}

func (c *client) fetch(req *kmsg.FetchRequest) *kmsg.FetchResponse {
	c.t.Helper()
	return c.do(req).(*kmsg.FetchResponse)
}

func (r *fakeReplica) put(n int) {
	r.Append(&partition.AppendRequest{Batches: oneBatch(n), Acks: -1, Done: discard{}})
}

type discard struct{}

func (discard) Complete(partition.AppendResult) {}

func TestFetchEveryVersion(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	r := b.replica("t", 0)
	r.put(3)
	r.put(2)
	for version := int16(4); version <= 18; version++ {
		// An offset inside a batch returns the whole batch.
		resp := c.fetch(fetchRequest(version, 0, -1, fetchPart{"t", 0, 1}, fetchPart{"t", 1, 0}))
		if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 2 {
			t.Fatalf("version %d: %+v", version, resp)
		}
		p, idle := resp.Topics[0].Partitions[0], resp.Topics[0].Partitions[1]
		if want := bytes.Join(r.batches, nil); p.ErrorCode != 0 || p.HighWatermark != 5 || !bytes.Equal(p.RecordBatches, want) {
			t.Errorf("version %d: %+v", version, p)
		}
		if idle.ErrorCode != 0 || len(idle.RecordBatches) != 0 || idle.HighWatermark != 0 {
			t.Errorf("version %d: idle partition %+v", version, idle)
		}
	}
	if _, pinned, watchers := r.counts(); pinned != 0 || watchers != 0 {
		t.Errorf("%d ranges pinned, %d watchers left", pinned, watchers)
	}
}

func TestFetchErrors(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	b.replica("other", 0).put(1)
	for _, tc := range []struct {
		name    string
		version int16
		part    fetchPart
		want    *kerr.Error
	}{
		{"unknown topic", 12, fetchPart{"nope", 0, 0}, kerr.UnknownTopicOrPartition},
		{"zero topic id", 13, fetchPart{"nope", 0, 0}, kerr.UnknownTopicID},
		{"unknown partition", 13, fetchPart{"t", 9, 0}, kerr.UnknownTopicOrPartition},
		{"beyond the end", 13, fetchPart{"t", 0, 99}, kerr.OffsetOutOfRange},
		{"no replica here", 18, fetchPart{"far", 0, 0}, kerr.NotLeaderForPartition},
		{"a follower, for an old client", 10, fetchPart{"other", 0, 0}, kerr.NotLeaderForPartition},
	} {
		req := fetchRequest(tc.version, 0, -1, tc.part)
		req.MaxWaitMillis = 1 << 30 // an error must not wait
		resp := c.fetch(req)
		p := resp.Topics[0].Partitions[0]
		if p.ErrorCode != tc.want.Code || p.HighWatermark != -1 {
			t.Errorf("%s: %v, want %v", tc.name, kerr.ErrorForCode(p.ErrorCode), tc.want)
		}
		if hint := p.CurrentLeader.LeaderID == 2 && len(resp.Brokers) == 1; hint != (tc.version >= 16 && tc.want == kerr.NotLeaderForPartition) {
			t.Errorf("%s: leader hint %+v %+v", tc.name, p.CurrentLeader, resp.Brokers)
		}
	}
	if p := c.fetch(fetchRequest(11, 0, -1, fetchPart{"other", 0, 0})).Topics[0].Partitions[0]; p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
		t.Errorf("a follower did not serve a client that knows followers: %+v", p)
	}
}

// TestFetchLimits: the first batch goes out whatever the limits (KIP-74), and
// after it the limits hold.
func TestFetchLimits(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	size := len(oneBatch(1))
	for range 3 {
		b.replica("t", 0).put(1)
		b.replica("t", 1).put(1)
	}
	for _, tc := range []struct{ total, per, want0, want1 int }{
		{1, 1, size, 0},
		{1 << 20, 1, size, 0},
		{1 << 20, size, size, size},
		{size + 1, 1 << 20, size, 0},
		{2 * size, size, size, size},
		{1 << 20, 1 << 20, 3 * size, 3 * size},
		{0, 0, size, 0},
	} {
		req := fetchRequest(12, 0, -1, fetchPart{"t", 0, 0}, fetchPart{"t", 1, 0})
		req.MaxBytes = int32(tc.total)
		for i := range req.Topics[0].Partitions {
			req.Topics[0].Partitions[i].PartitionMaxBytes = int32(tc.per)
		}
		p := c.fetch(req).Topics[0].Partitions
		if len(p[0].RecordBatches) != tc.want0 || len(p[1].RecordBatches) != tc.want1 || p[1].HighWatermark != 3 {
			t.Errorf("limits %d and %d: %d and %d bytes, want %d and %d", tc.total, tc.per, len(p[0].RecordBatches), len(p[1].RecordBatches), tc.want0, tc.want1)
		}
	}
}

// TestFetchLongPoll: a fetch waits for its least bytes, over several appends,
// and no range stays pinned while it does.
func TestFetchLongPoll(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	r := b.replica("t", 0)
	req := fetchRequest(12, 0, -1, fetchPart{"t", 0, 0}, fetchPart{"t", 1, 0})
	req.MaxWaitMillis, req.MinBytes = 1<<30, int32(2*len(oneBatch(1)))
	conn := c.start(req)
	eventually(t, "parked", func() bool { return c.parked() == 1 })
	r.put(1)
	eventually(t, "looked and parked again", func() bool {
		reads, pinned, _ := r.counts()
		return reads == 3 && pinned == 0 && c.parked() == 1
	})
	if conn.answered() {
		t.Fatal("answered with too few bytes")
	}
	r.put(1)
	resp := c.decode(req, conn.wait()).(*kmsg.FetchResponse)
	if got := len(resp.Topics[0].Partitions[0].RecordBatches); got != 2*len(oneBatch(1)) {
		t.Errorf("%d bytes", got)
	}
	eventually(t, "watchers gone", func() bool { _, _, w := r.counts(); return w == 0 })
}

// parked counts the fetches that wait.
func (c *client) parked() (n int) {
	r := &c.s.fetches
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.set {
		f.set.mu.Lock()
		if f.parked {
			n++
		}
		f.set.mu.Unlock()
	}
	return n
}

func TestFetchMaxWait(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	req := fetchRequest(12, 0, -1, fetchPart{"t", 0, 0})
	req.MaxWaitMillis = 20
	start := time.Now()
	if p := c.fetch(req).Topics[0].Partitions[0]; p.ErrorCode != 0 || len(p.RecordBatches) != 0 {
		t.Errorf("%+v", p)
	}
	if d := time.Since(start); d < 20*time.Millisecond {
		t.Errorf("did not wait: %v", d)
	}
}

// TestFetchRoleChange: a parked fetch is answered at once when the replica goes.
func TestFetchRoleChange(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	r := b.replica("t", 0)
	req := fetchRequest(12, 0, -1, fetchPart{"t", 0, 0})
	req.MaxWaitMillis = 1 << 30
	conn := c.start(req)
	eventually(t, "parked", func() bool { return c.parked() == 1 })
	r.mu.Lock()
	r.err = kerr.NotLeaderForPartition.Code
	r.mu.Unlock()
	r.notify(partition.RoleChanged)
	p := c.decode(req, conn.wait()).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if p.ErrorCode != kerr.NotLeaderForPartition.Code {
		t.Errorf("%+v", p)
	}
}

// TestFetchGivesUp: a parked fetch ends with its server, unanswered.
func TestFetchGivesUp(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	req := fetchRequest(12, 0, -1, fetchPart{"t", 0, 0})
	req.MaxWaitMillis = 1 << 30
	conn := c.start(req)
	eventually(t, "parked", func() bool { return c.parked() == 1 })
	if st := c.s.Stats(); st.Fetches != 1 || st.FetchSessions != 0 {
		t.Errorf("%+v", st)
	}
	c.s.Close()
	if a := conn.wait(); !a.silent {
		t.Errorf("%+v", a)
	}
	if _, _, w := b.replica("t", 0).counts(); w != 0 {
		t.Errorf("%d watchers left", w)
	}
}

// TestReplicaFetchOnlyBetweenBrokers: a client cannot pose as a follower (T13).
func TestReplicaFetchOnlyBetweenBrokers(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	for _, version := range []int16{12, 18} {
		for _, peer := range []Peer{
			{Principal: "User:ANONYMOUS", Listener: "PLAINTEXT", Broker: -1},
			{Principal: "User:ANONYMOUS", Listener: "PLAINTEXT", Broker: 2},
			{Principal: "broker", Listener: "INTERNAL", Internal: true, Broker: 3},
			{Principal: "broker", Listener: "INTERNAL", Internal: true, Broker: -1},
		} {
			c.peer = peer
			req := fetchRequest(version, 0, -1, fetchPart{"t", 0, 0})
			req.ReplicaID, req.ReplicaState.ID = 2, 2
			if a := c.start(req).wait(); a.closed == nil {
				t.Errorf("version %d: %+v fetched as replica 2", version, peer)
			}
		}
	}
	if reads, _, _ := b.replica("t", 0).counts(); reads != 0 {
		t.Errorf("%d reads by impostors", reads)
	}
}

// TestFollowerFetch: a follower sees what is not committed, and is answered
// when the log end or the high watermark moves.
func TestFollowerFetch(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	c.peer = Peer{Principal: "broker", Listener: "INTERNAL", Internal: true, Broker: 2}
	r := b.replica("t", 0)
	r.autoHW = false
	r.put(1)
	as2 := func(session, epoch int32, parts ...fetchPart) *kmsg.FetchRequest {
		req := fetchRequest(18, session, epoch, parts...)
		req.ReplicaState.ID, req.ReplicaState.Epoch = 2, 77
		req.MaxWaitMillis = 1 << 30
		return req
	}
	resp := c.fetch(as2(0, 0, fetchPart{"t", 0, 0}))
	if p := resp.Topics[0].Partitions[0]; len(p.RecordBatches) == 0 || p.HighWatermark != 0 {
		t.Fatalf("%+v", p)
	}
	if r.last.Follower != 2 || r.last.Incarnation != 77 {
		t.Errorf("read as %+v", r.last)
	}
	req := as2(resp.SessionID, 1, fetchPart{"t", 0, 1})
	conn := c.start(req)
	eventually(t, "parked at the end", func() bool { return c.parked() == 1 })
	r.commit()
	p := c.decode(req, conn.wait()).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if p.HighWatermark != 1 || len(p.RecordBatches) != 0 {
		t.Errorf("after the high watermark moved: %+v", p)
	}
	req = as2(resp.SessionID, 2)
	conn = c.start(req)
	eventually(t, "parked again", func() bool { return c.parked() == 1 })
	r.put(1)
	if p := c.decode(req, conn.wait()).(*kmsg.FetchResponse).Topics[0].Partitions[0]; len(p.RecordBatches) == 0 {
		t.Errorf("after an append: %+v", p)
	}
	r.diverge = &partition.EpochEnd{Epoch: 2, End: 1}
	if p := c.fetch(as2(resp.SessionID, 3)).Topics[0].Partitions[0]; p.DivergingEpoch.Epoch != 2 || p.DivergingEpoch.EndOffset != 1 {
		t.Errorf("diverging: %+v", p)
	}
	// The follower has truncated and asks again. Nothing moved at the leader,
	// but until it is answered it does not know that its log matches now.
	r.diverge, r.noWait = nil, true
	resp = c.fetch(as2(resp.SessionID, 4, fetchPart{"t", 0, 2}))
	if len(resp.Topics) != 1 || resp.Topics[0].Partitions[0].ErrorCode != 0 || resp.Topics[0].Partitions[0].HighWatermark != 1 {
		t.Errorf("the first matching fetch after a divergence: %+v", resp)
	}
	// Nor does it after a new leader epoch in which nothing was written.
	if resp = c.fetch(as2(resp.SessionID, 5, fetchPart{"t", 0, 2})); len(resp.Topics) != 1 {
		t.Errorf("an answer that may not wait left the partition out: %+v", resp)
	}
}

// TestFetchPreferredReplica: a redirect leaves at once; one to a broker that the
// client cannot reach is not made.
func TestFetchPreferredReplica(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	r := b.replica("t", 0)
	r.put(1)
	r.redirect = 3
	req := fetchRequest(13, 0, -1, fetchPart{"t", 0, 0})
	req.Rack, req.MaxWaitMillis = "r3", 1<<30
	if p := c.fetch(req).Topics[0].Partitions[0]; p.PreferredReadReplica != 3 || len(p.RecordBatches) != 0 {
		t.Errorf("%+v", p)
	}
	b.hidden[3] = true
	if p := c.fetch(req).Topics[0].Partitions[0]; p.PreferredReadReplica != -1 || len(p.RecordBatches) == 0 {
		t.Errorf("unreachable: %+v", p)
	}
}

func TestListOffsets(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	b.replica("t", 0).put(4)
	for version := int16(1); version <= 11; version++ {
		for ts, want := range map[int64]struct {
			code   int16
			offset int64
			since  int16
		}{
			-1: {0, 4, 1}, -2: {0, 0, 1}, -3: {0, -1, 7}, -4: {0, 0, 8}, -5: {0, -1, 9}, -6: {0, -1, 11},
			-7: {kerr.UnsupportedVersion.Code, -1, 99}, 500: {0, 0, 1},
		} {
			p := c.do(listOffsetsRequest(version, "t", 0, ts)).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
			if version < want.since {
				want.code, want.offset = kerr.UnsupportedVersion.Code, -1
			}
			if p.ErrorCode != want.code || p.Offset != want.offset {
				t.Errorf("version %d, timestamp %d: %+v, want %+v", version, ts, p, want)
			}
		}
	}
	b.noLease = true
	for version, want := range map[int16]*kerr.Error{4: kerr.LeaderNotAvailable, 5: kerr.OffsetNotAvailable} {
		p := c.do(listOffsetsRequest(version, "t", 0, -1)).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
		if p.ErrorCode != want.Code {
			t.Errorf("version %d without a lease: %v", version, kerr.ErrorForCode(p.ErrorCode))
		}
	}
	if p := c.do(listOffsetsRequest(7, "far", 0, -1)).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]; p.ErrorCode != kerr.NotLeaderForPartition.Code {
		t.Errorf("%+v", p)
	}
}
