package api

import (
	"context"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreateTopics (19, versions 2-7). -1 for partitions or replication factor
// means the default (KIP-464). The answer leaves when this broker has applied
// the topics, so the client's next request here finds them with their leaders;
// version 5 and later returns the effective configuration (KIP-525).
func createTopics(c *call) {
	var req kmsg.CreateTopicsRequest
	if !c.decode(&req) {
		return
	}
	c.background(millis(req.TimeoutMillis), func(ctx context.Context) {
		resp := &kmsg.CreateTopicsResponse{Topics: make([]kmsg.CreateTopicsResponseTopic, len(req.Topics))}
		cmd := &control.CreateTopics{ValidateOnly: req.ValidateOnly}
		var places []int // of the command's topics in the response
		count := make(map[string]int, len(req.Topics))
		for i := range req.Topics {
			count[req.Topics[i].Topic]++
		}
		for i := range req.Topics {
			t, r := &req.Topics[i], &resp.Topics[i]
			r.Default()
			r.Topic = t.Topic
			r.NumPartitions, r.ReplicationFactor = -1, -1
			nt, code, msg := newTopic(c, t, count[t.Topic] > 1)
			if code != 0 {
				r.ErrorCode, r.ErrorMessage = code, message(msg)
				continue
			}
			cmd.Topics = append(cmd.Topics, nt)
			places = append(places, i)
		}
		if len(cmd.Topics) > 0 {
			res, err := c.s.b.Submit(ctx, cmd)
			for k, i := range places {
				createdTopic(c, &resp.Topics[i], res, k, err, cmd.Topics[k].Config)
			}
		}
		c.reply(resp)
	})
}

// newTopic turns one topic of the request into the controller's form.
func newTopic(c *call, t *kmsg.CreateTopicsRequestTopic, repeated bool) (nt control.NewTopic, code int16, msg string) {
	switch {
	case repeated:
		return nt, kerr.InvalidRequest.Code, "the request names this topic more than once"
	case !c.allowed(OpCreate, ResourceCluster, clusterName) && !c.allowed(OpCreate, ResourceTopic, t.Topic):
		return nt, kerr.TopicAuthorizationFailed.Code, ""
	case len(t.ReplicaAssignment) > 0 && (t.NumPartitions != -1 || t.ReplicationFactor != -1):
		return nt, kerr.InvalidRequest.Code, "a replica assignment excludes partition count and replication factor, which must be -1"
	}
	nt = control.NewTopic{Name: cloneString(t.Topic), Partitions: t.NumPartitions, ReplicationFactor: t.ReplicationFactor}
	if len(t.ReplicaAssignment) > 0 {
		if nt.Assignment, code, msg = assignment(t.ReplicaAssignment); code != 0 {
			return nt, code, msg
		}
	}
	nt.Config = make(map[string]string, len(t.Configs))
	for _, kv := range t.Configs {
		if kv.Value == nil {
			continue // null asks for the default
		}
		nt.Config[cloneString(kv.Name)] = cloneString(*kv.Value)
	}
	return nt, 0, ""
}

// assignment orders a manual assignment by partition; it must name 0 to n-1
// once each.
func assignment(in []kmsg.CreateTopicsRequestTopicReplicaAssignment) ([][]model.BrokerID, int16, string) {
	out := make([][]model.BrokerID, len(in))
	for _, a := range in {
		if a.Partition < 0 || int(a.Partition) >= len(in) || out[a.Partition] != nil || len(a.Replicas) == 0 {
			return nil, kerr.InvalidReplicaAssignment.Code, "partitions must be numbered from 0 without gaps and have replicas"
		}
		out[a.Partition] = brokerIDs(a.Replicas)
	}
	return out, 0, ""
}

func brokerIDs(in []int32) []model.BrokerID {
	out := make([]model.BrokerID, len(in))
	for i, id := range in {
		out[i] = model.BrokerID(id)
	}
	return out
}

// createdTopic fills in the outcome of the k-th topic of the command.
func createdTopic(c *call, r *kmsg.CreateTopicsResponseTopic, res control.Result, k int, err error, set map[string]string) {
	code, msg := topicOutcome(res, k, err)
	if err == nil && k < len(res.Topics) {
		t := &res.Topics[k]
		r.TopicID = t.ID
		if code == 0 {
			r.NumPartitions, r.ReplicationFactor = t.Partitions, t.ReplicationFactor
			img := c.s.b.Image()
			topic := img.Topics[t.ID]
			if topic == nil {
				topic = topicDraft(t, set)
			}
			r.Configs = createdConfigs(img, topic)
		}
	}
	r.ErrorCode, r.ErrorMessage = code, message(msg)
}
