package api

import (
	"context"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteTopics (20, versions 1-6) by name, from version 6 also by id.
func deleteTopics(c *call) {
	var req kmsg.DeleteTopicsRequest
	if !c.decode(&req) {
		return
	}
	for i := range req.TopicNames { // one form for all versions
		req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &req.TopicNames[i]})
	}
	c.background(millis(req.TimeoutMillis), func(ctx context.Context) {
		resp := &kmsg.DeleteTopicsResponse{Topics: make([]kmsg.DeleteTopicsResponseTopic, len(req.Topics))}
		cmd := &control.DeleteTopics{}
		var places []int
		seen := make(map[model.TopicID]bool)
		img := c.s.b.Image()
		for i := range req.Topics {
			r := &resp.Topics[i]
			t, code := topicToDelete(c, img, &req.Topics[i], r)
			if code == 0 && seen[t.ID] {
				code = kerr.InvalidRequest.Code
			}
			if code != 0 {
				r.ErrorCode = code
				continue
			}
			seen[t.ID] = true
			cmd.Topics = append(cmd.Topics, control.TopicRef{ID: t.ID, Name: t.Name})
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

// topicToDelete resolves one topic and fills in how the answer names it.
func topicToDelete(c *call, img *control.Image, asked *kmsg.DeleteTopicsRequestTopic, r *kmsg.DeleteTopicsResponseTopic) (*control.Topic, int16) {
	r.Topic, r.TopicID = asked.Topic, asked.TopicID
	byID := asked.Topic == nil
	if !byID && asked.TopicID != [16]byte{} {
		return nil, kerr.InvalidRequest.Code
	}
	if !brokerBool(c, "delete.topic.enable") {
		if c.version < 3 {
			return nil, kerr.InvalidRequest.Code
		}
		return nil, kerr.TopicDeletionDisabled.Code
	}
	name := ""
	if !byID {
		name = *asked.Topic
	}
	t, code := c.findTopic(img, byID, asked.TopicID, name)
	if code == kerr.InvalidTopicException.Code {
		code = kerr.UnknownTopicOrPartition.Code
	}
	if code == 0 {
		r.Topic, r.TopicID = &t.Name, t.ID
	}
	return t, code
}
