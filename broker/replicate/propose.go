package replicate

import (
	"context"
	"sync"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
)

// proposer sends in-sync proposals to the controller, batched per broker.
type proposer struct {
	m    *Manager
	wake chan struct{}

	mu    sync.Mutex
	queue []control.PartitionProposal
}

func newProposer(m *Manager) *proposer { return &proposer{m: m, wake: make(chan struct{}, 1)} }

func (p *proposer) add(tp model.TopicPartition, pr isr.Proposal) {
	p.mu.Lock()
	p.queue = append(p.queue, control.PartitionProposal{TP: tp, Proposal: pr})
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *proposer) run() {
	for {
		select {
		case <-p.m.ctx.Done():
			return
		case <-p.wake:
		}
		p.mu.Lock()
		batch := p.queue
		p.queue = nil
		p.mu.Unlock()
		if len(batch) > 0 {
			p.submit(batch)
		}
	}
}

// submit carries one batch out. Without an answer the outcome is unknown: the
// members of the proposal keep counting until metadata decides (I5).
func (p *proposer) submit(batch []control.PartitionProposal) {
	ctx, cancel := context.WithTimeout(p.m.ctx, callTimeout)
	defer cancel()
	res, err := p.m.o.Submitter.Submit(ctx, &control.AlterPartitions{
		Broker: p.m.o.Self, Incarnation: p.m.host.Incarnation(), Proposals: batch,
	})
	if err != nil && p.m.ctx.Err() == nil {
		p.m.o.OnError(p.m.o.Self, "propose in-sync change", err)
		select {
		case <-p.m.ctx.Done():
		case <-time.After(retryDelay):
		}
	}
	for i, b := range batch {
		outcome := isr.Unknown
		if err == nil && res.Code == 0 && i < len(res.Partitions) {
			outcome = res.Partitions[i].Outcome
		}
		p.m.host.Do(b.TP, func(r *partition.Replica, eff *partition.Effects) {
			r.ProposalOutcome(b.Proposal.ID, outcome, eff)
		})
	}
}

// TakeReport feeds a follower's durable ends to the replicas that lead, and
// returns the indexes that were not taken because this broker does not lead
// that epoch yet; the follower sends them again.
func TakeReport(host Applier, peer model.BrokerID, rep DurableReport, now time.Duration) []int {
	var refused []int
	host.Together(func(do partition.Do) {
		for i, e := range rep.Ends {
			ok := false
			do(e.TP, func(r *partition.Replica, eff *partition.Effects) {
				ok = r.FollowerDurable(isr.Progress{Broker: peer, Incarnation: rep.Incarnation, Epoch: e.Epoch, End: e.End, Now: now}, eff)
			})
			if !ok {
				refused = append(refused, i)
			}
		}
	})
	return refused
}
