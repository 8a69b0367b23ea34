package replicate

import (
	"context"
	"sync"
	"time"

	"github.com/tailrace/tailrace/broker/transport"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
)

// keepAlive is how often a follower lets an otherwise idle leader hear of it.
const keepAlive = 400 * time.Millisecond

// maxReport bounds the entries of one report.
const maxReport = 8192

// reporter tells one leader the durable ends of the replicas that follow it.
// One report is outstanding at a time, so reports batch by themselves; what a
// failed one carried is sent again, since progress is kept nowhere else.
type reporter struct {
	l    *link
	wake chan struct{}

	mu      sync.Mutex
	pending map[model.TopicPartition]*partition.Replica
	follows map[model.TopicPartition]*partition.Replica
}

func newReporter(l *link) *reporter {
	return &reporter{l: l, wake: make(chan struct{}, 1), pending: map[model.TopicPartition]*partition.Replica{}, follows: map[model.TopicPartition]*partition.Replica{}}
}

// add queues the current durable ends of rs.
func (p *reporter) add(rs ...*partition.Replica) {
	p.mu.Lock()
	for _, r := range rs {
		p.pending[r.TP()] = r
		p.follows[r.TP()] = r
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *reporter) remove(tp model.TopicPartition) {
	p.mu.Lock()
	delete(p.pending, tp)
	delete(p.follows, tp)
	p.mu.Unlock()
}

// take moves up to maxReport pending replicas out.
func (p *reporter) take() []*partition.Replica {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*partition.Replica, 0, min(len(p.pending), maxReport))
	for tp, r := range p.pending {
		if len(out) == maxReport {
			break
		}
		out = append(out, r)
		delete(p.pending, tp)
	}
	return out
}

// again queues what was not delivered, or everything followed after a broken
// connection: the leader may be a new process that knows nothing.
func (p *reporter) again(rs []*partition.Replica, all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range rs {
		if p.follows[r.TP()] == r {
			p.pending[r.TP()] = r
		}
	}
	if all {
		for tp, r := range p.follows {
			p.pending[tp] = r
		}
	}
}

func (p *reporter) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.follows) == 0
}

func (p *reporter) run() {
	timer := time.NewTimer(keepAlive)
	defer timer.Stop()
	ctx := p.l.m.ctx
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		timer.Reset(keepAlive)
		if p.idle() {
			continue
		}
		if err := p.reportOnce(); err != nil && ctx.Err() == nil {
			p.l.m.o.OnError(p.l.leader, "report durable ends", err)
			timer.Reset(retryDelay)
		}
	}
}

// reportOnce sends one report and queues again what the leader did not take.
func (p *reporter) reportOnce() error {
	m := p.l.m
	rs := p.take()
	rep := DurableReport{Incarnation: m.host.Incarnation(), Ends: make([]DurableEnd, 0, len(rs))}
	kept := rs[:0]
	for _, r := range rs {
		leader, pr, ok := r.DurableReport()
		if !ok || leader != p.l.leader {
			continue // it asks again when it may report
		}
		kept = append(kept, r)
		rep.Ends = append(rep.Ends, DurableEnd{TP: r.TP(), Epoch: pr.Epoch, End: pr.End})
	}
	ctx, cancel := context.WithTimeout(m.ctx, callTimeout)
	defer cancel()
	raw, release, err := m.o.Caller.Call(ctx, p.l.leader, transport.Durable, transport.KeyDurable, DurableVersion, rep.Append(nil))
	if err != nil {
		p.again(kept, true)
		return err
	}
	defer release()
	idx, err := decodeIndexes(raw, len(kept))
	if err != nil {
		p.again(kept, true)
		return err
	}
	if len(idx) == 0 {
		p.more()
		return nil
	}
	refused := make([]*partition.Replica, 0, len(idx))
	for _, i := range idx {
		refused = append(refused, kept[i])
	}
	p.again(refused, false)
	time.AfterFunc(retryDelay/2, p.more)
	return nil
}

// more wakes the loop if something is pending.
func (p *reporter) more() {
	p.mu.Lock()
	n := len(p.pending)
	p.mu.Unlock()
	if n > 0 {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// HeardFrom notes that a broker was heard from on a connection of the pair.
func (m *Manager) HeardFrom(b model.BrokerID) { m.o.Contacts.Heard(b, m.o.Clock.Elapsed()) }

// HandleDurable serves a follower's report and returns the answer's body.
func (m *Manager) HandleDurable(peer model.BrokerID, body []byte) ([]byte, error) {
	rep, err := DecodeDurableReport(body)
	if err != nil {
		return nil, err
	}
	m.o.Contacts.Heard(peer, m.o.Clock.Elapsed())
	return appendIndexes(nil, TakeReport(m.host, peer, rep, m.o.Clock.Elapsed())), nil
}
