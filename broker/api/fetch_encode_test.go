package api

import (
	"bytes"
	"testing"

	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestFetchEncoderEqualsKmsg compares every byte with kmsg's encoder, in every
// version, for entries that use every field.
func TestFetchEncoderEqualsKmsg(t *testing.T) {
	rack := "rack-1"
	for version := int16(4); version <= 18; version++ {
		for _, readCommitted := range []bool{false, true} {
			a, b := &fetchTopic{id: topicID(1), name: "first"}, &fetchTopic{id: topicID(2), name: "second"}
			entries := []*fetchEntry{
				{topic: a, partition: 0, leaderID: -1, leaderEpoch: -1, res: readResult(0, []byte("some records"))},
				{topic: b, partition: 7, leaderID: -1, leaderEpoch: -1, res: readResult(0, nil)},
				{topic: a, partition: 1, leaderID: 2, leaderEpoch: 9, res: readResult(6, nil)},
				{topic: a, partition: 2, leaderID: -1, leaderEpoch: -1, res: diverging(3, 77)},
				{topic: b, partition: 8, leaderID: -1, leaderEpoch: -1, res: redirected(3)},
				{topic: b, partition: 9, leaderID: -1, leaderEpoch: -1, res: readResult(0, bytes.Repeat([]byte{7}, 300))},
			}
			resp := &fetchResponse{sessionID: 1234, readCommitted: readCommitted}
			resp.hints.nodes = []endpoint{{id: 2, host: "host2", port: 9093, rack: &rack}, {id: 3, host: "host3", port: 9094}}
			want := kmsgFetch(version, readCommitted, resp, a, b, entries)
			for _, e := range entries {
				resp.add(e)
			}
			if got := join(t, encodeFetch(version, resp)); !bytes.Equal(got, want) {
				t.Errorf("version %d, read committed %v:\n got %x\nwant %x", version, readCommitted, got, want)
			}
		}
		resp := &fetchResponse{code: 70}
		want := (&kmsg.FetchResponse{Version: version, ErrorCode: 70}).AppendTo(nil)
		if got := join(t, encodeFetch(version, resp)); !bytes.Equal(got, want) {
			t.Errorf("version %d, error: got %x, want %x", version, got, want)
		}
	}
}

func readResult(code int16, records []byte) partition.ReadResult {
	r := partition.ReadResult{Err: code, HighWatermark: 100, LastStable: 99, LogStart: 5, PreferredReplica: model.NoBroker}
	if records != nil {
		r.Range = &memRange{records, func() {}}
	}
	return r
}

func diverging(epoch int32, end int64) partition.ReadResult {
	r := readResult(0, nil)
	r.Diverging = &partition.EpochEnd{Epoch: epoch, End: end}
	return r
}

func redirected(to model.BrokerID) partition.ReadResult {
	r := readResult(0, nil)
	r.PreferredReplica = to
	return r
}

// kmsgFetch builds the same response with kmsg. It must run before encodeFetch,
// which takes the ranges.
func kmsgFetch(version int16, readCommitted bool, resp *fetchResponse, a, b *fetchTopic, entries []*fetchEntry) []byte {
	k := &kmsg.FetchResponse{Version: version, SessionID: resp.sessionID}
	for _, topic := range []*fetchTopic{a, b} {
		kt := kmsg.FetchResponseTopic{Topic: topic.name, TopicID: topic.id}
		for _, e := range entries {
			if e.topic != topic {
				continue
			}
			p := kmsg.NewFetchResponseTopicPartition()
			p.Partition, p.ErrorCode, p.PreferredReadReplica = e.partition, e.res.Err, int32(e.res.PreferredReplica)
			p.HighWatermark, p.LastStableOffset, p.LogStartOffset = e.res.HighWatermark, e.res.LastStable, e.res.LogStart
			if e.res.Err != 0 {
				p.HighWatermark, p.LastStableOffset, p.LogStartOffset = -1, -1, -1
			}
			if readCommitted && e.res.Err == 0 {
				p.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
			}
			p.RecordBatches = []byte{}
			if e.res.Range != nil {
				p.RecordBatches, _ = e.res.Range.AppendTo(nil)
			}
			if e.res.Diverging != nil {
				p.DivergingEpoch.Epoch, p.DivergingEpoch.EndOffset = e.res.Diverging.Epoch, e.res.Diverging.End
			}
			p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch = e.leaderID, e.leaderEpoch
			kt.Partitions = append(kt.Partitions, p)
		}
		k.Topics = append(k.Topics, kt)
	}
	if version >= 16 {
		for _, n := range resp.hints.nodes {
			k.Brokers = append(k.Brokers, kmsg.FetchResponseBroker{NodeID: n.id, Host: n.host, Port: n.port, Rack: n.rack})
		}
	}
	return k.AppendTo(nil)
}

func join(t *testing.T, parts []wire.Part) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		b.Write(p.Bytes)
		if p.Payload != nil {
			if _, err := p.Payload.WriteTo(&b); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b.Bytes()
}
