package sim

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
)

// fetched is an answer to a fetch, and the request that it answers.
type fetched struct {
	req  *kmsg.FetchRequest
	resp *kmsg.FetchResponse
}

// asked returns what the request said of a partition; nil: nothing.
func (f *fetched) asked(tp model.TopicPartition) *kmsg.FetchRequestTopicPartition {
	for i := range f.req.Topics {
		t := &f.req.Topics[i]
		for j := range t.Partitions {
			if t.TopicID == tp.Topic && t.Partitions[j].Partition == tp.Partition {
				return &t.Partitions[j]
			}
		}
	}
	return nil
}

// taken is a follower's replica before an answer is applied to it.
type taken struct {
	x        *watched
	tp       model.TopicPartition
	before   partition.Status
	diverges bool // the answer says where the logs part
}

// beforeFetched remembers what an answer finds. check, after it was applied,
// tells whether it changed what it may not.
func (o *oracle) beforeFetched(n *node, f *fetched) (check func()) {
	var list []taken
	for i := range f.resp.Topics {
		t := &f.resp.Topics[i]
		for j := range t.Partitions {
			tp := model.TopicPartition{Topic: t.TopicID, Partition: t.Partitions[j].Partition}
			d := t.Partitions[j].DivergingEpoch
			if x := n.watch(tp); x != nil {
				list = append(list, taken{x, tp, x.r.Status(), d.Epoch >= 0 || d.EndOffset >= 0})
			}
		}
	}
	return func() {
		for i := range list {
			o.afterFetched(n, f, &list[i])
		}
	}
}

func (o *oracle) afterFetched(n *node, f *fetched, t *taken) {
	was, is := &t.before, t.x.r.Status()
	if t.diverges && is.HighWatermark != was.HighWatermark {
		o.w.violate(invDivergeOnly, "%s on %d: high watermark from %d to %d", t.x.p.name, n.id, was.HighWatermark, is.HighWatermark)
	}
	if is.LogEnd == was.LogEnd && is.HighWatermark == was.HighWatermark && is.LogStart == was.LogStart && is.Confirmed == was.Confirmed {
		return
	}
	asked := f.asked(t.tp)
	if asked == nil || asked.FetchOffset != was.LogEnd || asked.CurrentLeaderEpoch != int32(was.Epoch) {
		o.w.violate(invBelongs, "%s on %d: at end %d in epoch %d it took the answer to %+v", t.x.p.name, n.id, was.LogEnd, was.Epoch, asked)
	}
}
