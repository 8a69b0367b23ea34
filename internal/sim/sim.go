package sim

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Config describes one run. The zero value of a field takes what the seed says,
// or the default in brackets.
type Config struct {
	Seed       uint64
	Brokers    int           // 3 to 5
	Partitions int           // of the topic
	Length     time.Duration // simulated time under faults [20 s]
	MaxEvents  int64         // stop faults early after that many events; 0: no limit
	// Faults is the schedule; nil: drawn from the seed.
	Faults []Fault
	// NoFaults runs without any, for measuring.
	NoFaults bool
	// Trace keeps that many of the last events for the report of a violation [300];
	// a run that is asked for them reports them in any case.
	Trace int
	// CheckEvery n events instead of after each; for measuring only.
	CheckEvery int64
}

// Result is the outcome of a run.
type Result struct {
	Config    Config
	Events    int64
	Simulated time.Duration
	Hash      uint64 // of the trace: equal for equal configurations
	Violation *Violation
	Acted     Acted
	Tail      []string // the last events, before a violation or if Config.Trace asked for them
}

// Violation is a broken invariant.
type Violation struct {
	Invariant string // its name, such as "I1 ack durability"
	Detail    string
	At        time.Duration
	Event     int64
}

// Error implements error.
func (v *Violation) Error() string {
	return fmt.Sprintf("%s violated at %v, event %d: %s", v.Invariant, v.At, v.Event, v.Detail)
}

// event is something that happens at a time, in a process or outside of all.
type event struct {
	at   time.Duration
	seq  uint64
	node *node // nil: outside
	gen  uint32
	any  bool // for whichever process runs on the node then, as a message is
	kind kind
	over *bool // set: what it was for is done, it does not count
	fn   func()
}

// world is one run.
type world struct {
	cfg    Config
	now    time.Duration
	seq    uint64
	queue  []event // a heap
	nodes  []*node
	net    *network
	orc    *oracle
	acted  Acted
	rng    *rand.Rand // of the schedule
	par    params
	events int64
	kind   kind // of the event under way
	trace  trace
	fail   *Violation
	topics []*topic
	over   bool // it ended without the last checks
	calm   bool // no more faults: the cluster is being healed
	prods  []*producer
	cons   []*consumer
	hist   histories
	faults faultState
}

// params are the run's sizes and rates, drawn from the seed.
type params struct {
	rf, minISR, syncReplicas int
	segmentBytes             int64
	indexBytes               int64
	journalGroup             int64
	journalFile              int64
	wholeFrom                int
	snapshotEvery            uint64
	fsync                    time.Duration // typical
	latency                  time.Duration // typical, one way
	think                    time.Duration // of clients between operations
	producers, consumers     int
	stallMax, lagMax         time.Duration
	deleteRecords            bool
	maxBatch                 int
}

// stream returns an independent random stream of the run.
func (w *world) stream(n uint64) *rand.Rand {
	return rand.New(rand.NewPCG(w.cfg.Seed, 0x9e3779b97f4a7c15*(n+1)))
}

// Run carries out one run. It is a function of its configuration.
func Run(cfg Config) (res Result) {
	w := newWorld(cfg)
	defer func() {
		res = w.result()
		if res.Violation != nil || cfg.Trace > 0 {
			res.Tail = w.trace.tail()
		}
	}()
	w.boot()
	w.loop(func() bool { return w.now >= w.cfg.Length || w.cfg.MaxEvents > 0 && w.events >= w.cfg.MaxEvents })
	if w.fail == nil {
		w.heal()
	}
	if w.fail == nil && !w.over {
		w.judge()
	}
	return res
}

func (w *world) result() Result {
	return Result{Config: w.cfg, Events: w.events, Simulated: w.now, Hash: w.trace.hash, Violation: w.fail, Acted: w.acted}
}

func newWorld(cfg Config) *world {
	w := &world{cfg: cfg, faults: faultState{impaired: -1, rotten: map[int]bool{}}}
	w.rng = w.stream(0)
	w.draw()
	w.trace.init(w.cfg.Trace)
	w.net = newNetwork(w)
	w.orc = newOracle(w)
	for i := range w.cfg.Brokers {
		w.nodes = append(w.nodes, newNode(w, i))
	}
	return w
}

// draw fixes what the configuration leaves open.
func (w *world) draw() {
	r, c := w.rng, &w.cfg
	pick := func(list ...int) int { return list[r.IntN(len(list))] }
	brokers, parts := pick(3, 3, 3, 4, 5), pick(1, 2, 3)
	if c.Brokers == 0 {
		c.Brokers = brokers
	}
	if c.Partitions == 0 {
		c.Partitions = parts
	}
	if c.Length == 0 {
		c.Length = 20 * time.Second
	}
	if c.Trace == 0 {
		c.Trace = 300
	}
	if c.CheckEvery == 0 {
		c.CheckEvery = 1
	}
	w.par = params{
		rf: 3, minISR: 2, syncReplicas: pick(0, 0, 2, 2, 3),
		segmentBytes:  int64(pick(4096, 8192, 65536)),
		indexBytes:    int64(pick(256, 1024, 8192)),
		journalGroup:  int64(pick(-1, 300, 4096, 1<<20)),
		journalFile:   int64(pick(4096, 16<<10, 1<<20)),
		wholeFrom:     pick(1, 3, 1<<20),
		snapshotEvery: uint64(pick(30, 100, 4000)),
		fsync:         time.Duration(pick(200, 2000, 8000)) * time.Microsecond,
		latency:       time.Duration(pick(100, 1000, 5000)) * time.Microsecond,
		think:         time.Duration(pick(5, 20, 60)) * time.Millisecond,
		producers:     pick(2, 3, 5), consumers: pick(1, 2, 3),
		stallMax: 200 * time.Millisecond, lagMax: time.Duration(pick(1000, 3000, 10000)) * time.Millisecond,
		deleteRecords: pick(0, 0, 0, 1) == 1,
		maxBatch:      pick(1, 3, 8),
	}
	if c.Faults == nil && !c.NoFaults {
		c.Faults = drawFaults(w)
	}
}

// boot starts every broker and the clients.
func (w *world) boot() {
	for _, n := range w.nodes {
		w.at(time.Duration(w.rng.IntN(20))*time.Millisecond, evStart, n.start)
	}
	w.at(200*time.Millisecond, evClient, w.createTopic)
	for _, f := range w.cfg.Faults {
		w.at(f.At, evFault, func() { w.inject(f) })
	}
	for i := range w.par.producers {
		w.prods = append(w.prods, newProducer(w, i))
	}
	for i := range w.par.consumers {
		w.cons = append(w.cons, newConsumer(w, i))
	}
}

// at schedules something outside of all processes.
func (w *world) at(t time.Duration, k kind, fn func()) {
	w.push(event{at: max(t, w.now), kind: k, fn: fn})
}

func (w *world) after(d time.Duration, k kind, fn func()) { w.at(w.now+d, k, fn) }

// after schedules something in this process, which happens only if the process
// still lives then.
func (n *node) after(d time.Duration, k kind, fn func()) {
	n.w.push(event{at: n.w.now + d, node: n, gen: n.gen, kind: k, fn: fn})
}

func (w *world) push(e event) {
	w.seq++
	e.seq = w.seq
	w.queue = append(w.queue, e)
	for i := len(w.queue) - 1; i > 0; {
		p := (i - 1) / 2
		if !w.queue[i].before(&w.queue[p]) {
			break
		}
		w.queue[i], w.queue[p] = w.queue[p], w.queue[i]
		i = p
	}
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

func (w *world) pop() event {
	e := w.queue[0]
	n := len(w.queue) - 1
	w.queue[0] = w.queue[n]
	w.queue[n] = event{}
	w.queue = w.queue[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && w.queue[c+1].before(&w.queue[c]) {
			c++
		}
		if !w.queue[c].before(&w.queue[i]) {
			break
		}
		w.queue[i], w.queue[c] = w.queue[c], w.queue[i]
		i = c
	}
	return e
}

// loop runs events until done says so, or an invariant breaks.
func (w *world) loop(done func() bool) {
	for len(w.queue) > 0 && w.fail == nil && !done() {
		e := w.pop()
		w.now = max(w.now, e.at)
		w.dispatch(&e)
	}
}

func (w *world) dispatch(e *event) {
	if e.over != nil && *e.over {
		return
	}
	n := e.node
	if n != nil {
		if !e.any && n.gen != e.gen {
			return // of a process that is no more
		}
		if n.paused {
			n.held = append(n.held, *e)
			return
		}
	}
	w.events++
	w.trace.add(w.now, e.kind, n)
	w.kind = e.kind
	e.fn()
	if n != nil {
		w.settle(n)
	}
}

// settle does what is due after anything happened in a process: a machine whose
// disk died is down, and the invariants hold.
func (w *world) settle(n *node) {
	if n.disk.dead && n.up {
		w.acted.CrashPoints++
		n.crash(true)
		n.restartIn(w.pause(50, 3000))
		return
	}
	if n.fatal != nil && n.up {
		w.trace.note("%d exits: %v", n.id, n.fatal)
		w.acted.FatalExits++
		n.crash(false)
		n.restartIn(w.pause(50, 3000))
		return
	}
	if n.up && w.events%w.cfg.CheckEvery == 0 {
		w.orc.check(n)
	}
}

// pause draws a duration between lo and hi milliseconds.
func (w *world) pause(lo, hi int) time.Duration {
	return time.Duration(lo+w.rng.IntN(hi-lo+1)) * time.Millisecond
}

// verbose: the trace is long enough to hold what is common.
func (w *world) verbose() bool { return w.cfg.Trace > 1000 }

// violate records the first broken invariant.
func (w *world) violate(invariant, format string, args ...any) {
	if w.fail == nil {
		w.fail = &Violation{Invariant: invariant, Detail: fmt.Sprintf(format, args...), At: w.now, Event: w.events}
		w.trace.note("VIOLATION %s: %s", invariant, w.fail.Detail)
	}
}
