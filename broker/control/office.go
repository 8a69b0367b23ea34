package control

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
)

// office is the state of a controller while it leads the quorum in one term.
type office struct {
	term     uint64
	vol      *Volatile
	sessions map[model.BrokerID]*session
	flight   *flight
	beats    []pendingBeat // heartbeats that wait for confirmation
	resolve  bool          // offline partitions may be electable
	ticks    int
	balance  bool // leaders may be away from their preferred replicas
}

// flight is the batch of decisions that is being committed.
type flight struct {
	index   uint64
	data    []byte // of the entry
	waiters []waiter
}

// session is what a controller knows of a broker's liveness. It is volatile:
// a new controller gives every broker a fresh session.
type session struct {
	contact     time.Duration // last heartbeat
	alive       time.Duration // last time that a peer vouched for it
	silent      bool          // suspected with failed probes
	changed     uint64        // metadata index of the last change that may have deposed it
	fenceQueued bool
	admitQueued bool
	drainQueued bool
	// Hysteresis of fences by suspicion.
	strikes int
	struck  time.Duration
	life    model.Incarnation // whose strikes these are
}

type pendingBeat struct {
	req  HeartbeatRequest
	done func(HeartbeatResponse, error)
}

const (
	maxStrikes   = 3
	strikeWindow = time.Minute
	strikePause  = 5 * time.Second
	// pauseGap is a gap between ticks after which the controller holds that
	// it was itself paused, and blames no one for silence.
	pauseGap = time.Second
	// resolveTicks, balanceTicks: periods of the controller's own work.
	resolveTicks = 4
	balanceTicks = 20
	balanceMax   = 64
)

func newOffice(c *Core, term uint64) *office {
	o := &office{term: term, vol: NewVolatile(c.opt.Grace), sessions: map[model.BrokerID]*session{}, resolve: true, balance: true}
	for _, b := range c.img.SortedBrokers() {
		o.sessions[b.ID] = &session{contact: c.now, changed: c.img.Index, life: b.Incarnation}
	}
	return o
}

func (o *office) close() {
	for _, b := range o.beats {
		b.done(HeartbeatResponse{}, ErrNotController)
	}
	o.beats = nil
}

func (o *office) session(id model.BrokerID, now time.Duration) *session {
	s := o.sessions[id]
	if s == nil {
		s = &session{contact: now}
		o.sessions[id] = s
	}
	return s
}

// applied follows the log: who may have been deposed, who lives a new life.
func (o *office) applied(c *Core, u Update) {
	for _, id := range u.Brokers {
		b := u.Next.Brokers[id]
		if b == nil {
			delete(o.sessions, id)
			continue
		}
		s := o.session(id, c.now)
		s.changed = u.Next.Index
		s.fenceQueued, s.admitQueued, s.drainQueued = false, false, false
		if s.life != b.Incarnation {
			*s = session{contact: c.now, changed: u.Next.Index, life: b.Incarnation}
		}
	}
	for _, id := range u.Topics {
		o.deposed(u.Prev.Topics[id], u.Next.Topics[id], u.Next.Index, c.now)
	}
	if len(u.Brokers) > 0 || len(u.Topics) > 0 {
		o.resolve, o.balance = true, true
	}
}

// deposed notes the leaders of prev that next replaced.
func (o *office) deposed(prev, next *Topic, index uint64, now time.Duration) {
	if prev == nil || prev == next {
		return
	}
	for i, p := range prev.Partitions {
		if p.Leader == model.NoBroker {
			continue
		}
		if next == nil || next.Partitions[i].Leader != p.Leader {
			o.session(p.Leader, now).changed = index
		}
	}
}

// tick expires sessions and starts the controller's own work.
func (o *office) tick(c *Core, gap time.Duration) {
	o.ticks++
	if gap > pauseGap {
		for _, s := range o.sessions {
			s.contact += gap
		}
	}
	for _, b := range c.img.SortedBrokers() {
		s := o.session(b.ID, c.now)
		if b.Fenced || s.fenceQueued {
			continue
		}
		switch silence := c.now - s.contact; {
		case silence > c.opt.SessionTimeout:
			o.fence(c, b, s, FenceSessionExpired, "")
		case s.silent && silence > c.opt.Lease && c.now-s.alive > c.opt.Lease && s.strikes < maxStrikes:
			s.strikes++
			s.struck = c.now
			o.fence(c, b, s, FenceSuspected, "")
		}
	}
	if o.resolve && o.ticks%resolveTicks == 0 {
		o.resolve = o.hasOffline(c.img)
		if o.resolve {
			c.Submit(&ResolveOffline{}, func(Result, error) {})
		}
	}
	if o.balance && o.ticks%balanceTicks == 0 && ClusterValue(c.img, "auto.leader.rebalance.enable") == "true" {
		o.balance = false // applied sets it again while there is something to move
		c.Submit(&BalanceLeaders{Max: balanceMax}, func(Result, error) {})
	}
	if o.ticks%resolveTicks == 0 {
		o.members(c)
	}
}

func (o *office) hasOffline(img *Image) bool {
	for _, t := range img.Topics {
		for _, p := range t.Partitions {
			if p.Leader == model.NoBroker {
				return true
			}
		}
	}
	return false
}

func (o *office) fence(c *Core, b *Broker, s *session, why FenceReason, detail string) {
	s.fenceQueued = true
	c.Submit(&FenceBroker{Broker: b.ID, Incarnation: b.Incarnation, Reason: why, Detail: detail},
		func(Result, error) { s.fenceQueued = false })
}

// Suspect takes evidence about a broker's incarnation.
func (c *Core) Suspect(e Suspicion) error {
	o := c.office
	if o == nil {
		return ErrNotController
	}
	b := c.img.Brokers[e.Broker]
	if b == nil || b.Fenced || b.Incarnation != e.Incarnation {
		return nil // of another life, or known already
	}
	s := o.session(b.ID, c.now)
	switch e.Evidence {
	case EvidenceRefused:
		if !s.fenceQueued {
			o.fence(c, b, s, FenceRefused, "")
		}
	case EvidenceSilence:
		s.silent = true
		if bugs.TrustGossip && !s.fenceQueued {
			o.fence(c, b, s, FenceSuspected, "")
		}
	case EvidenceAlive:
		s.alive, s.silent = c.now, false
	}
	return nil
}

// Heartbeat takes a broker's heartbeat; done is called from Process after a
// majority confirmed this controller.
func (c *Core) Heartbeat(req HeartbeatRequest, done func(HeartbeatResponse, error)) {
	o := c.office
	if o == nil {
		done(HeartbeatResponse{}, ErrNotController)
		return
	}
	if len(o.beats) >= maxQueue {
		done(HeartbeatResponse{}, ErrBusy)
		return
	}
	o.beats = append(o.beats, pendingBeat{req, done})
	if len(o.beats) == 1 {
		c.confirmBeats(o)
	}
}

// confirmBeats answers the heartbeats that arrived before the confirmation was
// asked for, and asks again for those that came later.
func (c *Core) confirmBeats(o *office) {
	n := len(o.beats)
	c.ConfirmedRead(func(_ uint64, err error) {
		beats := o.beats[:min(n, len(o.beats))]
		o.beats = o.beats[len(beats):]
		for _, b := range beats {
			if err != nil || c.office != o {
				b.done(HeartbeatResponse{}, ErrNotController)
				continue
			}
			b.done(o.beat(c, b.req), nil)
		}
		if len(o.beats) > 0 && c.office == o {
			c.confirmBeats(o)
		}
	})
}

func (o *office) beat(c *Core, req HeartbeatRequest) HeartbeatResponse {
	resp := HeartbeatResponse{Index: c.img.Index}
	b := c.img.Brokers[req.Broker]
	if b == nil || b.Incarnation != req.Incarnation {
		resp.Unknown = true
		return resp
	}
	s := o.session(b.ID, c.now)
	s.contact, s.silent = c.now, false
	resp.Fenced = b.Fenced
	caughtUp := req.AppliedIndex >= s.changed && req.AppliedIndex >= uint64(b.Incarnation)
	resp.LeaseGranted = caughtUp && !b.Fenced && !s.fenceQueued
	resp.NeedReport = o.vol.complete(b) == nil && (b.Fenced || o.vol.awaited(c.img, b.ID))
	switch {
	case req.Stopped:
		if !b.Fenced && !s.fenceQueued {
			o.fence(c, b, s, FenceStopped, "")
		}
		resp.LeaseGranted, resp.MayStop = false, true
	case req.WantDrain:
		o.drain(c, b, s)
		resp.MayStop = b.Draining && caughtUp || b.Fenced
	case b.Fenced && caughtUp && !resp.NeedReport:
		o.admit(c, b, s)
	}
	return resp
}

func (o *office) drain(c *Core, b *Broker, s *session) {
	if b.Draining || b.Fenced || s.drainQueued {
		return
	}
	s.drainQueued = true
	c.Submit(&DrainBroker{Broker: b.ID, Incarnation: b.Incarnation}, func(Result, error) { s.drainQueued = false })
}

// admit unfences a broker; one that was fenced by suspicion too often in this
// life waits a little.
func (o *office) admit(c *Core, b *Broker, s *session) {
	if s.admitQueued {
		return
	}
	if s.strikes >= maxStrikes && c.now-s.struck < strikePause {
		return
	}
	if c.now-s.struck > strikeWindow {
		s.strikes = 0
	}
	s.admitQueued = true
	c.Submit(&UnfenceBroker{Broker: b.ID, Incarnation: b.Incarnation}, func(Result, error) { s.admitQueued = false })
}

// members lets the quorum follow the registrations, one change at a time:
// unknown brokers enter as learners, replaced disks leave, and learners that
// have caught up become voters up to the wanted number.
func (o *office) members(c *Core) {
	if o.flight != nil {
		return
	}
	if ch := nextConfChange(c.img, c.caughtUp()); len(ch) > 0 {
		_ = c.rn.ProposeConfChange(&pb.ConfChangeV2{Changes: ch}) // dropped while one is pending; asked again
	}
}

// caughtUp returns the members that follow the log closely.
func (c *Core) caughtUp() map[uint64]bool {
	ok := map[uint64]bool{}
	for _, m := range c.Members() {
		ok[m.RaftID] = m.Active && m.Match+64 >= c.img.Index
	}
	return ok
}

// wantedVoters is the size of the quorum for a number of brokers.
func wantedVoters(brokers int) int {
	switch {
	case brokers >= 5:
		return 5
	case brokers >= 3:
		return 3
	}
	return 1
}

func nextConfChange(img *Image, caughtUp map[uint64]bool) []*pb.ConfChangeSingle {
	change := func(t pb.ConfChangeType, id uint64) *pb.ConfChangeSingle {
		return &pb.ConfChangeSingle{Type: t.Enum(), NodeId: new(id)}
	}
	for _, b := range img.SortedBrokers() {
		if b.RaftID != raft.None && !slices.Contains(img.Voters, b.RaftID) && !slices.Contains(img.Learners, b.RaftID) {
			return []*pb.ConfChangeSingle{change(pb.ConfChangeAddLearnerNode, b.RaftID)}
		}
	}
	var add uint64
	for _, b := range img.SortedBrokers() {
		if b.Live() && slices.Contains(img.Learners, b.RaftID) && caughtUp[b.RaftID] {
			add = b.RaftID
			break
		}
	}
	for _, id := range img.Retired {
		switch {
		case slices.Contains(img.Learners, id):
			return []*pb.ConfChangeSingle{change(pb.ConfChangeRemoveNode, id)}
		case slices.Contains(img.Voters, id) && add != 0:
			return []*pb.ConfChangeSingle{change(pb.ConfChangeRemoveNode, id), change(pb.ConfChangeAddNode, add)}
		case slices.Contains(img.Voters, id) && len(img.Voters) > 1:
			return []*pb.ConfChangeSingle{change(pb.ConfChangeRemoveNode, id)}
		}
	}
	if add != 0 && len(img.Voters) < wantedVoters(len(img.Brokers)) {
		return []*pb.ConfChangeSingle{change(pb.ConfChangeAddNode, add)}
	}
	return nil
}
