package control

import (
	"math/rand/v2"
	"slices"

	"github.com/tailrace/tailrace/internal/model"
)

// placer assigns replicas so that leaders and replicas are even over brokers
// and the replicas of a partition are on as many racks as there are. It is
// greedy: the least loaded broker of the least used rack comes next, first by
// the topic's own load, then by the cluster's, then by lot.
type placer struct {
	brokers []*placeable
}

type placeable struct {
	id                model.BrokerID
	rack              string
	live              bool
	lot               uint64
	leaders, replicas int // in the cluster
	topicLeaders      int // in the topic that is being placed
	topicReplicas     int
}

// newPlacer counts what img's brokers carry.
func newPlacer(img *Image, seed [32]byte) *placer {
	rng := rand.New(rand.NewChaCha8(seed))
	p := &placer{}
	byID := map[model.BrokerID]*placeable{}
	for _, b := range img.SortedBrokers() {
		if b.Draining {
			continue
		}
		pb := &placeable{id: b.ID, rack: b.Rack, live: b.Live(), lot: rng.Uint64()}
		p.brokers = append(p.brokers, pb)
		byID[b.ID] = pb
	}
	for _, t := range img.Topics {
		for _, part := range t.Partitions {
			for i, r := range part.Replicas {
				if b := byID[r]; b != nil {
					b.replicas++
					if i == 0 {
						b.leaders++
					}
				}
			}
		}
	}
	return p
}

// live returns the number of brokers that can lead now.
func (p *placer) live() int {
	n := 0
	for _, b := range p.brokers {
		if b.live {
			n++
		}
	}
	return n
}

// begin starts a topic; existing partitions of it count.
func (p *placer) begin(t *Topic) {
	for _, b := range p.brokers {
		b.topicLeaders, b.topicReplicas = 0, 0
	}
	if t == nil {
		return
	}
	for _, part := range t.Partitions {
		for i, r := range part.Replicas {
			if k := slices.IndexFunc(p.brokers, func(b *placeable) bool { return b.id == r }); k >= 0 {
				p.brokers[k].topicReplicas++
				if i == 0 {
					p.brokers[k].topicLeaders++
				}
			}
		}
	}
}

// place chooses rf brokers for one partition, the preferred leader first.
// Fenced brokers come last, for want of live ones.
func (p *placer) place(rf int) []model.BrokerID {
	chosen := make([]*placeable, 0, rf)
	for len(chosen) < rf {
		var best *placeable
		for _, b := range p.brokers {
			if !slices.Contains(chosen, b) && (best == nil || better(b, best, chosen)) {
				best = b
			}
		}
		chosen = append(chosen, best)
	}
	ids := make([]model.BrokerID, rf)
	for i, b := range chosen {
		ids[i] = b.id
		b.replicas++
		b.topicReplicas++
		if i == 0 {
			b.leaders++
			b.topicLeaders++
		}
	}
	return ids
}

func better(a, b *placeable, chosen []*placeable) bool {
	if a.live != b.live {
		return a.live
	}
	keys := func(x *placeable) [5]int {
		if len(chosen) == 0 {
			return [5]int{x.topicLeaders, x.leaders, x.topicReplicas, x.replicas}
		}
		return [5]int{rackUse(x, chosen), x.topicReplicas, x.replicas, x.topicLeaders, x.leaders}
	}
	ka, kb := keys(a), keys(b)
	if c := slices.Compare(ka[:], kb[:]); c != 0 {
		return c < 0
	}
	return a.lot < b.lot
}

func rackUse(x *placeable, chosen []*placeable) int {
	n := 0
	for _, c := range chosen {
		if x.rack != "" && c.rack == x.rack {
			n++
		}
	}
	return n
}
