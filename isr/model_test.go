package isr

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

// A small world in which the state machine is explored exhaustively, breadth
// first: three brokers, two records, an election, a restart or a wiped disk,
// metadata that arrives late, proposals that are lost and delivered later. After
// every step: what was once below a leader's high watermark is durable on every
// broker that may be elected (I1, I2), and at its place in every log as far as
// that log is known to be committed (I3, I4).

// mutation is a rule that the world breaks on purpose. The exploration must find
// the loss that follows.
type mutation int

const (
	faithful mutation = iota
	reportsMemory
	matchesUnchecked
	truncatesToWatermark
	commitsOldIncarnation
	restartLeadsOn
	unknownIsRejected
	appliesStaleReports
)

var mutationNames = map[mutation]string{
	reportsMemory:         "a follower reports what is not durable",
	matchesUnchecked:      "durable ends count before the logs were compared",
	truncatesToWatermark:  "a follower truncates to its high watermark (KIP-101)",
	commitsOldIncarnation: "the controller ignores incarnations (KIP-903)",
	restartLeadsOn:        "a restarted leader leads its old epoch",
	unknownIsRejected:     "a proposal of unknown outcome is rolled back",
	appliesStaleReports:   "reports of an earlier epoch count",
}

const (
	maxRecords = 2
	maxEpoch   = 3
	maxFaults  = 2 // restarts, wipes, fences
)

type world struct {
	meta      Meta
	brokers   [3]mbroker
	flight    []mflight // proposals that may still reach the controller
	produced  int
	faults    int
	committed string // records that were below a leader's high watermark
}

type mbroker struct {
	s         *State
	inc       model.Incarnation
	log       string // one byte a record: epoch<<4 | number
	durable   int
	most      int // the greatest durable end of this life
	confirmed bool
}

type mflight struct {
	p    Proposal
	from int
	lost bool // its sender was told that the outcome is unknown
}

func newWorld() *world {
	w := &world{meta: Meta{Index: 1, Leader: 0, LeaderEpoch: 1, LeaderIncarnation: 1, PartitionEpoch: 1,
		ISR: []model.BrokerID{0, 1, 2}, MinISR: 2}}
	for b := range w.brokers {
		w.meta.Replicas = append(w.meta.Replicas, ReplicaMeta{Broker: model.BrokerID(b), Incarnation: 1, Eligible: true})
		w.brokers[b] = mbroker{s: New(model.BrokerID(b), 1, 0, 0, 0), inc: 1}
	}
	return w
}

func (w *world) clone() *world {
	c := *w
	for b := range c.brokers {
		s := *c.brokers[b].s
		s.peers = slices.Clone(s.peers)
		c.brokers[b].s = &s
	}
	c.flight = slices.Clone(w.flight)
	return &c
}

// key identifies a state; times are left out.
func (w *world) key() string {
	k := fmt.Appendf(nil, "%d %v %v %d %d %d|%v|%d %q", w.meta.Leader, w.meta.ISR, w.meta.ELR, w.meta.LeaderEpoch,
		w.meta.PartitionEpoch, w.faults, w.meta.Replicas, w.produced, w.committed)
	for i := range w.brokers {
		b := &w.brokers[i]
		k = fmt.Appendf(k, "|%q %d %v %v %d %d %d %d %v", b.log, b.durable, b.confirmed, b.s.role, b.s.meta.Index, b.s.hw,
			b.s.durable, b.s.epochStart, b.s.changes.outstanding)
		for _, p := range b.s.peers {
			k = fmt.Appendf(k, ";%v%v%v%v%d %d", p.inSync, p.pending, p.doubtful, p.fetched, p.durable, p.incarnation)
		}
	}
	for _, f := range w.flight {
		k = fmt.Appendf(k, "|%d %v %v %d", f.from, f.lost, f.p.ISR, f.p.PartitionEpoch)
	}
	return string(k)
}

// commit records a change of metadata by the controller.
func (w *world) commit(fn func(m *Meta)) {
	m := w.meta
	m.Replicas, m.ISR, m.ELR = slices.Clone(m.Replicas), slices.Clone(m.ISR), slices.Clone(m.ELR)
	m.Index++
	fn(&m)
	if len(m.ISR) >= m.MinISR {
		m.ELR = nil
	}
	w.meta = m
}

// remove takes b out of the in-sync set; below the minimum it stays eligible to
// lead (KIP-966).
func remove(m *Meta, b model.BrokerID) {
	if !contains(m.ISR, b) {
		return
	}
	m.PartitionEpoch++
	m.ISR = slices.DeleteFunc(m.ISR, func(x model.BrokerID) bool { return x == b })
	if len(m.ISR) < m.MinISR {
		m.ELR = append(m.ELR, b)
	}
}

// elect gives the partition to an eligible member; no one if there is none.
func elect(m *Meta) {
	m.LeaderEpoch++
	m.PartitionEpoch++
	m.Leader = model.NoBroker
	for _, b := range append(slices.Clone(m.ISR), m.ELR...) {
		if r := m.Replicas[b]; r.Eligible {
			m.Leader, m.LeaderIncarnation = b, r.Incarnation
			if !contains(m.ISR, b) {
				m.ISR = append(m.ISR, b)
			}
			m.ELR = slices.DeleteFunc(m.ELR, func(x model.BrokerID) bool { return x == b })
			return
		}
	}
}

// action is a step that a world may take; do reports whether it could.
type action struct {
	name string
	i    int
	do   func(w *world, i int, x *step) bool
	rare bool // in random walks, so that faults are not all spent at the start
}

// step is the surroundings of an action.
type step struct {
	mut  mutation
	now  time.Duration
	eff  Effects
	from int // who sent the proposals in eff
}

var brokerActions = []action{
	{name: "produce at", do: (*world).produce},
	{name: "sync of", do: (*world).sync},
	{name: "fetch by", do: (*world).fetch},
	{name: "report by", do: (*world).report},
	{name: "metadata to", do: (*world).deliver},
	{name: "fence", do: (*world).fence, rare: true},
	{name: "restart", do: (*world).restart, rare: true},
	{name: "wipe", do: (*world).wipe, rare: true},
}

var proposalActions = []action{
	{name: "decided: proposal", do: (*world).decide},
	{name: "unanswered: proposal", do: (*world).lose},
}

// actions appends what w might do next.
func (w *world) actions(dst []action) []action {
	for i := range w.brokers {
		for _, a := range brokerActions {
			dst = append(dst, action{a.name, i, a.do, a.rare})
		}
	}
	for i := range w.flight {
		for _, a := range proposalActions {
			dst = append(dst, action{a.name, i, a.do, a.rare})
		}
	}
	return dst
}

// take lets w do a, at a time that is one hour per step.
func (w *world) take(a action, mut mutation, depth int) bool {
	x := step{mut: mut, now: time.Duration(depth) * time.Hour, from: a.i}
	if !a.do(w, a.i, &x) {
		return false
	}
	for _, p := range x.eff.Proposals {
		w.flight = append(w.flight, mflight{p: p, from: x.from})
	}
	return true
}

func (w *world) produce(i int, x *step) bool {
	b := &w.brokers[i]
	if w.produced == maxRecords || b.s.role != Leader || b.s.short() {
		return false
	}
	b.log += string(rune(int(b.s.Epoch())<<4 | w.produced))
	w.produced++
	b.s.LogEnd(int64(len(b.log)), x.now)
	return true
}

func (w *world) sync(i int, x *step) bool {
	b := &w.brokers[i]
	if b.durable == len(b.log) {
		return false
	}
	b.durable = len(b.log)
	b.most = max(b.most, b.durable)
	b.s.OwnDurable(int64(b.durable), &x.eff)
	return true
}

// leaderOf returns the broker that i follows, if that one leads the same epoch.
func (w *world) leaderOf(i int) (l *mbroker, id int) {
	s := w.brokers[i].s
	if s.role != Follower {
		return nil, -1
	}
	id = int(s.Leader())
	if l = &w.brokers[id]; l.s.role != Leader || l.s.Epoch() != s.Epoch() {
		return nil, -1
	}
	return l, id
}

func (w *world) fetch(i int, x *step) bool {
	b := &w.brokers[i]
	l, _ := w.leaderOf(i)
	if l == nil {
		return false
	}
	p := Progress{Broker: model.BrokerID(i), Incarnation: b.inc, Epoch: b.s.Epoch(), End: int64(len(b.log)), Now: x.now}
	if to := commonEnd(b.log, l.log); to < len(b.log) {
		b.log = b.log[:to]
		b.durable = min(b.durable, to)
		b.s.LogEnd(int64(to), x.now)
		return true
	}
	if ok, _ := l.s.Fetched(p); !ok {
		return false
	}
	b.confirmed = true
	b.log += l.log[len(b.log):]
	b.s.LogEnd(int64(len(b.log)), x.now)
	b.s.LeaderHW(l.s.hw, &x.eff)
	return true
}

// commonEnd is where a follower truncates its log on a leader's answer, by
// epochs alone (KIP-279); its end if the leader finds no divergence.
func commonEnd(follower, leader string) int {
	n := len(follower)
	if n == 0 {
		return 0
	}
	last := follower[n-1] >> 4
	epoch, end := epochEnd(leader, last)
	if epoch == last && end >= n {
		return n
	}
	_, own := epochEnd(follower, epoch)
	return min(own, end)
}

// epochEnd is the largest epoch in the log not above e, and its end.
func epochEnd(log string, e byte) (epoch byte, end int) {
	for end < len(log) && log[end]>>4 <= e {
		epoch = log[end] >> 4
		end++
	}
	return epoch, end
}

func (w *world) report(i int, x *step) bool {
	b := &w.brokers[i]
	l, id := w.leaderOf(i)
	if l == nil {
		return false
	}
	end := b.durable
	ok := b.confirmed
	switch x.mut {
	case reportsMemory:
		end = len(b.log)
	case matchesUnchecked:
		ok = true
		l.s.Fetched(Progress{Broker: model.BrokerID(i), Incarnation: b.inc, Epoch: l.s.Epoch(), End: int64(len(b.log)), Now: x.now})
	case appliesStaleReports: // one from before a truncation, delivered now
		end, ok = b.most, true
	}
	if !ok {
		return false
	}
	x.from = id
	return l.s.FollowerDurable(Progress{Broker: model.BrokerID(i), Incarnation: b.inc, Epoch: l.s.Epoch(), End: int64(end), Now: x.now}, &x.eff)
}

func (w *world) deliver(i int, x *step) bool {
	b := &w.brokers[i]
	if b.s.known && b.s.meta.Index == w.meta.Index {
		return false
	}
	was := b.s.Epoch()
	b.s.ApplyMeta(w.meta, x.now, &x.eff)
	if b.s.Epoch() != was {
		b.confirmed = false
	}
	if x.mut == truncatesToWatermark && b.s.Epoch() != was && b.s.role == Follower {
		b.log = b.log[:b.s.hw]
		b.durable = min(b.durable, len(b.log))
		b.s.LogEnd(b.s.hw, x.now)
	}
	return true
}

func (w *world) fence(i int, _ *step) bool {
	id := model.BrokerID(i)
	if !w.meta.Replicas[i].Eligible || w.meta.LeaderEpoch >= maxEpoch || w.faults == maxFaults {
		return false
	}
	w.faults++
	w.commit(func(m *Meta) {
		m.Replicas[i].Eligible = false
		remove(m, id)
		if m.Leader == id {
			elect(m)
		}
	})
	return true
}

// restart, wipe: the broker loses what is not durable, or all, and registers anew in the same
// step; the broker learns the metadata later.
func (w *world) restart(i int, x *step) bool { return w.reopen(i, false, x) }

func (w *world) wipe(i int, x *step) bool { return w.reopen(i, true, x) }

func (w *world) reopen(i int, wiped bool, x *step) bool {
	b, id := &w.brokers[i], model.BrokerID(i)
	if w.meta.LeaderEpoch >= maxEpoch || w.faults == maxFaults {
		return false
	}
	w.faults++
	if wiped {
		b.durable = 0
	}
	b.log = b.log[:b.durable]
	b.inc++
	b.confirmed, b.most = false, 0
	b.s = New(id, b.inc, int64(b.durable), int64(b.durable), 0)
	w.commit(func(m *Meta) {
		m.Replicas[i].Incarnation, m.Replicas[i].Eligible = b.inc, true
		if x.mut == restartLeadsOn && m.Leader == id && !wiped {
			m.LeaderIncarnation = b.inc
			m.PartitionEpoch++
			return
		}
		remove(m, id)
		if wiped {
			m.ELR = slices.DeleteFunc(m.ELR, func(o model.BrokerID) bool { return o == id })
		}
		if m.Leader == id || (m.Leader == model.NoBroker && contains(m.ELR, id)) {
			elect(m)
		}
	})
	return true
}

// decide lets a proposal reach the controller, maybe long after it was sent.
func (w *world) decide(i int, x *step) bool {
	f := w.flight[i]
	w.flight = slices.Delete(w.flight, i, i+1)
	ok := f.p.LeaderEpoch == w.meta.LeaderEpoch && f.p.PartitionEpoch == w.meta.PartitionEpoch
	for _, m := range f.p.ISR {
		r := w.meta.Replicas[m.Broker]
		ok = ok && ((r.Eligible && r.Incarnation == m.Incarnation) || x.mut == commitsOldIncarnation)
	}
	o := Rejected
	if ok {
		o = Committed
		w.commit(func(m *Meta) {
			m.PartitionEpoch++
			m.ISR = nil
			for _, x := range f.p.ISR {
				m.ISR = append(m.ISR, x.Broker)
			}
		})
	}
	if s := w.brokers[f.from].s; !f.lost && s.Epoch() == f.p.LeaderEpoch {
		x.from = f.from
		s.Outcome(f.p.ID, o, x.now, &x.eff)
	}
	return true
}

// lose tells the sender that the outcome is unknown; the proposal lives on.
func (w *world) lose(i int, x *step) bool {
	f := &w.flight[i]
	s := w.brokers[f.from].s
	if f.lost || len(w.flight) > 1 || !s.changes.outstanding || s.changes.id != f.p.ID {
		return false
	}
	f.lost = true
	x.from = f.from
	o := Unknown
	if x.mut == unknownIsRejected {
		o = Rejected
	}
	s.Outcome(f.p.ID, o, x.now, &x.eff)
	return true
}

// check holds the invariants up against the world.
func (w *world) check() error {
	for i := range w.brokers {
		b := &w.brokers[i]
		hw := int(b.s.hw)
		if hw > len(b.log) {
			return fmt.Errorf("broker %d: high watermark %d above the end %d", i, hw, len(b.log))
		}
		if b.s.role == Leader && hw > len(w.committed) {
			w.committed = b.log[:hw]
		}
		n := min(hw, len(w.committed))
		if b.log[:n] != w.committed[:n] {
			return fmt.Errorf("broker %d: %q differs from committed %q below %d", i, b.log, w.committed, n)
		}
	}
	for _, id := range append(slices.Clone(w.meta.ISR), w.meta.ELR...) {
		b := &w.brokers[id]
		if n := len(w.committed); b.durable < n || b.log[:n] != w.committed {
			return fmt.Errorf("broker %d may be elected with %q of which %d durable, committed is %q", id, b.log, b.durable, w.committed)
		}
	}
	return nil
}

// explore walks the worlds breadth first, up to a number of them.
func explore(t *testing.T, most int) {
	type node struct {
		w     *world
		trace []string
	}
	queue := []node{{w: newWorld()}}
	known := map[string]bool{queue[0].w.key(): true}
	for len(queue) > 0 && len(known) < most {
		n := queue[0]
		queue = queue[1:]
		for _, a := range n.w.actions(nil) {
			c := n.w.clone()
			if !c.take(a, faithful, len(n.trace)+1) {
				continue
			}
			trace := append(slices.Clip(n.trace), fmt.Sprint(a.name, " ", a.i))
			if err := c.check(); err != nil {
				t.Fatalf("after %q: %v", trace, err)
			}
			if k := c.key(); !known[k] {
				known[k] = true
				queue = append(queue, node{c, trace})
			}
		}
	}
	t.Logf("%d states", len(known))
}

// wander takes random steps until something is wrong, in a number of walks.
func wander(mut mutation, walks, steps int) (trace []string, err error) {
	rng := rand.New(rand.NewPCG(uint64(mut), 1))
	var actions []action
	for range walks {
		w := newWorld()
		trace = trace[:0]
		for d := 0; d < steps; {
			actions = w.actions(actions[:0])
			a := actions[rng.IntN(len(actions))]
			d++ // also when nothing happens: the world may have nothing left to do
			if a.rare && rng.IntN(20) > 0 || !w.take(a, mut, d) {
				continue
			}
			trace = append(trace, fmt.Sprint(a.name, " ", a.i))
			if err := w.check(); err != nil {
				return trace, err
			}
		}
	}
	return nil, nil
}

func TestModelBreadthFirst(t *testing.T) { explore(t, 10_000) }

func TestModelRandomWalks(t *testing.T) {
	if trace, err := wander(faithful, 3000, 150); err != nil {
		t.Fatalf("after %q: %v", trace, err)
	}
}

// Every broken rule is found, or the model shows nothing.
func TestModelFindsMutations(t *testing.T) {
	for mut := reportsMemory; mut <= appliesStaleReports; mut++ {
		t.Run(mutationNames[mut], func(t *testing.T) {
			trace, err := wander(mut, 40_000, 150)
			if err == nil {
				t.Fatal("nothing found")
			}
			t.Logf("%v: %q", err, trace)
		})
	}
}
