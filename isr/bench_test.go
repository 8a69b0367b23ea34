package isr

import (
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

func hotState() *State {
	s := New(1, 10, 0, 0, 0)
	m := Meta{Leader: 1, LeaderEpoch: 1, LeaderIncarnation: 10, MinISR: 2, LagMax: time.Minute, StallMax: time.Second}
	for id := model.BrokerID(1); id <= 3; id++ {
		m.Replicas = append(m.Replicas, ReplicaMeta{Broker: id, Incarnation: 10, Eligible: true})
		m.ISR = append(m.ISR, id)
	}
	s.ApplyMeta(m, 0, &Effects{})
	for id := model.BrokerID(2); id <= 3; id++ {
		s.Fetched(Progress{Broker: id, Incarnation: 10, Epoch: 1})
	}
	return s
}

// commitOne appends one record and moves the high watermark over it.
func commitOne(s *State, end int64, eff *Effects) bool {
	eff.Reset()
	now := time.Duration(end) * time.Microsecond
	s.LogEnd(end, now)
	s.OwnDurable(end, eff)
	for id := model.BrokerID(2); id <= 3; id++ {
		p := Progress{Broker: id, Incarnation: 10, Epoch: 1, End: end, Now: now}
		s.Fetched(p)
		s.FollowerDurable(p, eff)
	}
	return eff.HWMoved && len(eff.Proposals) == 0
}

func BenchmarkCommit(b *testing.B) {
	s := hotState()
	var eff Effects
	end := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		end++
		if !commitOne(s, end, &eff) {
			b.Fatal("watermark did not move")
		}
	}
}

func TestCommitAllocations(t *testing.T) {
	s := hotState()
	var eff Effects
	end := int64(0)
	got := testing.AllocsPerRun(1000, func() {
		end++
		if !commitOne(s, end, &eff) {
			t.Fatal("watermark did not move")
		}
	})
	if got > 0 {
		t.Errorf("%v allocations per commit", got)
	}
}
