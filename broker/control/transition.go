package control

import (
	"slices"
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// transition is a partition on its way to the next committed state.
type transition struct {
	tp     model.TopicPartition
	p      *Partition // as it was
	min    int        // min.insync.replicas in effect
	isr    []model.BrokerID
	elr    []model.BrokerID
	leader model.BrokerID
	dirs   []model.StorageID // nil: unchanged
	bump   bool              // a new leader epoch even if the leader stays
	why    string            // of an unclean election
}

func newTransition(tp model.TopicPartition, p *Partition, min int) *transition {
	return &transition{tp: tp, p: p, min: min, isr: slices.Clone(p.ISR), elr: slices.Clone(p.ELR), leader: p.Leader}
}

// remove takes a broker out of the in-sync set. It stays eligible to lead if
// its storage is intact and the set is below the minimum then (see finish):
// the high watermark stands still from there on, so it holds every committed
// record (KIP-966).
func (x *transition) remove(id model.BrokerID, intact bool) {
	was := slices.Contains(x.isr, id)
	x.isr = without(x.isr, id)
	if !intact {
		x.elr = without(x.elr, id)
	} else if was {
		x.elr = append(x.elr, id)
	}
	if x.leader == id {
		x.leader, x.bump = model.NoBroker, true
	}
}

func without(list []model.BrokerID, id model.BrokerID) []model.BrokerID {
	return slices.DeleteFunc(list, func(b model.BrokerID) bool { return b == id })
}

// finish returns the record, or nil if nothing changed.
func (x *transition) finish(img *Image) *PartitionChanged {
	if len(x.isr) >= x.min {
		x.elr = nil // committed records may be beyond them from now on (I8)
	}
	p := x.p
	if !x.bump && x.leader == p.Leader && x.dirs == nil && slices.Equal(x.isr, p.ISR) && slices.Equal(x.elr, p.ELR) {
		return nil
	}
	r := &PartitionChanged{TP: x.tp, Leader: x.leader, LeaderEpoch: p.LeaderEpoch, LeaderIncarnation: p.LeaderIncarnation,
		PartitionEpoch: p.PartitionEpoch + 1, ISR: x.isr, ELR: x.elr, Directories: x.dirs, Unclean: x.why}
	if x.bump || x.leader != p.Leader {
		r.LeaderEpoch++
		r.LeaderIncarnation = incarnationOf(img, x.leader)
	}
	return r
}

// elect fills a vacant or unfit leadership from the in-sync set, in the order
// of assignment, or where that is empty from the eligible leaders.
func (d *decision) elect(x *transition) {
	if x.leader != model.NoBroker {
		return
	}
	for _, id := range x.p.Replicas {
		if slices.Contains(x.isr, id) && d.img.Brokers[id].Live() {
			x.leader, x.bump = id, true
			return
		}
	}
	if len(x.isr) == 0 {
		d.electEligible(x)
	}
}

// candidate is an eligible leader that has reported its log.
type candidate struct {
	id   model.BrokerID
	log  LogReport
	live bool
}

func (c candidate) before(o candidate) bool {
	if c.log.Epoch != o.log.Epoch {
		return c.log.Epoch < o.log.Epoch
	}
	return c.log.End < o.log.End
}

// electEligible elects among the eligible leaders by their reports. Each holds
// every committed record unless it is suspect, so the wait for missing reports
// is bounded where a trusted one is there, and the greatest (epoch, end) is
// only the choice that truncates least. A suspect leads only when all members
// have reported and none is trusted; one with damage below its durable mark
// never does (I39).
func (d *decision) electEligible(x *transition) {
	trusted, suspect, first, missing := d.candidates(x)
	if best := bestOf(trusted); best != nil {
		waited := d.in.Now-first >= d.v.Grace
		if (missing || !best.live) && !waited {
			return
		}
		if !best.live {
			best = bestOf(liveOnly(trusted))
		}
		if best != nil {
			x.install(best.id, suspect)
		}
		return
	}
	if missing || len(trusted) > 0 {
		return
	}
	torn := slices.DeleteFunc(liveOnly(suspect), func(c candidate) bool { return c.log.Suspect > segment.TornTail })
	if best := bestOf(torn); best != nil {
		x.install(best.id, suspect)
	}
}

// candidates sorts the eligible leaders by what they reported, in the order of
// assignment. first is when the first trusted one reported.
func (d *decision) candidates(x *transition) (trusted, suspect []candidate, first time.Duration, missing bool) {
	for _, id := range x.p.Replicas {
		if !slices.Contains(x.elr, id) {
			continue
		}
		b := d.img.Brokers[id]
		log, at, ok := d.v.log(b, x.tp)
		switch c := (candidate{id, log, b.Live()}); {
		case !ok:
			missing = true
		case log.Suspect != segment.Trusted:
			suspect = append(suspect, c)
		default:
			if len(trusted) == 0 || at < first {
				first = at
			}
			trusted = append(trusted, c)
		}
	}
	return trusted, suspect, first, missing
}

func liveOnly(list []candidate) []candidate {
	var out []candidate
	for _, c := range list {
		if c.live {
			out = append(out, c)
		}
	}
	return out
}

// bestOf returns the candidate with the greatest (epoch, end), the first of
// equals, preferring live ones among equals.
func bestOf(list []candidate) *candidate {
	var best *candidate
	for i := range list {
		c := &list[i]
		if best == nil || best.before(*c) || !c.before(*best) && c.live && !best.live {
			best = c
		}
	}
	return best
}

// install makes an eligible leader the leader and the in-sync set; suspects
// lose their eligibility with it.
func (x *transition) install(id model.BrokerID, suspects []candidate) {
	x.leader, x.bump = id, true
	x.isr = []model.BrokerID{id}
	x.elr = without(x.elr, id)
	for _, s := range suspects {
		x.elr = without(x.elr, s.id)
	}
}

// minInsync returns a topic's effective min.insync.replicas.
func minInsync(img *Image, t *Topic) int {
	min, _ := sizes(img, t.Config, t.minReplicationFactor())
	return min
}

// partitions calls fn for every partition, by topic name and number. fn may
// change the partition that it is given.
func (d *decision) partitions(fn func(tp model.TopicPartition, t *Topic, p *Partition) error) error {
	for _, t := range d.img.SortedTopics() {
		for i := range t.Partitions {
			cur := d.img.Topics[t.ID] // fn may have replaced it
			if err := fn(model.TopicPartition{Topic: t.ID, Partition: int32(i)}, cur, cur.Partitions[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// hosted calls fn with a transition for each partition that has a replica on
// a broker, elects where fn left a vacancy, and emits the changes.
func (d *decision) hosted(id model.BrokerID, fn func(x *transition, replica int)) error {
	var last *Topic
	min := 0
	return d.partitions(func(tp model.TopicPartition, t *Topic, p *Partition) error {
		i := slices.Index(p.Replicas, id)
		if i < 0 {
			return nil
		}
		if last == nil || last.ID != t.ID {
			last, min = t, minInsync(d.img, t)
		}
		x := newTransition(tp, p, min)
		fn(x, i)
		return d.settle(x)
	})
}

// settle elects if needed and emits the change, if there is one.
func (d *decision) settle(x *transition) error {
	d.elect(x)
	if r := x.finish(d.img); r != nil {
		return d.emit(r)
	}
	return nil
}
