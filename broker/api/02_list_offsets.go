package api

import (
	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListOffsets (2, versions 1-11) answers with the first record at or after a
// time, or with one of the special positions, and with that record's own
// leader epoch. Answers about the end need a confirmed leader: otherwise
// OFFSET_NOT_AVAILABLE, or LEADER_NOT_AVAILABLE to version 4 and below (KIP-207).
func listOffsets(c *call) {
	var req kmsg.ListOffsetsRequest
	if !c.decode(&req) {
		return
	}
	img := c.s.b.Image()
	resp := &kmsg.ListOffsetsResponse{Topics: make([]kmsg.ListOffsetsResponseTopic, len(req.Topics))}
	for i := range req.Topics {
		t, r := &req.Topics[i], &resp.Topics[i]
		r.Topic = t.Topic
		r.Partitions = make([]kmsg.ListOffsetsResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			r.Partitions[j] = listOffset(c, img, &req, t.Topic, &t.Partitions[j])
		}
	}
	c.reply(resp)
}

// specialSince is the version that introduced each special timestamp.
var specialSince = map[int64]int16{
	partition.OffsetLatest: 0, partition.OffsetEarliest: 0, partition.OffsetMaxTimestamp: 7,
	partition.OffsetEarliestLocal: 8, partition.OffsetLatestTiered: 9, partition.OffsetEarliestPending: 11,
}

func listOffset(c *call, img *control.Image, req *kmsg.ListOffsetsRequest, topic string, p *kmsg.ListOffsetsRequestTopicPartition) kmsg.ListOffsetsResponseTopicPartition {
	r := kmsg.ListOffsetsResponseTopicPartition{Partition: p.Partition, Timestamp: -1, Offset: -1, LeaderEpoch: -1}
	f, code := c.find(img, false, model.TopicID{}, topic, p.Partition)
	if code == 0 {
		code = notServing(f)
	}
	if code != 0 {
		r.ErrorCode = code
		return r
	}
	if p.Timestamp < 0 {
		if since, ok := specialSince[p.Timestamp]; !ok || c.version < since {
			r.ErrorCode = kerr.UnsupportedVersion.Code
			return r
		}
	}
	res := f.replica.ListOffset(partition.OffsetQuery{Timestamp: p.Timestamp, CurrentEpoch: p.CurrentLeaderEpoch, Confirmed: c.s.b.LeaseValid()})
	r.ErrorCode, r.Timestamp, r.Offset, r.LeaderEpoch = res.Err, res.Timestamp, res.Offset, res.Epoch
	if r.ErrorCode == kerr.OffsetNotAvailable.Code && c.version < 5 {
		r.ErrorCode = kerr.LeaderNotAvailable.Code
	}
	return r
}

// notServing returns why a partition that exists is not served here, 0 if it
// is: a broker without a replica is not the leader.
func notServing(f found) int16 {
	if f.replica == nil {
		return kerr.NotLeaderForPartition.Code
	}
	return 0
}

// replicaID is the follower that asks: only a broker on the internal listener
// may be one, and only as itself. Anybody else is a consumer, whatever it says.
func replicaID(c *call, claimed int32) int32 {
	if claimed >= 0 && c.peer.Internal && claimed == c.peer.Broker {
		return claimed
	}
	return -1
}
