package api

import (
	"strings"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
)

// found is a partition that a request names, as the image knows it.
type found struct {
	topic     *control.Topic
	partition *control.Partition
	tp        model.TopicPartition
	replica   Replica // nil where this broker has none
}

// find resolves a topic by id or, where the id is zero, by name, and then the
// partition. It answers with the code that Kafka uses for the form asked by.
func (c *call) find(img *control.Image, byID bool, id model.TopicID, name string, partition int32) (found, int16) {
	t, code := c.findTopic(img, byID, id, name)
	if code != 0 {
		return found{}, code
	}
	if partition < 0 || int(partition) >= len(t.Partitions) {
		return found{topic: t}, kerr.UnknownTopicOrPartition.Code
	}
	tp := model.TopicPartition{Topic: t.ID, Partition: partition}
	return found{topic: t, partition: t.Partitions[partition], tp: tp, replica: c.s.b.Replica(tp)}, 0
}

// findTopic resolves a topic and checks the key's operation on it. A topic that
// the principal may not see is answered by name as forbidden whether or not it
// exists, and by id as unknown, because its name would be the answer (T18).
func (c *call) findTopic(img *control.Image, byID bool, id model.TopicID, name string) (*control.Topic, int16) {
	if byID {
		t := img.Topics[id]
		if t == nil || !c.allowed(c.key.Auth.Op, ResourceTopic, t.Name) {
			return nil, kerr.UnknownTopicID.Code
		}
		return t, 0
	}
	if !c.allowed(c.key.Auth.Op, ResourceTopic, name) {
		return nil, kerr.TopicAuthorizationFailed.Code
	}
	if t := img.TopicsByName[name]; t != nil {
		return t, 0
	}
	if !validTopicName(name) {
		return nil, kerr.InvalidTopicException.Code
	}
	return nil, kerr.UnknownTopicOrPartition.Code
}

// validTopicName reports whether Kafka allows the name.
func validTopicName(name string) bool { return control.ValidTopicName(name) == "" }

// cloneString copies a decoded string that outlives its request.
func cloneString(s string) string { return strings.Clone(s) }

func ids(from []model.BrokerID) []int32 {
	to := make([]int32, len(from))
	for i, id := range from {
		to[i] = int32(id)
	}
	return to
}

// message is a nullable error message. The copy keeps callers without one from
// allocating.
func message(s string) *string {
	if s == "" {
		return nil
	}
	text := s
	return &text
}
