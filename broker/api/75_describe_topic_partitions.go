package api

import (
	"maps"
	"math"
	"slices"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeTopicPartitions (75, version 0) pages through topics in order of
// name, with their eligible leader replicas (KIP-966). No topics means all.
func describeTopicPartitions(c *call) {
	var req kmsg.DescribeTopicPartitionsRequest
	if !c.decode(&req) {
		return
	}
	img := c.s.b.Image()
	p := topicPage{c: c, img: img, left: min(max(int(req.ResponsePartitionLimit), 1), maxPagePartitions)}
	from, first := "", int32(0)
	if req.Cursor != nil {
		from, first = req.Cursor.Topic, req.Cursor.Partition
	}
	for _, name := range pageTopics(c, img, &req) {
		if name < from {
			continue
		}
		start := int32(0)
		if name == from {
			start = max(first, 0)
		}
		if !p.add(name, start) {
			break
		}
	}
	c.reply(&p.resp)
}

// maxPagePartitions is the limit of a page
// (max.request.partition.size.limit).
const maxPagePartitions = 2000

// pageTopics returns the names asked for, sorted and each once.
func pageTopics(c *call, img *control.Image, req *kmsg.DescribeTopicPartitionsRequest) []string {
	var names []string
	if len(req.Topics) == 0 {
		for _, name := range slices.Sorted(maps.Keys(img.TopicsByName)) {
			if c.allowed(OpDescribe, ResourceTopic, name) {
				names = append(names, name)
			}
		}
		return names
	}
	for i := range req.Topics {
		names = append(names, req.Topics[i].Topic)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// topicPage is a response being filled.
type topicPage struct {
	c    *call
	img  *control.Image
	left int // partitions that still fit
	resp kmsg.DescribeTopicPartitionsResponse
}

// add appends a topic from a partition on. It is false when the page is full;
// the cursor then says where the next one begins.
func (p *topicPage) add(name string, start int32) bool {
	if p.left == 0 {
		p.resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: start}
		return false
	}
	t, code := p.c.findTopic(p.img, false, model.TopicID{}, name)
	if code != 0 {
		p.resp.Topics = append(p.resp.Topics, kmsg.DescribeTopicPartitionsResponseTopic{ErrorCode: code, Topic: &name, AuthorizedOperations: math.MinInt32})
		return true
	}
	r := kmsg.DescribeTopicPartitionsResponseTopic{Topic: &t.Name, TopicID: t.ID, IsInternal: t.Internal, AuthorizedOperations: p.c.operations(ResourceTopic, t.Name)}
	for i := start; int(i) < len(t.Partitions); i++ {
		if p.left == 0 {
			p.resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: i}
			break
		}
		p.left--
		r.Partitions = append(r.Partitions, pagePartition(p.img, i, t.Partitions[i]))
	}
	p.resp.Topics = append(p.resp.Topics, r)
	return p.resp.NextCursor == nil
}

func pagePartition(img *control.Image, index int32, pt *control.Partition) kmsg.DescribeTopicPartitionsResponseTopicPartition {
	r := kmsg.DescribeTopicPartitionsResponseTopicPartition{
		Partition: index, LeaderID: int32(pt.Leader), LeaderEpoch: pt.LeaderEpoch, Replicas: ids(pt.Replicas),
		ISR: ids(pt.ISR), EligibleLeaderReplicas: ids(pt.ELR), LastKnownELR: []int32{}, OfflineReplicas: offlineReplicas(img, pt),
	}
	if pt.Leader == model.NoBroker {
		r.ErrorCode = kerr.LeaderNotAvailable.Code
	}
	return r
}
