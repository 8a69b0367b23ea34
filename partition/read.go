package partition

import (
	"errors"
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// Read answers a fetch. All bounds are taken once, before the log is read
// (I23). A consumer gets committed records only, below the lesser of the high
// watermark known here and the own durable end; a follower gets everything.
//
// The range of the result, if not nil, is to be released by the caller.
func (r *Replica) Read(req ReadRequest, eff *Effects) ReadResult {
	res, limit, ok := r.bounds(&req)
	if !ok {
		return res
	}
	rg, err := r.log.Read(req.Offset, limit, req.MaxBytes, req.MinOne)
	switch {
	case err == nil:
		res.Range = rg
	case errors.Is(err, segment.ErrOutOfRange):
		res.Err = codeOffsetOutOfRange
	case errors.Is(err, segment.ErrDamaged) && req.Follower < 0 && res.Leader != r.isr.Self():
		// Not served (I39): another replica has it.
		res.PreferredReplica, res.NoWait = res.Leader, true
	default: // damaged ranges are not served; nor is anything after an error
		res.Err = codeStorageError
	}
	return res
}

// bounds decides a read. ok means that [req.Offset, limit) is to be read.
func (r *Replica) bounds(req *ReadRequest) (res ReadResult, limit int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	res = r.result()
	if res.Err = r.readable(req.CurrentEpoch); res.Err != codeNone {
		return res, 0, false
	}
	if req.Follower >= 0 {
		limit, ok = r.followerBounds(req, &res)
	} else {
		limit, ok = r.consumerBounds(req, &res)
	}
	return res, limit, ok
}

func (r *Replica) result() ReadResult {
	hw := r.isr.HighWatermark()
	return ReadResult{
		HighWatermark: hw, LastStable: hw, LogStart: r.log.Start(),
		PreferredReplica: model.NoBroker, Leader: r.isr.Leader(), LeaderEpoch: r.isr.Epoch(),
	}
}

// readable checks role and the client's epoch (KIP-320).
func (r *Replica) readable(epoch model.LeaderEpoch) int16 {
	switch {
	case r.failed != nil:
		return codeStorageError
	case !r.isr.Known() || r.isr.Role() == isr.Offline:
		return codeNotLeaderOrFollower
	case epoch >= 0:
		return r.fence(epoch)
	}
	return codeNone
}

// followerBounds serves a replica's fetch: it needs the epoch, and a log that
// matches at the fetch position. The progress goes to the state machine.
func (r *Replica) followerBounds(req *ReadRequest, res *ReadResult) (limit int64, ok bool) {
	if r.isr.Role() != isr.Leader || req.CurrentEpoch < 0 {
		res.Err = codeNotLeaderOrFollower
		return 0, false
	}
	end := r.isr.End()
	if d := r.divergence(req, end); d != nil {
		res.Diverging, res.NoWait = d, true
		return 0, false
	}
	if req.Offset < res.LogStart || req.Offset > end {
		res.Err, res.NoWait = codeOffsetOutOfRange, true
		return 0, false
	}
	ok, first := r.isr.Fetched(isr.Progress{Broker: req.Follower, Incarnation: req.Incarnation,
		Epoch: req.CurrentEpoch, End: req.Offset, Now: req.Now})
	if !ok {
		res.Err = codeStaleBrokerEpoch
		return 0, false
	}
	res.NoWait = first
	return end, req.Offset < end
}

// divergence compares the epoch of the reader's last record with the own log.
// At the log start there is nothing to compare.
func (r *Replica) divergence(req *ReadRequest, end int64) *EpochEnd {
	start := r.log.Start()
	if req.LastFetchedEpoch < 0 || req.Offset <= start {
		return nil
	}
	e, eEnd := r.log.EpochEnd(req.LastFetchedEpoch)
	switch {
	case e != model.NoEpoch:
	case req.Follower >= 0:
		return &EpochEnd{Epoch: model.NoEpoch, End: start}
	default: // a consumer's committed epoch may be stale; its offset still counts (KAFKA-19902)
		return nil
	}
	if eEnd = min(eEnd, end); e < req.LastFetchedEpoch || eEnd < req.Offset {
		return &EpochEnd{Epoch: e, End: eEnd}
	}
	return nil
}

// consumerBounds serves committed records, or sends the consumer elsewhere: a
// follower answers what it cannot serve with no records and the leader as
// preferred replica, because clients leave a follower by that, not by errors.
func (r *Replica) consumerBounds(req *ReadRequest, res *ReadResult) (limit int64, ok bool) {
	limit = min(res.HighWatermark, r.isr.Durable())
	if r.isr.Role() == isr.Leader {
		return limit, r.leaderRead(req, res, limit)
	}
	if req.Offset < res.LogStart || req.Offset > limit || r.tooOld(req.Now) {
		res.PreferredReplica, res.NoWait = res.Leader, true
		return 0, false
	}
	return limit, req.Offset < limit
}

func (r *Replica) leaderRead(req *ReadRequest, res *ReadResult, limit int64) bool {
	switch {
	case !r.isr.Visible():
		res.Err = codeOffsetNotAvailable
	case req.Offset < res.LogStart || req.Offset > r.isr.End():
		res.Err = codeOffsetOutOfRange
	default:
		if d := r.divergence(req, r.isr.End()); d != nil {
			res.Diverging, res.NoWait = d, true
			return false
		}
		if req.Rack != "" {
			r.hear() // an idle replica is not ticked: what it knows of its peers is old
		}
		if b := r.isr.PreferredReplica(req.Client, req.Rack, req.Offset, req.Now); b != model.NoBroker {
			res.PreferredReplica, res.NoWait = b, true
			return false
		}
		return req.Offset < limit
	}
	return false
}

// tooOld reports whether a follower's state is older than
// replica.read.max.lag.ms.
func (r *Replica) tooOld(now time.Duration) bool {
	most := r.topic.Load().ReadMaxLag
	return most > 0 && now-r.fresh() > most
}

// fresh is the last time at which this follower is known to have had all that
// was committed. While it is caught up, a response to the leader's fetch session
// that has nothing for this partition says so too.
func (r *Replica) fresh() time.Duration {
	if r.caughtUp {
		if at, ok := r.fetches.Last(r.isr.Leader()); ok {
			return max(at, r.freshAt)
		}
	}
	return r.freshAt
}
