package control

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
)

// Transport carries messages between the members of the quorum, named by raft
// id. The broker knows the address of each from gossip and from the image.
type Transport interface {
	// Send delivers raft messages to a peer's Node.Receive, in order, best
	// effort. It must not block; what does not fit is dropped.
	Send(to uint64, messages [][]byte)
	// Call delivers a request to a peer's Node.Serve and returns its answer.
	Call(ctx context.Context, to uint64, request []byte) ([]byte, error)
}

// Options configure a Node.
type Options struct {
	CoreOptions
	Transport Transport
	Clock     clock.Clock
	Tick      time.Duration // default DefaultTick
	// Peers returns raft ids to ask for the controller while none is known,
	// as when this node is not a member yet. May be nil.
	Peers func() []uint64
	// Fatal is called once, when the node cannot go on: an I/O error of the
	// metadata log, an unknown record. The process must exit.
	Fatal func(error)
}

// Node runs a Core on one goroutine. Its methods are safe for concurrent use.
type Node struct {
	opt    Options
	core   *Core // of the goroutine
	work   chan func()
	stop   chan struct{}
	done   chan struct{}
	close  sync.Once
	image  atomic.Pointer[Image]
	status atomic.Pointer[Status]

	mu      sync.Mutex
	subs    []func(Update)
	applied chan struct{} // closed and replaced when the image moves
}

// NewNode opens the node's metadata; Image holds all that its log says is
// committed. It runs after Start.
func NewNode(o Options) (*Node, error) {
	if o.Tick == 0 {
		o.Tick = DefaultTick
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(err) }
	}
	n := &Node{opt: o, work: make(chan func(), maxQueue), stop: make(chan struct{}), done: make(chan struct{}), applied: make(chan struct{})}
	o.CoreOptions.OnUpdate = n.publish
	core, err := NewCore(o.CoreOptions)
	if err != nil {
		return nil, err
	}
	n.core = core
	// What the log says is committed is applied now, so that the replicas start
	// from its outcome and not from every step. Nothing is sent meanwhile: no
	// time has passed yet.
	if _, err := core.Process(); err != nil {
		return nil, err
	}
	n.image.Store(core.Image())
	s := core.Status()
	n.status.Store(&s)
	return n, nil
}

// Subscribe registers fn for every update, in log order, from the node's
// goroutine: fn must be quick and must not call back into waiting methods.
// Updates applied before the call are not repeated; subscribe before Start to
// see everything after the image that Image returns then.
func (n *Node) Subscribe(fn func(Update)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subs = append(n.subs, fn)
}

// Start begins to take part in the quorum.
func (n *Node) Start() { go n.run() }

// Close stops the node. Whatever waits fails with ErrStopped.
func (n *Node) Close() {
	n.close.Do(func() { close(n.stop) })
	<-n.done
}

// Image returns the applied metadata: never nil, possibly behind.
func (n *Node) Image() *Image { return n.image.Load() }

// Status returns this member's view of the quorum.
func (n *Node) Status() Status { return *n.status.Load() }

// IsController reports whether this node decides commands.
func (n *Node) IsController() bool { return n.Status().Ready }

// ControllerBroker returns the broker that leads the quorum, or NoBroker.
func (n *Node) ControllerBroker() model.BrokerID {
	leader := n.Status().Leader
	for _, b := range n.Image().Brokers {
		if b.RaftID == leader && leader != 0 {
			return b.ID
		}
	}
	return model.NoBroker
}

func (n *Node) run() {
	defer close(n.done)
	defer n.fatalOnPanic()
	t := newPacer(n.opt.Tick)
	defer t.timer.Stop()
	n.core.Tick(n.opt.Clock.Elapsed())
	for n.process() {
		t.pace(n.core.Calm())
		select {
		case <-n.stop:
			n.core.Close()
			n.drain()
			return
		case <-t.timer.C:
			for range t.fired() {
				n.core.Tick(n.opt.Clock.Elapsed())
			}
		case fn := <-n.work:
			fn()
			n.more()
		}
	}
	n.drain()
}

// pacer makes the ticks of a node: one each period, and while the quorum is calm
// two every other period, which is time enough and wakes an idle process half as
// often.
type pacer struct {
	period time.Duration
	timer  *time.Timer
	last   time.Time // when it fired, or began
	ticks  int       // that it fires for
}

func newPacer(period time.Duration) *pacer {
	return &pacer{period: period, timer: time.NewTimer(period), last: time.Now(), ticks: 1}
}

// pace chooses how long the present wait is, counted from its beginning.
func (p *pacer) pace(calm bool) {
	ticks := 1
	if calm {
		ticks = 2
	}
	if ticks != p.ticks {
		p.ticks = ticks
		p.timer.Reset(time.Until(p.last.Add(time.Duration(ticks) * p.period)))
	}
}

// fired begins the next wait and returns the ticks that are due.
func (p *pacer) fired() int {
	p.last = time.Now()
	p.timer.Reset(time.Duration(p.ticks) * p.period)
	return p.ticks
}

// more takes the work that queued up meanwhile, so that one sync of the log
// serves all of it.
func (n *Node) more() {
	for range 256 {
		select {
		case fn := <-n.work:
			fn()
		default:
			return
		}
	}
}

// drain runs what was queued against the closed core, which refuses it.
func (n *Node) drain() {
	for {
		select {
		case fn := <-n.work:
			fn()
		default:
			n.core.abandon(ErrStopped)
			return
		}
	}
}

func (n *Node) fatalOnPanic() {
	if r := recover(); r != nil {
		n.core.err = fmt.Errorf("control: panic: %v", r)
		n.opt.Fatal(n.core.err)
	}
}

func (n *Node) process() bool {
	messages, err := n.core.Process()
	s := n.core.Status()
	n.status.Store(&s)
	if err != nil {
		n.opt.Fatal(err)
		return false
	}
	n.send(messages)
	return true
}

// send groups consecutive messages by peer, in order.
func (n *Node) send(messages []Message) {
	byPeer := map[uint64][][]byte{}
	var order []uint64
	for _, m := range messages {
		if _, ok := byPeer[m.To]; !ok {
			order = append(order, m.To)
		}
		byPeer[m.To] = append(byPeer[m.To], m.Data)
	}
	for _, to := range order {
		n.opt.Transport.Send(to, byPeer[to])
	}
}

// publish stores the new image and tells the subscribers.
func (n *Node) publish(u Update) {
	n.image.Store(u.Next)
	n.mu.Lock()
	subs := n.subs
	close(n.applied)
	n.applied = make(chan struct{})
	n.mu.Unlock()
	for _, fn := range subs {
		fn(u)
	}
}

// do runs fn on the node's goroutine, later.
func (n *Node) do(ctx context.Context, fn func()) error {
	select {
	case n.work <- fn:
		return nil
	case <-n.done:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Receive takes raft messages from a peer. When the node is overloaded they
// are dropped, as the network may. An error means malformed bytes.
func (n *Node) Receive(messages [][]byte) {
	select {
	case n.work <- func() {
		for _, m := range messages {
			if n.core.Step(m) != nil {
				return // the sender is broken; raft survives what it lost
			}
		}
	}:
	default:
	}
}

// Unreachable says that messages to a peer were not delivered.
func (n *Node) Unreachable(id uint64) { n.try(func() { n.core.ReportUnreachable(id) }) }

// PeerDown says that a peer's process is gone for certain (its address refuses
// connections). If it led the quorum, an election starts at once.
func (n *Node) PeerDown(id uint64) { n.try(func() { n.core.PeerDown(id) }) }

func (n *Node) try(fn func()) {
	select {
	case n.work <- fn:
	default:
	}
}

// WaitApplied waits until the image holds the given metadata index.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	for {
		n.mu.Lock()
		ch := n.applied
		n.mu.Unlock()
		if n.Image().Index >= index {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		case <-n.done:
			return ErrStopped
		}
	}
}

// ConfirmedRead returns an image that holds everything that was committed
// before the call (raft's ReadIndex). It fails with ErrNotController while the
// quorum has no leader.
func (n *Node) ConfirmedRead(ctx context.Context) (*Image, error) {
	type answer struct {
		img *Image
		err error
	}
	ch := make(chan answer, 1)
	err := n.do(ctx, func() {
		n.core.ConfirmedRead(func(_ uint64, err error) { ch <- answer{n.core.Image(), err} })
	})
	if err != nil {
		return nil, err
	}
	select {
	case a := <-ch:
		return a.img, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.done:
		return nil, ErrStopped
	}
}
