package api

import (
	"testing"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/partition"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func oneBatch(n int) []byte {
	recs := make([]batch.Record, n)
	for i := range recs {
		recs[i] = batch.Record{Timestamp: 1000, Value: []byte("value")}
	}
	return batch.Plain(0, -1, recs...)
}

// produceRequest addresses partitions of topic "t" (id 1).
func produceRequest(version int16, acks int16, records []byte, partitions ...int32) *kmsg.ProduceRequest {
	req := &kmsg.ProduceRequest{Version: version, Acks: acks, TimeoutMillis: 60_000}
	topic := kmsg.ProduceRequestTopic{Topic: "t", TopicID: topicID(1)}
	for _, p := range partitions {
		topic.Partitions = append(topic.Partitions, kmsg.ProduceRequestTopicPartition{Partition: p, Records: records})
	}
	req.Topics = append(req.Topics, topic)
	return req
}

func TestProduceEveryVersion(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	next := int64(0)
	for version := int16(3); version <= 13; version++ {
		resp := c.do(produceRequest(version, -1, oneBatch(2), 0, 1)).(*kmsg.ProduceResponse)
		if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 2 {
			t.Fatalf("version %d: %+v", version, resp)
		}
		if version >= 13 && resp.Topics[0].TopicID != topicID(1) || version < 13 && resp.Topics[0].Topic != "t" {
			t.Errorf("version %d: topic %q %v", version, resp.Topics[0].Topic, resp.Topics[0].TopicID)
		}
		for i, p := range resp.Topics[0].Partitions {
			if p.ErrorCode != 0 || p.BaseOffset != next || p.Partition != int32(i) || p.LogAppendTime != -1 {
				t.Errorf("version %d: %+v, want base offset %d", version, p, next)
			}
		}
		next += 2
	}
}

func TestProduceRefusals(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	txn := "txn"
	for _, tc := range []struct {
		name string
		edit func(*kmsg.ProduceRequest)
		want *kerr.Error
	}{
		{"acks 2", func(r *kmsg.ProduceRequest) { r.Acks = 2 }, kerr.InvalidRequiredAcks},
		{"transactional", func(r *kmsg.ProduceRequest) { r.TransactionID = &txn }, kerr.TransactionalIDAuthorizationFailed},
		{"unknown topic", func(r *kmsg.ProduceRequest) { r.Topics[0].Topic = "nope" }, kerr.UnknownTopicOrPartition},
		{"invalid name", func(r *kmsg.ProduceRequest) { r.Topics[0].Topic = "../etc" }, kerr.InvalidTopicException},
		{"unknown partition", func(r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Partition = 2 }, kerr.UnknownTopicOrPartition},
		{"negative partition", func(r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Partition = -1 }, kerr.UnknownTopicOrPartition},
		{"unknown id", func(r *kmsg.ProduceRequest) { r.Version, r.Topics[0].TopicID = 13, topicID(99) }, kerr.UnknownTopicID},
		{"zero id", func(r *kmsg.ProduceRequest) { r.Version, r.Topics[0].TopicID = 13, topicID(99) }, kerr.UnknownTopicID},
		{"no records", func(r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Records = nil }, kerr.InvalidRecord},
		{"two batches", func(r *kmsg.ProduceRequest) {
			r.Topics[0].Partitions[0].Records = append(oneBatch(1), oneBatch(1)...)
		}, kerr.InvalidRecord},
		{"zstd before version 7", func(r *kmsg.ProduceRequest) {
			r.Version, r.Topics[0].Partitions[0].Records = 6, batch.Builder{Attributes: 4, ProducerID: -1}.Build(batch.Record{})
		}, kerr.UnsupportedCompressionType},
	} {
		req := produceRequest(12, -1, oneBatch(1), 0)
		tc.edit(req)
		p := c.do(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if p.ErrorCode != tc.want.Code || p.BaseOffset != -1 {
			t.Errorf("%s: %v at %d, want %v", tc.name, kerr.ErrorForCode(p.ErrorCode), p.BaseOffset, tc.want)
		}
	}
	if end := b.replica("t", 0).Status().LogEnd; end != 0 {
		t.Errorf("refused produces appended: log end %d", end)
	}
}

// TestProduceLeaderHint: a producer that asks the wrong broker learns the right
// one (KIP-951), from version 10.
func TestProduceLeaderHint(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	for version := int16(9); version <= 13; version++ {
		req := produceRequest(version, -1, oneBatch(1), 0)
		req.Topics[0].Topic, req.Topics[0].TopicID = "far", topicID(3)
		resp := c.do(req).(*kmsg.ProduceResponse)
		p := resp.Topics[0].Partitions[0]
		if p.ErrorCode != kerr.NotLeaderForPartition.Code {
			t.Fatalf("version %d: %v", version, kerr.ErrorForCode(p.ErrorCode))
		}
		hinted := p.CurrentLeader.LeaderID == 2 && p.CurrentLeader.LeaderEpoch == 3 && len(resp.Brokers) == 1 && resp.Brokers[0].Host == "host2"
		if hinted != (version >= 10) {
			t.Errorf("version %d: %+v %+v", version, p.CurrentLeader, resp.Brokers)
		}
	}
}

func TestProduceUnacknowledged(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	if a := c.start(produceRequest(9, 0, oneBatch(1), 0)).wait(); !a.silent {
		t.Errorf("acks=0 was answered: %+v", a)
	}
	req := produceRequest(9, 0, oneBatch(1), 0)
	req.Topics[0].Topic = "nope"
	if a := c.start(req).wait(); a.closed == nil {
		t.Error("a failed produce with acks=0 left the connection open")
	}
}

// TestProduceWaitsForAll: the answer leaves with the last completion, and the
// body is not let go before.
func TestProduceWaitsForAll(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	r0, r1 := b.replica("t", 0), b.replica("t", 1)
	r0.hold, r1.hold = true, true
	conn := c.start(produceRequest(13, -1, oneBatch(1), 0, 1))
	r1.commit()
	if conn.answered() {
		t.Fatal("answered with one of two partitions decided")
	}
	r0.commit()
	resp := c.decode(produceRequest(13, -1, nil), conn.wait()).(*kmsg.ProduceResponse)
	for _, p := range resp.Topics[0].Partitions {
		if p.ErrorCode != 0 {
			t.Errorf("%+v", p)
		}
	}
	if conn.detached {
		t.Error("the body was given up although everything completed")
	}
}

// TestProduceTimeout: what is written is cancelled, what is still queued keeps
// its bytes while the client is answered.
func TestProduceTimeout(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	written, queued := b.replica("t", 0), b.replica("t", 1)
	written.hold, queued.hold = true, true
	req := produceRequest(13, -1, oneBatch(1), 0)
	req.TimeoutMillis = 1
	conn := c.start(req)
	p := c.decode(req, conn.wait()).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	if p.ErrorCode != kerr.RequestTimedOut.Code || conn.detached {
		t.Errorf("written append: %v, detached %v", kerr.ErrorForCode(p.ErrorCode), conn.detached)
	}

	b.replicas[b.tp("t", 1)] = stuckReplica{queued}
	req = produceRequest(13, -1, oneBatch(1), 0, 1)
	req.TimeoutMillis = 1
	written.hold = false
	conn = c.start(req)
	parts := c.decode(req, conn.wait()).(*kmsg.ProduceResponse).Topics[0].Partitions
	if parts[0].ErrorCode != 0 || parts[1].ErrorCode != kerr.RequestTimedOut.Code || parts[1].BaseOffset != -1 || !conn.detached {
		t.Errorf("queued append: %+v, detached %v", parts, conn.detached)
	}
	queued.commit() // a completion after the answer changes nothing
	if conn.answered() {
		t.Error("answered twice")
	}
}

// stuckReplica cannot cancel: its appends are still queued.
type stuckReplica struct{ *fakeReplica }

func (stuckReplica) Cancel(partition.Completion) {}

func TestProduceInternalTopicIsNotForClients(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	b.image.TopicsByName["t"].Internal = true
	p := c.do(produceRequest(13, -1, oneBatch(1), 0)).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	if p.ErrorCode != kerr.TopicAuthorizationFailed.Code {
		t.Errorf("%v", kerr.ErrorForCode(p.ErrorCode))
	}
}
