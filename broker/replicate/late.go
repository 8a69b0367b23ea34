package replicate

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/internal/model"
)

// lateAnswers are what the planted bug bugs.FetchMixup keeps: for each partition
// the answer that no request waited for any more, until a later request of that
// partition is answered. Without the bug there are none.
type lateAnswers map[model.TopicPartition]*kmsg.FetchResponseTopicPartition

// keep files an answer that came too late for its request.
func (l *lateAnswers) keep(tp model.TopicPartition, p *kmsg.FetchResponseTopicPartition) {
	if p.ErrorCode != 0 {
		return
	}
	if *l == nil {
		*l = lateAnswers{}
	}
	late := *p
	late.RecordBatches = slices.Clone(p.RecordBatches) // p's are the connection's
	(*l)[tp] = &late
}

// swap returns the answer that waits, or else p.
func (l lateAnswers) swap(tp model.TopicPartition, p *kmsg.FetchResponseTopicPartition) *kmsg.FetchResponseTopicPartition {
	late, ok := l[tp]
	if !ok || p.ErrorCode != 0 {
		return p
	}
	delete(l, tp)
	return late
}
