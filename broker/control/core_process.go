package control

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Process does all work that is due: decides queued commands, makes the raft
// log durable, applies what is committed, completes waiters. It returns the
// messages to send, or the error that poisoned the node.
func (c *Core) Process() ([]Message, error) {
	var out []Message
	for c.err == nil {
		for c.err == nil && c.rn.HasReady() {
			out = c.ready(c.rn.Ready(), out)
		}
		if c.err != nil || !c.decide() {
			break
		}
	}
	if c.err != nil {
		c.abandon(c.err)
		return nil, c.err
	}
	return out, nil
}

func (c *Core) ready(rd raft.Ready, out []Message) []Message {
	if c.err = c.log.persist(rd); c.err != nil {
		return nil
	}
	for _, m := range rd.Messages {
		data, err := proto.Marshal(m)
		if err != nil {
			c.err = fmt.Errorf("control: raft message: %w", err)
			return nil
		}
		out = append(out, Message{To: m.GetTo(), Data: data})
		if m.GetType() == pb.MsgSnap {
			c.snaps[m.GetTo()] = 0
		}
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		if c.err = c.install(rd.Snapshot); c.err != nil {
			return nil
		}
	}
	for _, e := range rd.CommittedEntries {
		if c.err = c.applyEntry(e); c.err != nil {
			return nil
		}
	}
	c.rn.Advance(rd)
	c.confirmReads(rd.ReadStates)
	c.followOffice()
	if c.err == nil {
		c.maybeCompact()
	}
	return out
}

// install replaces the image by a leader's snapshot.
func (c *Core) install(s *pb.Snapshot) error {
	prev := c.img
	if err := c.restore(s); err != nil {
		return err
	}
	c.opt.OnUpdate(snapshotUpdate(prev, c.img))
	return nil
}

// snapshotUpdate says that everything may have changed.
func snapshotUpdate(prev, next *Image) Update {
	u := Update{Prev: prev, Next: next, Config: true}
	for _, t := range next.SortedTopics() {
		u.Topics = append(u.Topics, t.ID)
	}
	for _, t := range prev.SortedTopics() {
		if next.Topics[t.ID] == nil {
			u.Topics = append(u.Topics, t.ID)
		}
	}
	for _, b := range next.SortedBrokers() {
		u.Brokers = append(u.Brokers, b.ID)
	}
	for _, b := range prev.SortedBrokers() {
		if next.Brokers[b.ID] == nil {
			u.Brokers = append(u.Brokers, b.ID)
		}
	}
	return u
}

func (c *Core) applyEntry(e *pb.Entry) error {
	prev := c.img
	u, err := c.nextImage(e)
	if err != nil {
		return err
	}
	c.img, c.appliedTerm = u.Next, e.GetTerm()
	if c.office != nil {
		c.office.applied(c, u)
	}
	if u.Next.Index != prev.Index {
		c.opt.OnUpdate(u)
	}
	c.settle(e)
	return nil
}

func (c *Core) nextImage(e *pb.Entry) (Update, error) {
	bare := *c.img
	bare.Index = e.GetIndex()
	u := Update{Prev: c.img, Next: &bare}
	switch e.GetType() {
	case pb.EntryConfChange:
		cc := &pb.ConfChange{}
		if err := proto.Unmarshal(e.GetData(), cc); err != nil {
			return u, fmt.Errorf("control: metadata entry %d: %w", e.GetIndex(), err)
		}
		c.applyConf(&bare, cc)
	case pb.EntryConfChangeV2:
		cc := &pb.ConfChangeV2{}
		if err := proto.Unmarshal(e.GetData(), cc); err != nil {
			return u, fmt.Errorf("control: metadata entry %d: %w", e.GetIndex(), err)
		}
		c.applyConf(&bare, cc)
	default:
		if len(e.GetData()) == 0 {
			return u, nil // a new leader's first entry
		}
		index, records, err := decodeBatch(e.GetData())
		if err != nil {
			return u, fmt.Errorf("control: metadata entry %d: %w", e.GetIndex(), err)
		}
		if index != e.GetIndex() {
			return u, nil // decided for another place in the log: no effect anywhere
		}
		_, u, err = Apply(c.img, index, records)
		return u, err
	}
	return u, nil
}

func (c *Core) applyConf(img *Image, cc pb.ConfChangeI) {
	c.cs = c.rn.ApplyConfChange(cc)
	img.Voters = sortedIDs(c.cs.GetVoters())
	img.Learners = sortedIDs(append(append([]uint64(nil), c.cs.GetLearners()...), c.cs.GetLearnersNext()...))
}

// settle completes the batch in flight if e is its entry, or says that its
// fate is unknown if e took its place.
func (c *Core) settle(e *pb.Entry) {
	o := c.office
	if o == nil || o.flight == nil || o.flight.index > e.GetIndex() {
		return
	}
	f := o.flight
	o.flight = nil
	for _, w := range f.waiters {
		if e.GetTerm() == o.term && f.index == e.GetIndex() && bytes.Equal(e.GetData(), f.data) {
			w.result.Index = e.GetIndex()
			w.done(w.result, nil)
		} else {
			w.done(Result{}, ErrUnknownOutcome)
		}
	}
}

// followOffice enters or leaves the controller's office.
func (c *Core) followOffice() {
	s := c.rn.BasicStatus()
	leads := s.RaftState == raft.StateLeader
	if c.office != nil && (!leads || c.office.term != s.GetTerm()) {
		c.leave()
	}
	// The controller decides once it has applied an entry of its own term,
	// and with it everything that earlier controllers committed.
	if leads && c.office == nil && c.appliedTerm == s.GetTerm() {
		c.office = newOffice(c, s.GetTerm())
	}
	if !leads {
		c.refuse(ErrNotController)
	}
}

func (c *Core) leave() {
	o := c.office
	c.office = nil
	if o.flight != nil {
		for _, w := range o.flight.waiters {
			w.done(Result{}, ErrUnknownOutcome)
		}
	}
	o.close()
}

// refuse fails the commands that were not decided.
func (c *Core) refuse(err error) {
	q := c.queue
	c.queue = nil
	for _, w := range q {
		w.done(Result{}, err)
	}
}

// abandon fails everything that waits.
func (c *Core) abandon(err error) {
	if c.office != nil {
		c.leave()
	}
	c.refuse(err)
	for id, r := range c.reads {
		delete(c.reads, id)
		r.done(0, err)
	}
}

// Close fails everything that waits with ErrStopped.
func (c *Core) Close() {
	if c.err == nil {
		c.err = ErrStopped
	}
	c.abandon(ErrStopped)
}

func (c *Core) maybeCompact() {
	first, _ := c.log.FirstIndex()
	if c.img.Index < first {
		return
	}
	if c.img.Index-first < c.opt.SnapshotEvery && c.log.bytes < c.opt.SnapshotBytes {
		return
	}
	keep := c.img.Index - min(c.opt.SnapshotEvery/4, c.img.Index) // some stay for slow followers
	if c.log.bytes >= c.opt.SnapshotBytes {
		keep = c.img.Index
	}
	snap, _ := c.log.MemoryStorage.Snapshot()
	if snap.GetMetadata().GetIndex() < c.img.Index {
		c.err = c.log.compact(c.img, c.cs, keep)
	}
}

// requestRead asks the quorum to confirm the leader for a read.
// The context names this member too: a leader tells requests apart by it.
func (c *Core) requestRead(id uint64) {
	ctx := binary.BigEndian.AppendUint64(nil, c.opt.RaftID)
	c.rn.ReadIndex(binary.BigEndian.AppendUint64(ctx, id))
}

func (c *Core) confirmReads(states []raft.ReadState) {
	for _, s := range states {
		if len(s.RequestCtx) != 16 {
			continue
		}
		if r := c.reads[binary.BigEndian.Uint64(s.RequestCtx[8:])]; r != nil {
			r.index = max(s.Index, 1)
		}
	}
	for _, id := range sortedReads(c.reads) {
		if r := c.reads[id]; r.index > 0 && c.img.Index >= r.index {
			delete(c.reads, id)
			r.done(c.img.Index, nil)
		}
	}
}

// tickReads repeats requests that were dropped, as happens without a leader.
func (c *Core) tickReads() {
	for _, id := range sortedReads(c.reads) {
		r := c.reads[id]
		r.age++
		if r.age > 10*c.opt.ElectionTicks {
			delete(c.reads, id)
			r.done(0, ErrNotController)
		} else if r.index == 0 && r.age%c.opt.HeartbeatTicks == 0 {
			c.requestRead(id)
		}
	}
}

func sortedIDs(ids []uint64) []uint64 {
	out := slices.Clone(ids)
	slices.Sort(out)
	return out
}

func sortedReads(m map[uint64]*read) []uint64 {
	out := make([]uint64, 0, len(m))
	for id := range m {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// tickSnapshots gives up on snapshots that were not answered: a peer that has
// restored one says so and raft goes on by itself.
func (c *Core) tickSnapshots() {
	for id := range c.snaps {
		if c.snaps[id]++; c.snaps[id] > c.opt.ElectionTicks {
			delete(c.snaps, id)
			c.rn.ReportSnapshot(id, raft.SnapshotFailure)
		}
	}
}
