package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// writer produces numbered records with an idempotent client until stopped and
// remembers what was acknowledged and where.
type writer struct {
	c     *cluster
	topic string
	cl    *kgo.Client
	stop  chan struct{}
	wg    sync.WaitGroup

	mu    sync.Mutex
	acked map[string]spot
	sent  int
	errs  []error
}

type spot struct {
	partition int32
	offset    int64
}

func (c *cluster) writer(topic string) *writer {
	w := &writer{c: c, topic: topic, stop: make(chan struct{}), acked: map[string]spot{}}
	w.cl = c.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.ProducerLinger(time.Millisecond), kgo.RecordDeliveryTimeout(patience), kgo.MaxBufferedRecords(500))
	w.wg.Add(1)
	go w.run()
	return w
}

func (w *writer) run() {
	defer w.wg.Done()
	for i := 0; ; i++ {
		select {
		case <-w.stop:
			w.cl.Flush(context.Background())
			return
		default:
		}
		v := strconv.Itoa(i)
		w.mu.Lock()
		w.sent++
		w.mu.Unlock()
		w.cl.Produce(context.Background(), &kgo.Record{Value: []byte(v)}, func(r *kgo.Record, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if err != nil {
				w.errs = append(w.errs, err)
				return
			}
			w.acked[v] = spot{r.Partition, r.Offset}
		})
		if i%10 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// progress waits for n more acknowledgements.
func (w *writer) progress(n int) {
	w.c.t.Helper()
	from := w.count()
	eventually(w.c.t, fmt.Sprintf("%d more acknowledgements", n), func(context.Context) error {
		if got := w.count() - from; got < n {
			return fmt.Errorf("%d so far", got)
		}
		return nil
	})
}

// finish stops the writer and returns what was acknowledged.
func (w *writer) finish() map[string]spot {
	w.c.t.Helper()
	close(w.stop)
	w.wg.Wait()
	if len(w.errs) > 0 {
		w.c.t.Fatalf("%d of %d records were given up: %v", len(w.errs), w.sent, w.errs[0])
	}
	return w.acked
}

// verify reads the topic near each broker and checks that every acknowledged
// record is at its offset and that no value occurs twice.
func (c *cluster) verify(topic string, acked map[string]spot) {
	c.t.Helper()
	ends := c.ends(topic)
	for via := 1; via <= len(c.nodes); via++ {
		if !c.nodes[via-1].running() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		seen, err := c.readAll(ctx, topic, via, ends)
		cancel()
		if err != nil {
			c.t.Fatalf("reading from broker %d: %v", via, err)
		}
		lost := 0
		for v, at := range acked {
			if got, ok := seen[v]; !ok || got != at {
				if lost++; lost < 5 {
					c.t.Errorf("broker %d: record %s was acknowledged at %v, found at %v (%v)", via, v, at, got, ok)
				}
			}
		}
		if lost > 0 {
			c.t.Fatalf("broker %d: %d of %d acknowledged records are not where they were acknowledged", via, lost, len(acked))
		}
	}
}

// readAll maps each value to its place; a value at two places is an error.
func (c *cluster) readAll(ctx context.Context, topic string, via int, ends []int64) (map[string]spot, error) {
	offs := map[int32]kgo.Offset{}
	left := int64(0)
	for p, e := range ends {
		offs[int32(p)] = kgo.NewOffset().AtStart()
		left += e
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.bootstrap()...), kgo.DisableClientMetrics(), kgo.Rack(rack(via)),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offs}))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	out := map[string]spot{}
	for left > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			return nil, err
		}
		var dup error
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset >= ends[r.Partition] {
				return
			}
			at := spot{r.Partition, r.Offset}
			if old, ok := out[string(r.Value)]; ok {
				dup = fmt.Errorf("value %q is at %v and at %v", r.Value, old, at)
			}
			out[string(r.Value)] = at
			left--
		})
		if dup != nil {
			return nil, dup
		}
	}
	return out, nil
}

// leader returns the broker that leads a partition.
func (c *cluster) leader(topic string, partition int32) int {
	c.t.Helper()
	adm := kadm.NewClient(c.client())
	leader := 0
	eventually(c.t, fmt.Sprintf("leader of %s/%d", topic, partition), func(ctx context.Context) error {
		ts, err := adm.ListTopics(ctx, topic)
		if err != nil {
			return err
		}
		p := ts[topic].Partitions[partition]
		if p.Err != nil || p.Leader < 1 {
			return fmt.Errorf("leader %d, %v", p.Leader, p.Err)
		}
		leader = int(p.Leader)
		return nil
	})
	return leader
}

// TestKillLeader: kill -9 of the leader under load, again and again; nothing
// acknowledged is lost or doubled, and the broker comes back in sync.
func TestKillLeader(t *testing.T) {
	c := newRackCluster(t, 3)
	c.createTopic("k", 3, 3, nil)
	w := c.writer("k")
	w.progress(200)
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	for i := range rounds {
		victim := c.nodes[c.leader("k", int32(i%3))-1]
		victim.kill()
		w.progress(200)
		victim.start()
		c.waitInSync("k", 3)
	}
	c.verify("k", w.finish())
}

// TestKillAll: kill -9 of all brokers at once; everything acknowledged is there
// after the restart.
func TestKillAll(t *testing.T) {
	c := newRackCluster(t, 3)
	c.createTopic("k", 3, 3, nil)
	w := c.writer("k")
	for range 2 {
		w.progress(300)
		for _, n := range c.nodes {
			n.signal(syscall.SIGKILL)
		}
		for _, n := range c.nodes {
			n.kill()
		}
		for _, n := range c.nodes {
			n.start()
		}
		c.waitLive(3)
		w.progress(100)
	}
	c.waitInSync("k", 3)
	c.verify("k", w.finish())
}

// TestPausedLeader: a leader that is stopped past its lease and resumed
// acknowledges nothing that is lost.
func TestPausedLeader(t *testing.T) {
	c := newRackCluster(t, 3)
	c.createTopic("p", 1, 3, nil)
	w := c.writer("p")
	w.progress(200)
	victim := c.nodes[c.leader("p", 0)-1]
	victim.signal(syscall.SIGSTOP)
	w.progress(200)
	victim.signal(syscall.SIGCONT)
	w.progress(200)
	c.waitInSync("p", 3)
	c.verify("p", w.finish())
}

// TestGracefulStop: SIGTERM moves leaderships first; a client that does not
// retry beyond what is silent sees no error.
func TestGracefulStop(t *testing.T) {
	c := newRackCluster(t, 3)
	c.createTopic("g", 3, 3, nil)
	w := c.writer("g")
	w.progress(200)
	for _, n := range c.nodes {
		n.terminate()
		w.progress(100)
		n.start()
		c.waitLive(3)
		c.waitInSync("g", 3)
	}
	c.verify("g", w.finish())
}

// TestBelowMinimum: with fewer live synchronous members than the minimum a
// produce is refused before anything is appended, committed records stay
// readable, and writes resume by themselves.
func TestBelowMinimum(t *testing.T) {
	for _, tc := range []struct {
		brokers, rf, minISR int
		stop                int // followers to kill
	}{{3, 3, 2, 2}, {3, 2, 2, 1}, {4, 3, 2, 2}, {4, 3, 3, 1}} {
		t.Run(fmt.Sprintf("%d brokers, factor %d, minimum %d", tc.brokers, tc.rf, tc.minISR), func(t *testing.T) {
			if testing.Short() && tc.brokers == 4 {
				t.Skip("short: three brokers only")
			}
			belowMinimum(t, tc.brokers, tc.rf, tc.minISR, tc.stop)
		})
	}
}

func belowMinimum(t *testing.T, brokers, rf, minISR, stop int) {
	c := newRackCluster(t, brokers)
	const topic = "m"
	c.createTopic(topic, 1, int16(rf), map[string]*string{"min.insync.replicas": ptr(strconv.Itoa(minISR))})
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	cl := c.client(kgo.DefaultProduceTopic(topic))
	if err := cl.ProduceSync(ctx, kgo.StringRecord("before")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	followers := c.followers(topic)
	if len(followers) < stop {
		t.Fatalf("followers %v", followers)
	}
	for _, f := range followers[:stop] {
		c.nodes[f-1].kill()
	}
	raw := c.client(kgo.DefaultProduceTopic(topic), kgo.RecordRetries(0), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RequestRetries(0), kgo.ProduceRequestTimeout(5*time.Second))
	eventually(t, "produces are refused", func(ctx context.Context) error {
		err := raw.ProduceSync(ctx, kgo.StringRecord("refused")).FirstErr()
		if errors.Is(err, kerr.NotEnoughReplicas) {
			return nil
		}
		if err == nil {
			t.Fatal("a produce was acknowledged below the minimum")
		}
		return err
	})
	if got := c.firstValue(ctx, topic); got != "before" {
		t.Fatalf("read %q below the minimum, want the committed record", got)
	}
	for _, f := range followers[:stop] {
		c.nodes[f-1].start()
	}
	if err := cl.ProduceSync(ctx, kgo.StringRecord("after")).FirstErr(); err != nil {
		t.Fatalf("writes did not resume: %v", err)
	}
}

func (c *cluster) firstValue(ctx context.Context, topic string) string {
	c.t.Helper()
	cl := c.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	for ctx.Err() == nil {
		fs := cl.PollFetches(ctx)
		for _, r := range fs.Records() {
			return string(r.Value)
		}
	}
	c.t.Fatal(ctx.Err())
	return ""
}

// followers lists the brokers that replicate partition 0 of topic without
// leading it.
func (c *cluster) followers(topic string) []int {
	c.t.Helper()
	adm := kadm.NewClient(c.client())
	var out []int
	eventually(c.t, "replicas of "+topic, func(ctx context.Context) error {
		ts, err := adm.ListTopics(ctx, topic)
		if err != nil {
			return err
		}
		p := ts[topic].Partitions[0]
		if p.Leader < 1 {
			return errors.New("no leader")
		}
		out = out[:0]
		for _, r := range p.Replicas {
			if r != p.Leader {
				out = append(out, int(r))
			}
		}
		slices.Sort(out)
		return nil
	})
	return out
}

// TestFourthBrokerJoins: a broker that starts later joins and carries replicas.
func TestFourthBrokerJoins(t *testing.T) {
	c := newRackCluster(t, 3)
	n := c.add("--rack", rack(4))
	n.start()
	c.waitLive(4)
	c.createTopic("four", 8, 3, nil)
	adm := kadm.NewClient(c.client())
	ts, err := adm.ListTopics(t.Context(), "four")
	if err != nil {
		t.Fatal(err)
	}
	var onFour atomic.Int32
	for _, p := range ts["four"].Partitions {
		if slices.Contains(p.Replicas, 4) {
			onFour.Add(1)
		}
	}
	if onFour.Load() == 0 {
		t.Fatal("no replica was placed on the fourth broker")
	}
	w := c.writer("four")
	w.progress(200)
	n.kill()
	w.progress(200)
	n.start()
	c.waitLive(4)
	c.waitInSync("four", 3)
	c.verify("four", w.finish())
}
