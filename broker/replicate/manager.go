package replicate

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/transport"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
)

// Caller sends a request to another broker and waits for the answer. Body is
// not kept; the answer is valid until release.
type Caller interface {
	Call(ctx context.Context, to model.BrokerID, class transport.Class, key, version int16, body []byte) (resp []byte, release func(), err error)
}

// Host is what replication needs of broker/host.
type Host interface {
	Applier
	Incarnation() model.Incarnation
}

// Submitter carries a command to the controller.
type Submitter interface {
	Submit(ctx context.Context, cmd control.Command) (control.Result, error)
}

// Options of a Manager.
type Options struct {
	Self      model.BrokerID
	Caller    Caller
	Submitter Submitter
	Clock     clock.Clock
	// Contacts and Fetches are shared with the replicas: when each follower
	// was last heard from, and when each leader last answered a fetch.
	Contacts, Fetches *partition.Contacts
	// OnError is told of failed calls, for logs; it must not block.
	OnError func(peer model.BrokerID, what string, err error)
}

// Manager runs one fetch loop and one reporter for each leader that this
// broker follows, and the proposer. It implements the part of host.Output that
// concerns replication.
type Manager struct {
	o      Options
	host   Host
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	leaders map[model.BrokerID]*link
	closed  bool

	proposals *proposer
}

// New returns a manager. Start must be called before metadata is applied.
func New(o Options) *Manager {
	ctx, cancel := context.WithCancel(context.Background())
	m := &Manager{o: o, ctx: ctx, cancel: cancel, leaders: map[model.BrokerID]*link{}}
	m.proposals = newProposer(m)
	return m
}

// Start begins with the host whose replicas it serves.
func (m *Manager) Start(h Host) {
	m.host = h
	m.spawn(m.proposals.run)
}

// Close ends every loop and waits for them.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
}

func (m *Manager) spawn(f func()) {
	m.wg.Add(1)
	go func() { defer m.wg.Done(); f() }()
}

// link is what this broker runs for one leader it follows.
type link struct {
	m       *Manager
	leader  model.BrokerID
	session *Session
	kick    chan struct{} // partitions were added or a pause should end
	parked  sync.Mutex    // held while a fetch is outstanding; see kickLeader
	durable *reporter
}

// link returns the link to a leader, starting it at first use. It returns nil
// after Close.
func (m *Manager) link(leader model.BrokerID) *link {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.leaders[leader]; l != nil || m.closed {
		return l
	}
	l := &link{m: m, leader: leader, session: NewSession(m.o.Self, leader, m.host), kick: make(chan struct{}, 1)}
	l.durable = newReporter(l)
	m.leaders[leader] = l
	m.spawn(l.fetchLoop)
	m.spawn(l.durable.run)
	return l
}

// Following moves a replica between fetch sessions (host.Output).
func (m *Manager) Following(r *partition.Replica, from, to model.BrokerID) {
	if from != to && from != model.NoBroker {
		if l := m.link(from); l != nil {
			l.session.Remove(r.TP())
			l.durable.remove(r.TP())
		}
	}
	if to == model.NoBroker || to == m.o.Self {
		return
	}
	if l := m.link(to); l != nil {
		l.session.Add(r)
		l.durable.add(r)
		l.wake()
	}
}

// Report queues a follower's durable end for its leader (host.Output).
func (m *Manager) Report(leader model.BrokerID, rs []*partition.Replica) {
	m.mu.Lock()
	l := m.leaders[leader]
	m.mu.Unlock()
	if l != nil {
		l.durable.add(rs...)
	}
}

// Propose queues an in-sync proposal (host.Output).
func (m *Manager) Propose(tp model.TopicPartition, p isr.Proposal) { m.proposals.add(tp, p) }

// wake makes the fetch loop send the added partitions now: it ends a pause, and
// has the leader answer a parked fetch.
func (l *link) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
	if l.parked.TryLock() {
		l.parked.Unlock()
		return
	}
	l.m.mu.Lock()
	closed := l.m.closed
	if !closed {
		l.m.wg.Add(1)
	}
	l.m.mu.Unlock()
	if closed {
		return
	}
	go func() {
		defer l.m.wg.Done()
		ctx, cancel := context.WithTimeout(l.m.ctx, fetchMaxWait)
		defer cancel()
		_, release, err := l.m.o.Caller.Call(ctx, l.leader, transport.Fetch, transport.KeyKick, 0, nil)
		if err == nil {
			release()
		}
	}()
}

// fetchLoop fetches from one leader for as long as the manager lives. With
// nothing to follow it waits and costs nothing.
func (l *link) fetchLoop() {
	var body []byte
	pause := time.Duration(0)
	for l.m.ctx.Err() == nil {
		if pause > 0 || l.session.Empty() {
			l.rest(pause)
			pause = 0
			continue
		}
		var err error
		if body, err = l.fetchOnce(body); err != nil && l.m.ctx.Err() == nil {
			l.session.Reset()
			l.m.o.OnError(l.leader, "fetch", err)
			pause = retryDelay
		}
	}
}

// rest waits for a kick, or for at most d when d is not 0.
func (l *link) rest(d time.Duration) {
	var timer <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-l.m.ctx.Done():
	case <-l.kick:
	case <-timer:
	}
}

func (l *link) fetchOnce(body []byte) ([]byte, error) {
	l.parked.Lock()
	defer l.parked.Unlock()
	req := l.session.Build(l.m.o.Clock.Elapsed(), l.m.host.Incarnation())
	body = req.AppendTo(body[:0])
	ctx, cancel := context.WithTimeout(l.m.ctx, fetchMaxWait+callTimeout)
	defer cancel()
	raw, release, err := l.m.o.Caller.Call(ctx, l.leader, transport.Fetch, int16(kmsg.Fetch), FetchVersion, body)
	if err != nil {
		return body, err
	}
	defer release()
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(FetchVersion)
	if err := resp.ReadFrom(raw); err != nil {
		return body, err
	}
	now := l.m.o.Clock.Elapsed()
	l.m.o.Fetches.Heard(l.leader, now)
	return body, l.session.Apply(resp, now)
}

// callTimeout bounds a prompt call to another broker.
const callTimeout = 3 * time.Second
