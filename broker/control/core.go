package control

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// Errors of submitted commands.
var (
	// ErrNotController: this node does not lead the quorum, or not yet. The
	// command had no effect here.
	ErrNotController = errors.New("control: not the controller")
	// ErrUnknownOutcome: the controller lost its office with the command in
	// flight; it may or may not take effect.
	ErrUnknownOutcome = errors.New("control: outcome unknown: the controller changed")
	// ErrStopped: the node stopped.
	ErrStopped = errors.New("control: stopped")
	// ErrBusy: too many commands wait; nothing was done.
	ErrBusy = errors.New("control: too many requests")
)

// Timing of the quorum and of sessions. A deposed leader's lease is over
// before its session is, and so before anybody else is elected for silence.
const (
	DefaultTick           = 50 * time.Millisecond
	DefaultElectionTicks  = 20
	DefaultSessionTimeout = 3 * time.Second
	DefaultLease          = 2 * time.Second
	DefaultGrace          = 2 * time.Second
)

// CoreOptions configure a Core.
type CoreOptions struct {
	RaftID uint64
	KV     segment.KV
	Prefix []byte
	// Voters and ClusterID found the quorum when the storage is empty; every
	// founder gives the same. Without Voters an empty node waits until a
	// leader adds it.
	Voters    []uint64
	ClusterID string

	ElectionTicks  int // default DefaultElectionTicks
	HeartbeatTicks int // default 2
	SessionTimeout time.Duration
	Lease          time.Duration
	Grace          time.Duration
	SnapshotEvery  uint64 // entries; default 4096
	SnapshotBytes  int    // or bytes of entries; default 16 MiB
	// Rand fills the seeds of decisions; default crypto/rand.
	Rand func(p []byte)
	// OnUpdate gets every applied batch, in log order.
	OnUpdate func(Update)
	// Manual turns off the random election timeouts: only a leader's clock
	// is ticked, elections start by Campaign. For the simulator.
	Manual bool
}

func (o *CoreOptions) defaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.SessionTimeout, DefaultSessionTimeout)
	def(&o.Lease, DefaultLease)
	def(&o.Grace, DefaultGrace)
	if o.ElectionTicks == 0 {
		o.ElectionTicks = DefaultElectionTicks
	}
	if o.HeartbeatTicks == 0 {
		o.HeartbeatTicks = 2
	}
	if o.SnapshotEvery == 0 {
		o.SnapshotEvery = 4096
	}
	if o.SnapshotBytes == 0 {
		o.SnapshotBytes = 16 << 20
	}
	if o.Rand == nil {
		o.Rand = func(p []byte) { _, _ = rand.Read(p) } // never fails, see crypto/rand
	}
	if o.OnUpdate == nil {
		o.OnUpdate = func(Update) {}
	}
}

// Core is a member of the metadata quorum, stepped by hand: no goroutine, no
// clock. Calls queue work; Process does it and returns the messages to send.
// Not safe for concurrent use.
type Core struct {
	opt CoreOptions
	rn  *raft.RawNode
	log *raftLog
	img *Image
	cs  *pb.ConfState
	now time.Duration
	err error // sticky: the node is poisoned

	appliedTerm uint64 // term of the last applied entry
	office      *office
	campaignIn  int // ticks until this node campaigns after evidence, 0: not

	queue   []waiter
	snaps   map[uint64]int // ticks since a snapshot was sent to a peer
	reads   map[uint64]*read
	readSeq uint64
}

// waiter is a command and who waits for its result.
type waiter struct {
	cmd    Command
	done   func(Result, error)
	result Result
}

// read is a confirmed read on its way.
type read struct {
	index uint64 // 0: not confirmed yet
	done  func(uint64, error)
	age   int // ticks
}

// Message is a raft message for a peer. Data stays valid.
type Message struct {
	To   uint64
	Data []byte
}

// maxQueue bounds the commands that wait for a decision.
const maxQueue = 4096

// NewCore opens the quorum member that lives in o.KV, founding it if it is
// empty and o.Voters are given.
func NewCore(o CoreOptions) (*Core, error) {
	o.defaults()
	l, err := openRaftLog(o.KV, o.Prefix)
	if err != nil {
		return nil, err
	}
	hs, cs, err := l.InitialState()
	if err != nil {
		return nil, err
	}
	if raft.IsEmptyHardState(hs) && len(o.Voters) > 0 {
		if err := l.found(NewImage(o.ClusterID), o.Voters); err != nil {
			return nil, err
		}
	}
	c := &Core{opt: o, log: l, cs: cs, reads: map[uint64]*read{}, snaps: map[uint64]int{}, img: NewImage("")}
	var seed [8]byte
	o.Rand(seed[:]) // an answer to a read of an earlier life must not match
	c.readSeq = binary.BigEndian.Uint64(seed[:])
	snap := l.stored
	if l.stored = nil; snap != nil {
		if err := c.restore(snap); err != nil {
			return nil, err
		}
	}
	c.rn, err = raft.NewRawNode(&raft.Config{
		ID: o.RaftID, ElectionTick: o.ElectionTicks, HeartbeatTick: o.HeartbeatTicks,
		Storage: l, Applied: snap.GetMetadata().GetIndex(),
		MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: 16 << 20, MaxInflightMsgs: 64,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true,
		StepDownOnRemoval: true, Logger: quietLogger{},
	})
	l.current = c.snapshot
	if !o.Manual {
		c.candidacy(0) // nobody may lead yet: do not wait for a timeout
	}
	return c, err
}

// candidacy lets this member, if it votes, campaign soon unless somebody leads
// by then: the voters other than gone take turns, so that one of them wins.
func (c *Core) candidacy(gone uint64) {
	rank := 0
	for _, v := range c.img.Voters {
		if v == c.opt.RaftID {
			c.campaignIn = 1 + 2*rank
			return
		}
		if v != gone {
			rank++
		}
	}
}

// snapshot is of the applied state.
func (c *Core) snapshot() (*pb.Snapshot, error) {
	return &pb.Snapshot{Data: EncodeImage(c.img), Metadata: &pb.SnapshotMetadata{
		Index: new(c.img.Index), Term: new(c.appliedTerm), ConfState: proto.Clone(c.cs).(*pb.ConfState)}}, nil
}

// restore makes a snapshot's image the current one.
func (c *Core) restore(s *pb.Snapshot) error {
	img, err := DecodeImage(s.GetData())
	if err != nil {
		return fmt.Errorf("control: snapshot at index %d: %w", s.GetMetadata().GetIndex(), err)
	}
	img.Index = s.GetMetadata().GetIndex()
	c.img, c.cs, c.appliedTerm = img, s.GetMetadata().GetConfState(), s.GetMetadata().GetTerm()
	return nil
}

// Image returns the applied image.
func (c *Core) Image() *Image { return c.img }

// Err returns the first I/O or log error; after it the core does nothing.
func (c *Core) Err() error { return c.err }

// Status describes this member's view of the quorum.
type Status struct {
	RaftID  uint64
	Leader  uint64 // 0: unknown
	Term    uint64
	Commit  uint64
	Applied uint64
	// Ready: it is the controller and has applied everything of earlier
	// terms, so it decides.
	Ready bool
}

// Status returns this member's view of the quorum.
func (c *Core) Status() Status {
	s := c.rn.BasicStatus()
	return Status{RaftID: s.ID, Leader: s.Lead, Term: s.GetTerm(), Commit: s.GetCommit(), Applied: c.img.Index, Ready: c.office != nil}
}

// Step takes a peer's raft message. An error means that the bytes are not one.
func (c *Core) Step(data []byte) error {
	m := &pb.Message{}
	if err := proto.Unmarshal(data, m); err != nil {
		return fmt.Errorf("%w: raft message: %w", ErrCorrupt, err)
	}
	if m.GetTo() != c.opt.RaftID || m.GetFrom() == raft.None || raft.IsLocalMsgTarget(m.GetFrom()) || raft.IsLocalMsg(m.GetType()) {
		return fmt.Errorf("%w: raft message %v from %x to %x", ErrCorrupt, m.GetType(), m.GetFrom(), m.GetTo())
	}
	if c.err == nil {
		_ = c.rn.Step(m) // a message that raft cannot use now is one that was lost
	}
	return nil
}

// Tick advances time to now (monotonic) by one raft tick.
func (c *Core) Tick(now time.Duration) {
	gap := now - c.now
	c.now = now
	if c.err != nil {
		return
	}
	if !c.opt.Manual || c.isLeader() {
		c.rn.Tick()
	}
	if c.campaignIn > 0 {
		if c.campaignIn--; c.campaignIn == 0 && c.rn.BasicStatus().Lead == raft.None {
			_ = c.rn.Campaign()
		}
	}
	c.tickReads()
	c.tickSnapshots()
	if c.office != nil {
		c.office.tick(c, gap)
	}
}

// Calm reports whether a tick may come a little late, together with the next: the
// quorum has a leader, and no election is wanted here.
func (c *Core) Calm() bool {
	return c.campaignIn == 0 && len(c.snaps) == 0 && c.rn.BasicStatus().Lead != raft.None
}

func (c *Core) isLeader() bool { return c.rn.BasicStatus().RaftState == raft.StateLeader }

// Campaign starts an election with this member as candidate (by pre-vote).
func (c *Core) Campaign() { _ = c.rn.Campaign() }

// ForgetLeader lets this member vote although its leader's lease has not run
// out.
func (c *Core) ForgetLeader() { _ = c.rn.ForgetLeader() }

// PeerDown says that a peer's process is gone for certain. If it led the
// quorum its leader is forgotten, and the voters campaign in a fixed order, so
// that one of them wins without waiting for a timeout. False evidence is
// harmless: pre-vote refuses while the others hear their leader.
func (c *Core) PeerDown(id uint64) {
	if c.err != nil || c.rn.BasicStatus().Lead != id || id == c.opt.RaftID {
		return
	}
	_ = c.rn.ForgetLeader()
	c.candidacy(id)
}

// Submit queues a command for a decision. done is called once, from Process.
func (c *Core) Submit(cmd Command, done func(Result, error)) {
	if len(c.queue) >= maxQueue {
		done(Result{}, ErrBusy)
		return
	}
	c.queue = append(c.queue, waiter{cmd: cmd, done: done})
}

// ConfirmedRead calls done from Process with the image's index, once the image
// holds everything that was committed before the call.
func (c *Core) ConfirmedRead(done func(index uint64, err error)) {
	if c.err != nil || len(c.reads) >= maxQueue {
		done(0, ErrBusy)
		return
	}
	c.readSeq++
	c.reads[c.readSeq] = &read{done: done}
	c.requestRead(c.readSeq)
}

// ReportUnreachable says that the last message to a peer was not delivered;
// raft then probes it instead of streaming to it.
func (c *Core) ReportUnreachable(id uint64) {
	if c.err == nil {
		c.rn.ReportUnreachable(id)
	}
}

// Transfer hands the leadership of the quorum to the voter that is furthest,
// as before a graceful stop.
func (c *Core) Transfer() {
	if c.err != nil || !c.isLeader() {
		return
	}
	best, match := uint64(0), uint64(0)
	for _, m := range c.Members() {
		if m.Voter && m.Active && m.RaftID != c.opt.RaftID && m.Match > match {
			best, match = m.RaftID, m.Match
		}
	}
	if best != 0 {
		c.rn.TransferLeader(best)
	}
}

// Member is a member of the quorum as its leader sees it.
type Member struct {
	RaftID uint64
	Voter  bool
	Active bool   // heard from lately
	Match  uint64 // log index up to which it has the log durably
}

// Members returns the quorum's members by raft id; nil unless this one leads.
func (c *Core) Members() []Member {
	var out []Member
	for id, pr := range c.rn.Status().Progress {
		out = append(out, Member{RaftID: id, Voter: slices.Contains(c.img.Voters, id),
			Active: pr.RecentActive || id == c.opt.RaftID, Match: pr.Match})
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.RaftID, b.RaftID) })
	return out
}

// Incarnation returns the incarnation under which this member's storage was
// last registered, 0 if it never was.
func (c *Core) Incarnation() (model.Incarnation, error) { return c.log.incarnation() }

// SaveIncarnation records a new incarnation durably. Unlike the other methods
// both may be called while another goroutine drives the core.
func (c *Core) SaveIncarnation(i model.Incarnation) error { return c.log.saveIncarnation(i) }

func incarnationOf(img *Image, id model.BrokerID) model.Incarnation {
	if b := img.Brokers[id]; b != nil {
		return b.Incarnation
	}
	return 0
}
