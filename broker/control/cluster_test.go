package control

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// memKV is a KV that loses what was not synced when it crashes.
type memKV struct {
	mu          sync.Mutex
	now, synced map[string][]byte
	fail        error
	applies     int
}

func newMemKV() *memKV { return &memKV{now: map[string][]byte{}, synced: map[string][]byte{}} }

func (m *memKV) Get(key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.now[string(key)]; ok {
		return v, nil
	}
	return nil, segment.ErrNotFound
}

func (m *memKV) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for k := range m.now {
		if k >= string(lo) && k < string(hi) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for _, k := range keys {
		if !fn([]byte(k), m.now[k]) {
			return nil
		}
	}
	return nil
}

func (m *memKV) Apply(b *segment.KVBatch, sync bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applies++
	if m.fail != nil {
		return m.fail
	}
	for _, op := range b.Ops {
		switch {
		case op.End != nil:
			for k := range m.now {
				if k >= string(op.Key) && k < string(op.End) {
					delete(m.now, k)
				}
			}
		case op.Value == nil:
			delete(m.now, string(op.Key))
		default:
			m.now[string(op.Key)] = bytes.Clone(op.Value)
		}
	}
	if sync {
		m.synced = cloneMap(m.now)
	}
	return nil
}

// crash loses everything since the last sync.
func (m *memKV) crash() { m.now = cloneMap(m.synced) }

// cluster steps cores by hand over a network in memory. Elections start by
// command only, and time moves by tick only: runs are repeatable.
type cluster struct {
	t      *testing.T
	rng    *rand.Rand
	now    time.Duration
	kvs    map[uint64]*memKV
	cores  map[uint64]*Core
	opt    CoreOptions
	voters []uint64
	queue  []delivery
	cut    map[[2]uint64]bool // directed links that lose everything
	seen   map[uint64]uint64  // last index of the updates
}

type delivery struct {
	from uint64
	msg  Message
}

func raftOf(i int) uint64 { return RaftIDFor(storageOf(fmt.Sprint(i))) }

func newCluster(t *testing.T, n int, opt CoreOptions) *cluster {
	c := &cluster{t: t, rng: rand.New(rand.NewPCG(1, 2)), kvs: map[uint64]*memKV{}, cores: map[uint64]*Core{},
		opt: opt, cut: map[[2]uint64]bool{}, seen: map[uint64]uint64{}}
	for i := 1; i <= n; i++ {
		c.voters = append(c.voters, raftOf(i))
	}
	for _, id := range c.voters {
		c.kvs[id] = newMemKV()
		c.start(id)
	}
	return c
}

func (c *cluster) start(id uint64) *Core {
	c.t.Helper()
	o := c.opt
	o.RaftID, o.KV, o.ClusterID, o.Manual, o.Prefix = id, c.kvs[id], "cluster", true, []byte("meta/")
	if slices.Contains(c.voters, id) {
		o.Voters = c.voters
	}
	o.Rand = func(p []byte) {
		for i := range p {
			p[i] = byte(c.rng.Uint32())
		}
	}
	c.seen[id] = 0
	o.OnUpdate = func(u Update) {
		if u.Next.Index <= c.seen[id] || u.Prev.Index >= u.Next.Index {
			c.t.Errorf("update %d → %d after %d: not in log order", u.Prev.Index, u.Next.Index, c.seen[id])
		}
		c.seen[id] = u.Next.Index
	}
	core, err := NewCore(o)
	if err != nil {
		c.t.Fatalf("core %x: %v", id, err)
	}
	core.Tick(c.now)
	c.cores[id] = core
	return core
}

// crash kills a core and loses its unsynced writes.
func (c *cluster) crash(id uint64) {
	if core := c.cores[id]; core != nil {
		core.Close()
	}
	delete(c.cores, id)
	c.kvs[id].crash()
}

func (c *cluster) sorted() []uint64 {
	var ids []uint64
	for id := range c.cores {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// step processes every core once and delivers one message; it reports whether
// anything was left to deliver.
func (c *cluster) process() {
	for _, id := range c.sorted() {
		msgs, err := c.cores[id].Process()
		if err != nil && !errors.Is(err, ErrStopped) {
			c.t.Fatalf("core %x: %v", id, err)
		}
		for _, m := range msgs {
			c.queue = append(c.queue, delivery{id, m})
		}
	}
}

// settle runs until no message is left.
func (c *cluster) settle() {
	for range 10_000 {
		c.process()
		if len(c.queue) == 0 {
			return
		}
		d := c.queue[0]
		c.queue = c.queue[1:]
		if to := c.cores[d.msg.To]; to != nil && !c.cut[[2]uint64{d.from, d.msg.To}] {
			if err := to.Step(d.msg.Data); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	c.t.Fatal("the cluster does not come to rest")
}

func (c *cluster) tick(n int) {
	for range n {
		c.now += DefaultTick
		for _, id := range c.sorted() {
			c.cores[id].Tick(c.now)
		}
		c.settle()
	}
}

// elect makes a member the controller.
func (c *cluster) elect(id uint64) *Core {
	c.t.Helper()
	for _, other := range c.sorted() {
		if !c.cut[[2]uint64{id, other}] {
			c.cores[other].ForgetLeader()
		}
	}
	c.cores[id].Campaign()
	c.settle()
	if !c.cores[id].Status().Ready {
		c.t.Fatalf("%x was not elected: %+v", id, c.cores[id].Status())
	}
	return c.cores[id]
}

func (c *cluster) isolate(id uint64, on bool) {
	for other := range c.kvs {
		c.cut[[2]uint64{id, other}], c.cut[[2]uint64{other, id}] = on, on
	}
}

// submit runs a command to its answer.
func (c *cluster) submit(core *Core, cmd Command) (Result, error) {
	c.t.Helper()
	var res Result
	err := errors.New("no answer")
	core.Submit(cmd, func(r Result, e error) { res, err = r, e })
	c.settle()
	return res, err
}

func (c *cluster) must(core *Core, cmd Command) Result {
	c.t.Helper()
	r, err := c.submit(core, cmd)
	if err != nil || r.Code != 0 {
		c.t.Fatalf("%T: %v, code %d %s", cmd, err, r.Code, r.Message)
	}
	return r
}

func (c *cluster) up(core *Core, i int) model.Incarnation {
	c.t.Helper()
	s := storageOf(fmt.Sprint(i))
	id := model.BrokerID(i)
	inc := c.must(core, &RegisterBroker{Broker: id, Storage: s, RaftID: RaftIDFor(s), MaxFeature: 1}).Incarnation
	c.must(core, &ReportLogs{Broker: id, Incarnation: inc, Last: true})
	c.must(core, &UnfenceBroker{Broker: id, Incarnation: inc})
	return inc
}

// sameImages checks that all running cores have the same image.
func (c *cluster) sameImages() {
	c.t.Helper()
	c.tick(4) // a heartbeat carries the commit index
	var first []byte
	for _, id := range c.sorted() {
		b := EncodeImage(c.cores[id].Image())
		if first == nil {
			first = b
		}
		if !bytes.Equal(first, b) {
			c.t.Fatalf("images differ: %d and %d at %x", c.cores[c.sorted()[0]].Image().Index, c.cores[id].Image().Index, id)
		}
	}
}

func TestQuorumCommits(t *testing.T) {
	c := newCluster(t, 3, CoreOptions{})
	lead := c.elect(c.voters[0])
	for i := 1; i <= 3; i++ {
		c.up(lead, i)
	}
	r := c.must(lead, &CreateTopics{Topics: []NewTopic{{Name: "t", Partitions: 4, ReplicationFactor: 3}}})
	if r.Index != lead.Image().Index || r.Topics[0].Partitions != 4 {
		t.Fatalf("result %+v at image %d", r, lead.Image().Index)
	}
	c.sameImages()
	for _, id := range c.voters[1:] {
		if c.cores[id].Image().TopicsByName["t"] == nil {
			t.Fatalf("%x does not have the topic", id)
		}
		if _, err := c.submit(c.cores[id], &BalanceLeaders{}); !errors.Is(err, ErrNotController) {
			t.Fatalf("a follower decided: %v", err)
		}
	}
}

// A controller that is cut off commits nothing, answers nothing, grants no
// lease, and takes over what the others decided (I16).
func TestIsolatedController(t *testing.T) {
	c := newCluster(t, 3, CoreOptions{})
	old := c.elect(c.voters[0])
	inc := c.up(old, 1)
	c.isolate(c.voters[0], true)

	var answers []error
	old.Submit(&AllocateProducerIDs{Broker: 1, Incarnation: inc}, func(_ Result, err error) { answers = append(answers, err) })
	// A refusal is not an answer either: the newer controller may see it otherwise.
	old.Submit(&FenceBroker{Broker: 9}, func(_ Result, err error) { answers = append(answers, err) })
	beats := 0
	old.Heartbeat(HeartbeatRequest{Broker: 1, Incarnation: inc, AppliedIndex: 1 << 40}, func(r HeartbeatResponse, err error) {
		beats++
		if err == nil {
			t.Errorf("an isolated controller granted %+v", r)
		}
	})
	c.settle()
	if len(answers) != 0 || beats != 0 {
		t.Fatalf("an isolated controller answered: %v", answers)
	}

	lead := c.elect(c.voters[1])
	r := c.must(lead, &AllocateProducerIDs{Broker: 1, Incarnation: inc})
	c.tick(3 * DefaultElectionTicks) // check-quorum makes the old one resign
	if len(answers) != 2 || !errors.Is(answers[0], ErrUnknownOutcome) || !errors.Is(answers[1], ErrUnknownOutcome) || beats != 1 {
		t.Fatalf("answers %v, beats %d", answers, beats)
	}
	c.isolate(c.voters[0], false)
	c.sameImages()
	if next := old.Image().NextProducerID; next != r.FirstProducerID+producerIDBlock {
		t.Fatalf("the isolated controller's block took effect: next id %d", next)
	}
}

// Members crash at random with loss of what they did not sync; what was
// acknowledged stays, and no block of producer ids is handed out twice.
func TestCrashesLoseNothingAcknowledged(t *testing.T) {
	c := newCluster(t, 3, CoreOptions{SnapshotEvery: 16})
	lead := c.elect(c.voters[0])
	inc := c.up(lead, 1)
	given := map[int64]bool{}
	for round := range 60 {
		for range 5 {
			lead.Submit(&AllocateProducerIDs{Broker: 1, Incarnation: inc}, func(r Result, err error) {
				if err != nil || r.Code != 0 {
					return
				}
				if given[r.FirstProducerID] {
					t.Errorf("round %d: block %d handed out twice", round, r.FirstProducerID)
				}
				given[r.FirstProducerID] = true
			})
			for range c.rng.IntN(6) { // leave messages in flight
				c.process()
				if len(c.queue) > 0 {
					d := c.queue[0]
					c.queue = c.queue[1:]
					if to := c.cores[d.msg.To]; to != nil {
						_ = to.Step(d.msg.Data)
					}
				}
			}
		}
		victim := c.voters[c.rng.IntN(3)]
		c.crash(victim)
		c.settle()
		c.start(victim)
		c.settle()
		lead = c.electAny()
		if got := lead.Image().NextProducerID; got < int64(len(given))*producerIDBlock {
			t.Fatalf("round %d: %d blocks acknowledged, next id %d", round, len(given), got)
		}
	}
	if len(given) < 60 {
		t.Fatalf("only %d blocks were handed out: the test tests nothing", len(given))
	}
	c.sameImages()
}

// electAny elects the first member that can win.
func (c *cluster) electAny() *Core {
	for range 20 {
		for _, id := range c.sorted() {
			for _, other := range c.sorted() {
				c.cores[other].ForgetLeader()
			}
			c.cores[id].Campaign()
			c.settle()
			if c.cores[id].Status().Ready {
				return c.cores[id]
			}
		}
	}
	c.t.Fatal("nobody can be elected")
	return nil
}

// A power cut of all members at once.
func TestPowerCutOfAll(t *testing.T) {
	c := newCluster(t, 3, CoreOptions{})
	lead := c.elect(c.voters[0])
	c.up(lead, 1)
	c.must(lead, &CreateTopics{Topics: []NewTopic{{Name: "t", Partitions: 1, ReplicationFactor: 1}}})
	for _, id := range c.voters {
		c.crash(id)
	}
	c.queue = nil
	for _, id := range c.voters {
		c.start(id)
	}
	if lead = c.electAny(); lead.Image().TopicsByName["t"] == nil {
		t.Fatal("an acknowledged topic is gone")
	}
}

func TestSnapshotCatchUp(t *testing.T) {
	c := newCluster(t, 3, CoreOptions{SnapshotEvery: 10})
	lead := c.elect(c.voters[0])
	inc := c.up(lead, 1)
	c.crash(c.voters[2])
	for range 50 {
		c.must(lead, &AllocateProducerIDs{Broker: 1, Incarnation: inc})
	}
	if first, _ := lead.log.FirstIndex(); first < 20 {
		t.Fatalf("the log was not compacted: first index %d", first)
	}
	c.start(c.voters[2])
	c.tick(10)
	c.sameImages()
	// The member that got the snapshot restarts from it.
	c.crash(c.voters[2])
	c.start(c.voters[2])
	c.must(lead, &AllocateProducerIDs{Broker: 1, Incarnation: inc})
	c.sameImages()
}

// A broker that registers becomes a learner; a replaced disk's raft id leaves
// the quorum and a caught-up one takes its place.
func TestMembersFollowRegistrations(t *testing.T) {
	c := newCluster(t, 3, CoreOptions{})
	lead := c.elect(c.voters[0])
	for i := 1; i <= 3; i++ {
		c.up(lead, i)
	}
	fresh := raftOf(4)
	c.kvs[fresh] = newMemKV()
	c.start(fresh)
	c.up(lead, 4)
	c.beat(lead, 40, 1, 2, 3, 4)
	if img := lead.Image(); !slices.Contains(img.Learners, fresh) {
		t.Fatalf("learners %x", img.Learners)
	}
	c.sameImages()

	// Broker 3 comes back with another disk.
	c.crash(c.voters[2])
	delete(c.kvs, c.voters[2])
	c.must(lead, &FenceBroker{Broker: 3, Reason: FenceRefused})
	s := storageOf("new3")
	c.kvs[RaftIDFor(s)] = newMemKV()
	c.start(RaftIDFor(s))
	c.must(lead, &RegisterBroker{Broker: 3, Storage: s, RaftID: RaftIDFor(s), MaxFeature: 1})
	c.beat(lead, 60, 1, 2, 3, 4)
	img := lead.Image()
	if slices.Contains(img.Voters, c.voters[2]) || len(img.Voters) != 3 {
		t.Fatalf("voters %x, learners %x, retired %x", img.Voters, img.Learners, img.Retired)
	}
	c.sameImages()
}

// beat ticks while the given brokers send heartbeats.
func (c *cluster) beat(lead *Core, ticks int, brokers ...model.BrokerID) {
	for range ticks {
		for _, b := range brokers {
			lead.Heartbeat(HeartbeatRequest{Broker: b, Incarnation: incarnationOf(lead.Image(), b), AppliedIndex: lead.Image().Index}, func(HeartbeatResponse, error) {})
		}
		c.tick(1)
	}
}

// After the first failed write nothing is sent any more, and everything that
// waits fails.
func TestWriteErrorPoisons(t *testing.T) {
	c := newCluster(t, 1, CoreOptions{})
	lead := c.elect(c.voters[0])
	inc := c.up(lead, 1)
	kv := c.kvs[c.voters[0]]
	kv.fail = errors.New("disk failed")
	var got error
	lead.Submit(&AllocateProducerIDs{Broker: 1, Incarnation: inc}, func(_ Result, err error) { got = err })
	if msgs, err := lead.Process(); err == nil || len(msgs) > 0 {
		t.Fatalf("process returned %d messages and %v", len(msgs), err)
	}
	if !errors.Is(got, ErrUnknownOutcome) {
		t.Fatalf("the waiting command got %v", got)
	}
	kv.fail = nil
	n := kv.applies
	lead.Tick(c.now + time.Second)
	if _, err := lead.Process(); err == nil || kv.applies != n {
		t.Fatal("a poisoned core wrote again")
	}
}

// A batch that lands at another index than it was decided for has no effect.
func TestMisplacedBatchHasNoEffect(t *testing.T) {
	c := newCluster(t, 1, CoreOptions{})
	lead := c.elect(c.voters[0])
	before := lead.Image()
	if err := lead.rn.Propose(encodeBatch(before.Index+2, []Record{&ProducerIDs{Next: 5}})); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if img := lead.Image(); img.NextProducerID != 0 || img.Index != before.Index+1 {
		t.Fatalf("index %d, next producer id %d", img.Index, img.NextProducerID)
	}
}

// An unknown record stops the node with a clear error.
func TestUnknownRecordStops(t *testing.T) {
	c := newCluster(t, 1, CoreOptions{})
	lead := c.elect(c.voters[0])
	b := encodeBatch(lead.Image().Index+1, []Record{&ProducerIDs{Next: 5}})
	b[len(b)-3] = 200 // the kind of the only record
	if err := lead.rn.Propose(b); err != nil {
		t.Fatal(err)
	}
	if _, err := lead.Process(); !errors.Is(err, ErrUnknownRecord) {
		t.Fatalf("got %v", err)
	}
}

func TestConfirmedRead(t *testing.T) {
	c := newCluster(t, 3, CoreOptions{})
	lead := c.elect(c.voters[0])
	c.up(lead, 1)
	c.tick(4)
	f := c.cores[c.voters[1]]
	want := lead.Image().Index
	var got uint64
	f.ConfirmedRead(func(i uint64, err error) {
		if err != nil {
			t.Error(err)
		}
		got = i
	})
	c.tick(2)
	if got < want {
		t.Fatalf("read at %d, committed %d", got, want)
	}
	// Without a quorum a read fails instead of lying.
	c.isolate(c.voters[0], true)
	var failed error
	lead.ConfirmedRead(func(_ uint64, err error) { failed = err })
	c.tick(11 * DefaultElectionTicks)
	if failed == nil {
		t.Fatal("an isolated member confirmed a read")
	}
}

// Followers with evidence that the leader's process is gone elect at once.
func TestPeerDown(t *testing.T) {
	c := newCluster(t, 3, CoreOptions{})
	c.elect(c.voters[0])
	c.crash(c.voters[0])
	for _, id := range c.voters[1:] {
		c.cores[id].PeerDown(c.voters[0])
	}
	c.tick(6)
	ready := 0
	for _, id := range c.sorted() {
		if c.cores[id].Status().Ready {
			ready++
		}
	}
	if ready != 1 {
		t.Fatalf("%d controllers within 6 ticks", ready)
	}
}

// False evidence does not depose a leader that the others hear.
func TestFalsePeerDown(t *testing.T) {
	c := newCluster(t, 3, CoreOptions{})
	lead := c.elect(c.voters[0])
	term := lead.Status().Term
	c.cores[c.voters[1]].PeerDown(c.voters[0])
	c.tick(10)
	if s := lead.Status(); !s.Ready || s.Term != term {
		t.Fatalf("the leader was deposed: %+v", s)
	}
}

// A graceful stop hands the quorum over without an election timeout.
func TestTransfer(t *testing.T) {
	c := newCluster(t, 3, CoreOptions{})
	lead := c.elect(c.voters[0])
	c.tick(2)
	lead.Transfer()
	c.settle()
	if lead.Status().Ready || lead.Status().Leader == c.voters[0] {
		t.Fatalf("still leads: %+v", lead.Status())
	}
	if got, want := FoundingClusterID(c.voters), FoundingClusterID([]uint64{c.voters[2], c.voters[0], c.voters[1]}); got != want || len(got) != 22 {
		t.Fatalf("founders derive %q and %q", got, want)
	}
}

// unknownCommand stands for a defect in the decisions.
type unknownCommand struct{ BalanceLeaders }

// Whatever was queued with the command that hits a defect is answered once.
func TestDefectAnswersEverybody(t *testing.T) {
	c := newCluster(t, 1, CoreOptions{})
	lead := c.elect(c.voters[0])
	answers := make([]int, 4)
	for i, cmd := range []Command{&ResolveOffline{}, &FenceBroker{Broker: 1}, &unknownCommand{}, &FenceBroker{Broker: 2}} {
		lead.Submit(cmd, func(Result, error) { answers[i]++ })
	}
	if _, err := lead.Process(); err == nil {
		t.Fatal("the defect went unnoticed")
	}
	if !slices.Equal(answers, []int{1, 1, 1, 1}) {
		t.Fatalf("answers %v", answers)
	}
}
