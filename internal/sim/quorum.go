package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
)

const electionTimeout = control.DefaultElectionTicks * control.DefaultTick

// pump lets the metadata core work and sends what it wants to say.
func (n *node) pump() {
	if n.fatal != nil || n.disk.dead {
		return
	}
	msgs, err := n.core.Process()
	if err != nil {
		n.fatal = err
		return
	}
	for _, m := range msgs {
		d := n.w.byRaftID(m.To)
		if d == nil {
			n.core.ReportUnreachable(m.To)
			continue
		}
		from, data := n.raftID(), m.Data
		n.w.net.send(n.idx, d.idx, evRaft, func() { d.receive(from, data) })
	}
}

func (w *world) byRaftID(id uint64) *node {
	for _, n := range w.nodes {
		if n.raftID() == id {
			return n
		}
	}
	return nil
}

func (n *node) receive(from uint64, data []byte) {
	if !n.up {
		return
	}
	if err := n.core.Step(data); err == nil && n.core.Status().Leader == from {
		n.heard = n.w.now
	}
	n.pump()
}

// campaign stands in for raft's random election timeouts: a voter that has not
// heard of its leader for the timeout forgets it, and campaigns a little later.
func (n *node) campaign() {
	st := n.core.Status()
	if st.Leader == n.raftID() {
		n.heard = n.w.now
		return
	}
	silent := n.w.now - n.heard
	if silent > electionTimeout && st.Leader != 0 {
		n.core.ForgetLeader() // also where it does not know yet that it votes
	}
	if !n.votes() {
		return
	}
	if n.patience == 0 {
		n.patience = electionTimeout + time.Duration(n.rng.Int64N(int64(electionTimeout)))
		if st.Term <= 1 {
			n.patience /= 4
		}
	}
	if silent > n.patience {
		n.core.ForgetLeader()
		n.core.Campaign()
		n.w.acted.QuorumElections++
		n.heard, n.patience = n.w.now, 0
	}
}

func (n *node) votes() bool { return slices.Contains(n.core.Image().Voters, n.raftID()) }

func (n *node) onUpdate(u control.Update) {
	n.w.orc.truth(u)
	n.pending = append(n.pending, u)
	if n.applying || n.host == nil {
		return
	}
	n.applying = true
	d := time.Duration(n.rng.Int64N(int64(500 * time.Microsecond)))
	if n.rng.IntN(50) == 0 {
		d += n.w.pause(1, 200)
	}
	n.after(d, evApply, n.apply)
}

// apply carries the next queued metadata into the replicas.
func (n *node) apply() {
	u := n.pending[0]
	n.pending = n.pending[1:]
	if err := n.host.ApplyUpdate(u); err != nil {
		n.fatal = err
		return
	}
	n.applied = max(n.applied, u.Next.Index)
	n.retrust(u)
	n.w.orc.hosted(n)
	if n.sess.inc != 0 && n.sess.fenced {
		n.sess.kick()
	}
	if n.applying = len(n.pending) > 0; n.applying {
		n.after(time.Microsecond, evApply, n.apply)
	}
}

// target is the index of the node to ask for the controller.
func (n *node) target(attempt int) int {
	if l := n.core.Status().Leader; l != 0 {
		if d := n.w.byRaftID(l); d != nil {
			return d.idx
		}
	}
	return (n.idx + 1 + attempt) % len(n.w.nodes)
}

// answer is what the controller says to a command.
type answer struct {
	res  control.Result
	beat control.HeartbeatResponse
	err  error
}

// toController sends a request to the controller and looks for another one
// until the deadline is over, as control.Node does.
func (n *node) toController(timeout time.Duration, repeat bool, serve func(c *control.Core, done func(answer)), cb func(answer)) {
	deadline := n.w.now + timeout
	unknown := false
	var try func(attempt int)
	try = func(attempt int) {
		n.call(n.target(attempt), evRequest, min(time.Second, timeout), func(d *node, reply func(any)) {
			serve(d.core, func(a answer) { reply(a) })
			d.pump()
		}, func(v any, err error) {
			a, _ := v.(answer)
			if err == nil {
				err = a.err
			}
			if err == nil {
				cb(a)
				return
			}
			if !errors.Is(err, control.ErrNotController) && !errors.Is(err, control.ErrBusy) {
				unknown = true
			}
			if unknown && !repeat || n.w.now >= deadline {
				if unknown {
					err = control.ErrUnknownOutcome
				}
				cb(answer{err: err})
				return
			}
			n.after(50*time.Millisecond, evRequest, func() { try(attempt + 1) })
		})
	}
	try(0)
}

// submit has a command decided.
func (n *node) submit(cmd control.Command, cb func(control.Result, error)) {
	raw := control.EncodeCommand(cmd)
	repeat := true
	switch cmd.(type) {
	case *control.CreateTopics, *control.CreatePartitions, *control.DeleteTopics, *control.AlterConfigs, *control.AlterPartitions, *control.ElectLeaders:
		repeat = false
	}
	_, registers := cmd.(*control.RegisterBroker)
	gen := n.gen
	n.toController(3*time.Second, repeat, func(c *control.Core, done func(answer)) {
		if registers && (n.gen != gen || n.sess.inc != 0) {
			// A registration that arrives after a later one of its process
			// looks like a restored copy of the disk. Connections end with
			// their process and keep their order, so this one is lost.
			return
		}
		cmd, err := control.DecodeCommand(raw)
		if err != nil {
			done(answer{err: err})
			return
		}
		c.Submit(cmd, func(r control.Result, err error) { done(answer{res: r, err: err}) })
	}, func(a answer) { cb(a.res, a.err) })
}

// propose sends the queued in-sync proposals, one batch at a time.
func (n *node) propose() {
	if n.proposing || len(n.props) == 0 {
		return
	}
	n.proposing = true
	batch := n.props
	n.props = nil
	n.w.acted.Proposals += int64(len(batch))
	cmd := &control.AlterPartitions{Broker: n.id, Incarnation: n.host.Incarnation(), Proposals: batch}
	done := func(res control.Result, err error) {
		n.proposing = false
		for i, b := range batch {
			o := isr.Unknown
			if err == nil && res.Code == 0 && i < len(res.Partitions) {
				o = res.Partitions[i].Outcome
			}
			if o != isr.Committed && n.w.verbose() {
				n.w.trace.note("%d: proposal %+v of %d: %+v %v", n.id, b.Proposal, b.TP.Partition, res, err)
			}
			switch o {
			case isr.Rejected:
				n.w.acted.ProposalsRejected++
			case isr.Unknown:
				n.w.acted.ProposalsUnknown++
			}
			n.host.Do(b.TP, func(r *partition.Replica, eff *partition.Effects) { r.ProposalOutcome(b.Proposal.ID, o, eff) })
		}
		n.propose()
	}
	if n.w.faults.late.catch(cmd) {
		n.after(time.Second, evTimeout, func() { done(control.Result{}, control.ErrUnknownOutcome) })
		return
	}
	n.submit(cmd, done)
}

// session is what control.Session does, without its goroutines: it keeps the
// broker registered and its lease as a leader.
type session struct {
	n       *node
	inc     model.Incarnation
	fenced  bool
	lease   time.Duration // valid until, monotonic
	beating bool
	kicked  bool
}

const (
	beatEvery = 500 * time.Millisecond
	soon      = 50 * time.Millisecond
)

func (n *node) leaseValid() bool { return n.Elapsed() < n.sess.lease }

func (s *session) register() {
	n := s.n
	prev, err := n.core.Incarnation()
	if err != nil {
		n.fatal = err
		return
	}
	s.inc, s.fenced, s.lease = 0, true, 0
	cmd := &control.RegisterBroker{Broker: n.id, Storage: n.storage, RaftID: n.raftID(), ClusterID: clusterID,
		Previous: prev, MaxFeature: control.MaxFeatureLevel, KafkaHost: "sim", KafkaPort: int32(n.id), Internal: "sim:1"}
	n.submit(cmd, func(r control.Result, err error) {
		if err != nil || r.Code != 0 {
			n.after(beatEvery, evSession, s.register)
			return
		}
		if err := n.core.SaveIncarnation(r.Incarnation); err != nil {
			n.fatal = err
			return
		}
		n.w.acted.Registrations++
		s.inc = r.Incarnation
		n.host.Register(r.Incarnation)
		s.catchUp(uint64(r.Incarnation))
	})
}

// catchUp waits until the registration is applied here.
func (s *session) catchUp(index uint64) {
	if s.n.core.Image().Index < index {
		s.n.after(5*time.Millisecond, evSession, func() { s.catchUp(index) })
		return
	}
	s.report(func() { s.beat() })
}

func (s *session) report(then func()) {
	inc := s.inc
	s.n.submit(&control.ReportLogs{Broker: s.n.id, Incarnation: inc, At: s.n.Elapsed(), Logs: s.n.host.Reports(), Last: true}, func(_ control.Result, err error) {
		switch {
		case s.inc != inc:
		case err != nil:
			s.n.after(beatEvery, evSession, func() { s.report(then) })
		default:
			then()
		}
	})
}

func (s *session) kick() {
	s.kicked = true
	if !s.beating {
		s.beat()
	}
}

// in schedules the next heartbeat.
func (s *session) in(d time.Duration) {
	if s.kicked {
		d = 0
	}
	s.n.after(d, evSession, s.beat)
}

func (s *session) beat() {
	n := s.n
	if s.beating || s.inc == 0 {
		return
	}
	s.beating, s.kicked = true, false
	req := control.HeartbeatRequest{Broker: n.id, Incarnation: s.inc, AppliedIndex: n.applied}
	sent := n.Elapsed()
	n.toController(control.DefaultLease, true, func(c *control.Core, done func(answer)) {
		c.Heartbeat(req, func(r control.HeartbeatResponse, err error) { done(answer{beat: r, err: err}) })
	}, func(a answer) {
		s.beating = false
		switch {
		case s.inc != req.Incarnation:
			return
		case a.err != nil:
			s.in(beatEvery)
			return
		case a.beat.Unknown:
			s.register()
			return
		}
		s.fenced = a.beat.Fenced
		if a.beat.LeaseGranted {
			s.lease = max(s.lease, sent+control.DefaultLease)
		}
		switch {
		case a.beat.NeedReport:
			s.report(func() { s.in(beatEvery) })
		case a.beat.Fenced || !a.beat.LeaseGranted:
			s.in(soon)
		default:
			s.in(beatEvery)
		}
	})
}

// refused tells the quorum that a broker's process is gone.
func (n *node) refused(to int) {
	d := n.w.nodes[to]
	n.evidence(d.id, control.EvidenceRefused)
}

func (n *node) evidence(id model.BrokerID, e control.Evidence) {
	b := n.core.Image().Brokers[id]
	if b == nil {
		return
	}
	if e == control.EvidenceRefused {
		n.core.PeerDown(b.RaftID)
		n.pump()
	}
	if b.Fenced {
		return
	}
	s := control.Suspicion{Broker: id, Incarnation: b.Incarnation, Evidence: e}
	to := n.target(0)
	if to == int(id)-1 {
		return
	}
	n.call(to, evRequest, time.Second, func(d *node, reply func(any)) {
		reply(answer{err: d.core.Suspect(s)})
		d.pump()
	}, func(any, error) {})
}
