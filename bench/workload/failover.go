package workload

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tailrace/tailrace/bench/load"
	"github.com/tailrace/tailrace/bench/report"
	"github.com/tailrace/tailrace/bench/stats"
	"github.com/tailrace/tailrace/internal/history"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var failover = Workload{
	Name:  "failover",
	Short: "kill -9 of the leader, --kills times: time to the next acknowledged produce, time back in sync, nothing lost or duplicated",
	Own:   true,
	Defaults: func(p *Params) {
		p.Kills, p.Rate, p.Linger, p.RecordSize, p.Partitions, p.Rounds = 20, 1000, 0, 100, 3, 1
	},
	Setup: oneTopic("failover"),
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) { return one(s.failover(ctx)) },
}

// Bounds of one kill.
const (
	nextAckLimit = 60 * time.Second
	inSyncLimit  = 120 * time.Second
	pollMetadata = 10 * time.Millisecond
	betweenKills = time.Second
)

// outDir is where evidence goes that nobody asked for by name.
const outDir = "bench-out"

// recorded is a producer whose every record is in a history.
type recorded struct {
	rec     *history.Recorder
	p       load.Producer
	process int
	keys    []history.Key
	size    int

	mu     sync.Mutex
	killed []int64         // per partition: when its leader was killed, 0 if nobody waits
	acked  []chan struct{} // closed at the first acknowledgement of a send after killed
}

func newRecorded(s *Session, p load.Producer) *recorded {
	r := &recorded{rec: history.NewRecorder(), p: p, size: s.P.RecordSize,
		killed: make([]int64, s.Topic.Partitions), acked: make([]chan struct{}, s.Topic.Partitions)}
	r.process = r.rec.NewProcess()
	for i := range s.Topic.Partitions {
		r.keys = append(r.keys, r.rec.Key(fmt.Sprintf("%s/%d", s.Topic.Name, i)))
	}
	return r
}

// send sends the next value to a partition and records the outcome.
func (r *recorded) send(part int32) {
	k := r.keys[part]
	v := r.rec.NextValue(k)
	value := make([]byte, r.size)
	binary.BigEndian.PutUint64(value, uint64(v))
	pending := r.rec.Begin(history.Op{Process: r.process, F: history.FSend, Mops: []history.Mop{history.SendMop(k, v)}})
	sent := r.rec.Now()
	r.p.Send(part, nil, value, func(offset int64, err error) {
		if err != nil { // the client retries, so an earlier attempt may have been applied: never a definite failure
			pending.End(history.Info, func(o *history.Op) { o.Error = err.Error() })
			return
		}
		pending.End(history.OK, func(o *history.Op) { o.Mops[0].Offset = offset })
		r.ack(part, sent)
	})
}

func (r *recorded) ack(part int32, sent int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := r.killed[part]; at != 0 && sent > at {
		r.killed[part] = 0
		close(r.acked[part])
	}
}

// watch returns a channel that is closed when a record that was sent from now
// on is acknowledged.
func (r *recorded) watch(part int32) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.killed[part], r.acked[part] = r.rec.Now(), make(chan struct{})
	return r.acked[part]
}

func (s *Session) failover(ctx context.Context) (report.Sample, error) {
	var out report.Sample
	if s.C.Protocol != "kafka" {
		return out, errors.New("failover needs a target that speaks Kafka's protocol")
	}
	admin, err := kgo.NewClient(kgo.SeedBrokers(s.C.Bootstrap...), kgo.MetadataMinAge(pollMetadata))
	if err != nil {
		return out, err
	}
	defer admin.Close()
	p, err := s.Client.Producer(s.Topic.Name, nil)
	if err != nil {
		return out, err
	}
	defer p.Close()
	r := newRecorded(s, p)
	m := s.startMeter()
	next, back, err := s.killLeaders(ctx, r, kadm.NewClient(admin))
	m.stop(&out)
	if err != nil {
		return out, err
	}
	return out, s.judge(ctx, r, kadm.NewClient(admin), next, back, &out)
}

// killLeaders runs the load and the kills; it returns, in seconds, the times
// to the next acknowledgement and back to a full in-sync set.
func (s *Session) killLeaders(ctx context.Context, r *recorded, adm *kadm.Client) (next, back []float64, err error) {
	paceCtx, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		n := int64(s.Topic.Partitions)
		load.Pace(paceCtx, s.P.Rate, func(time.Duration) {}, func(i int64, _ time.Time) { r.send(int32(i % n)) })
	}()
	defer func() { end(); wg.Wait() }()
	if err := sleep(ctx, s.P.Warmup); err != nil {
		return nil, nil, err
	}
	for k := range s.P.Kills {
		n, b, err := s.killLeader(ctx, r, adm, int32(k%s.Topic.Partitions))
		if err != nil {
			return next, back, fmt.Errorf("kill %d: %w", k+1, err)
		}
		next, back = append(next, n.Seconds()), append(back, b.Seconds())
		s.Logf("%s kill %d/%d: next acknowledgement after %.0f ms, back in sync %.0f ms after its start", s.C.Name, k+1, s.P.Kills, n.Seconds()*1e3, b.Seconds()*1e3)
		if err := sleep(ctx, betweenKills); err != nil {
			return next, back, err
		}
	}
	return next, back, nil
}

func (s *Session) killLeader(ctx context.Context, r *recorded, adm *kadm.Client, part int32) (next, back time.Duration, err error) {
	leader, err := s.leaderOf(ctx, adm, part)
	if err != nil {
		return 0, 0, err
	}
	node := s.C.Node(leader)
	if node == nil {
		return 0, 0, fmt.Errorf("the leader is broker %d, which was not started here", leader)
	}
	start := time.Now()
	node.Kill() // returns when the process is gone: what is sent from now on was not acknowledged by it
	acked := r.watch(part)
	select {
	case <-acked:
		next = time.Since(start)
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	case <-time.After(nextAckLimit):
		return 0, 0, fmt.Errorf("no acknowledgement on partition %d within %s of the kill of broker %d", part, nextAckLimit, leader)
	}
	start = time.Now()
	if err := node.Start(); err != nil {
		return next, 0, err
	}
	if err := s.awaitInSync(ctx, adm); err != nil {
		return next, 0, err
	}
	return next, time.Since(start), nil
}

func (s *Session) leaderOf(ctx context.Context, adm *kadm.Client, part int32) (int32, error) {
	md, err := adm.Metadata(ctx, s.Topic.Name)
	if err != nil {
		return -1, err
	}
	p, ok := md.Topics[s.Topic.Name].Partitions[part]
	if !ok || p.Leader < 0 {
		return -1, fmt.Errorf("partition %d has no leader", part)
	}
	return p.Leader, nil
}

// awaitInSync returns when the in-sync set of every partition is full: every
// replica, or as many as sync.replicas asks for.
func (s *Session) awaitInSync(ctx context.Context, adm *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, inSyncLimit)
	defer cancel()
	for {
		md, err := adm.Metadata(ctx, s.Topic.Name)
		full := err == nil && len(md.Topics[s.Topic.Name].Partitions) == s.Topic.Partitions
		if full {
			for _, p := range md.Topics[s.Topic.Name].Partitions {
				full = full && p.Leader >= 0 && len(p.ISR) >= s.syncTarget(len(p.Replicas))
			}
		}
		if full {
			return nil
		}
		if err := sleep(ctx, pollMetadata); err != nil {
			return fmt.Errorf("not every replica came back in sync within %s", inSyncLimit)
		}
	}
}

// syncTarget is the size of a full in-sync set.
func (s *Session) syncTarget(replicas int) int {
	if s.Topic.SyncSet > 0 {
		return min(s.Topic.SyncSet, replicas)
	}
	return replicas
}

// judge reads everything back and checks the history.
func (s *Session) judge(ctx context.Context, r *recorded, adm *kadm.Client, next, back []float64, out *report.Sample) error {
	flush, cancel := context.WithTimeout(ctx, inSyncLimit)
	defer cancel()
	if err := r.p.Flush(flush); err != nil {
		return fmt.Errorf("records without an outcome: %w", err)
	}
	finals, err := s.readBackFinal(ctx, r, adm)
	if err != nil {
		return err
	}
	h := r.rec.History()
	rep := history.Check(h, history.Options{FinalReads: finals})
	count := func(code string) float64 {
		if f := rep.Find(code); f != nil {
			return float64(f.Count)
		}
		return 0
	}
	out.Records = int64(rep.Acked)
	out.Bytes = out.Records * int64(s.P.RecordSize)
	out.Values = map[string]float64{
		"kills": float64(len(next)), "lost": count("B1"), "duplicates": count("A2"), "unknown outcomes": float64(rep.Unknown),
		"kill to next ack, median s": stats.Quantile(next, 0.5), "kill to next ack, p99 s": stats.Quantile(next, 0.99), "kill to next ack, worst s": stats.Quantile(next, 1),
		"start to in sync, median s": stats.Quantile(back, 0.5), "start to in sync, worst s": stats.Quantile(back, 1),
	}
	s.Logf("%s history: %s", s.C.Name, rep)
	if rep.Valid() && s.P.HistoryFile == "" {
		return nil
	}
	file := s.P.HistoryFile
	if file == "" {
		file = filepath.Join(outDir, fmt.Sprintf("failover-%s-%d.jsonl", s.C.Name, time.Now().Unix()))
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := history.SaveFile(file, h); err != nil {
		return err
	}
	if !rep.Valid() {
		return fmt.Errorf("the history is not valid (saved as %s):\n%s", file, rep)
	}
	return nil
}

// readBackFinal reads the topic from the start to its confirmed end.
func (s *Session) readBackFinal(ctx context.Context, r *recorded, adm *kadm.Client) ([]history.FinalRead, error) {
	ends, err := adm.ListEndOffsets(ctx, s.Topic.Name)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("end offsets: %w", err)
	}
	finals := make([]history.FinalRead, s.Topic.Partitions)
	for i := range finals {
		o, _ := ends.Lookup(s.Topic.Name, int32(i))
		finals[i] = history.FinalRead{Key: r.keys[i], Replica: "leader", End: o.Offset}
	}
	reads := make([][]history.Read, s.Topic.Partitions)
	process := r.rec.NewProcess()
	pending := r.rec.Begin(history.Op{Process: process, F: history.FPoll, Final: true, Replica: "leader"})
	err = s.readAll(ctx, "", func(rec load.Record) {
		var v history.Value = -1
		if len(rec.Value) >= 8 {
			v = history.Value(binary.BigEndian.Uint64(rec.Value))
		}
		reads[rec.Partition] = append(reads[rec.Partition], history.Read{Key: r.keys[rec.Partition], Offset: rec.Offset, Value: v})
		finals[rec.Partition].Position = rec.Offset + 1
	}, func() bool {
		return !slices.ContainsFunc(finals, func(f history.FinalRead) bool { return f.Position < f.End })
	})
	pending.End(history.OK, func(o *history.Op) {
		for _, rs := range reads {
			o.Mops = append(o.Mops, history.PollMop(rs...))
		}
	})
	return finals, err
}
