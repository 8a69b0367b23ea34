package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits on a slow machine; nothing is asserted about speed.
const patience = 60 * time.Second

// switchboard connects nodes in memory.
type switchboard struct {
	mu    sync.Mutex
	nodes map[uint64]*Node
	down  map[uint64]bool
}

type port struct {
	s    *switchboard
	self uint64
}

func (s *switchboard) get(from, to uint64) *Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down[from] || s.down[to] {
		return nil
	}
	return s.nodes[to]
}

func (p port) Send(to uint64, messages [][]byte) {
	if n := p.s.get(p.self, to); n != nil {
		n.Receive(messages)
	}
}

func (p port) Call(ctx context.Context, to uint64, request []byte) ([]byte, error) {
	n := p.s.get(p.self, to)
	if n == nil {
		return nil, errors.New("connection refused")
	}
	return n.Serve(ctx, request), nil
}

type testBroker struct {
	node    *Node
	session *Session
	cancel  context.CancelFunc
	done    chan error
}

type testCluster struct {
	t       *testing.T
	board   *switchboard
	brokers map[int]*testBroker
	kvs     map[int]*memKV
	voters  []uint64
}

func startCluster(t *testing.T, n int) *testCluster {
	c := &testCluster{t: t, board: &switchboard{nodes: map[uint64]*Node{}, down: map[uint64]bool{}}, brokers: map[int]*testBroker{}, kvs: map[int]*memKV{}}
	for i := 1; i <= n; i++ {
		c.voters = append(c.voters, raftOf(i))
	}
	for i := 1; i <= n; i++ {
		c.start(i, c.voters)
	}
	t.Cleanup(func() {
		for i := range c.brokers {
			c.stop(i)
		}
	})
	return c
}

func (c *testCluster) start(i int, voters []uint64) {
	c.t.Helper()
	if c.kvs[i] == nil {
		c.kvs[i] = newMemKV()
	}
	id, clk := raftOf(i), clock.NewReal()
	node, err := NewNode(Options{
		CoreOptions: CoreOptions{RaftID: id, KV: c.kvs[i], Prefix: []byte("meta/"), Voters: voters, ClusterID: "cluster"},
		Transport:   port{c.board, id}, Clock: clk,
		Peers: func() []uint64 { return c.voters },
		Fatal: func(err error) { c.t.Errorf("broker %d: %v", i, err) },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.board.mu.Lock()
	c.board.nodes[id] = node
	delete(c.board.down, id)
	c.board.mu.Unlock()
	node.Start()
	s := NewSession(SessionOptions{Node: node, Clock: clk, Interval: 100 * time.Millisecond,
		Register: RegisterBroker{Broker: model.BrokerID(i), Storage: storageOf(fmt.Sprint(i)), RaftID: id, MaxFeature: MaxFeatureLevel},
		Report:   func() []LogReport { return nil }})
	ctx, cancel := context.WithCancel(context.Background())
	b := &testBroker{node: node, session: s, cancel: cancel, done: make(chan error, 1)}
	go func() { b.done <- s.Run(ctx) }()
	c.brokers[i] = b
}

// stop ends a broker without a farewell.
func (c *testCluster) stop(i int) {
	b := c.brokers[i]
	c.board.mu.Lock()
	c.board.down[raftOf(i)] = true
	c.board.mu.Unlock()
	b.cancel()
	<-b.done
	b.node.Close()
	delete(c.brokers, i)
}

func (c *testCluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			for i, b := range c.brokers {
				c.t.Logf("broker %d: %+v session %+v", i, b.node.Status(), b.session.State())
			}
			c.t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *testCluster) allLive() {
	c.t.Helper()
	c.eventually("every broker live with a lease", func() bool {
		for _, b := range c.brokers {
			for i := range c.brokers {
				if br := b.node.Image().Brokers[model.BrokerID(i)]; !br.Live() || br.Incarnation != c.brokers[i].session.Incarnation() {
					return false
				}
			}
			if !b.session.LeaseValid() {
				return false
			}
		}
		return true
	})
}

func (c *testCluster) submit(i int, cmd Command) Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := c.brokers[i].node.Submit(ctx, cmd)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.brokers[i].node.WaitApplied(ctx, r.Index); err != nil {
		c.t.Fatal(err)
	}
	return r
}

// Brokers find each other, register, are admitted, create a topic through any
// of them; the controller dies and another one takes over; the dead one comes
// back as a new incarnation and is live again.
func TestClusterLife(t *testing.T) {
	c := startCluster(t, 3)
	c.allLive()
	for i := 1; i <= 3; i++ { // through the controller and through the others
		r := c.submit(i, &CreateTopics{Topics: []NewTopic{{Name: fmt.Sprint("t", i), Partitions: 3, ReplicationFactor: 3}}})
		if r.Topics[0].Code != 0 {
			t.Fatalf("create through %d: %+v", i, r.Topics[0])
		}
		if c.brokers[i].node.Image().TopicsByName[r.Topics[0].Name] == nil {
			t.Fatal("no read-your-writes")
		}
	}
	victim := 0
	for i, b := range c.brokers {
		if b.node.IsController() {
			victim = i
		}
	}
	before := c.brokers[victim].session.Incarnation()
	c.stop(victim)
	for _, b := range c.brokers {
		b.node.PeerDown(raftOf(victim))
	}
	c.eventually("the dead broker fenced, nothing led by it", func() bool {
		for _, b := range c.brokers {
			img := b.node.Image()
			if img.Brokers[model.BrokerID(victim)].Live() {
				return false
			}
			for _, topic := range img.Topics {
				for _, p := range topic.Partitions {
					if p.Leader == model.BrokerID(victim) || p.Leader == model.NoBroker {
						return false
					}
				}
			}
		}
		return true
	})
	c.start(victim, nil)
	c.allLive()
	if got := c.brokers[victim].session.Incarnation(); got <= before {
		t.Fatalf("incarnation %d after %d", got, before)
	}
	survivor := c.brokers[victim%3+1].node
	img, err := survivor.ConfirmedRead(context.Background())
	if err != nil || img.TopicsByName["t1"] == nil {
		t.Fatalf("confirmed read: %v", err)
	}
}

// A broker that knows no one of the quorum but a peer's address joins it.
func TestJoinLater(t *testing.T) {
	c := startCluster(t, 1)
	c.allLive()
	c.start(2, nil)
	c.allLive()
	if r := c.submit(2, &CreateTopics{Topics: []NewTopic{{Name: "t", Partitions: 1, ReplicationFactor: 2}}}); r.Topics[0].Code != 0 {
		t.Fatalf("%+v", r)
	}
}

// A graceful stop moves leaderships away and is fenced at once.
func TestGracefulStop(t *testing.T) {
	c := startCluster(t, 3)
	c.allLive()
	c.submit(1, &CreateTopics{Topics: []NewTopic{{Name: "t", Partitions: 6, ReplicationFactor: 3}}})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.brokers[2].session.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	img := c.brokers[2].node.Image()
	for _, p := range img.TopicsByName["t"].Partitions {
		if p.Leader == 2 || p.Leader == model.NoBroker {
			t.Fatalf("may stop, but %+v", p)
		}
	}
	if err := c.brokers[2].session.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	c.eventually("fenced", func() bool { return c.brokers[1].node.Image().Brokers[2].Fenced })
}

// Without a quorum a command fails within its time, and says whether it may
// have had an effect.
func TestNoQuorum(t *testing.T) {
	c := startCluster(t, 3)
	c.allLive()
	c.stop(2)
	c.stop(3)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.brokers[1].node.Submit(ctx, &CreateTopics{Topics: []NewTopic{{Name: "t"}}}); err == nil {
		t.Fatal("a command was committed without a quorum")
	}
	c.eventually("the lease to run out", func() bool { return !c.brokers[1].session.LeaseValid() })
}

func TestServeRefusesGarbage(t *testing.T) {
	c := startCluster(t, 1)
	for _, b := range [][]byte{nil, {0}, {callCommand}, {callCommand, 9, 9, 9}, {callHeartbeat, 1, 0xff}, {callSuspicion}, {77, 1, 2}} {
		if a := c.brokers[1].node.Serve(context.Background(), b); len(a) == 0 || a[0] != answerError {
			t.Errorf("%v: %v", b, a)
		}
	}
	c.brokers[1].node.Receive([][]byte{nil, {1, 2, 3}, make([]byte, 100)})
	c.allLive()
}
