package partition

import (
	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// Timestamps with a meaning in ListOffsets.
const (
	OffsetLatest          = -1 // the high watermark
	OffsetEarliest        = -2 // the log start
	OffsetMaxTimestamp    = -3 // of the record with the greatest timestamp (KIP-734)
	OffsetEarliestLocal   = -4 // as earliest: there is no tiered storage (KIP-405)
	OffsetLatestTiered    = -5 // none
	OffsetEarliestPending = -6 // none
)

// OffsetQuery is one partition's part of ListOffsets.
type OffsetQuery struct {
	Timestamp    int64             // milliseconds, or one of the constants
	CurrentEpoch model.LeaderEpoch // -1: not given
	// Confirmed: the broker's leadership is confirmed (its lease is valid).
	// Without it nothing about the end is answered.
	Confirmed bool
}

// OffsetResult answers an OffsetQuery. Offset and Timestamp are -1 when there is
// no such record; Epoch is the record's, not the leader's.
type OffsetResult struct {
	Err       int16
	Offset    int64
	Timestamp int64
	Epoch     model.LeaderEpoch
}

// ListOffset finds an offset (leader). A leader whose high watermark has not
// reached the start of its epoch, or whose leadership is not confirmed, answers
// OFFSET_NOT_AVAILABLE to questions about the end (KIP-207).
func (r *Replica) ListOffset(q OffsetQuery) OffsetResult {
	none := noOffset()
	r.mu.Lock()
	hw, start := r.isr.HighWatermark(), r.log.Start()
	code := r.leading(q.CurrentEpoch)
	visible := r.isr.Visible()
	epoch := r.isr.Epoch()
	r.mu.Unlock()
	atEnd := q.Timestamp == OffsetLatest || q.Timestamp == OffsetMaxTimestamp || q.Timestamp >= 0
	switch {
	case code != codeNone:
		none.Err = code
		return none
	case atEnd && (!visible || !q.Confirmed && !bugs.StaleEnd):
		none.Err = codeOffsetNotAvailable
		return none
	}
	switch q.Timestamp {
	case OffsetLatest:
		return OffsetResult{Offset: hw, Timestamp: -1, Epoch: epoch}
	case OffsetEarliest, OffsetEarliestLocal:
		return OffsetResult{Offset: start, Timestamp: -1, Epoch: r.log.EpochAt(start)}
	case OffsetLatestTiered, OffsetEarliestPending:
		return none
	case OffsetMaxTimestamp:
		t, ok, err := r.log.MaxTimestamp(hw)
		return r.precise(t, ok, err, start, hw, func(ts int64) bool { return ts == t.Timestamp })
	}
	if q.Timestamp < 0 {
		none.Err = codeInvalidRequest
		return none
	}
	t, ok, err := r.log.OffsetForTime(q.Timestamp, hw)
	return r.precise(t, ok, err, start, hw, func(ts int64) bool { return ts >= q.Timestamp })
}

func noOffset() OffsetResult {
	return OffsetResult{Offset: -1, Timestamp: -1, Epoch: model.NoEpoch}
}

// precise turns a batch found by time into the record: it decodes that one
// batch. If it cannot be decoded, the batch's own answer stands.
func (r *Replica) precise(t segment.TimeOffset, ok bool, err error, start, limit int64, match func(int64) bool) OffsetResult {
	none := noOffset()
	if err != nil {
		none.Err = codeStorageError
		return none
	}
	if !ok {
		return none
	}
	res := OffsetResult{Offset: max(t.Offset, start), Timestamp: t.Timestamp, Epoch: t.Epoch}
	rg, err := r.log.Read(res.Offset, limit, 1, true)
	if err != nil || rg == nil {
		return res
	}
	raw, err := rg.AppendTo(nil)
	rg.Release()
	if err != nil {
		return res
	}
	if off, ts, ok := findRecord(raw, start, match); ok {
		res.Offset, res.Timestamp = off, ts
	}
	return res
}

// leading checks leadership and the client's epoch.
func (r *Replica) leading(epoch model.LeaderEpoch) int16 {
	if code := r.readable(epoch); code != codeNone {
		return code
	}
	if r.isr.Role() != isr.Leader {
		return codeNotLeaderOrFollower
	}
	return codeNone
}

// OffsetForEpoch answers OffsetForLeaderEpoch (leader): the largest epoch not
// above the asked one and its end (KIP-279); the end of the current epoch is the
// log end. (-1, -1) if the log does not know.
func (r *Replica) OffsetForEpoch(current, asked model.LeaderEpoch) (code int16, d EpochEnd) {
	r.mu.Lock()
	code, own, end := r.leading(current), r.isr.Epoch(), r.isr.End()
	r.mu.Unlock()
	unknown := EpochEnd{Epoch: model.NoEpoch, End: -1}
	switch {
	case code != codeNone:
		return code, unknown
	case asked == own:
		return codeNone, EpochEnd{Epoch: own, End: end}
	case asked > own:
		return codeNone, unknown
	}
	e, eEnd := r.log.EpochEnd(asked)
	if e == model.NoEpoch {
		return codeNone, unknown
	}
	return codeNone, EpochEnd{Epoch: e, End: min(eEnd, end)}
}

// DeleteRecords moves the log start to offset, or to the high watermark for -1
// (leader), and returns the new log start. Followers learn it by fetching.
func (r *Replica) DeleteRecords(offset int64, eff *Effects) (code int16, logStart int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acquire()
	defer r.release(eff)
	if code := r.leading(-1); code != codeNone {
		return code, -1
	}
	hw := r.isr.HighWatermark()
	if offset == -1 {
		offset = hw
	}
	if offset < 0 || offset > hw {
		return codeOffsetOutOfRange, -1
	}
	if offset <= r.log.Start() {
		return codeNone, r.log.Start()
	}
	if err := r.advanceStart(offset, eff); err != nil {
		return codeStorageError, -1
	}
	return codeNone, r.log.Start()
}
