package partition

import (
	"errors"
	"fmt"
	"sync"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

const (
	joinBytes  = 256 << 10 // appends are joined into writes up to this size
	queueLimit = 1 << 14   // accepted appends that wait for the writer
)

// entry is an accepted append. Its fields do not change once it is queued.
type entry struct {
	raw        []byte       // nil: a duplicate of a queued append
	head       batch.Header // of the first batch, with its base offset assigned
	base, next int64
	timestamp  int64 // log append time, -1 for CreateTime
	early      bool  // answered at append
	done       Completion
}

func (e *entry) fail(code int16, eff *Effects) { eff.finish(e.done, refused(code, "")) }

// Append writes a produce (leader). The outcome comes through Effects.Done,
// maybe of another call: the first queued caller writes for all that queued
// behind it, and is relieved by another one after a number of writes. With acks=all, and with acks=1 unless acks.floor=client, it comes
// when the high watermark covers the records.
func (r *Replica) Append(req *AppendRequest, eff *Effects) {
	e, rej := validate(req, r.topic.Load(), r.clock.Now().UnixMilli())
	if rej.code != codeNone {
		eff.finish(req.Done, refused(rej.code, rej.message))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hear()
	if code := r.admit(req.Epoch, &e, eff); code != codeNone {
		e.fail(code, eff)
		return
	}
	if r.busy && r.written >= turn {
		r.successors++
		for r.busy && r.written >= turn {
			r.idle.Wait()
		}
		r.successors--
	}
	if len(r.queue) == 0 || r.busy {
		return
	}
	r.busy = true
	r.release(eff)
}

// admit checks that the append may be written, orders it, and queues it; or
// answers it if it is a duplicate. mu is held.
func (r *Replica) admit(epoch model.LeaderEpoch, e *entry, eff *Effects) int16 {
	if r.failed != nil {
		return codeStorageError
	}
	switch r.isr.CanAcceptProduce(r.clock.Elapsed()) {
	case isr.NotLeader:
		return codeNotLeaderOrFollower
	case isr.TooFew, isr.Unheard:
		return codeNotEnoughReplicas
	}
	if epoch >= 0 {
		if code := r.fence(epoch); code != codeNone {
			return code
		}
	}
	if len(r.queue) >= queueLimit {
		return codeNotEnoughReplicas // retriable, and nothing was appended
	}
	if e.head.Idempotent() {
		if code, done := r.sequence(e, eff); code != codeNone || done {
			return code
		}
	}
	if e.raw != nil {
		e.next = r.next + (e.next - e.base)
		e.base = r.next
		e.head.BaseOffset = r.next
		r.next = e.next
	}
	r.queue = append(r.queue, *e)
	return codeNone
}

// sequence checks an idempotent append against what was written and what is
// queued before it. done means that it is a duplicate of a written batch and
// has been taken care of.
func (r *Replica) sequence(e *entry, eff *Effects) (code int16, done bool) {
	h := &e.head
	p := r.producers.byID[h.ProducerID]
	last := r.lastQueued(h.ProducerID)
	if d := r.queuedDuplicate(h); d != nil {
		e.raw, e.base, e.next, e.timestamp = nil, d.base, d.next, d.timestamp
		return codeNone, false
	}
	if p != nil && p.epoch == h.ProducerEpoch {
		if d := p.duplicate(h.BaseSequence, h.LastSequence()); d != nil {
			r.answerDuplicate(e, d, eff)
			return codeNone, true
		}
	}
	switch {
	case last != nil:
		return follows(last.ProducerEpoch, h.ProducerEpoch, last.LastSequence(), h.BaseSequence), false
	case p != nil:
		return follows(p.epoch, h.ProducerEpoch, p.lastSequence(), h.BaseSequence), false
	}
	return codeNone, false // never seen or expired: any first sequence is taken, as in Kafka
}

// answerDuplicate answers with the original offsets. Like a new append it waits
// for the high watermark: the original may be unacknowledged yet.
func (r *Replica) answerDuplicate(e *entry, d *sequenced, eff *Effects) {
	w := waiter{base: d.base, next: d.next, timestamp: d.timestamp, done: e.done}
	if e.early || d.next <= r.isr.HighWatermark() || bugs.DupEarly {
		eff.finish(w.done, AppendResult{BaseOffset: w.base, LogAppendTime: w.timestamp, LogStart: r.log.Start()})
		return
	}
	r.waiting.add(w)
}

// lastQueued returns the header of the last append of a producer that is not
// part of the written state yet.
func (r *Replica) lastQueued(id int64) *batch.Header {
	for _, list := range [2][]entry{r.queue, r.group} {
		for i := len(list) - 1; i >= 0; i-- {
			if e := &list[i]; e.raw != nil && e.head.ProducerID == id {
				return &e.head
			}
		}
	}
	return nil
}

func (r *Replica) queuedDuplicate(h *batch.Header) *entry {
	for _, list := range [2][]entry{r.queue, r.group} {
		for i := range list {
			q := &list[i].head
			if list[i].raw != nil && q.ProducerID == h.ProducerID && q.ProducerEpoch == h.ProducerEpoch &&
				q.BaseSequence == h.BaseSequence && q.LastSequence() == h.LastSequence() {
				return &list[i]
			}
		}
	}
	return nil
}

// fence compares a caller's leader epoch with the present one (KIP-320).
func (r *Replica) fence(epoch model.LeaderEpoch) int16 {
	switch own := r.isr.Epoch(); {
	case epoch < own:
		return codeFencedLeaderEpoch
	case epoch > own:
		return codeUnknownLeaderEpoch
	}
	return codeNone
}

// writeGroup writes everything queued, with mu released during I/O. The caller
// holds mu and the token.
func (r *Replica) writeGroup(eff *Effects) {
	r.queue, r.group = r.group[:0], r.queue
	from, epoch := r.isr.End(), r.isr.Epoch()
	r.mu.Unlock()
	end, bytes, err := r.write(from, epoch)
	r.mu.Lock()
	if err == nil {
		err = r.failed // by another path, meanwhile
	}
	switch {
	case err == nil:
		r.advance(end, bytes, eff)
	case diskFull(err) && r.failed == nil:
		r.refuse(end, bytes, eff)
	default:
		r.fail(err, eff)
		for i := range r.group {
			r.group[i].fail(codeStorageError, eff)
		}
	}
	clear(r.group)
	r.group = r.group[:0]
}

// diskFull reports whether a write failed for lack of room: the log is as it was
// before it, and takes appends again when there is room.
func diskFull(err error) bool {
	return segment.NoSpace(err)
}

// refuse ends a group of which only what lies below end had room. The rest, and
// all that is queued behind it at offsets that will not be reached now, fails;
// the replica stays. mu is held.
func (r *Replica) refuse(end int64, bytes int, eff *Effects) {
	group := r.group
	n := 0
	for n < len(group) && group[n].next <= end {
		n++
	}
	r.group = group[:n]
	r.advance(end, bytes, eff)
	r.group = group
	for _, rest := range [2][]entry{group[n:], r.queue} {
		for i := range rest {
			rest[i].fail(codeStorageError, eff)
		}
	}
	clear(r.queue)
	r.queue, r.next = r.queue[:0], end
}

// advance moves log end and producer state after a write. mu is held.
func (r *Replica) advance(end int64, bytes int, eff *Effects) {
	now, wall := r.clock.Elapsed(), r.clock.Now().UnixMilli()
	r.isr.LogEnd(end, now)
	hw, start := r.isr.HighWatermark(), r.log.Start()
	for i := range r.group {
		e := &r.group[i]
		if e.raw != nil && e.head.Idempotent() {
			r.producers.apply(&e.head, wall)
			r.sinceSnap += int64(len(e.raw))
		}
		if e.early || e.next <= hw {
			eff.finish(e.done, AppendResult{BaseOffset: e.base, LogAppendTime: e.timestamp, LogStart: start})
			continue
		}
		r.waiting.add(waiter{base: e.base, next: e.next, timestamp: e.timestamp, done: e.done})
	}
	if bytes > 0 {
		eff.Dirty, eff.EndMoved = true, true
		eff.Bytes += bytes
	}
	// A log that is durable at once has no group commit to tell us.
	r.ie.Reset()
	r.isr.OwnDurable(r.log.DurableEnd(), &r.ie)
	if bugs.AckBeforeFsync {
		r.isr.OwnDurable(end, &r.ie)
	}
	r.take(eff)
}

// joinBufs hold joined appends, up to joinBytes each.
var joinBufs = sync.Pool{New: func() any { return new([]byte) }}

var errOffsets = errors.New("partition: log end is not where it was expected")

// write stamps and writes the group. Only the token is held.
func (r *Replica) write(from int64, epoch model.LeaderEpoch) (end int64, bytes int, err error) {
	group := r.group
	buf := joinBufs.Get().(*[]byte)
	defer joinBufs.Put(buf)
	end = from
	for i := 0; i < len(group); {
		run, next := join(group[i:], epoch, buf)
		i += next
		if len(run) == 0 {
			continue
		}
		info, err := r.log.Append(run)
		if err != nil {
			return end, bytes, err
		}
		for j := i - 1; j >= 0; j-- { // the last written entry says where the log must end now
			if group[j].raw != nil {
				if info.Next != group[j].next {
					return end, bytes, fmt.Errorf("%w: %d, want %d", errOffsets, info.Next, group[j].next)
				}
				break
			}
		}
		end, bytes = info.Next, bytes+len(run)
	}
	return end, bytes, nil
}

// join stamps the first entries of a group and returns their bytes as one run,
// and how many entries it covers. A single entry is not copied; several are, to
// buf.
func join(group []entry, epoch model.LeaderEpoch, buf *[]byte) (run []byte, n int) {
	copied := false
	for n < len(group) {
		raw := group[n].raw
		if run != nil && raw != nil && len(run)+len(raw) > joinBytes {
			break
		}
		if raw != nil {
			stamp(raw, group[n].base, epoch)
		}
		switch {
		case raw == nil:
		case run == nil:
			run = raw
		case !copied:
			*buf = append(append((*buf)[:0], run...), raw...)
			run, copied = *buf, true
		default:
			*buf = append(*buf, raw...)
			run = *buf
		}
		n++
	}
	return run, n
}

// stamp writes consecutive base offsets and the leader epoch into the batches.
func stamp(raw []byte, base int64, epoch model.LeaderEpoch) {
	for len(raw) > 0 {
		h, b, err := batch.Next(raw)
		if err != nil {
			return // cannot happen: the bytes were validated and are ours
		}
		batch.Stamp(b, base, epoch)
		base += int64(h.LastOffsetDelta) + 1
		raw = raw[len(b):]
	}
}

// Cancel gives up waiting for an append whose deadline has passed: it completes
// with NOT_ENOUGH_REPLICAS_AFTER_APPEND if the in-sync set is below its minimum,
// else with REQUEST_TIMED_OUT. The records stay in the log and may still commit.
// It reports false if the append is not written yet or was completed.
func (r *Replica) Cancel(c Completion, eff *Effects) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.waiting.cancel(c) {
		return false
	}
	code := codeRequestTimedOut
	if r.isr.CanAcceptProduce(r.clock.Elapsed()) == isr.TooFew {
		code = codeNotEnoughReplicasAfter
	}
	eff.finish(c, refused(code, ""))
	return true
}
