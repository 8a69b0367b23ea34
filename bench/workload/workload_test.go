package workload

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/tailrace/tailrace/bench/cluster"
	"github.com/tailrace/tailrace/bench/limit"
	"github.com/tailrace/tailrace/bench/report"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// small are settings that let every workload run in a test.
func small() Params {
	return Params{Acks: "all", RecordSize: 100, BatchBytes: 1 << 16, Compression: "none", Partitions: 3, Producers: 2, Consumers: 1,
		Replication: 3, MinInSync: 2, Duration: 300 * time.Millisecond, Warmup: 50 * time.Millisecond, Rounds: 1}
}

// nullSession is a session on a null broker in this process.
func nullSession(t *testing.T, p Params) *Session {
	t.Helper()
	srv, err := limit.StartNull("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster.Cluster{Name: "null", Protocol: "kafka", Bootstrap: []string{srv.Addr()}}
	s, err := NewSession(c, p, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// runOnce runs one round. On a busy machine a short window can pass without
// one acknowledgement: then it is tried again with a longer one.
func runOnce(t *testing.T, w Workload, p Params) []LineSample {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	s := nullSession(t, p)
	if err := w.Setup(ctx, s); err != nil {
		t.Fatal(err)
	}
	for ; ; s.P.Duration *= 2 {
		lines, err := w.Round(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			if l.Sample.Errors != 0 || l.Sample.Missing != 0 {
				t.Fatalf("%s: %d errors (%s), %d missing", l.Line, l.Sample.Errors, l.Sample.FirstError, l.Sample.Missing)
			}
		}
		missed := func(l LineSample) bool {
			produces := w.Name != idle.Name && s.preloaded == 0
			reads := p.Consumers > 0 && (w.Name == mixed.Name || w.Name == fanout.Name || w.Name == latency.Name)
			return produces && (l.Sample.Records == 0 || l.Sample.Ack == nil) || reads && (l.Sample.Consumed == 0 || l.Sample.EndToEnd == nil)
		}
		if !slices.ContainsFunc(lines, missed) || s.P.Duration > 10*time.Second {
			return lines
		}
	}
}

func TestProduce(t *testing.T) {
	for _, acks := range []string{"all", "leader"} {
		p := small()
		p.Acks, p.Keys, p.Compression = acks, 10, "lz4"
		s := runOnce(t, produce, p)[0].Sample
		if s.Records == 0 || s.Bytes < s.Records*100 || s.Ack == nil || s.Seconds <= 0 {
			t.Errorf("acks %s: %+v", acks, s)
		}
	}
}

// Everything that was acknowledged arrives, and each measured record has both
// latencies.
func TestLatency(t *testing.T) {
	p := small()
	p.Producers, p.Rate = 1, 2000
	s := runOnce(t, latency, p)[0].Sample
	if s.Ack == nil || s.EndToEnd == nil || s.Lag == nil {
		t.Fatalf("histograms are missing: %+v", s)
	}
	if s.Ack.Count != s.EndToEnd.Count || s.Ack.Count != s.AckRaw.Count {
		t.Errorf("%d acknowledged, %d uncorrected, %d end to end: want the same records", s.Ack.Count, s.AckRaw.Count, s.EndToEnd.Count)
	}
	if s.Consumed == 0 || s.Records == 0 {
		t.Errorf("produced %d, consumed %d", s.Records, s.Consumed)
	}
}

func TestMixedAndFanout(t *testing.T) {
	p := small()
	p.Rate, p.Consumers = 2000, 2
	if s := runOnce(t, mixed, p)[0].Sample; s.Records == 0 || s.Consumed == 0 {
		t.Errorf("mixed: %+v", s)
	}
	p.Producers, p.Consumers, p.Followers = 1, 3, true
	if s := runOnce(t, fanout, p)[0].Sample; s.EndToEnd == nil || s.EndToEnd.Count != 3*s.Ack.Count {
		t.Errorf("fan-out: %d acknowledged, end to end %+v, want three of each", s.Ack.Count, s.EndToEnd)
	}
}

func TestConsume(t *testing.T) {
	p := small()
	p.Preload, p.Consumers = 1_000_000, 2
	for _, mode := range []string{modeCatchUp, modeFollowers} {
		p.Mode = mode
		s := runOnce(t, consume, p)[0].Sample
		if s.Consumed != 20_000 || s.ConsumedBytes != 2_000_000 || s.Records != 0 {
			t.Errorf("%s: consumed %d records, %d bytes; want 2 × 10,000 of 100 B", mode, s.Consumed, s.ConsumedBytes)
		}
	}
	p.Mode, p.Rate = modeTail, 2000
	if s := runOnce(t, consume, p)[0].Sample; s.Consumed == 0 {
		t.Errorf("tail: %+v", s)
	}
	p.Mode = "sideways"
	if err := consume.Setup(context.Background(), nullSession(t, p)); err == nil {
		t.Error("an unknown mode must be refused")
	}
}

func TestPartitionsAndConnections(t *testing.T) {
	p := small()
	p.Counts = []int{1, 40}
	for i, l := range runOnce(t, partitions, p) {
		if want := fmt.Sprintf("%d partitions", p.Counts[i]); l.Line != want || l.Sample.Records == 0 {
			t.Errorf("line %q with %d records, want %q", l.Line, l.Sample.Records, want)
		}
	}
	for i, l := range runOnce(t, connections, p) {
		want := "no idle connections"
		if i > 0 {
			want = fmt.Sprintf("%d connections", p.Counts[i-1])
		}
		if l.Line != want || l.Sample.Records == 0 || i > 0 && l.Sample.Values[shareOfNone] <= 0 {
			t.Errorf("line %q: %+v, want %q", l.Line, l.Sample, want)
		}
	}
}

func TestIdle(t *testing.T) {
	if s := runOnce(t, idle, small())[0].Sample; s.Records != 0 || len(s.Values) != 1 {
		t.Errorf("%+v", s)
	}
}

func TestFailingTargetIsAnError(t *testing.T) {
	p := small()
	s := nullSession(t, p)
	s.C.Bootstrap = nil
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.newTopic(ctx, "x", 1); err == nil {
		t.Error("a topic was created with a dead context")
	}
}

func TestStamps(t *testing.T) {
	base := time.Now()
	p := newPayload(newPool(1, 64), 1, 42, base, 64, 0)
	a, b := p.stamped(base.Add(time.Second)), p.stamped(base.Add(2*time.Second))
	if due, ok := readStamp(a, 42); !ok || due != time.Second {
		t.Errorf("first stamp %v, %v", due, ok)
	}
	if due, ok := readStamp(b, 42); !ok || due != 2*time.Second {
		t.Errorf("second stamp %v, %v", due, ok)
	}
	if _, ok := readStamp(a, 43); ok {
		t.Error("a value of another run was accepted")
	}
	if _, ok := readStamp(a[:8], 42); ok {
		t.Error("a short value was accepted")
	}
	if len(p.plain()) != 64 || p.key() != nil {
		t.Error("plain values have the size asked for, and no key")
	}
}

func TestScrape(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# TYPE x_fsyncs_total counter\nx_fsyncs_total{dir=\"a b\"} 3\nx_fsyncs_total{dir=\"c\"} 4 1700000000\nx_other_total 100\ny_segment_syncs_total 5\nresync_total 7\n")
	}))
	defer srv.Close()
	if got := scrape(srv.URL, isSyncCounter); got != 12 {
		t.Errorf("%v syncs, want 12", got)
	}
	if got := scrape("http://127.0.0.1:1/metrics", isSyncCounter); got != 0 {
		t.Errorf("nobody there: %v, want 0", got)
	}
}

func TestValidate(t *testing.T) {
	good := small()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Params){
		"record too small": func(p *Params) { p.RecordSize = 8 }, "record too large": func(p *Params) { p.RecordSize = 1 << 30 },
		"no partitions": func(p *Params) { p.Partitions = 0 }, "no producers": func(p *Params) { p.Producers = 0 },
		"no rounds": func(p *Params) { p.Rounds = 0 }, "no window": func(p *Params) { p.Duration = 0 }, "negative rate": func(p *Params) { p.Rate = -1 },
	} {
		p := small()
		change(&p)
		if p.Validate() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// A raw fetcher reads a null broker's tail too: the plain leaders' line.
func TestRawConsume(t *testing.T) {
	p := small()
	p.Preload, p.Mode = 1_000_000, modeRaw
	lines := runOnce(t, consume, p)
	if s := lines[0].Sample; len(lines) != 1 || s.Consumed == 0 || s.ConsumedBytes < 100*s.Consumed {
		t.Errorf("%+v", lines)
	}
}

// Where one broker's disk is made slow, it leads nothing and has every
// partition.
func TestAwayFromTheSlowNode(t *testing.T) {
	s := &Session{C: &cluster.Cluster{Nodes: []*cluster.Node{{ID: 1}, {ID: 2}, {ID: 3}}}}
	want := [][]int32{{1, 2, 3}, {2, 1, 3}, {1, 2, 3}}
	if got := s.awayFrom(3, 3); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("placed %v, want %v", got, want)
	}
	s.Topic.SyncSet = 2
	if got := s.syncTarget(3); got != 2 {
		t.Errorf("a full in-sync set of %d with sync.replicas=2", got)
	}
	s.Topic.SyncSet = 0
	if got := s.syncTarget(3); got != 3 {
		t.Errorf("a full in-sync set of %d of 3", got)
	}
	p := small()
	p.SlowSync = time.Millisecond
	if err := latency.Setup(context.Background(), nullSession(t, p)); err == nil {
		t.Error("a target without a slow disk must refuse")
	}
}

func TestPerfTestOutput(t *testing.T) {
	text := "22801 records sent, 4560.2 records/sec (4.45 MB/sec), 1.0 ms avg latency, 2.0 ms max latency.\n" +
		"50000 records sent, 12500.5 records/sec (12.21 MB/sec), 812.40 ms avg latency, 1520.00 ms max latency, 800 ms 50th, 1400 ms 95th, 1500 ms 99th, 1519 ms 99.9th.\n"
	var s report.Sample
	if err := readPerfTest(&s, text, 1024); err != nil {
		t.Fatal(err)
	}
	if s.Records != 50_000 || s.Bytes != 50_000*1024 || s.Seconds < 3.99 || s.Seconds > 4.01 || s.Values["tool: p99, ms"] != 1500 || s.Values["tool: p50, ms"] != 800 {
		t.Errorf("%+v", s)
	}
	retried := "2026-11-30 09:02:35 WARN Sender Got error: org.apache.kafka.common.errors.NotLeaderOrFollowerException: moved\n"
	if err := readPerfTest(&s, retried+text, 1024); err != nil || s.Errors != 0 {
		t.Errorf("a record that was sent again: %v, %d errors", err, s.Errors)
	}
	if err := readPerfTest(&s, "org.apache.kafka.common.errors.TimeoutException: no\n"+text, 1024); err != nil || s.Errors != 1 {
		t.Errorf("a record that was lost: %v, %d errors", err, s.Errors)
	}
	if err := readPerfTest(&s, "", 1024); err == nil {
		t.Error("nothing was taken for a result")
	}
}

func TestPerfTestArguments(t *testing.T) {
	s := &Session{P: small(), C: &cluster.Cluster{Bootstrap: []string{"a:1", "b:2"}}}
	s.P.Acks, s.P.Rate, s.P.Linger = "leader", 500, 7*time.Millisecond
	args := s.perfArgs(10)
	for _, want := range []string{"a:1,b:2", "500", "acks=1", "linger.ms=7", "compression.type=none"} {
		if !slices.Contains(args, want) {
			t.Errorf("%q is missing in %q", want, args)
		}
	}
}

// A preload fills batches, and leaves no partition out.
func TestRunLength(t *testing.T) {
	for _, tc := range []struct {
		record, batch, partitions int
		n, want                   int64
	}{
		{1024, 1 << 20, 6, 1 << 20, 256}, {1024, 1 << 20, 10_000, 10 << 20, 256}, {1024, 1 << 20, 10_000, 16 << 10, 1},
		{1024, 16 << 10, 6, 1 << 20, 16}, {1 << 20, 1 << 20, 6, 100, 1}, {100, 1 << 20, 6, 3, 1},
	} {
		p := Params{RecordSize: tc.record, BatchBytes: tc.batch, Partitions: tc.partitions}
		got := runLength(p, tc.n)
		if got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
		if last := (tc.n - 1) / got; tc.n >= int64(tc.partitions) && last < int64(tc.partitions)-1 {
			t.Errorf("%+v: partitions from %d on get nothing", tc, last+1)
		}
	}
}
