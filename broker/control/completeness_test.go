package control

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// TestLeaderCompleteness is invariant I2: whoever is elected cleanly holds
// every committed record. A model of the partitions' logs runs beside random
// commands: a leader appends, its in-sync set follows, records are committed
// while the set is at its minimum; disks are replaced, rolled back or damaged
// only where another holder of the committed records is left.
func TestLeaderCompleteness(t *testing.T) {
	elections, cuts, successions := 0, 0, 0
	for seed := range uint64(60) {
		m := &logModel{world: newWorld(t), rng: rand.New(rand.NewPCG(seed, 7)), parts: map[model.TopicPartition]*modelPart{}, disk: map[model.BrokerID]int{}}
		for id := model.BrokerID(1); id <= 4; id++ {
			m.restart(id, 0)
			m.report(id)
			m.do(&UnfenceBroker{Broker: id})
		}
		for range 250 {
			m.step()
			if m.bad != "" {
				t.Fatalf("seed %d: %s", seed, m.bad)
			}
		}
		m.checkReplay()
		elections, cuts, successions = elections+m.elections, cuts+m.lost, successions+m.successions
	}
	t.Logf("%d elections, %d lost disks, %d successions", elections, cuts, successions)
	if elections < 500 || cuts < 50 || successions < 10 {
		t.Fatalf("only %d elections, %d lost disks and %d successions: the test tests nothing", elections, cuts, successions)
	}
}

type logModel struct {
	*world
	rng       *rand.Rand
	parts     map[model.TopicPartition]*modelPart
	disk      map[model.BrokerID]int
	next      int
	elections int
	lost      int // disks
	bad       string

	successions int // of damaged leaders that were alone in sync
}

type modelPart struct {
	logs      map[model.BrokerID][]int // ids of records
	damaged   map[model.BrokerID]bool
	committed []int
	epoch     model.LeaderEpoch
	unclean   bool
}

func isPrefix(a, b []int) bool { return len(a) <= len(b) && slices.Equal(a, b[:len(a)]) }

func (m *logModel) do(cmd Command) Result {
	r := m.submit(cmd)
	for _, t := range m.img.SortedTopics() {
		for i, p := range t.Partitions {
			m.check(model.TopicPartition{Topic: t.ID, Partition: int32(i)}, p)
		}
	}
	return r
}

func (m *logModel) check(tp model.TopicPartition, p *Partition) {
	mp := m.parts[tp]
	if mp == nil {
		mp = &modelPart{logs: map[model.BrokerID][]int{}, damaged: map[model.BrokerID]bool{}}
		m.parts[tp] = mp
	}
	if p.LeaderEpoch == mp.epoch {
		return
	}
	mp.epoch = p.LeaderEpoch
	if p.Leader == model.NoBroker {
		return
	}
	m.elections++
	log := mp.logs[p.Leader]
	if mp.unclean {
		mp.unclean = false
		n := 0
		for n < len(log) && n < len(mp.committed) && log[n] == mp.committed[n] {
			n++
		}
		mp.committed = mp.committed[:n]
		delete(mp.damaged, p.Leader) // what it has is the truth now
		return
	}
	if !isPrefix(mp.committed, log) || mp.damaged[p.Leader] {
		m.bad = fmt.Sprintf("%v: leader %d of epoch %d has %v (damaged %v), committed is %v", tp, p.Leader, p.LeaderEpoch, log, mp.damaged[p.Leader], mp.committed)
	}
}

// replicate lets the leaders append and their sets follow.
func (m *logModel) replicate() {
	for _, t := range m.img.SortedTopics() {
		min := minInsync(m.img, t)
		for i, p := range t.Partitions {
			if p.Leader == model.NoBroker || m.rng.IntN(3) == 0 {
				continue
			}
			mp := m.parts[model.TopicPartition{Topic: t.ID, Partition: int32(i)}]
			m.next++
			log := append(slices.Clone(mp.logs[p.Leader]), m.next)
			mp.logs[p.Leader] = log
			for _, b := range p.ISR {
				mp.logs[b] = log
			}
			if len(p.ISR) >= min {
				mp.committed = log
			}
		}
	}
}

// spare reports whether every partition that needs b's copy has another.
func (m *logModel) spare(b model.BrokerID) bool {
	for _, t := range m.img.SortedTopics() {
		for i, p := range t.Partitions {
			mp := m.parts[model.TopicPartition{Topic: t.ID, Partition: int32(i)}]
			if !slices.Contains(p.ISR, b) && !slices.Contains(p.ELR, b) {
				continue
			}
			if !slices.ContainsFunc(append(slices.Clone(p.ISR), p.ELR...), func(o model.BrokerID) bool { return o != b && !mp.damaged[o] }) {
				return false
			}
		}
	}
	return true
}

func (m *logModel) step() {
	id := model.BrokerID(1 + m.rng.IntN(4))
	inc := incarnationOf(m.img, id)
	m.replicate()
	switch m.rng.IntN(18) {
	case 0, 1, 2:
		m.restart(id, inc)
	case 3, 4:
		m.report(id)
	case 5, 6, 7:
		m.report(id)
		m.do(&UnfenceBroker{Broker: id, Incarnation: inc})
	case 8:
		m.do(&FenceBroker{Broker: id, Incarnation: inc, Reason: FenceReason(1 + m.rng.IntN(5))})
	case 9:
		m.do(&DrainBroker{Broker: id, Incarnation: inc})
	case 10:
		m.do(&CreateTopics{Topics: []NewTopic{{Name: string(rune('a' + m.rng.IntN(2))), Partitions: 1, ReplicationFactor: int16(2 + m.rng.IntN(2))}}})
	case 11, 12:
		m.propose()
	case 13:
		m.do(m.randomConfig(m.rng))
	case 14:
		m.now += 3e9
		m.do(&ResolveOffline{})
		m.do(&BalanceLeaders{Max: 9})
	case 15:
		if m.rng.IntN(4) == 0 {
			m.electUncleanly()
		} else {
			m.v = NewVolatile(2e9) // a new controller
		}
	case 16, 17:
		m.leaveAlone()
	}
}

// leaveAlone has every follower of some leader die and come back, before the
// leader reports.
func (m *logModel) leaveAlone() {
	for _, t := range m.img.SortedTopics() {
		p := t.Partitions[0]
		if p.Leader == model.NoBroker || m.rng.IntN(2) == 0 {
			continue
		}
		for _, b := range p.Replicas {
			if inc := incarnationOf(m.img, b); b != p.Leader {
				m.do(&FenceBroker{Broker: b, Incarnation: inc, Reason: FenceSessionExpired})
				m.report(b)
				m.do(&UnfenceBroker{Broker: b, Incarnation: inc})
			}
		}
		m.replicate() // what nobody else has
		m.report(p.Leader)
	}
}

func (m *logModel) restart(id model.BrokerID, inc model.Incarnation) {
	previous := inc
	b := m.img.Brokers[id]
	if b != nil && m.rng.IntN(4) == 0 && m.spare(id) {
		m.lost++
		for _, mp := range m.parts {
			mp.logs[id] = mp.logs[id][:m.rng.IntN(len(mp.logs[id])+1)]
		}
		if previous = b.Confirmed - 1; b.Fenced && m.rng.IntN(2) == 0 {
			m.disk[id]++ // replaced; otherwise rolled back
			for _, mp := range m.parts {
				delete(mp.logs, id)
				delete(mp.damaged, id)
			}
		}
	}
	s := m.storage(id)
	m.do(&RegisterBroker{Broker: id, Storage: s, RaftID: RaftIDFor(s), Previous: previous, MaxFeature: 1})
}

func (m *logModel) storage(id model.BrokerID) model.StorageID {
	return storageOf(fmt.Sprintf("%d.%d", id, m.disk[id]))
}

func (m *logModel) report(id model.BrokerID) {
	r := &ReportLogs{Broker: id, Incarnation: incarnationOf(m.img, id), Last: true}
	var led []model.TopicPartition
	for _, t := range m.img.SortedTopics() {
		for i, p := range t.Partitions {
			tp := model.TopicPartition{Topic: t.ID, Partition: int32(i)}
			mp := m.parts[tp]
			alone := p.Leader == id && len(p.ISR) == 1 && len(p.ELR) > 0
			if (m.rng.IntN(6) == 0 && p.Leader != id || alone && m.rng.IntN(2) == 0) && m.spare(id) {
				mp.damaged[id] = true
				if alone {
					led = append(led, tp)
				}
			}
			l := LogReport{TP: tp, End: int64(len(mp.logs[id]))}
			switch {
			case mp.damaged[id]:
				l.Suspect = segment.Damaged
			case m.rng.IntN(5) == 0:
				l.Suspect = segment.TornTail
			}
			r.Logs = append(r.Logs, l)
		}
	}
	m.do(r)
	for _, tp := range led {
		if m.img.Partition(tp).Leader == id {
			delete(m.parts[tp].damaged, id) // nobody could take over: it is mended in place
		} else {
			m.successions++
		}
	}
}

// propose asks for a random set; who joins has caught up.
func (m *logModel) propose() {
	for _, t := range m.img.SortedTopics() {
		for i := range t.Partitions {
			tp := model.TopicPartition{Topic: t.ID, Partition: int32(i)}
			p, mp := m.img.Partition(tp), m.parts[tp]
			if p.Leader == model.NoBroker {
				continue
			}
			pr := isr.Proposal{ID: 1, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, BasedOn: m.img.Index}
			for _, r := range p.Replicas {
				if r == p.Leader || m.rng.IntN(2) == 0 {
					pr.ISR = append(pr.ISR, isr.Member{Broker: r, Incarnation: incarnationOf(m.img, r)})
					if !slices.Contains(p.ISR, r) && m.img.Brokers[r].Live() {
						mp.logs[r] = mp.logs[p.Leader]
						delete(mp.damaged, r)
					}
				}
			}
			m.do(&AlterPartitions{Broker: p.Leader, Incarnation: p.LeaderIncarnation, Proposals: []PartitionProposal{{tp, pr}}})
		}
	}
}

func (m *logModel) electUncleanly() {
	for _, t := range m.img.SortedTopics() {
		for i, p := range t.Partitions {
			tp := model.TopicPartition{Topic: t.ID, Partition: int32(i)}
			if p.Leader == model.NoBroker {
				m.parts[tp].unclean = true
				m.do(&ElectLeaders{Unclean: true, Partitions: []model.TopicPartition{tp}, Principal: "model"})
				m.parts[tp].unclean = false
			}
		}
	}
}
