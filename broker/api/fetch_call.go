package api

import (
	"time"

	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fetchCall is one fetch request. It alternates between rounds, in which its
// goroutine owns the set's entries, and being parked. It ends in exactly one
// answer, given by whoever runs its last round.
type fetchCall struct {
	*call
	req         kmsg.FetchRequest
	follower    model.BrokerID // NoBroker: a consumer
	incarnation model.Incarnation
	rack        string
	client      uint64 // tells consumers with a rack apart; 0 without one
	maxBytes    int
	minBytes    int
	deadline    time.Duration

	set       *fetchSet
	sessionID int32         // to answer with; 0: no session
	full      bool          // every partition is in the answer, changed or not
	touched   []*fetchEntry // read at least once for this call
	timer     *time.Timer   // created when first parked

	// Guarded by set.mu.
	parked bool
	hurry  bool // answer after the next round, with whatever there is
}

// connectionCheck is how often a parked fetch looks whether its client is
// still there, when it waits longer than that.
const connectionCheck = 5 * time.Second

// run reads until there is an answer or nothing to do but wait.
func (f *fetchCall) run() {
	defer f.recoverRun()
	for {
		expired := f.s.b.Clock().Elapsed() >= f.deadline
		bytes, immediate := f.round()
		switch {
		case f.gone():
			f.finish(false)
			return
		case bytes >= f.minBytes || immediate || expired || f.set.empty():
			f.finish(true)
			return
		case !f.set.watching:
			// Watch, then read again: what changed in between is not seen.
			f.set.watchAll(f)
			continue
		}
		f.releaseAll()
		if f.park() {
			return
		}
	}
}

// gone reports whether the client hung up or the server is closing.
func (f *fetchCall) gone() bool {
	select {
	case <-f.out.Done():
		return true
	case <-f.s.ctx.Done():
		return true
	default:
		return false
	}
}

// round reads every partition that may have changed. It returns the bytes
// found, and whether the answer cannot wait.
func (f *fetchCall) round() (bytes int, immediate bool) {
	img := f.s.b.Image()
	work := f.set.take()
	later := f.set.later[:0]
	for i, e := range work {
		remaining := f.maxBytes - bytes
		if remaining <= 0 && bytes > 0 && !f.full {
			f.set.requeue(work[i:]...)
			break
		}
		// KIP-74: the first batch goes out whatever its size. A follower gets
		// one of each partition while there is room at all: it must advance,
		// and an empty answer would not tell it that there is more.
		f.read(img, e, remaining, bytes == 0 || (remaining > 0 && f.follower != model.NoBroker))
		f.touch(e)
		bytes += e.bytes()
		keep, now := e.settle(f)
		immediate = immediate || now
		switch {
		case remaining <= 0 || e.unserved(): // its batch did not fit
			f.set.requeue(e)
		case keep:
			later = append(later, e)
		}
	}
	// What was not reached comes first in the next round, what had its turn
	// last: no partition starves behind a busy one.
	f.set.requeue(later...)
	f.set.later = later
	return bytes, immediate
}

func (f *fetchCall) touch(e *fetchEntry) {
	if e.touchedBy != f {
		e.touchedBy = f
		f.touched = append(f.touched, e)
	}
}

// park gives the entries up until a change, the deadline or the session's next
// request. It is false if there is reason to go on.
func (f *fetchCall) park() bool {
	now := f.s.b.Clock().Elapsed()
	s := f.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.hurry || now >= f.deadline {
		f.deadline = now
		return false
	}
	if len(s.dirty) > 0 || f.s.ctx.Err() != nil {
		return false
	}
	f.parked = true
	wait := min(f.deadline-now, connectionCheck)
	if f.timer == nil {
		f.timer = time.AfterFunc(wait, f.timeout)
	} else {
		f.timer.Reset(wait)
	}
	return true
}

// unparkLocked reports whether the caller must run f.
func (f *fetchCall) unparkLocked() bool {
	was := f.parked
	f.parked = false
	return was
}

// resume runs f on this goroutine if it is parked.
func (f *fetchCall) resume() {
	f.set.mu.Lock()
	run := f.unparkLocked()
	f.set.mu.Unlock()
	if run {
		f.run()
	}
}

// timeout runs f at its deadline or for a look at its connection. Replicas that
// are not leaders are read again: they may have fallen behind without a sign.
func (f *fetchCall) timeout() {
	f.set.mu.Lock()
	run := f.unparkLocked()
	f.set.mu.Unlock()
	if run {
		f.set.requeueRechecks()
		f.run()
	}
}

// finish gives the set back and answers, unless the client is gone. The set
// goes first: the client's next request may arrive before Reply returns.
func (f *fetchCall) finish(answer bool) {
	if f.timer != nil {
		f.timer.Stop()
	}
	var parts []wire.Part
	if answer {
		parts = f.encode()
	}
	f.releaseAll() // what is not in the answer
	for _, e := range f.touched {
		e.touchedBy = nil
	}
	f.set.touched, f.touched = f.touched[:0], nil
	f.leave()
	if answer {
		f.replyParts(parts...)
	} else {
		f.noReply()
	}
}

// recoverRun ends a call whose round panicked. Its set is not used again.
func (f *fetchCall) recoverRun() {
	if v := recover(); v != nil {
		f.panicked(v)
		f.releaseAll()
		f.s.sessions.remove(f.set)
		f.leave()
	}
}

func (f *fetchCall) releaseAll() {
	for _, e := range f.touched {
		e.release()
	}
}

// encode builds the answer from the entries read; their ranges move into it.
func (f *fetchCall) encode() []wire.Part {
	resp := fetchResponse{sessionID: f.sessionID}
	img := f.s.b.Image()
	for _, e := range f.touched {
		if !f.full && !e.news() {
			continue
		}
		e.sentHW, e.sentStart = e.res.HighWatermark, e.res.LogStart
		if e.res.Err != 0 || e.res.Diverging != nil { // an error carries neither; beside a divergence they are ignored
			e.sentHW, e.sentStart = -1, -1
		}
		resp.add(e)
		if f.version >= 16 && wantsHint(e.res.Err) {
			e.leaderID, e.leaderEpoch = resp.hints.add(f.call, img, e.at)
		} else {
			e.leaderID, e.leaderEpoch = -1, -1
		}
	}
	resp.readCommitted = f.req.IsolationLevel == 1
	return encodeFetch(f.version, &resp)
}
