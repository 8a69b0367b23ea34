package partition

import (
	"errors"
	"fmt"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// FetchState says from whom and from where this replica must fetch.
func (r *Replica) FetchState() FetchState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return FetchState{
		Following: r.following(), Leader: r.isr.Leader(), Epoch: r.isr.Epoch(),
		Offset: r.isr.End(), LastEpoch: r.log.LastEpoch(), DurableEnd: r.isr.Durable(),
		LogStart: r.log.Start(), Generation: r.generation,
	}
}

func (r *Replica) following() bool { return r.failed == nil && r.isr.Role() == isr.Follower }

// DurableReport returns what this follower may report to its leader as durable.
// ok is false while the log is damaged, since the follower then lacks records
// below its end and must not be in sync (I39), and before a response of this leader in this epoch was applied: until
// then the log may end in records that are about to be truncated, and a report
// would claim that they are the leader's.
func (r *Replica) DurableReport() (leader model.BrokerID, p isr.Progress, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.following() || !r.confirmed || r.log.Suspect() >= segment.Damaged {
		return model.NoBroker, isr.Progress{}, false
	}
	m := r.isr.Meta()
	if bugs.PageCacheEnd {
		return m.Leader, isr.Progress{Broker: r.isr.Self(), Incarnation: r.isr.Incarnation(), Epoch: m.LeaderEpoch, End: r.isr.End(), Now: r.clock.Elapsed()}, true
	}
	return m.Leader, isr.Progress{
		Broker: r.isr.Self(), Incarnation: r.isr.Incarnation(),
		Epoch: m.LeaderEpoch, End: r.isr.Durable(), Now: r.clock.Elapsed(),
	}, true
}

// stale reports whether a response no longer belongs to the replica's state
// (I22). mu is held.
func (r *Replica) stale(leader model.BrokerID, epoch model.LeaderEpoch, generation uint64) error {
	switch {
	case r.failed != nil:
		return ErrFailed
	case !r.following() || leader != r.isr.Leader() || epoch != r.isr.Epoch(),
		generation != 0 && generation != r.generation:
		return ErrStale
	}
	return nil
}

// AppendFetched takes a fetch response's data (follower). ErrStale means that
// the response belongs to an earlier state; ErrCorrupt that its bytes are
// damaged and nothing was appended. Any other error took the replica offline.
func (r *Replica) AppendFetched(f Fetched, eff *Effects) error {
	first, whole, end, err := checkFetched(&f)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acquire()
	defer r.release(eff)
	if err := r.stale(f.Leader, f.Epoch, f.Generation); err != nil {
		return err
	}
	if f.FetchOffset != r.isr.End() {
		return ErrStale
	}
	if len(whole) > 0 {
		if first < r.log.LastEpoch() {
			return fmt.Errorf("%w: epoch %d follows epoch %d at %d", ErrCorrupt, first, r.log.LastEpoch(), f.FetchOffset)
		}
		if err := r.appendFetched(whole, end, eff); err != nil {
			return err
		}
	}
	return r.adopt(&f, eff)
}

// appendFetched writes the batches, with mu released during I/O.
func (r *Replica) appendFetched(whole []byte, end int64, eff *Effects) error {
	r.mu.Unlock()
	info, err := r.log.Append(whole)
	if err == nil && info.Next != end {
		err = fmt.Errorf("%w: %d, want %d", errOffsets, info.Next, end)
	}
	now, wall := r.clock.Elapsed(), r.clock.Now().UnixMilli()
	r.mu.Lock()
	if err == nil {
		err = r.failed
	}
	if diskFull(err) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err) // the log is as before, and takes appends again
	}
	if err != nil {
		r.fail(err, eff)
		return err
	}
	for b := whole; len(b) > 0; {
		h, raw, err := batch.Next(b)
		if err != nil {
			break // cannot happen: checkFetched walked the same bytes
		}
		r.producers.apply(&h, wall)
		if h.Idempotent() {
			r.sinceSnap += int64(len(raw))
		}
		b = b[len(raw):]
	}
	r.isr.LogEnd(end, now)
	r.next = end
	eff.Dirty, eff.EndMoved = true, true
	eff.Bytes += len(whole)
	return nil
}

// adopt takes in what a matching response says beside its records: the leader's
// high watermark, and its log start. mu and the token are held.
func (r *Replica) adopt(f *Fetched, eff *Effects) error {
	if !r.confirmed {
		r.confirmed = true
		eff.Report = true
	}
	// The log start moves before the high watermark shows what lies below it: at
	// the leader's log start nothing could be compared, and this log may hold
	// other records there.
	hw := max(r.isr.HighWatermark(), min(f.LeaderHW, r.isr.End()))
	if start := min(f.LeaderStart, hw); start > r.log.Start() {
		if err := r.advanceStart(start, eff); err != nil {
			return err
		}
	}
	r.ie.Reset()
	// A group commit may have covered these records before the log end moved
	// here; it is not told twice.
	was := r.isr.Durable()
	r.isr.OwnDurable(r.log.DurableEnd(), &r.ie)
	eff.Report = eff.Report || r.isr.Durable() > was
	r.isr.LeaderHW(f.LeaderHW, &r.ie)
	r.take(eff)
	if r.caughtUp = f.LeaderHW <= r.isr.End(); r.caughtUp {
		r.freshAt = max(r.freshAt, f.Now)
	}
	return nil
}

// advanceStart moves the log start, after saving the producer state that the
// batches below it make up. mu and the token are held.
func (r *Replica) advanceStart(start int64, eff *Effects) error {
	partial, wall := r.partial, r.clock.Now().UnixMilli()
	idempotent := len(r.producers.byID) > 0
	var ps producers
	err := r.locked(func() error {
		if idempotent && !partial {
			if err := keepProducers(r.log, start, wall); err != nil {
				return err
			}
		}
		err := r.log.AdvanceStart(start)
		if err == nil && partial { // the damage may have gone with what was deleted
			ps, err = loadProducers(r.log, wall)
		}
		return err
	}, eff)
	if err == nil && partial {
		r.producers, r.candidate, r.partial = ps, nil, r.log.Suspect() >= segment.Damaged
	}
	return err
}

// locked runs log work with mu released; the token keeps others out. An error
// takes the replica offline. mu is held before and after.
func (r *Replica) locked(work func() error, eff *Effects) error {
	r.mu.Unlock()
	err := work()
	r.mu.Lock()
	if err == nil {
		err = r.failed
	}
	if err != nil {
		r.fail(err, eff)
	}
	return err
}

// checkFetched verifies what a leader sent: checksums, contiguous offsets from
// the fetch position, epochs that do not fall and are not above the fetched
// one. A partial batch at the end is left out. It returns the first epoch, the
// whole batches, and the log end after them.
func checkFetched(f *Fetched) (first model.LeaderEpoch, whole []byte, end int64, err error) {
	end, first = f.FetchOffset, model.NoEpoch
	last := model.NoEpoch
	n := 0
	for rest := f.Batches; len(rest) > 0; rest = f.Batches[n:] {
		h, raw, err := batch.Next(rest)
		if errors.Is(err, batch.ErrShort) {
			break
		}
		if err == nil {
			err = batch.VerifyCRC(raw)
		}
		if err != nil {
			return first, nil, end, fmt.Errorf("%w: at offset %d: %w", ErrCorrupt, end, err)
		}
		if h.BaseOffset != end || h.LeaderEpoch < last || h.LeaderEpoch < 0 || h.LeaderEpoch > f.Epoch {
			return first, nil, end, fmt.Errorf("%w: batch %d of epoch %d at offset %d, after epoch %d, fetched in epoch %d",
				ErrCorrupt, h.BaseOffset, h.LeaderEpoch, end, last, f.Epoch)
		}
		if n == 0 {
			first = h.LeaderEpoch
		}
		last = h.LeaderEpoch
		end = h.NextOffset()
		n += len(raw)
	}
	return first, f.Batches[:n], end, nil
}

// Diverged takes the leader's answer that this follower's log departs from its
// own after d (KIP-279, KIP-595), and truncates to the last point that both may
// share. It changes nothing else: high watermark and log start of such a
// response are ignored (I21). A cut below the high watermark is refused with
// ErrBelowHighWatermark and takes the replica offline (I19).
func (r *Replica) Diverged(leader model.BrokerID, epoch model.LeaderEpoch, d EpochEnd, eff *Effects) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acquire()
	defer r.release(eff)
	if err := r.stale(leader, epoch, 0); err != nil {
		return err
	}
	to := r.commonEnd(d)
	if hw := r.isr.HighWatermark(); to < hw {
		err := fmt.Errorf("%w: to %d, high watermark %d; leader %d of epoch %d diverges after epoch %d, end %d",
			ErrBelowHighWatermark, to, hw, leader, epoch, d.Epoch, d.End)
		r.fail(err, eff)
		return err
	}
	if to >= r.isr.End() {
		return fmt.Errorf("%w: divergence at %d, log end %d", ErrStale, d.End, r.isr.End())
	}
	if err := r.locked(func() error { return r.log.Truncate(to) }, eff); err != nil {
		return err
	}
	return r.rewound(eff)
}

// commonEnd is the end of the log's part that may be the leader's: up to the
// lesser of both ends of the epoch that the leader named.
func (r *Replica) commonEnd(d EpochEnd) int64 {
	start := r.log.Start()
	own, end := r.log.EpochEnd(d.Epoch)
	switch {
	case d.Epoch == model.NoEpoch: // the leader has no epoch as old as this log's last
		end = max(start, d.End)
	case own == model.NoEpoch: // this log has none as old as the leader's answer
		end = start
	default:
		end = min(end, d.End)
	}
	return min(end, r.isr.End())
}

// rewound brings everything derived from the log in line after the log end went
// back. A log cuts at a batch boundary, maybe below what was asked. mu and the
// token are held.
func (r *Replica) rewound(eff *Effects) error {
	to := r.log.End()
	if hw := r.isr.HighWatermark(); to < hw {
		err := fmt.Errorf("%w: the log was cut at %d, high watermark %d", ErrBelowHighWatermark, to, hw)
		r.fail(err, eff)
		return err
	}
	var ps producers
	err := r.locked(func() (err error) {
		ps, err = loadProducers(r.log, r.clock.Now().UnixMilli())
		return err
	}, eff)
	if err != nil {
		return err
	}
	for id, p := range ps.byID { // idle time is not known from the log
		if was := r.producers.byID[id]; was != nil {
			p.usedAt = was.usedAt
		}
	}
	r.producers, r.partial = ps, r.log.Suspect() >= segment.Damaged
	if r.candidate != nil && r.candidate.at > to {
		r.candidate = nil
		r.sinceSnap = max(r.sinceSnap, 1)
	}
	r.isr.LogEnd(to, r.clock.Elapsed())
	r.next = to
	r.generation++
	r.confirmed, r.caughtUp = false, false
	r.ie.Reset()
	r.isr.OwnDurable(r.log.DurableEnd(), &r.ie)
	r.take(eff)
	eff.EndMoved = true
	return nil
}

// FetchOutOfRange takes the leader's answer that its log starts above this
// follower's end: retention removed what is missing here. All of that was
// committed, so the log starts anew at the leader's start. f.FetchOffset and
// f.LeaderStart matter.
func (r *Replica) FetchOutOfRange(f Fetched, eff *Effects) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acquire()
	defer r.release(eff)
	if err := r.stale(f.Leader, f.Epoch, f.Generation); err != nil {
		return err
	}
	if f.FetchOffset != r.isr.End() || f.LeaderStart <= r.isr.End() {
		return fmt.Errorf("%w: fetch at %d out of range, leader's log starts at %d", ErrStale, f.FetchOffset, f.LeaderStart)
	}
	if err := r.locked(func() error { return r.log.ResetTo(f.LeaderStart) }, eff); err != nil {
		return err
	}
	r.isr.Reset(f.LeaderStart)
	r.log.SetHighWatermark(r.isr.HighWatermark())
	r.next = f.LeaderStart
	// What producers wrote in between is unknown: better no state than one
	// that refuses their next sequence.
	r.producers, r.candidate, r.partial = producers{}, nil, false
	r.generation++
	r.confirmed, r.caughtUp = false, false
	eff.EndMoved = true
	return nil
}

// Repair replaces a damaged range of the log by the same batches from another
// replica, after verifying that they cover the range and are intact (I39). The
// range is to lie below the high watermark, where logs are equal.
func (r *Replica) Repair(rng segment.OffsetRange, batches []byte, eff *Effects) error {
	at := rng.From
	for rest := batches; len(rest) > 0; {
		h, raw, err := batch.Next(rest)
		if err == nil {
			err = batch.VerifyCRC(raw)
		}
		if err != nil {
			return fmt.Errorf("%w: repair at offset %d: %w", ErrCorrupt, at, err)
		}
		if h.BaseOffset > at || h.NextOffset() <= at {
			return fmt.Errorf("%w: repair at offset %d: batch %d", ErrCorrupt, at, h.BaseOffset)
		}
		if own := r.log.EpochAt(h.BaseOffset); own != model.NoEpoch && own != h.LeaderEpoch {
			return fmt.Errorf("%w: repair at offset %d: a batch of epoch %d, here it was of epoch %d", ErrCorrupt, at, h.LeaderEpoch, own)
		}
		at, rest = h.NextOffset(), rest[len(raw):]
	}
	if at < rng.To {
		return fmt.Errorf("%w: repair of [%d, %d) ends at %d", ErrCorrupt, rng.From, rng.To, at)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if hw := r.isr.HighWatermark(); rng.To > hw {
		return fmt.Errorf("%w: repair of [%d, %d), high watermark %d", ErrStale, rng.From, rng.To, hw)
	}
	r.acquire()
	defer r.release(eff)
	r.mu.Unlock()
	err := r.log.Repair(rng, batches)
	var ps producers
	whole := err == nil && len(r.log.Damaged()) == 0
	if whole { // what was unreadable is part of the state too (I26)
		ps, err = loadProducers(r.log, r.clock.Now().UnixMilli())
	}
	r.mu.Lock()
	if whole && err == nil {
		r.producers, r.candidate, r.partial = ps, nil, r.log.Suspect() >= segment.Damaged
	}
	return err
}
