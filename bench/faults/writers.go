package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tailrace/tailrace/internal/history"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// writers put load on every key by two kinds of client: raw ones that make one
// attempt and report what came of it, and franz-go's idempotent producer,
// which retries.
type writers struct {
	c  *campaign
	wg sync.WaitGroup

	mu      sync.Mutex
	watches map[history.Key][]*watch
}

// watch waits for the first acknowledgement of a record that was sent after it
// was made.
type watch struct {
	since int64
	done  chan int64 // receives the time of the acknowledgement
}

const (
	// produceTimeout is what a produce request gives the broker.
	produceTimeout = 4 * time.Second
	// answerTimeout is when a raw client gives up on an answer.
	answerTimeout = 5 * time.Second
	// clientLife is how long a franz-go client is used.
	clientLife = 12 * time.Second
	// flushPatience bounds what a franz-go client may take to settle what it
	// has buffered, once the cluster is well.
	flushPatience = 30 * time.Second
)

func (w *writers) start(ctx context.Context) {
	for k := range w.c.keys {
		for i := range w.c.o.RawClients {
			rng := w.c.rand(fmt.Sprintf("raw-%d-%d", k, i))
			w.wg.Go(func() { w.raw(ctx, history.Key(k), rng) })
		}
	}
	for i := range w.c.o.FranzClients {
		rng := w.c.rand(fmt.Sprintf("franz-%d", i))
		w.wg.Go(func() { w.franz(ctx, rng) })
	}
}

// wait returns when all writers have ended and every record has an outcome or
// was given up.
func (w *writers) wait() { w.wg.Wait() }

// watch returns a channel that receives the time of the first acknowledgement
// on k of a record sent from now on.
func (w *writers) watch(k history.Key) <-chan int64 {
	x := &watch{since: w.c.rec.Now(), done: make(chan int64, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watches[k] = append(w.watches[k], x)
	return x.done
}

func (w *writers) acked(k history.Key, sent int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.watches[k][:0]
	for _, x := range w.watches[k] {
		if sent <= x.since {
			kept = append(kept, x)
			continue
		}
		x.done <- w.c.rec.Now()
	}
	w.watches[k] = kept
}

// raw writes to one key, one record at a time, until ctx ends.
func (w *writers) raw(ctx context.Context, k history.Key, rng *rand.Rand) {
	r := rawWriter{w: w, k: k, conns: map[int32]*rawConn{}, process: w.c.rec.NewProcess()}
	defer r.closeAll()
	every := time.Duration(float64(time.Second) / w.c.o.Rate)
	for pause(ctx, time.Duration(rng.Int64N(int64(2*every)+1))) {
		if !r.write(rng) {
			w.c.topo.refresh()
			pause(ctx, 5*time.Millisecond)
		}
	}
}

// rawWriter is one raw client.
type rawWriter struct {
	w       *writers
	k       history.Key
	conns   map[int32]*rawConn
	process int
}

// write makes one attempt; it reports whether the record was acknowledged.
func (r *rawWriter) write(rng *rand.Rand) bool {
	c := r.w.c
	p, ok := c.topo.place(c.keys[r.k])
	if !ok || p.leader < 1 {
		return false
	}
	conn := r.conn(p.leader)
	if conn == nil {
		return false // nothing was sent
	}
	v := c.rec.NextValue(r.k)
	pending := c.rec.Begin(history.Op{Process: r.process, F: history.FSend, Mops: []history.Mop{history.SendMop(r.k, v)}})
	sent := c.rec.Now()
	resp, err := conn.do(produceRequest(c.keys[r.k], encodeValue(r.k, v, c.size(rng)), produceTimeout), answerTimeout)
	if err == nil {
		var done bool
		if done, err = r.outcome(pending, resp.(*kmsg.ProduceResponse), sent); done {
			return err == nil
		}
	}
	// No answer, or none that can be understood: nobody knows.
	r.drop(p.leader)
	r.end(pending, history.Info, err)
	return false
}

// outcome records what the broker answered; false if it is no answer.
func (r *rawWriter) outcome(pending history.Pending, resp *kmsg.ProduceResponse, sent int64) (bool, error) {
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return false, errors.New("answer without the partition that was asked for")
	}
	p := &resp.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		err := kerr.ErrorForCode(p.ErrorCode)
		r.w.c.count("produce " + err.Error()[:min(len(err.Error()), 40)])
		r.end(pending, history.Outcome(p.ErrorCode, false), err)
		return true, err
	}
	pending.End(history.OK, func(o *history.Op) { o.Mops[0].Offset = p.BaseOffset })
	r.w.acked(r.k, sent)
	return true, nil
}

// end records an outcome that is not success. After an unknown one the client
// is another process.
func (r *rawWriter) end(pending history.Pending, t history.Type, err error) {
	pending.End(t, func(o *history.Op) { o.Error = err.Error() })
	if t == history.Info {
		r.process = r.w.c.rec.NewProcess()
	}
}

func (r *rawWriter) conn(id int32) *rawConn {
	if c := r.conns[id]; c != nil {
		return c
	}
	n := r.w.c.nodes[id-1]
	if !n.running() {
		return nil
	}
	c, err := dialRaw(n.kafka())
	if err != nil {
		return nil
	}
	r.conns[id] = c
	return c
}

func (r *rawWriter) drop(id int32) {
	r.conns[id].close()
	delete(r.conns, id)
}

func (r *rawWriter) closeAll() {
	for _, c := range r.conns {
		c.close()
	}
}

// franz writes to all keys with one franz-go client after the other.
func (w *writers) franz(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		if err := w.franzLife(ctx, rng); err != nil {
			w.c.anomaly("franz-go: %v", err)
			return
		}
	}
}

// franzLife is one client, from its first record until a record has an unknown
// outcome, its time is over or ctx ends.
func (w *writers) franzLife(ctx context.Context, rng *rand.Rand) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.c.bootstrap()...), kgo.DisableClientMetrics(), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(2*time.Millisecond), kgo.MetadataMinAge(50*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.ProduceRequestTimeout(produceTimeout), kgo.RequestTimeoutOverhead(time.Second), kgo.DialTimeout(dialTimeout),
		kgo.MaxBufferedRecords(1000), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return err
	}
	defer cl.Close()
	life, end := context.WithTimeout(ctx, clientLife)
	defer end()
	process := w.c.rec.NewProcess()
	every := time.Duration(float64(time.Second) / w.c.o.Rate / float64(len(w.c.keys)))
	for pause(life, time.Duration(rng.Int64N(int64(2*every)+1))) {
		w.franzSend(life, cl, process, history.Key(rng.IntN(len(w.c.keys))), w.c.size(rng), end)
	}
	// What is buffered keeps being sent: the faults may go on for long.
	flush, cancel := context.WithTimeout(context.Background(), flushPatience+w.c.o.longestFault())
	defer cancel()
	if err := cl.Flush(flush); err != nil {
		w.c.count("franz-go flush gave up")
	}
	return nil
}

func (w *writers) franzSend(life context.Context, cl *kgo.Client, process int, k history.Key, size int, unknown func()) {
	if int(cl.BufferedProduceRecords()) >= 900 {
		return // Produce would block, and the client's life is bounded
	}
	v := w.c.rec.NextValue(k)
	pending := w.c.rec.Begin(history.Op{Process: process, F: history.FSend, Mops: []history.Mop{history.SendMop(k, v)}})
	sent := w.c.rec.Now()
	r := &kgo.Record{Topic: w.c.keys[k].topic, Partition: w.c.keys[k].partition, Value: encodeValue(k, v, size)}
	cl.Produce(context.WithoutCancel(life), r, func(r *kgo.Record, err error) {
		if err != nil { // it retries, so an earlier attempt may have been applied: never a definite failure
			pending.End(history.Info, func(o *history.Op) { o.Error = err.Error() })
			unknown()
			return
		}
		pending.End(history.OK, func(o *history.Op) { o.Mops[0].Offset = r.Offset })
		w.acked(k, sent)
	})
}
