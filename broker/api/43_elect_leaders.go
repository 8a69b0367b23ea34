package api

import (
	"context"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ElectLeaders (43, versions 0-2) moves leaderships to preferred replicas, or,
// as the one way to an unclean election, brings offline partitions back with
// the possible loss of records. Null topics mean every partition that needs it.
func electLeaders(c *call) {
	var req kmsg.ElectLeadersRequest
	if !c.decode(&req) {
		return
	}
	const preferred, unclean = 0, 1
	c.background(millis(req.TimeoutMillis), func(ctx context.Context) {
		switch {
		case !c.allowedCluster():
			c.reply(&kmsg.ElectLeadersResponse{ErrorCode: kerr.ClusterAuthorizationFailed.Code})
			return
		case req.ElectionType != preferred && req.ElectionType != unclean:
			c.reply(&kmsg.ElectLeadersResponse{ErrorCode: kerr.InvalidRequest.Code})
			return
		}
		e := election{c: c, img: c.s.b.Image(), topics: make(map[string]int)}
		cmd := &control.ElectLeaders{Unclean: req.ElectionType == unclean, All: req.Topics == nil, Principal: c.peer.Principal}
		for i := range req.Topics {
			for _, p := range req.Topics[i].Partitions {
				f, code := c.find(e.img, false, model.TopicID{}, req.Topics[i].Topic, p)
				if code != 0 {
					e.result(req.Topics[i].Topic, p, code, "")
					continue
				}
				cmd.Partitions = append(cmd.Partitions, f.tp)
			}
		}
		if cmd.All || len(cmd.Partitions) > 0 {
			e.submit(ctx, cmd)
		}
		c.reply(&e.resp)
	})
}

// election collects the results by topic.
type election struct {
	c      *call
	img    *control.Image
	resp   kmsg.ElectLeadersResponse
	topics map[string]int // place in resp
}

func (e *election) submit(ctx context.Context, cmd *control.ElectLeaders) {
	res, err := e.c.s.b.Submit(ctx, cmd)
	if err != nil || res.Code != 0 {
		code, msg := outcome(res, 1, 0, err)
		e.resp.ErrorCode = code
		for _, tp := range cmd.Partitions {
			e.result(e.img.Topics[tp.Topic].Name, tp.Partition, code, msg)
		}
		return
	}
	for i := range res.Partitions {
		p := &res.Partitions[i]
		if cmd.All && p.Code == kerr.ElectionNotNeeded.Code {
			continue
		}
		if t := e.img.Topics[p.TP.Topic]; t != nil {
			e.result(t.Name, p.TP.Partition, p.Code, p.Message)
		}
	}
}

func (e *election) result(topic string, partition int32, code int16, msg string) {
	i, ok := e.topics[topic]
	if !ok {
		i = len(e.resp.Topics)
		e.topics[topic] = i
		e.resp.Topics = append(e.resp.Topics, kmsg.ElectLeadersResponseTopic{Topic: topic})
	}
	e.resp.Topics[i].Partitions = append(e.resp.Topics[i].Partitions, kmsg.ElectLeadersResponseTopicPartition{Partition: partition, ErrorCode: code, ErrorMessage: message(msg)})
}
