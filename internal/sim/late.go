package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// lateJoin is a disturbance of several steps, the one that KIP-903 is about. A
// follower leaves the in-sync set and catches up again; its leader's proposal to
// take it back is held on the way; meanwhile the follower's machine dies and
// comes back with less on its disk; when the new process is in service, the
// proposal arrives. Leader epoch and partition epoch are what they were, so only
// the incarnation of the proposed member says that it is about another life.
type lateJoin struct {
	w      *world
	victim *node
	how    int64    // what becomes of the victim's disk: lateRollBack, …
	twice  bool     // the proposal arrives twice
	copied *machine // the victim's disk at the end of an earlier life
	until  time.Duration
	topics *control.Image // when the copy was made
	held   []byte         // the proposal; nil: none was caught yet
	life   model.Incarnation
}

// What becomes of the proposed follower's disk.
const (
	lateRollBack = iota // a copy of an earlier life takes its place
	lateWipe            // it is empty
	lateKeep            // it is as it was
	lateWays
)

const (
	lateArmed   = 8 * time.Second         // how long the proposal is waited for
	lateArrives = 2500 * time.Millisecond // the most it is held
)

// machine is a copy of what a machine keeps.
type machine struct {
	disk    map[string]*inode
	catalog *segment.ModelCatalog
}

// lateProposal starts the disturbance: the victim's power is cut, and what its
// disk holds then is the copy.
func lateProposal(w *world, n *node, f Fault) {
	if w.faults.late != nil || !n.up || !w.mayDestroy(n) {
		return
	}
	l := &lateJoin{w: w, victim: n, how: f.Arg % lateWays, twice: f.Arg%2 == 0, until: w.now + lateArmed, topics: w.orc.image}
	w.faults.late = l
	n.crash(true)
	l.copied = n.image()
	n.restartIn(20 * time.Millisecond)
	w.after(lateArmed, evFault, func() {
		if l.held == nil {
			w.faults.late = nil
		}
	})
}

// image copies what is on the machine, which is down.
func (n *node) image() *machine {
	m := &machine{disk: map[string]*inode{}, catalog: segment.NewModelCatalog()}
	for name, ino := range n.disk.durable {
		m.disk[name] = ino.clone()
	}
	var b segment.KVBatch
	n.copyKeys(&b, nil)
	must(m.catalog.Apply(&b, true))
	return m
}

func (ino *inode) clone() *inode {
	return &inode{dir: ino.dir, data: slices.Clone(ino.stable), stable: slices.Clone(ino.stable)}
}

// copyKeys adds the catalog's keys for which want holds; nil: all.
func (n *node) copyKeys(b *segment.KVBatch, want func(key []byte) bool) {
	must(n.catalog.Scan(nil, nil, func(k, v []byte) bool {
		if want == nil || want(k) {
			b.Set(slices.Clone(k), slices.Clone(v))
		}
		return true
	}))
}

// must is for calls that can only fail on a machine that is down.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

const incarnationKey = "n/raft/i"

// rollBack puts a copy of an earlier life in the place of the disk of a machine
// that is down. Its part of the metadata log stays: a voter that forgets its
// vote is more than raft survives.
func (n *node) rollBack(m *machine) {
	var keep segment.KVBatch
	keep.DeleteRange([]byte("n/"), []byte("n0"))
	n.copyKeys(&keep, func(k []byte) bool { return k[0] == 'n' && string(k) != incarnationKey })
	if own, err := m.catalog.Get([]byte(incarnationKey)); err == nil {
		keep.Set([]byte(incarnationKey), own)
	}
	must(m.catalog.Apply(&keep, true))
	n.catalog = m.catalog
	d := newDisk(n.rng, &n.w.acted)
	d.names, d.durable = m.disk, maps.Clone(m.disk)
	n.disk = d
	n.outdated = n.w.orc.image.Brokers[n.id].Incarnation
}

// catch takes a batch of proposals off the network if it is the one that is
// waited for, and brings the disaster on.
func (l *lateJoin) catch(cmd *control.AlterPartitions) bool {
	if l == nil || l.held != nil || !l.fits(cmd) || !l.w.mayDestroy(l.victim) {
		return false
	}
	w, n := l.w, l.victim
	l.held, l.life = control.EncodeCommand(cmd), w.orc.image.Brokers[n.id].Incarnation
	w.trace.note("a proposal of %d to take in %d is held", cmd.Broker, n.id)
	n.crash(true)
	switch l.how {
	case lateRollBack:
		w.faults.impaired = n.idx
		w.acted.RollBacks++
		n.rollBack(l.copied)
	case lateWipe:
		w.faults.impaired = n.idx
		w.acted.Wipes++
		n.wipe()
	}
	n.slow = lateArrives // nothing that it fetches is durable before the proposal arrives
	n.restartIn(5 * time.Millisecond)
	l.until = w.now + lateArrives
	w.after(time.Millisecond, evFault, l.wait)
	return true
}

// fits: some proposal of the batch takes the victim into a set, under an
// incarnation in which it already served.
func (l *lateJoin) fits(cmd *control.AlterPartitions) bool {
	img := l.w.orc.image
	b := img.Brokers[l.victim.id]
	if b == nil || !l.victim.up || b.Confirmed != b.Incarnation || !sameTopics(img, l.topics) ||
		b.Incarnation == l.topics.Brokers[l.victim.id].Incarnation {
		return false
	}
	for i := range cmd.Proposals {
		p := img.Partition(cmd.Proposals[i].TP)
		if p == nil || slices.Contains(p.ISR, b.ID) {
			continue
		}
		for _, m := range cmd.Proposals[i].Proposal.ISR {
			if m.Broker == b.ID && m.Incarnation == b.Incarnation {
				return true
			}
		}
	}
	return false
}

// sameTopics: no topic came, went or grew between two images.
func sameTopics(a, b *control.Image) bool {
	return maps.EqualFunc(a.Topics, b.Topics, func(x, y *control.Topic) bool { return len(x.Partitions) == len(y.Partitions) })
}

// wait looks whether the victim is in service again.
func (l *lateJoin) wait() {
	w := l.w
	b := w.orc.image.Brokers[l.victim.id]
	if b.Incarnation == l.life || !b.Live() {
		if w.now < l.until {
			w.after(time.Millisecond, evFault, l.wait)
			return
		}
	}
	for _, d := range w.nodes {
		if d.up && !d.paused && d.core.Status().Leader == d.raftID() {
			l.arrive(d)
			if l.twice {
				l.arrive(d)
			}
		}
	}
	w.faults.late = nil
	w.after(time.Second, evFault, func() { l.victim.slow = 0 })
}

// ineligible is Kafka's INELIGIBLE_REPLICA.
const ineligible = 107

// arrive delivers the proposal to a controller; nobody waits for the answer.
func (l *lateJoin) arrive(d *node) {
	w := l.w
	w.acted.LateProposals++
	w.net.deliver(d.idx, evRequest, 0, func() {
		if !d.up {
			return
		}
		cmd, err := control.DecodeCommand(l.held)
		must(err)
		d.core.Submit(cmd, func(r control.Result, err error) {
			w.trace.note("the held proposal: %+v, %v", r, err)
			for i := range r.Partitions {
				if r.Partitions[i].Code == ineligible {
					w.acted.LateRefused++
				}
			}
		})
		d.pump()
	})
}
