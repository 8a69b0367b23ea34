package api

import (
	"strings"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// brokerBool reads a boolean broker key as it is in effect here.
func brokerBool(c *call, key string) bool {
	img := c.s.b.Image()
	for _, layer := range []map[string]string{img.BrokerConfig[c.s.b.Self()], img.ClusterConfig, c.s.b.NodeConfig()} {
		if v, ok := layer[key]; ok {
			return strings.EqualFold(v, "true")
		}
	}
	d := control.BrokerConfigDef(key)
	return d != nil && strings.EqualFold(d.Default, "true")
}

// createdConfigs lists a new topic's effective configuration. t need not be in
// the image.
func createdConfigs(img *control.Image, t *control.Topic) []kmsg.CreateTopicsResponseTopicConfig {
	values := control.DescribeTopicConfig(img, t)
	out := make([]kmsg.CreateTopicsResponseTopicConfig, len(values))
	for i := range values {
		v := &values[i]
		out[i] = kmsg.CreateTopicsResponseTopicConfig{Name: v.Def.Name, Value: &v.Value, Source: int8(v.Source)}
	}
	return out
}

// topicDraft stands in for a topic that was only validated.
func topicDraft(res *control.TopicResult, set map[string]string) *control.Topic {
	return &control.Topic{Name: res.Name, Config: set,
		Partitions: []*control.Partition{{Replicas: make([]model.BrokerID, max(res.ReplicationFactor, 0))}}}
}
