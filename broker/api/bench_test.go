package api

import (
	"testing"

	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/partition"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// sink is a connection that drops its answers.
type sink struct{ n int }

func (s *sink) Reply(parts ...wire.Part) {
	releaseParts(parts)
	s.n++
}
func (s *sink) NoReply()              { s.n++ }
func (s *sink) Close(error)           { s.n++ }
func (s *sink) Done() <-chan struct{} { return nil }
func (s *sink) Detach()               {}

// instant completes appends at once and always has the same records.
type instant struct{ fakeReplica }

var instantRange = &memRange{make([]byte, 1000), func() {}}

func (*instant) Append(req *partition.AppendRequest) {
	req.Done.Complete(partition.AppendResult{BaseOffset: 1, LogAppendTime: -1})
}

func (*instant) Read(partition.ReadRequest) partition.ReadResult {
	return partition.ReadResult{Range: instantRange, HighWatermark: 10, LastStable: 10, PreferredReplica: -1}
}

// benchProduce returns a function that serves a produce of n partitions.
func benchProduce(tb testing.TB, n int) func() {
	b := newFakeBackend()
	b.addTopic("wide", topicID(4), 1, n)
	for tp := range b.replicas {
		b.replicas[tp] = &instant{}
	}
	c := newTestServer(tb, b, Options{})
	body, out := produceBody(n), &sink{}
	return func() {
		c.s.serve(&call{s: c.s, version: 13, body: body, peer: c.peer, out: out}, 0)
	}
}

func benchFetch(tb testing.TB, n int) func() {
	b := newFakeBackend()
	b.addTopic("wide", topicID(4), 1, n)
	for tp := range b.replicas {
		b.replicas[tp] = &instant{}
	}
	c := newTestServer(tb, b, Options{})
	var parts []fetchPart
	for p := range n {
		parts = append(parts, fetchPart{"wide", int32(p), 0})
	}
	body, out := fetchRequest(18, 0, -1, parts...).AppendTo(nil), &sink{}
	return func() {
		c.s.serve(&call{s: c.s, version: 18, body: body, peer: c.peer, out: out}, 1)
	}
}

// benchDecode returns a function that checks and decodes a produce of n partitions, and
// serves nothing.
func benchDecode(tb testing.TB, n int) func() {
	c := newTestServer(tb, newFakeBackend(), Options{})
	body, out := produceBody(n), &sink{}
	return func() {
		cl := &call{s: c.s, version: 13, body: body, peer: c.peer, out: out, key: Lookup(0)}
		if err := c.s.admit(cl, 0); err != nil {
			tb.Fatal(err)
		}
		if req := kmsg.NewPtrProduceRequest(); !cl.decode(req) || len(req.Topics[0].Partitions) != n {
			tb.Fatal("not decoded")
		}
	}
}

// produceBody is a produce request of one batch for each of n partitions.
func produceBody(n int) []byte {
	req := &kmsg.ProduceRequest{Version: 13, Acks: -1, TimeoutMillis: 1000, Topics: []kmsg.ProduceRequestTopic{{TopicID: topicID(4)}}}
	for p := range n {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, kmsg.ProduceRequestTopicPartition{Partition: int32(p), Records: oneBatch(10)})
	}
	return req.AppendTo(nil)
}

func BenchmarkDecode1(b *testing.B)   { run(b, benchDecode(b, 1)) }
func BenchmarkDecode10(b *testing.B)  { run(b, benchDecode(b, 10)) }
func BenchmarkProduce1(b *testing.B)  { run(b, benchProduce(b, 1)) }
func BenchmarkProduce10(b *testing.B) { run(b, benchProduce(b, 10)) }
func BenchmarkFetch1(b *testing.B)    { run(b, benchFetch(b, 1)) }
func BenchmarkFetch10(b *testing.B)   { run(b, benchFetch(b, 10)) }

func run(b *testing.B, fn func()) {
	b.ReportAllocs()
	for b.Loop() {
		fn()
	}
}
