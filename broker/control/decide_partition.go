package control

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

func (d *decision) alterPartitions(cmd *AlterPartitions) error {
	if b := d.current(cmd.Broker, cmd.Incarnation); b == nil {
		return nil
	}
	for i := range cmd.Proposals {
		r, err := d.alterPartition(cmd, &cmd.Proposals[i])
		if err != nil {
			return err
		}
		d.result.Partitions = append(d.result.Partitions, r)
	}
	return nil
}

// alterPartition is the compare-and-set of an in-sync change (I11, I12).
func (d *decision) alterPartition(cmd *AlterPartitions, in *PartitionProposal) (PartitionResult, error) {
	r := PartitionResult{TP: in.TP, ID: in.Proposal.ID, Outcome: isr.Rejected}
	t, p := d.img.Topics[in.TP.Topic], d.img.Partition(in.TP)
	if p == nil {
		r.Code, r.Message = kerr.UnknownTopicID.Code, "no such partition"
		return r, nil
	}
	if e, why := d.checkProposal(cmd, in, t, p); e != nil {
		r.Code, r.Message = e.Code, why
		if e == kerr.NotController {
			r.Outcome = isr.Unknown // this controller is the one that is behind
		}
		return r, nil
	}
	x := newTransition(in.TP, p, minInsync(d.img, t))
	x.propose(&in.Proposal)
	rec := x.finish(d.img)
	if rec == nil { // the same set again: its leader waits for a new partition epoch
		rec = &PartitionChanged{TP: in.TP, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, LeaderIncarnation: p.LeaderIncarnation,
			PartitionEpoch: p.PartitionEpoch + 1, ISR: x.isr, ELR: x.elr}
	}
	r.Outcome = isr.Committed
	return r, d.emit(rec)
}

// propose replaces the in-sync set. Who leaves it, or was eligible, is
// eligible if the set is below the minimum now, unless policy removed it.
func (x *transition) propose(pr *isr.Proposal) {
	var next, eligible []model.BrokerID
	for _, id := range x.p.Replicas { // in the order of assignment
		switch in := slices.ContainsFunc(pr.ISR, func(m isr.Member) bool { return m.Broker == id }); {
		case in:
			next = append(next, id)
		case slices.Contains(pr.ByPolicy, id):
		case slices.Contains(x.isr, id) || slices.Contains(x.elr, id):
			eligible = append(eligible, id)
		}
	}
	x.isr, x.elr = next, eligible
}

func (d *decision) checkProposal(cmd *AlterPartitions, in *PartitionProposal, t *Topic, p *Partition) (*kerr.Error, string) {
	pr, tp := &in.Proposal, in.TP
	switch {
	case pr.LeaderEpoch > p.LeaderEpoch || pr.PartitionEpoch > p.PartitionEpoch || pr.BasedOn >= d.in.Index:
		return kerr.NotController, "the proposal is ahead of this controller"
	case p.Leader != cmd.Broker || pr.LeaderEpoch < p.LeaderEpoch:
		return kerr.FencedLeaderEpoch, fmt.Sprintf("leader is %d in epoch %d", p.Leader, p.LeaderEpoch)
	case p.LeaderIncarnation != cmd.Incarnation:
		return kerr.StaleBrokerEpoch, "another incarnation was elected for this epoch"
	case pr.PartitionEpoch < p.PartitionEpoch:
		return kerr.InvalidUpdateVersion, fmt.Sprintf("partition epoch is %d", p.PartitionEpoch)
	case pr.BasedOn < max(t.ConfigIndex, d.img.ConfigIndex):
		return kerr.InvalidUpdateVersion, "the configuration changed since"
	case len(pr.ISR) == 0:
		return kerr.InvalidRequest, "the in-sync set would be empty"
	}
	return d.checkMembers(cmd.Broker, pr.ISR, tp, p)
}

func (d *decision) checkMembers(leader model.BrokerID, members []isr.Member, tp model.TopicPartition, p *Partition) (*kerr.Error, string) {
	leads := false
	for i, m := range members {
		if !slices.Contains(p.Replicas, m.Broker) || slices.ContainsFunc(members[:i], func(o isr.Member) bool { return o.Broker == m.Broker }) {
			return kerr.InvalidRequest, fmt.Sprintf("member %d is not a replica, or is there twice", m.Broker)
		}
		b := d.img.Brokers[m.Broker]
		if !b.Live() {
			return kerr.IneligibleReplica, fmt.Sprintf("broker %d is fenced or stopping", m.Broker)
		}
		if b.Incarnation != m.Incarnation && !bugs.BrokerEpoch {
			return kerr.IneligibleReplica, fmt.Sprintf("broker %d has incarnation %d, not %d", m.Broker, b.Incarnation, m.Incarnation)
		}
		if log, _, ok := d.v.log(b, tp); ok && m.Broker != leader && log.Suspect > segment.TornTail {
			return kerr.IneligibleReplica, fmt.Sprintf("the log of broker %d is damaged", m.Broker)
		}
		leads = leads || m.Broker == leader
	}
	if !leads {
		return kerr.InvalidRequest, "the leader is not a member"
	}
	return nil, ""
}

func (d *decision) electLeaders(cmd *ElectLeaders) error {
	if cmd.Unclean && cmd.Principal == "" {
		return d.refuse(kerr.InvalidRequest, "an unclean election needs the name of who asks for it")
	}
	list := cmd.Partitions
	if cmd.All {
		list = nil
		_ = d.partitions(func(tp model.TopicPartition, _ *Topic, p *Partition) error {
			if cmd.Unclean && p.Leader == model.NoBroker || !cmd.Unclean && p.Leader != p.Replicas[0] {
				list = append(list, tp)
			}
			return nil
		})
	}
	for _, tp := range list {
		e, why, err := d.electOne(cmd, tp)
		if err != nil {
			return err
		}
		r := PartitionResult{TP: tp, Message: why}
		if e != nil {
			r.Code = e.Code
		}
		d.result.Partitions = append(d.result.Partitions, r)
	}
	return nil
}

func (d *decision) electOne(cmd *ElectLeaders, tp model.TopicPartition) (*kerr.Error, string, error) {
	p := d.img.Partition(tp)
	if p == nil {
		return kerr.UnknownTopicOrPartition, "no such partition", nil
	}
	if cmd.Unclean {
		return d.electUnclean(tp, p, cmd.Principal)
	}
	if p.Leader == p.Replicas[0] {
		return kerr.ElectionNotNeeded, "the preferred replica leads", nil
	}
	moved, err := d.toPreferred(tp, p)
	if err == nil && !moved {
		return kerr.PreferredLeaderNotAvailable, fmt.Sprintf("broker %d is not live and in sync", p.Replicas[0]), nil
	}
	return nil, "", err
}

// toPreferred moves a leadership to the preferred replica if that is in sync.
func (d *decision) toPreferred(tp model.TopicPartition, p *Partition) (bool, error) {
	preferred := p.Replicas[0]
	if p.Leader == preferred || !slices.Contains(p.ISR, preferred) || !d.img.Brokers[preferred].Live() {
		return false, nil
	}
	x := newTransition(tp, p, minInsync(d.img, d.img.Topics[tp.Topic]))
	x.leader, x.bump = preferred, true
	return true, d.settle(x)
}

// electUnclean elects a live replica of an offline partition although it may
// miss committed records: cleanly where that is possible after all, else the
// one that reported most. The record names who asked (I9).
func (d *decision) electUnclean(tp model.TopicPartition, p *Partition, principal string) (*kerr.Error, string, error) {
	if p.Leader != model.NoBroker {
		return kerr.ElectionNotNeeded, "the partition has a leader", nil
	}
	x := newTransition(tp, p, minInsync(d.img, d.img.Topics[tp.Topic]))
	if d.elect(x); x.leader == model.NoBroker {
		best := d.leastBad(tp, p)
		if best == nil {
			return kerr.EligibleLeadersNotAvailable, "no replica is live", nil
		}
		x.leader, x.bump, x.why = best.id, true, principal
		x.isr, x.elr = []model.BrokerID{best.id}, nil
	}
	return nil, "", d.settle(x)
}

// leastBad prefers undamaged logs, then the greatest reported (epoch, end),
// then the order of assignment.
func (d *decision) leastBad(tp model.TopicPartition, p *Partition) *candidate {
	var best *candidate
	for _, id := range p.Replicas {
		b := d.img.Brokers[id]
		if !b.Live() {
			continue
		}
		log, _, ok := d.v.log(b, tp)
		if !ok {
			log = LogReport{Epoch: model.NoEpoch}
		}
		c := &candidate{id: id, log: log, live: true}
		if best == nil || c.log.Suspect < best.log.Suspect || c.log.Suspect == best.log.Suspect && best.before(*c) {
			best = c
		}
	}
	return best
}

func (d *decision) balanceLeaders(cmd *BalanceLeaders) error {
	moved := int32(0)
	return d.partitions(func(tp model.TopicPartition, _ *Topic, p *Partition) error {
		if moved >= cmd.Max || p.Leader == model.NoBroker {
			return nil
		}
		ok, err := d.toPreferred(tp, p)
		if ok {
			moved++
		}
		return err
	})
}
