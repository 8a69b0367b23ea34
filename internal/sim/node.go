package sim

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/host"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

const clusterID = "sim"

// epoch is the wall time at which every run begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Periods of a broker's loops; those of production.
const (
	tickEvery     = 50 * time.Millisecond
	maintainEvery = time.Second
	verifyPeriod  = 5 * time.Second // in production longer
)

// node is a machine and, while it is up, the broker process on it.
type node struct {
	w   *world
	idx int
	id  model.BrokerID
	rng *rand.Rand

	// The machine: what outlives a process.
	disk    *disk
	catalog *segment.ModelCatalog
	storage model.StorageID
	founder bool // its storage belongs to the founding set
	opened  bool // the directory was initialised
	skew    time.Duration
	drift   int64 // parts per million
	// outdated: the disk is a copy of a life before this incarnation.
	outdated model.Incarnation

	// The process.
	gen      uint32 // counts processes
	up       bool
	paused   bool
	held     []event // what happens to a paused process when it goes on
	fatal    error   // it wants to exit
	started  time.Duration
	base     time.Duration // of the monotonic clock
	store    *segment.Store
	core     *control.Core
	host     *host.Host
	contacts *partition.Contacts
	fetches  *partition.Contacts
	sess     session
	links    []*replication
	parked   []*parkedFetch
	fetchers []fetchOrder // last fetch of each follower
	props    []control.PartitionProposal
	proposing,
	committing, dirty bool
	slow     time.Duration // added to every group commit
	pending  []control.Update
	applying bool
	applied  uint64
	heard    time.Duration // last message of the quorum's leader
	patience time.Duration // until this member campaigns
	watched  []*watched
	opening  bool
	trusts   time.Duration // until then it may serve what it takes for verified and is not
	sick     bool          // a replica failed; the operator restarts the broker
}

func newNode(w *world, i int) *node {
	n := &node{w: w, idx: i, id: model.BrokerID(i + 1), rng: w.stream(100 + uint64(i))}
	n.disk = newDisk(n.rng, &w.acted)
	n.catalog = segment.NewModelCatalog()
	n.founder = i < 3
	n.drift = n.rng.Int64N(400) - 200
	n.skew = time.Duration(n.rng.Int64N(int64(4*time.Second))) - 2*time.Second
	n.newStorage()
	return n
}

func (n *node) newStorage() {
	for i := 0; i < len(n.storage); i += 8 {
		binary.BigEndian.PutUint64(n.storage[i:], n.rng.Uint64())
	}
}

func (n *node) raftID() uint64 { return control.RaftIDFor(n.storage) }

// Now implements clock.Clock: wall time, which may jump.
func (n *node) Now() time.Time {
	return epoch.Add(n.w.now + n.skew)
}

// Elapsed implements clock.Clock: monotonic, from an arbitrary start, at this
// machine's own rate.
func (n *node) Elapsed() time.Duration {
	d := n.w.now - n.started
	return n.base + d + time.Duration(int64(d)/1_000_000*n.drift)
}

// founders are the raft ids of the founding set, sorted as every founder has
// them.
func (w *world) founders() []uint64 {
	var ids []uint64
	for _, n := range w.nodes {
		if n.founder {
			ids = append(ids, n.raftID())
		}
	}
	return ids
}

// start runs the broker process on the machine.
func (n *node) start() {
	if n.up {
		return
	}
	w := n.w
	n.gen++
	n.up, n.paused, n.held, n.fatal, n.sick = true, false, nil, nil, false
	n.started, n.base = w.now, time.Duration(n.rng.Int64N(int64(time.Hour)))
	n.disk.dead = false
	n.disk.evict()
	n.catalog.Fail = n.catalogCall
	n.contacts, n.fetches = &partition.Contacts{}, &partition.Contacts{}
	n.sess = session{n: n}
	n.links = make([]*replication, len(w.nodes))
	n.fetchers = make([]fetchOrder, len(w.nodes))
	n.parked, n.props, n.pending, n.watched = nil, nil, nil, nil
	n.proposing, n.committing, n.dirty, n.applying = false, false, false, false
	n.heard, n.patience, n.trusts = w.now, 0, 0
	if err := n.open(); err != nil {
		n.fatal = err
	}
	w.settle(n)
	if !n.up {
		return
	}
	n.after(time.Duration(n.rng.Int64N(int64(tickEvery))), evTick, n.tick)
	n.after(maintainEvery, evTick, n.maintain)
	n.after(time.Millisecond, evSession, n.sess.register)
}

// catalogCall shows the machine's death to the catalog.
func (n *node) catalogCall(call string) error {
	if call == "apply" || call == "sync" {
		return n.disk.call()
	}
	if n.disk.dead {
		return errDead
	}
	return nil
}

func (n *node) open() (err error) {
	p := &n.w.par
	n.disk.removed = n.unlinked
	n.opening = true
	n.store, err = segment.Open(segment.Options{
		Dir: "data", FS: n.disk, Catalog: n.catalog, Clock: n, MustExist: n.opened,
		IndexBytes: p.indexBytes, CacheBytes: 32 << 10, SyncParallelism: 1,
		JournalGroup: p.journalGroup, JournalPerLog: max(1, p.journalGroup/8), JournalMax: 64 << 10,
		JournalAge: 2 * time.Second, DeleteDelay: 3 * time.Second, VerifyPeriod: verifyPeriod, IdleClose: 3 * time.Second,
		OnEvent: n.storageEvent, Salt: 1, JournalFile: p.journalFile, WholeFrom: p.wholeFrom,
	})
	n.opening = false
	if err != nil {
		return err
	}
	n.opened = true
	o := control.CoreOptions{
		RaftID: n.raftID(), KV: n.store.KV(), Prefix: []byte("raft/"), ClusterID: clusterID, Manual: true,
		SnapshotEvery: p.snapshotEvery, OnUpdate: n.onUpdate,
		Rand: func(b []byte) {
			for i := range b {
				b[i] = byte(n.rng.Uint32())
			}
		},
	}
	if n.founder {
		o.Voters = n.w.founders()
	}
	if n.core, err = control.NewCore(o); err != nil {
		return err
	}
	n.host = host.New(host.Options{Self: n.id, Store: n.store, Clock: n, Output: output{n},
		LeaseValid: n.leaseValid, Contacts: n.contacts, Fetches: n.fetches})
	if err := n.host.Recover(n.core.Image()); err != nil {
		return err
	}
	n.applied = n.core.Image().Index
	n.core.Tick(n.Elapsed())
	n.w.orc.opened(n)
	return nil
}

func (n *node) storageEvent(e segment.Event) {
	switch e.Kind {
	case segment.EventDamaged, segment.EventMissing:
		n.w.acted.Damages++
		if x := n.watch(e.TP); x != nil {
			x.sore = true
		}
		n.w.trace.note("%d: damage in %s at %d, offsets %v: %v", n.id, e.File, e.Pos, e.Offsets, e.Err)
	case segment.EventRepaired:
		n.w.acted.Repairs++
	case segment.EventPoisoned:
		n.fatal = e.Err
	}
}

// crash ends the process. With power the machine loses what was not synced;
// without, the page cache stays.
func (n *node) crash(power bool) {
	if !n.up {
		if power {
			n.disk.powerOff()
		}
		return
	}
	n.w.trace.note("%d goes down, power cut %v", n.id, power)
	n.up, n.paused, n.held = false, false, nil
	n.gen++
	n.w.orc.closed(n)
	if n.disk.dead {
		power = true
	}
	n.disk.countIn = 0
	if power {
		n.w.acted.PowerCuts++
		n.disk.powerOff()
	} else {
		n.w.acted.Kills++
	}
	n.disk.dead = false
	n.catalog = n.catalog.Crash(n.rng)
	if n.w.verbose() {
		for _, name := range n.disk.segments() {
			n.w.trace.note("  %s: %d bytes, %d stable", name, len(n.disk.names[name].data), len(n.disk.names[name].stable))
		}
	}
}

// restartIn starts the process again after a while.
func (n *node) restartIn(d time.Duration) {
	n.w.acted.Recoveries++
	n.w.after(d, evStart, n.start)
}

// wipe replaces the disk by an empty one.
func (n *node) wipe() {
	n.disk = newDisk(n.rng, &n.w.acted)
	n.catalog = segment.NewModelCatalog()
	n.opened, n.founder, n.outdated = false, false, 0
	n.newStorage()
}

func (n *node) tick() {
	n.core.Tick(n.Elapsed())
	n.campaign()
	n.pump()
	n.host.Tick()
	for _, l := range n.links {
		if l != nil {
			l.tick()
		}
	}
	n.after(tickEvery, evTick, n.tick)
}

func (n *node) maintain() {
	if err := n.store.Maintain(n.Now()); err != nil && n.fatal == nil {
		n.fatal = err
	}
	if n.fatal == nil {
		n.care()
	}
	n.after(maintainEvery, evTick, n.maintain)
}

// output routes what replicas ask for (host.Output).
type output struct{ n *node }

// Dirty implements host.Output.
func (o output) Dirty() {
	n := o.n
	n.dirty = true
	n.commitSoon()
}

// commitSoon starts a group commit if none is under way. Its time passes
// before the sync, and a little between the sync and the news of it.
func (n *node) commitSoon() {
	if n.committing || !n.dirty {
		return
	}
	n.committing, n.dirty = true, false
	d := n.w.par.fsync/2 + time.Duration(n.rng.Int64N(int64(n.w.par.fsync))) + n.slow
	n.after(d, evCommit, n.commit)
}

func (n *node) commit() {
	done, err := n.store.Commit()
	if err != nil {
		n.fatal = err
		return
	}
	list := append([]segment.Committed(nil), done...)
	d := time.Duration(n.rng.Int64N(int64(100 * time.Microsecond)))
	if n.rng.IntN(200) == 0 {
		d += n.w.pause(1, 300)
	}
	n.after(d, evPersisted, func() {
		n.host.Persisted(list)
		n.committing = false
		n.commitSoon()
	})
}

// Propose implements host.Output.
func (o output) Propose(tp model.TopicPartition, p isr.Proposal) {
	o.n.props = append(o.n.props, control.PartitionProposal{TP: tp, Proposal: p})
	o.n.propose()
}

// Following implements host.Output.
func (o output) Following(r *partition.Replica, from, to model.BrokerID) {
	n := o.n
	if from != to && from != model.NoBroker && from != n.id {
		n.link(from).remove(r)
	}
	if to != model.NoBroker && to != n.id {
		n.link(to).add(r)
	}
}

// Report implements host.Output.
func (o output) Report(leader model.BrokerID, rs []*partition.Replica) {
	if leader != o.n.id {
		for _, r := range rs {
			o.n.link(leader).owe(r)
		}
	}
}

// Failed implements host.Output.
func (o output) Failed(tp model.TopicPartition, err error) {
	n := o.n
	n.w.trace.note("%d: replica %d failed: %v", n.id, tp.Partition, err)
	n.w.orc.replicaFailed(n, tp, err)
	if n.sick {
		return
	}
	n.sick = true
	n.after(5*time.Second, evFault, func() { n.fatal = err })
}
