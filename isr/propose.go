package isr

import (
	"time"

	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
)

const (
	// A proposal without outcome, or committed without the metadata that
	// says so, counts as unknown after this time.
	outcomeMax = 5 * time.Second
	// Pause after a rejected or unknown proposal, doubled up to retryMax.
	retryMin = 50 * time.Millisecond
	retryMax = 2 * time.Second
	// Hold-off of a removed member, doubled on each removal within holdReset.
	holdMin    = time.Second
	holdDouble = 5
	holdReset  = time.Minute
)

// changes tracks the outstanding proposal.
type changes struct {
	nextID      uint64
	outstanding bool
	id          uint64
	sentAt      time.Duration
	retryAt     time.Duration
	failures    int
}

func (c *changes) drop() { *c = changes{nextID: c.nextID} }

// failed schedules the next proposal.
func (c *changes) failed(now time.Duration) {
	c.outstanding = false
	c.retryAt = now + min(retryMin<<min(c.failures, 10), retryMax)
	c.failures++
}

// hold starts the hold-off of a member that left the set.
func (p *peer) hold(now time.Duration) {
	if p.removals > 0 && now-p.removedAt > holdReset {
		p.removals = 0
	}
	p.removedAt = now
	p.holdUntil = now + holdMin<<min(p.removals, holdDouble)
	p.removals++
}

// Tick judges lag and stalls at a point in time.
func (s *State) Tick(now time.Duration, eff *Effects) {
	if s.role != Leader {
		return
	}
	if s.changes.outstanding && now-s.changes.sentAt > outcomeMax {
		s.doubt(now)
	}
	s.propose(now, eff)
}

// Active reports whether time may change anything: a follower is behind, a
// change is in flight or wanted. An idle partition needs no ticks.
func (s *State) Active() bool {
	if s.role != Leader {
		return false
	}
	if s.changes.outstanding || s.short() {
		return true
	}
	for i := range s.peers {
		p := &s.peers[i]
		if p.doubtful || (p.counts() && p.durable < s.end) || (p.eligible && !p.inSync && s.room()) {
			return true
		}
	}
	return s.size() > s.limit()
}

// Outcome tells the controller's answer to proposal id. Adoption is left to the
// committed metadata.
func (s *State) Outcome(id uint64, o Outcome, now time.Duration, eff *Effects) {
	if !s.changes.outstanding || id != s.changes.id {
		return
	}
	if bugs.RPCAdopt && o != Rejected {
		s.meta.ISR = []model.BrokerID{s.self}
		for i := range s.peers {
			p := &s.peers[i]
			if p.inSync, p.pending = p.pending, false; p.inSync {
				s.meta.ISR = append(s.meta.ISR, p.broker)
			}
		}
		s.advance(eff)
	}
	switch o {
	case Committed: // keep counting both sets until the metadata arrives
		s.changes.sentAt = now
	case Rejected:
		for i := range s.peers {
			s.peers[i].pending = false
		}
		s.changes.failed(now)
		s.advance(eff)
	case Unknown:
		s.doubt(now)
	}
}

// doubt keeps the members of the outstanding proposal counting until the
// partition epoch moves.
func (s *State) doubt(now time.Duration) {
	for i := range s.peers {
		p := &s.peers[i]
		p.doubtful = p.doubtful || p.pending
		p.pending = false
	}
	s.changes.failed(now)
}

// propose sends a proposal if the set should change, none is outstanding, and
// the pause after a failure is over.
func (s *State) propose(now time.Duration, eff *Effects) {
	if s.role != Leader || s.changes.outstanding || now < s.changes.retryAt {
		return
	}
	var plan plan
	if !s.plan(now, &plan) {
		return
	}
	s.send(&plan, now, eff)
}

func (s *State) send(pl *plan, now time.Duration, eff *Effects) {
	pr := Proposal{
		ID: s.changes.nextID, LeaderEpoch: s.meta.LeaderEpoch,
		PartitionEpoch: s.meta.PartitionEpoch, BasedOn: s.meta.Index,
		ISR:      append(make([]Member, 0, len(s.peers)+1), Member{s.self, s.incarnation}),
		ByPolicy: pl.byPolicy,
	}
	for i := range s.peers {
		p := &s.peers[i]
		if p.pending = pl.wants(i); p.pending {
			pr.ISR = append(pr.ISR, Member{p.broker, p.incarnation})
		}
	}
	s.changes.nextID++
	s.changes.id, s.changes.outstanding, s.changes.sentAt = pr.ID, true, now
	eff.Proposals = append(eff.Proposals, pr)
}

// size is the committed set's size, the leader included.
func (s *State) size() int { return len(s.meta.ISR) }

// limit is the target size of the set.
func (s *State) limit() int {
	if s.meta.SyncTarget <= 0 {
		return len(s.peers) + 1
	}
	return max(s.meta.SyncTarget, s.meta.MinISR)
}

func (s *State) room() bool { return s.size() < s.limit() }

// behind is the time since the peer's durable end covered the whole log; 0 when
// it does now.
func (s *State) behind(p *peer, now time.Duration) time.Duration {
	if p.durable >= s.end {
		return 0
	}
	return now - p.caughtUpAt
}

// ahead reports whether a is less behind than b: in time, then in records.
func (s *State) ahead(a, b *peer, now time.Duration) bool {
	if x, y := s.behind(a, now), s.behind(b, now); x != y {
		return x < y
	}
	return a.durable > b.durable
}

// stalled reports whether the peer made no progress for StallMax while behind.
func (s *State) stalled(p *peer, now time.Duration) bool {
	return s.meta.StallMax > 0 && p.durable < s.end && now-p.progressAt > s.meta.StallMax
}

// joinable is the join rule (I6). Short of members only safety counts.
func (s *State) joinable(p *peer, now time.Duration) bool {
	if bugs.ISRJoin && !p.inSync && p.eligible && p.fetched {
		return true
	}
	if p.inSync || !p.eligible || !p.fetched || p.durable < s.hw || p.durable < s.epochStart && !bugs.EpochStart {
		return false
	}
	if s.short() {
		return true
	}
	most := s.meta.StallMax
	if most <= 0 {
		most = s.meta.LagMax
	}
	return now >= p.holdUntil && s.behind(p, now) <= most
}

// plan is a wanted set under construction.
type plan struct {
	want     uint64 // bit i: peers[i] is wanted
	size     int    // the leader included
	byPolicy []model.BrokerID
}

func (pl *plan) wants(i int) bool { return pl.want&(1<<uint(i)) != 0 }
func (pl *plan) add(i int)        { pl.want |= 1 << uint(i); pl.size++ }
func (pl *plan) drop(i int)       { pl.want &^= 1 << uint(i); pl.size-- }

// plan computes the wanted set and reports whether it must be proposed.
func (s *State) plan(now time.Duration, pl *plan) bool {
	pl.size = 1
	changed, doubt := false, false
	for i := range min(len(s.peers), 64) {
		p := &s.peers[i]
		doubt = doubt || p.doubtful
		switch {
		case !p.inSync:
		case s.meta.LagMax > 0 && s.behind(p, now) > s.meta.LagMax:
			changed = true // too far behind, whether replaced or not
		case p.eligible:
			pl.add(i)
		}
	}
	for pl.size < s.limit() {
		i := s.best(pl, now, -1)
		if i < 0 {
			break
		}
		if s.changes.failures > 0 {
			i = s.turn(pl, now)
		}
		pl.add(i)
		changed = true
		if s.changes.failures > 0 {
			break
		}
	}
	if s.meta.SyncTarget > 0 {
		changed = s.swap(pl, now) || changed
		changed = s.demote(pl, now) || changed
	}
	return changed || doubt
}

// swap replaces stalled members by caught-up replicas, in the same proposal.
func (s *State) swap(pl *plan, now time.Duration) bool {
	changed := false
	for i := range s.peers {
		p := &s.peers[i]
		if !pl.wants(i) || !p.inSync || !s.stalled(p, now) {
			continue
		}
		j := s.best(pl, now, p.durable)
		if j < 0 {
			continue
		}
		pl.add(j)
		pl.drop(i)
		pl.byPolicy = append(pl.byPolicy, p.broker)
		changed = true
	}
	return changed
}

// demote removes the worst members of a set above its target size.
func (s *State) demote(pl *plan, now time.Duration) bool {
	changed := false
	for pl.size > s.limit() {
		worst := -1
		for i := range s.peers {
			if pl.wants(i) && (worst < 0 || !s.ahead(&s.peers[i], &s.peers[worst], now)) {
				worst = i
			}
		}
		pl.drop(worst)
		pl.byPolicy = append(pl.byPolicy, s.peers[worst].broker)
		changed = true
	}
	return changed
}

// turn returns one joinable peer after another, by the number of failed
// proposals: the controller may refuse one of them (its log is damaged, its
// registration is newer than known here), and must not thereby keep out the
// others.
func (s *State) turn(pl *plan, now time.Duration) int {
	var fit [64]int
	n := 0
	for i := range min(len(s.peers), len(fit)) {
		if !pl.wants(i) && s.joinable(&s.peers[i], now) {
			fit[n] = i
			n++
		}
	}
	return fit[s.changes.failures%n]
}

// best returns the joinable peer that is least behind, and further than the
// given durable end; -1 if there is none.
func (s *State) best(pl *plan, now time.Duration, further int64) int {
	best := -1
	for i := range min(len(s.peers), 64) {
		p := &s.peers[i]
		if pl.wants(i) || p.durable <= further || !s.joinable(p, now) {
			continue
		}
		if best < 0 || s.ahead(p, &s.peers[best], now) {
			best = i
		}
	}
	return best
}
