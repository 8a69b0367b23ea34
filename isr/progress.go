package isr

import (
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

// LogEnd tells that the log end moved to end: forward by an append, back by a
// truncation. A truncation below the high watermark must not happen (I19); the
// caller refuses it first.
func (s *State) LogEnd(end int64, now time.Duration) {
	for i := range s.peers {
		p := &s.peers[i]
		if p.durable >= s.end {
			p.caughtUpAt, p.progressAt = now, now
			p.markEnd, p.markAt = end, now
		}
	}
	s.end = end
	s.durable = min(s.durable, end)
}

// OwnDurable tells that everything below end is on own stable storage.
func (s *State) OwnDurable(end int64, eff *Effects) {
	if end = min(end, s.end); end > s.durable {
		s.durable = end
		s.advance(eff)
	}
}

// Durable returns the own durable end.
func (s *State) Durable() int64 { return s.durable }

// End returns the log end offset.
func (s *State) End() int64 { return s.end }

// Fetched tells that a follower fetched from p.End, and that its log was found
// to match the leader's below that position. It reports whether the progress
// belongs to this leadership and to the registered incarnation. A position
// below the reported durable end voids the report: the follower lost a tail.
//
// first is true for the follower's first matching fetch in this epoch, and
// when the answer carries a high watermark that is news to the follower: such a
// fetch is to be answered at once.
func (s *State) Fetched(p Progress) (ok, first bool) {
	f := s.follower(p)
	if f == nil {
		return false, false
	}
	first = !f.fetched || f.sentHW < s.hw
	f.fetched = true
	f.position = p.End
	f.durable = min(f.durable, p.End)
	f.knownHW = min(f.sentHW, p.End)
	f.sentHW = s.hw
	f.heardAt = max(f.heardAt, p.Now)
	return true, first
}

// FollowerDurable tells a follower's durable end. It reports whether the report
// was taken: one of another epoch or incarnation, or from before the first
// matching fetch, says nothing about this leadership's records.
func (s *State) FollowerDurable(p Progress, eff *Effects) bool {
	f := s.follower(p)
	if f == nil || !f.fetched {
		return false
	}
	f.heardAt = max(f.heardAt, p.Now)
	if end := min(p.End, s.end); end > f.durable {
		f.durable = end
		f.progressAt = p.Now
	}
	s.settleLag(f, p.Now)
	s.advance(eff)
	s.propose(p.Now, eff)
	return true
}

// settleLag moves the time up to which the follower is known to be caught up.
func (s *State) settleLag(f *peer, now time.Duration) {
	switch {
	case f.durable >= s.end:
		f.caughtUpAt = now
		f.markEnd, f.markAt = s.end, now
	case f.durable >= f.markEnd:
		f.caughtUpAt = f.markAt
		f.markEnd, f.markAt = s.end, now
	}
}

// follower returns the peer to which a progress report belongs, or nil.
func (s *State) follower(p Progress) *peer {
	if s.role != Leader || p.Epoch != s.meta.LeaderEpoch {
		return nil
	}
	f := s.peer(p.Broker)
	if f == nil || f.incarnation != p.Incarnation || f.incarnation == 0 {
		return nil
	}
	return f
}

// LeaderHW tells a follower the leader's high watermark. The own one becomes
// the lesser of it and the own log end, and never goes back.
func (s *State) LeaderHW(hw int64, eff *Effects) {
	if s.role != Follower {
		return
	}
	if hw = min(hw, s.end); hw > s.hw {
		s.hw = hw
		eff.HWMoved = true
	}
}

// Reset tells a follower that its log starts anew, empty, at offset: everything
// before is gone from the leader too and was therefore committed.
func (s *State) Reset(offset int64) {
	s.end, s.durable = offset, offset
	s.hw = max(s.hw, offset)
}

// HeardFrom tells that a broker was heard from at the given time, by any
// message on the connection of the pair. It is the same event for every
// partition that two brokers share.
func (s *State) HeardFrom(b model.BrokerID, at time.Duration) {
	if p := s.peer(b); p != nil {
		p.heardAt = max(p.heardAt, at)
	}
}

// CanAcceptProduce says whether an append may be written. It only refuses; it
// never acknowledges. A leader that cannot reach enough members must not take
// records that it could not commit, so that clients see a definite failure.
func (s *State) CanAcceptProduce(now time.Duration) Refusal {
	if s.role != Leader {
		return NotLeader
	}
	if s.short() {
		return TooFew
	}
	heard := 1
	for i := range s.peers {
		if p := &s.peers[i]; p.inSync && now-p.heardAt <= HeardMax {
			heard++
		}
	}
	if heard < s.meta.MinISR {
		return Unheard
	}
	return Accepted
}

// Peers appends the state of the other replicas to dst.
func (s *State) Peers(dst []PeerStatus, now time.Duration) []PeerStatus {
	for i := range s.peers {
		p := &s.peers[i]
		dst = append(dst, PeerStatus{
			Broker: p.broker, Incarnation: p.incarnation,
			InSync: p.inSync, Pending: p.pending || p.doubtful, Fetched: p.fetched,
			Position: p.position, Durable: p.durable, Behind: s.behind(p, now),
		})
	}
	return dst
}

// Members calls fn for each other broker of the committed set.
func (s *State) Members(fn func(model.BrokerID)) {
	for i := range s.peers {
		if s.peers[i].inSync {
			fn(s.peers[i].broker)
		}
	}
}
