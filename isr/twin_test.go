package isr

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

// twin computes the high watermark in the plainest way: it keeps every report
// and every proposal of the present leadership, and applies the rule from the
// start after each event.
type twin struct {
	meta      Meta
	own       int64
	hw        int64
	proposals []twinProposal
	matched   map[Member]bool
	durable   map[Member]int64
}

type twinProposal struct {
	Proposal
	rejected bool
}

func (w *twin) adopt(m Meta) {
	if m.LeaderEpoch != w.meta.LeaderEpoch {
		w.matched, w.durable = map[Member]bool{}, map[Member]int64{}
	}
	w.meta = m
}

func (w *twin) advance() {
	if len(w.meta.ISR) < w.meta.MinISR {
		return
	}
	incarnation := map[model.BrokerID]model.Incarnation{}
	for _, r := range w.meta.Replicas {
		incarnation[r.Broker] = r.Incarnation
	}
	members := map[model.BrokerID]bool{}
	for _, b := range w.meta.ISR {
		members[b] = true
	}
	for _, p := range w.proposals {
		if p.LeaderEpoch == w.meta.LeaderEpoch && p.PartitionEpoch == w.meta.PartitionEpoch && !p.rejected {
			for _, m := range p.ISR {
				members[m.Broker] = true
			}
		}
	}
	least := w.own
	for b := range members {
		if b == 1 {
			continue
		}
		d, ok := w.durable[Member{b, incarnation[b]}]
		if !ok {
			d = -1
		}
		least = min(least, d)
	}
	w.hw = max(w.hw, least)
}

// TestAgainstTwin drives the state machine and its twin with random events.
func TestAgainstTwin(t *testing.T) {
	for seed := range uint64(300) {
		if err := runTwin(seed, 400); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func runTwin(seed uint64, steps int) error {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := New(1, 10, 0, 0, 0)
	m := Meta{Index: 1, Leader: 1, LeaderEpoch: 1, LeaderIncarnation: 10, PartitionEpoch: 1, ISR: []model.BrokerID{1},
		MinISR: 1 + rng.IntN(3), SyncTarget: []int{0, 2, 3}[rng.IntN(3)], LagMax: 5 * time.Second, StallMax: 500 * time.Millisecond}
	for b := model.BrokerID(1); b <= 4; b++ {
		m.Replicas = append(m.Replicas, ReplicaMeta{Broker: b, Incarnation: 10, Eligible: true})
	}
	m.SyncTarget = max(m.SyncTarget, 0)
	w := &twin{}
	var eff Effects
	var now time.Duration
	var end int64
	position := map[model.BrokerID]int64{}
	apply := func() { m.Index++; w.adopt(m); s.ApplyMeta(m, now, &eff) }
	apply()
	for step := range steps {
		now += time.Duration(rng.IntN(100)) * time.Millisecond
		eff.Reset()
		b := model.BrokerID(2 + rng.IntN(3))
		r := &m.Replicas[b-1]
		what := rng.IntN(12)
		switch what {
		case 0, 1:
			end += int64(1 + rng.IntN(3))
			s.LogEnd(end, now)
		case 2, 3:
			w.own = end
			s.OwnDurable(end, &eff)
		case 4, 5:
			position[b] = min(end, position[b]+int64(rng.IntN(5)))
			k := Member{b, r.Incarnation}
			w.matched[k] = true
			if d, ok := w.durable[k]; ok {
				w.durable[k] = min(d, position[b])
			}
			s.Fetched(Progress{Broker: b, Incarnation: r.Incarnation, Epoch: m.LeaderEpoch, End: position[b], Now: now})
		case 6, 7, 8:
			p := Progress{Broker: b, Incarnation: r.Incarnation - model.Incarnation(rng.IntN(8)/7), Epoch: m.LeaderEpoch - int32(rng.IntN(8)/7), End: position[b], Now: now}
			k := Member{b, p.Incarnation}
			if p.Incarnation == r.Incarnation && p.Epoch == m.LeaderEpoch && w.matched[k] {
				if d, ok := w.durable[k]; !ok || p.End > d {
					w.durable[k] = p.End
				}
			}
			s.FollowerDurable(p, &eff)
		case 9:
			s.Tick(now, &eff)
		case 10:
			twinController(rng, w, &m, s, now, &eff, apply)
		case 11:
			twinCluster(rng, &m, b, position, apply)
		}
		// A proposal counts from the moment it is made, after what else the
		// event did.
		w.advance()
		for _, p := range eff.Proposals {
			w.proposals = append(w.proposals, twinProposal{Proposal: p})
			if err := checkProposal(&p, &m, s); err != nil {
				return fmt.Errorf("step %d: %w", step, err)
			}
		}
		w.advance()
		if s.HighWatermark() != w.hw {
			return fmt.Errorf("step %d, event %d: high watermark %d, twin says %d; %+v", step, what, s.HighWatermark(), w.hw, m)
		}
	}
	return nil
}

// twinController answers the last proposal, or lets it be lost after or before
// it was committed.
func twinController(rng *rand.Rand, w *twin, m *Meta, s *State, now time.Duration, eff *Effects, apply func()) {
	if len(w.proposals) == 0 {
		return
	}
	p := &w.proposals[len(w.proposals)-1]
	current := p.LeaderEpoch == m.LeaderEpoch && p.PartitionEpoch == m.PartitionEpoch && !p.rejected
	switch k := rng.IntN(4); {
	case k == 0 && current:
		p.rejected = s.changes.outstanding && s.changes.id == p.ID
		s.Outcome(p.ID, Rejected, now, eff)
	case k == 1:
		s.Outcome(p.ID, Unknown, now, eff)
	case current:
		s.Outcome(p.ID, Committed, now, eff)
		m.PartitionEpoch++
		m.ISR = nil
		for _, x := range p.ISR {
			m.ISR = append(m.ISR, x.Broker)
		}
		apply()
	}
}

// twinCluster changes the world: registrations, elections, eligibility.
func twinCluster(rng *rand.Rand, m *Meta, b model.BrokerID, position map[model.BrokerID]int64, apply func()) {
	rs := append([]ReplicaMeta(nil), m.Replicas...)
	m.Replicas = rs
	switch rng.IntN(4) {
	case 0: // b registers anew, with a shorter log
		rs[b-1].Incarnation++
		m.PartitionEpoch++
		position[b] /= 2
		var in []model.BrokerID
		for _, x := range m.ISR {
			if x != b {
				in = append(in, x)
			}
		}
		m.ISR = in
	case 1: // the same leader is elected again
		m.LeaderEpoch++
		m.PartitionEpoch++
	case 2:
		rs[b-1].Eligible = !rs[b-1].Eligible
	case 3:
		m.SyncTarget = []int{0, 2, 3}[rng.IntN(3)]
	}
	apply()
}

// checkProposal checks what every proposal must satisfy.
func checkProposal(p *Proposal, m *Meta, s *State) error {
	if p.LeaderEpoch != m.LeaderEpoch || p.PartitionEpoch != m.PartitionEpoch || p.BasedOn != m.Index {
		return fmt.Errorf("proposal %+v is not based on %+v", p, m)
	}
	for _, x := range p.ISR {
		if x.Broker == s.self {
			continue
		}
		r, f := m.Replicas[x.Broker-1], s.peer(x.Broker)
		if !r.Eligible || r.Incarnation != x.Incarnation {
			return fmt.Errorf("proposal %+v has an ineligible member", p)
		}
		if !contains(m.ISR, x.Broker) && (!f.fetched || f.durable < s.hw || f.durable < s.epochStart) {
			return fmt.Errorf("proposal %+v lets %d join below %d or %d: %+v", p, x.Broker, s.hw, s.epochStart, *f)
		}
	}
	if m.SyncTarget > 0 && len(p.ISR) > max(m.SyncTarget, m.MinISR) {
		return fmt.Errorf("proposal %+v is above the target %d", p, m.SyncTarget)
	}
	return nil
}
