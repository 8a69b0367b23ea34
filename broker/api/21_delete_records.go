package api

import (
	"context"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteRecords (21, versions 0-2) moves the log start of partitions that this
// broker leads; -1 means up to the high watermark. Followers learn the new start
// with their next fetch.
func deleteRecords(c *call) {
	var req kmsg.DeleteRecordsRequest
	if !c.decode(&req) {
		return
	}
	c.background(millis(req.TimeoutMillis), func(ctx context.Context) {
		img := c.s.b.Image()
		resp := &kmsg.DeleteRecordsResponse{Topics: make([]kmsg.DeleteRecordsResponseTopic, len(req.Topics))}
		for i := range req.Topics {
			t, r := &req.Topics[i], &resp.Topics[i]
			r.Topic = t.Topic
			r.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(t.Partitions))
			for j, p := range t.Partitions {
				code, low := deleteRecordsOf(ctx, c, img, t.Topic, p)
				r.Partitions[j] = kmsg.DeleteRecordsResponseTopicPartition{Partition: p.Partition, ErrorCode: code, LowWatermark: low}
			}
		}
		c.reply(resp)
	})
}

func deleteRecordsOf(ctx context.Context, c *call, img *control.Image, topic string, p kmsg.DeleteRecordsRequestTopicPartition) (code int16, low int64) {
	f, code := c.find(img, false, model.TopicID{}, topic, p.Partition)
	switch {
	case code != 0:
		return code, -1
	case f.replica == nil:
		return kerr.NotLeaderForPartition.Code, -1
	case f.topic.Internal:
		return kerr.TopicAuthorizationFailed.Code, -1
	case ctx.Err() != nil:
		return kerr.RequestTimedOut.Code, -1
	}
	return f.replica.DeleteRecords(p.Offset)
}
