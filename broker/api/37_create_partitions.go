package api

import (
	"context"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreatePartitions (37, versions 0-3) raises the number of partitions of
// topics, with one result for each topic of the request.
func createPartitions(c *call) {
	var req kmsg.CreatePartitionsRequest
	if !c.decode(&req) {
		return
	}
	c.background(millis(req.TimeoutMillis), func(ctx context.Context) {
		img := c.s.b.Image()
		resp := &kmsg.CreatePartitionsResponse{Topics: make([]kmsg.CreatePartitionsResponseTopic, len(req.Topics))}
		cmd := &control.CreatePartitions{ValidateOnly: req.ValidateOnly}
		var places []int
		count := make(map[string]int, len(req.Topics))
		for i := range req.Topics {
			count[req.Topics[i].Topic]++
		}
		for i := range req.Topics {
			t, r := &req.Topics[i], &resp.Topics[i]
			r.Topic = t.Topic
			_, code := c.findTopic(img, false, model.TopicID{}, t.Topic)
			if code == 0 && count[t.Topic] > 1 {
				code = kerr.InvalidRequest.Code
			}
			if code != 0 {
				r.ErrorCode = code
				continue
			}
			more := control.MorePartitions{Name: cloneString(t.Topic), Count: t.Count}
			for _, a := range t.Assignment {
				more.Assignment = append(more.Assignment, brokerIDs(a.Replicas))
			}
			cmd.Topics = append(cmd.Topics, more)
			places = append(places, i)
		}
		if len(cmd.Topics) > 0 {
			res, err := c.s.b.Submit(ctx, cmd)
			for k, i := range places {
				code, msg := topicOutcome(res, k, err)
				resp.Topics[i].ErrorCode, resp.Topics[i].ErrorMessage = code, message(msg)
			}
		}
		c.reply(resp)
	})
}
