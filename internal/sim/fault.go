package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// Fault is one disturbance of the schedule. A schedule is data: a failing one
// is shrunk by leaving faults out, and kept as JSON.
type Fault struct {
	At   time.Duration
	Kind string
	Node int           `json:",omitempty"` // index
	To   int           `json:",omitempty"` // index: the other end, for links
	For  time.Duration `json:",omitempty"`
	Arg  int64         `json:",omitempty"`
}

// String describes the fault.
func (f Fault) String() string {
	return fmt.Sprintf("%v %s node %d to %d for %v arg %d", f.At, f.Kind, f.Node+1, f.To+1, f.For, f.Arg)
}

// faultKind is a disturbance and how often it is drawn.
type faultKind struct {
	weight int
	run    func(w *world, n *node, f Fault)
}

// The disturbances. Those that destroy data (wipe, rot, misdirect, late-join) act only while another
// good copy of everything committed exists and nothing else is impaired.
var faultKinds = map[string]faultKind{
	"kill":      {10, func(w *world, n *node, f Fault) { w.down(n, false, f.For) }},
	"blink":     {6, func(w *world, n *node, f Fault) { w.down(n, false, 5*time.Millisecond) }},
	"power":     {8, func(w *world, n *node, f Fault) { w.down(n, true, f.For) }},
	"power-all": {5, func(w *world, _ *node, f Fault) { w.powerAll(f) }},
	"crash-at":  {10, func(_ *world, n *node, f Fault) { n.disk.countIn = int(1 + f.Arg%60) }},
	"pause":     {8, pauseNode},
	"isolate": {6, func(w *world, n *node, f Fault) {
		w.cut(f, func(a, b int) bool { return (a == n.idx) != (b == n.idx) })
	}},
	"one-way": {8, func(w *world, _ *node, f Fault) { w.cut(f, func(a, b int) bool { return a == f.Node && b == f.To }) }},
	"deaf": {4, func(w *world, n *node, f Fault) {
		w.cut(f, func(a, b int) bool { return b == n.idx && a < len(w.nodes) })
	}},
	"mute": {4, func(w *world, n *node, f Fault) {
		w.cut(f, func(a, b int) bool { return a == n.idx && b < len(w.nodes) })
	}},
	"halves": {4, func(w *world, _ *node, f Fault) { w.cut(f, func(a, b int) bool { return f.Arg>>a&1 != f.Arg>>b&1 }) }},
	"bridge": {3, func(w *world, _ *node, f Fault) {
		w.cut(f, func(a, b int) bool { return a != 0 && b != 0 && f.Arg>>a&1 != f.Arg>>b&1 })
	}},
	"slow-link":  {5, slowLink},
	"lossy":      {3, lossy},
	"slow-sync":  {8, slowSync},
	"eio":        {4, func(_ *world, n *node, f Fault) { n.disk.eio = int(1 + f.Arg%3) }},
	"disk-full":  {2, diskFull},
	"clock":      {4, clockJump},
	"suspicion":  {6, falseEvidence},
	"wipe":       {3, wipeNode},
	"rot":        {4, rotBits},
	"misdirect":  {5, misdirect},
	"rebalance":  {3, rebalance},
	"late-join":  {4, lateProposal},
	"delete":     {2, deleteTopic},
	"grow":       {2, growTopic},
	"quorum-all": {3, func(w *world, _ *node, _ Fault) { w.campaignAll() }},
}

// faultState is what the bounds of destructive faults need to know.
type faultState struct {
	impaired int // index of the node that lost data and has not recovered; -1: none
	rotten   map[int]bool
	late     *lateJoin // under way; nil: none
}

func kindsSorted() []string {
	names := make([]string, 0, len(faultKinds))
	for k := range faultKinds {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// drawFaults makes a schedule.
func drawFaults(w *world) []Fault {
	r := w.stream(3)
	names := kindsSorted()
	total := 0
	for _, k := range names {
		total += faultKinds[k].weight
	}
	mean := []time.Duration{150 * time.Millisecond, 400 * time.Millisecond, time.Second, 2 * time.Second}[r.IntN(4)]
	out := []Fault{}
	for t := 1500 * time.Millisecond; t < w.cfg.Length; t += time.Duration(r.ExpFloat64() * float64(mean)) {
		x := r.IntN(total)
		for _, k := range names {
			if x -= faultKinds[k].weight; x < 0 {
				out = append(out, Fault{At: t, Kind: k, Node: r.IntN(w.cfg.Brokers), To: r.IntN(w.cfg.Brokers), For: drawTime(r), Arg: r.Int64N(1 << 40)})
				break
			}
		}
	}
	return out
}

// drawTime draws how long a disturbance lasts: mostly short, sometimes longer
// than leases and sessions.
func drawTime(r *rand.Rand) time.Duration {
	switch r.IntN(4) {
	case 0:
		return time.Duration(r.IntN(100)) * time.Millisecond
	case 1, 2:
		return time.Duration(100+r.IntN(1500)) * time.Millisecond
	}
	return time.Duration(1500+r.IntN(7000)) * time.Millisecond
}

func (w *world) inject(f Fault) {
	if w.calm {
		return
	}
	w.trace.note("FAULT %v", f)
	k, ok := faultKinds[f.Kind]
	if !ok || f.Node >= len(w.nodes) || f.To >= len(w.nodes) {
		return
	}
	n := w.nodes[f.Node]
	if f.Arg%4 == 0 { // aim at a leader
		if tp, ok := w.anyTP(w.rng); ok {
			if m := w.orc.part(tp).meta; m != nil && m.Leader != model.NoBroker {
				n = w.nodes[m.Leader-1]
			}
		}
	}
	k.run(w, n, f)
}

func (w *world) down(n *node, power bool, d time.Duration) {
	if !n.up {
		return
	}
	n.crash(power)
	n.restartIn(d)
}

// powerAll cuts the power of every machine at the same instant.
func (w *world) powerAll(f Fault) {
	w.acted.AllPowerCuts++
	for i, n := range w.nodes {
		if n.up {
			n.crash(true)
			n.restartIn(f.For/4 + time.Duration(f.Arg>>i&3)*200*time.Millisecond)
		} else {
			n.disk.powerOff()
		}
	}
}

func pauseNode(w *world, n *node, f Fault) {
	if !n.up || n.paused {
		return
	}
	n.paused = true
	w.acted.Pauses++
	gen := n.gen
	w.after(f.For, evFault, func() {
		if n.gen == gen {
			n.resume()
		}
	})
}

// resume hands a process everything that happened to it meanwhile, in order.
func (n *node) resume() {
	if !n.paused {
		return
	}
	n.w.acted.Resumes++
	n.paused = false
	held := n.held
	n.held = nil
	for _, e := range held {
		e.at = n.w.now
		n.w.push(e)
	}
}

// cut takes the directed links away for which between holds.
func (w *world) cut(f Fault, between func(from, to int) bool) {
	var cut [][2]int
	for a := range w.net.links {
		for b := range w.net.links[a] {
			if a != b && !w.net.links[a][b].cut && between(a, b) {
				w.net.links[a][b].cut = true
				cut = append(cut, [2]int{a, b})
			}
		}
	}
	w.acted.Cuts += int64(len(cut))
	w.after(f.For, evFault, func() {
		for _, l := range cut {
			w.net.links[l[0]][l[1]].cut = false
		}
	})
}

func slowLink(w *world, n *node, f Fault) {
	for b := range w.nodes {
		l := &w.net.links[n.idx][b]
		l.slow = time.Duration(f.Arg%800) * time.Millisecond
		w.after(f.For, evFault, func() { l.slow = 0 })
	}
}

func lossy(w *world, n *node, f Fault) {
	for b := range w.net.links {
		l := &w.net.links[n.idx][b]
		l.loss, l.dup, l.spike = 0.1, 0.1, 0.05
		w.after(f.For, evFault, func() { l.loss, l.dup, l.spike = 0.001, 0.002, 0.003 })
	}
}

func slowSync(w *world, n *node, f Fault) {
	n.slow = time.Duration(f.Arg%2000) * time.Millisecond
	w.acted.SlowSyncs++
	w.after(f.For, evFault, func() { n.slow = 0 })
}

func diskFull(w *world, n *node, f Fault) {
	d := n.disk
	d.full = true
	w.acted.DiskFull++
	w.after(f.For, evFault, func() { d.full = false })
}

func clockJump(w *world, n *node, f Fault) {
	n.skew += time.Duration(f.Arg%7_200_000-3_600_000) * time.Millisecond
	w.acted.ClockJumps++
}

// falseEvidence has a broker claim that another one is gone or silent.
func falseEvidence(w *world, n *node, f Fault) {
	if !n.up || n.paused || n.idx == f.To || n.core == nil {
		return
	}
	e := control.EvidenceSilence
	if f.Arg%3 == 0 {
		e = control.EvidenceRefused
	}
	w.acted.FalseEvidence++
	n.evidence(model.BrokerID(f.To+1), e)
	w.settle(n)
}

func rebalance(w *world, n *node, f Fault) {
	if !n.up || n.paused || n.core == nil {
		return
	}
	n.submit(&control.ElectLeaders{All: true}, func(control.Result, error) { w.acted.Balances++ })
}

// campaignAll has every voter forget its leader and campaign.
func (w *world) campaignAll() {
	for _, n := range w.nodes {
		if n.up && !n.paused && n.core != nil && n.votes() {
			n.core.ForgetLeader()
			n.core.Campaign()
			n.pump()
			w.settle(n)
		}
	}
}

// mayDestroy says whether everything committed has a good copy besides n's.
func (w *world) mayDestroy(n *node) bool {
	if w.faults.impaired >= 0 && !w.recovered(w.nodes[w.faults.impaired]) || w.orc.image == nil {
		return false
	}
	if !w.votersWhole() {
		return false
	}
	for _, p := range w.orc.order {
		if p.meta == nil || !slices.Contains(p.meta.Replicas, n.id) {
			continue
		}
		good := false
		for _, set := range [2][]model.BrokerID{p.meta.ISR, p.meta.ELR} {
			for _, id := range set {
				o := w.nodes[id-1]
				x := o.watch(p.tp)
				good = good || o != n && x != nil && !x.blind && x.log.Suspect() == segment.Trusted && o.lacks(p) == ""
			}
		}
		if !good {
			return false
		}
	}
	return true
}

// votersWhole: the metadata quorum has three voters, all on present disks.
func (w *world) votersWhole() bool {
	img := w.orc.image
	if img == nil || len(img.Voters) < 3 {
		return false
	}
	for _, v := range img.Voters {
		d := w.byRaftID(v)
		if d == nil || !d.up || d.paused || d.core.Image().Index+50 < img.Index {
			return false
		}
	}
	return true
}

// recovered says whether a node that lost data has all of it again.
func (w *world) recovered(n *node) bool {
	if !n.up || n.sess.inc == 0 || w.orc.image == nil || !w.votersWhole() {
		return false
	}
	b := w.orc.image.Brokers[n.id]
	if b == nil || b.RaftID != n.raftID() || b.Fenced {
		return false
	}
	for _, p := range w.orc.order {
		if p.meta == nil || !slices.Contains(p.meta.Replicas, n.id) {
			continue
		}
		x := n.watch(p.tp)
		if x == nil || x.blind || x.log.Suspect() >= segment.Damaged || n.lacks(p) != "" {
			return false
		}
	}
	if !n.sound() {
		return false
	}
	n.w.faults.rotten[n.idx] = false
	w.faults.impaired = -1
	return true
}

func wipeNode(w *world, n *node, f Fault) {
	if !n.up || !w.mayDestroy(n) {
		return
	}
	w.faults.impaired = n.idx
	w.acted.Wipes++
	n.crash(true)
	n.wipe()
	n.restartIn(f.For)
}

// rotBits flips a few bits of segment files and restarts the broker, so that
// they show.
func rotBits(w *world, n *node, f Fault) {
	if !n.up || !w.mayDestroy(n) {
		return
	}
	files := n.disk.segments()
	if len(files) == 0 {
		return
	}
	w.faults.impaired = n.idx
	w.faults.rotten[n.idx] = true
	for range 1 + f.Arg%3 {
		name := files[n.rng.IntN(len(files))]
		at := n.rng.Int64N(int64(len(n.disk.names[name].stable)))
		n.disk.decay(name, at, 1<<n.rng.IntN(8))
		w.acted.BitFlips++
		w.trace.note("%d: bit flipped in %s at %d", n.id, name, at)
	}
	n.crash(f.Arg%2 == 0)
	n.restartIn(f.For / 4)
}
