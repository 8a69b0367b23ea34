package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tailrace/tailrace/internal/history"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// readers poll during the faults: a franz-go consumer that picks replicas by
// rack, a raw reader for each broker that reads whatever that one serves, and
// one that asks for end offsets.
type readers struct {
	c  *campaign
	wg sync.WaitGroup

	mu  sync.Mutex
	obs []history.Observation
	// moved is when each reader first delivered something after the last fault.
	moved map[string]int64
	known map[history.Key]int64 // per key: one past the furthest record anybody read
}

const (
	readBytes   = 256 << 10
	readWait    = 100 * time.Millisecond
	readTimeout = 3 * time.Second
	latestEvery = 40 * time.Millisecond
)

func newReaders(c *campaign) *readers {
	return &readers{c: c, moved: map[string]int64{}, known: map[history.Key]int64{}}
}

func (r *readers) start(ctx context.Context) {
	for _, n := range r.c.nodes {
		r.wg.Go(func() { r.broker(ctx, n) })
	}
	rng := r.c.rand("consumer")
	r.wg.Go(func() { r.franz(ctx, rng) })
	rng = r.c.rand("latest")
	r.wg.Go(func() { r.latest(ctx, rng) })
}

func (r *readers) wait() { r.wg.Wait() }

// delivered notes progress after the last fault, and how far records are known
// to reach.
func (r *readers) delivered(who string, reads []history.Read) {
	if len(reads) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := r.c.lastFault.Load(); at != 0 && r.moved[who] == 0 {
		r.moved[who] = r.c.rec.Now()
	}
	for _, x := range reads {
		r.known[x.Key] = max(r.known[x.Key], x.Offset+1)
	}
}

// allKnown returns how far each key is known to reach.
func (r *readers) knownEnd(k history.Key) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[k]
}

func (r *readers) observe(o history.Observation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.obs = append(r.obs, o)
}

// assigned records a new process that reads all keys from their start.
func (r *readers) assigned() int {
	p := r.c.rec.NewProcess()
	var keys []history.Key
	for k := range r.c.keys {
		keys = append(keys, history.Key(k))
	}
	r.c.rec.Begin(history.Op{Process: p, F: history.FAssign, Keys: keys}).End(history.OK, nil)
	return p
}

// broker reads from one broker whatever it serves, key by key.
func (r *readers) broker(ctx context.Context, n *node) {
	b := brokerReader{r: r, n: n, process: r.assigned(), starts: n.startCount(), at: make([]int64, len(r.c.keys))}
	defer b.close()
	for i := 0; ctx.Err() == nil; i++ {
		k := history.Key(i % len(r.c.keys))
		if p, ok := r.c.topo.place(r.c.keys[k]); !ok || !contains(p.replicas, n.id()) || !n.serving() {
			pause(ctx, 10*time.Millisecond)
			continue
		}
		if starts := n.startCount(); starts != b.starts && nemeses[r.c.o.Nemesis].reread {
			b.starts, b.process = starts, r.assigned()
			clear(b.at)
		}
		if !b.poll(k) {
			pause(ctx, 20*time.Millisecond)
		}
	}
}

func contains(ids []int32, id int32) bool {
	for _, x := range ids {
		if x == id {
			return true
		}
	}
	return false
}

type brokerReader struct {
	r       *readers
	n       *node
	conn    *rawConn
	process int
	starts  int // of the broker, when process began to read
	at      []int64
}

func (b *brokerReader) close() {
	if b.conn != nil {
		b.conn.close()
		b.conn = nil
	}
}

// poll makes one fetch; it reports whether it brought records.
func (b *brokerReader) poll(k history.Key) bool {
	if b.conn == nil {
		var err error
		if b.conn, err = dialRaw(b.n.kafka()); err != nil {
			b.conn = nil
			return false
		}
	}
	c := b.r.c
	start, asked := b.n.startCount(), c.rec.Now()
	pending := c.rec.Begin(history.Op{Process: b.process, F: history.FPoll})
	resp, err := b.conn.do(fetchRequest(c.keys[k], b.at[k], readWait, readBytes), readTimeout)
	if err != nil {
		b.close()
		pending.End(history.Fail, func(o *history.Op) { o.Error = err.Error() })
		return false
	}
	p, err := onlyPartition(resp.(*kmsg.FetchResponse))
	var got fetched
	if err == nil {
		got, err = decodeFetched(k, b.at[k], p.RecordBatches)
		if err != nil {
			c.anomaly("broker %d served damaged bytes of %s: %v", b.n.id(), c.keys[k], err)
		}
	}
	if err != nil {
		if err == kerr.OffsetOutOfRange && b.at[k] <= b.r.knownEnd(k) {
			c.anomaly("broker %d answers OFFSET_OUT_OF_RANGE at offset %d of %s, which was read before", b.n.id(), b.at[k], c.keys[k])
		}
		c.count("fetch " + err.Error()[:min(len(err.Error()), 40)])
		pending.End(history.Fail, func(o *history.Op) { o.Error = err.Error() })
		return false
	}
	pending.End(history.OK, func(o *history.Op) { o.Mops = []history.Mop{history.PollMop(got.reads...)} })
	b.at[k] = got.next
	b.r.delivered(fmt.Sprintf("reader of broker %d", b.n.id()), got.reads)
	if p.HighWatermark >= 0 && start == b.n.startCount() {
		b.r.observe(history.Observation{Key: k, Observer: fmt.Sprintf("broker %d, start %d", b.n.id(), start), Invoked: asked, Done: c.rec.Now(),
			LogStart: history.NotTold, LastStable: history.NotTold, HighWatermark: p.HighWatermark, Latest: history.NotTold, LeaderEpoch: history.NotTold})
	}
	return len(got.reads) > 0
}

// onlyPartition returns the one partition that was asked for, or its error.
func onlyPartition(resp *kmsg.FetchResponse) (*kmsg.FetchResponseTopicPartition, error) {
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, fmt.Errorf("answer without the partition that was asked for")
	}
	p := &resp.Topics[0].Partitions[0]
	return p, kerr.ErrorForCode(p.ErrorCode)
}

// franz consumes all keys from the replicas of one rack after the other.
func (r *readers) franz(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		if err := r.franzLife(ctx, r.c.nodes[rng.IntN(len(r.c.nodes))].rack()); err != nil {
			r.c.anomaly("franz-go consumer: %v", err)
			return
		}
	}
}

func (r *readers) franzLife(ctx context.Context, rack string) error {
	start := map[string]map[int32]kgo.Offset{}
	for _, k := range r.c.keys {
		if start[k.topic] == nil {
			start[k.topic] = map[int32]kgo.Offset{}
		}
		start[k.topic][k.partition] = kgo.NewOffset().AtStart()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.c.bootstrap()...), kgo.DisableClientMetrics(), kgo.Rack(rack), kgo.ConsumePartitions(start),
		kgo.MetadataMinAge(50*time.Millisecond), kgo.DialTimeout(dialTimeout), kgo.FetchMaxWait(250*time.Millisecond), kgo.FetchMaxBytes(1<<20))
	if err != nil {
		return err
	}
	defer cl.Close()
	life, end := context.WithTimeout(ctx, 2*clientLife)
	defer end()
	process := r.assigned()
	for life.Err() == nil {
		r.franzPoll(life, cl, process)
	}
	return nil
}

func (r *readers) franzPoll(ctx context.Context, cl *kgo.Client, process int) {
	pending := r.c.rec.Begin(history.Op{Process: process, F: history.FPoll})
	fs := cl.PollFetches(ctx)
	var reads []history.Read
	fs.EachRecord(func(x *kgo.Record) {
		k := r.c.keyOf(tp{x.Topic, x.Partition})
		reads = append(reads, history.Read{Key: k, Offset: x.Offset, Value: decodeValue(k, x.Value)})
	})
	fs.EachError(func(topic string, p int32, err error) {
		if ctx.Err() == nil {
			r.c.count("consumer " + err.Error()[:min(len(err.Error()), 60)])
		}
		if isDataLoss(err) {
			r.c.anomaly("franz-go says that data was lost: %s/%d: %v", topic, p, err)
		}
	})
	pending.End(history.OK, func(o *history.Op) { o.Mops = []history.Mop{history.PollMop(reads...)} })
	r.delivered("franz-go consumer", reads)
}

// latest asks for end offsets: mostly of whoever leads by the newest metadata,
// sometimes of any broker, since a deposed leader must not answer.
func (r *readers) latest(ctx context.Context, rng *rand.Rand) {
	conns := map[int32]*rawConn{}
	defer func() {
		for _, c := range conns {
			c.close()
		}
	}()
	for pause(ctx, latestEvery) {
		k := history.Key(rng.IntN(len(r.c.keys)))
		id := int32(rng.IntN(len(r.c.nodes)) + 1)
		if p, ok := r.c.topo.place(r.c.keys[k]); ok && p.leader > 0 && rng.IntN(3) > 0 {
			id = p.leader
		}
		n := r.c.nodes[id-1]
		if !n.running() {
			continue
		}
		if conns[id] == nil {
			c, err := dialRaw(n.kafka())
			if err != nil {
				continue
			}
			conns[id] = c
		}
		if err := r.askLatest(conns[id], n, k); err != nil {
			conns[id].close()
			delete(conns, id)
		}
	}
}

func (r *readers) askLatest(conn *rawConn, n *node, k history.Key) error {
	asked := r.c.rec.Now()
	resp, err := conn.do(latestRequest(r.c.keys[k]), readTimeout)
	if err != nil {
		return err
	}
	end, err := latestOf(resp.(*kmsg.ListOffsetsResponse))
	if err != nil {
		return nil // no answer is no anomaly
	}
	// One client asks one after the other, so the answers must not go back
	// whichever broker gives them.
	r.observe(history.Observation{Key: k, Observer: "end offsets", Invoked: asked, Done: r.c.rec.Now(),
		LogStart: history.NotTold, LastStable: history.NotTold, HighWatermark: history.NotTold, Latest: end, LeaderEpoch: history.NotTold})
	return nil
}

func latestOf(resp *kmsg.ListOffsetsResponse) (int64, error) {
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("answer without the partition that was asked for")
	}
	p := &resp.Topics[0].Partitions[0]
	return p.Offset, kerr.ErrorForCode(p.ErrorCode)
}
