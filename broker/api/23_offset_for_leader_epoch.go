package api

import (
	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetForLeaderEpoch (23, versions 2-4) tells a client whether its log was
// truncated: the largest epoch not above the asked one, and where the next one
// starts (KIP-101, KIP-279, KIP-320). (-1, -1) if the leader does not know.
func offsetForLeaderEpoch(c *call) {
	var req kmsg.OffsetForLeaderEpochRequest
	if !c.decode(&req) {
		return
	}
	img := c.s.b.Image()
	resp := &kmsg.OffsetForLeaderEpochResponse{Topics: make([]kmsg.OffsetForLeaderEpochResponseTopic, len(req.Topics))}
	for i := range req.Topics {
		t, r := &req.Topics[i], &resp.Topics[i]
		r.Topic = t.Topic
		r.Partitions = make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			r.Partitions[j] = epochEnd(c, img, t.Topic, &t.Partitions[j])
		}
	}
	c.reply(resp)
}

func epochEnd(c *call, img *control.Image, topic string, p *kmsg.OffsetForLeaderEpochRequestTopicPartition) kmsg.OffsetForLeaderEpochResponseTopicPartition {
	r := kmsg.OffsetForLeaderEpochResponseTopicPartition{Partition: p.Partition, LeaderEpoch: -1, EndOffset: -1}
	f, code := c.find(img, false, model.TopicID{}, topic, p.Partition)
	if code == 0 {
		code = notServing(f)
	}
	if code != 0 {
		r.ErrorCode = code
		return r
	}
	code, d := f.replica.OffsetForEpoch(p.CurrentLeaderEpoch, p.LeaderEpoch)
	r.ErrorCode, r.LeaderEpoch, r.EndOffset = code, d.Epoch, d.End
	return r
}
