package partition

import (
	"io"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// Log is what a replica needs of its log; *segment.Log through Segment. Append,
// Truncate, ResetTo and AdvanceStart are called by one caller at a time. The
// getters, SetHighWatermark and SetConfig must not block: they are called under
// the replica's lock.
type Log interface {
	TP() model.TopicPartition
	Append(batches []byte) (segment.AppendInfo, error)
	Start() int64
	End() int64
	DurableEnd() int64
	Bytes() int64
	Read(offset, limit int64, maxBytes int, minOne bool) (Range, error)
	Truncate(end int64) error
	ResetTo(offset int64) error
	AdvanceStart(offset int64) error
	LastEpoch() model.LeaderEpoch
	EpochEnd(e model.LeaderEpoch) (model.LeaderEpoch, int64)
	EpochAt(offset int64) model.LeaderEpoch
	OffsetForTime(ms, limit int64) (segment.TimeOffset, bool, error)
	MaxTimestamp(limit int64) (segment.TimeOffset, bool, error)
	HighWatermark() int64
	SetHighWatermark(hw int64)
	ProducerSnapshot() (at int64, data []byte, err error)
	SaveProducerSnapshot(at int64, data []byte)
	SetConfig(c segment.LogConfig)
	Suspect() segment.Suspicion
	Damaged() []segment.OffsetRange
	Repair(r segment.OffsetRange, batches []byte) error
}

// Range is a pinned run of whole batches; *segment.Range is one.
type Range interface {
	Len() int64
	WriteTo(w io.Writer) (int64, error)
	AppendTo(dst []byte) ([]byte, error)
	Release()
}

// Segment adapts a segment log.
func Segment(l *segment.Log) Log { return segmentLog{l} }

type segmentLog struct{ *segment.Log }

func (s segmentLog) Read(offset, limit int64, maxBytes int, minOne bool) (Range, error) {
	rg, err := s.Log.Read(offset, limit, maxBytes, minOne)
	if err != nil || rg == nil {
		return nil, err
	}
	return rg, nil
}
