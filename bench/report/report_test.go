package report

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tailrace/tailrace/bench/cluster"
	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/bench/stats"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func sample(mbps, p99 float64) Sample {
	q := &stats.Quantiles{Count: 1000, Mean: p99 / 4, P50: p99 / 5, P99: p99, P999: 2 * p99, Max: 3 * p99,
		Curve: []stats.Point{{Percentile: 0, Ms: p99 / 10}, {Percentile: 50, Ms: p99 / 5}, {Percentile: 99, Ms: p99}, {Percentile: 100, Ms: 3 * p99}}}
	return Sample{Seconds: 10, Records: int64(mbps * 1e4), Bytes: int64(mbps * 1e7), Ack: q, EndToEnd: q, Lag: &stats.Quantiles{P99: 0.05},
		Brokers: proc.Total{CPU: mbps / 20, PeakRSS: 100 << 20, SumRSS: 250 << 20, Written: int64(mbps * 3e7)}, Load: proc.Total{CPU: 5}}
}

func result() *Result {
	ours := Target{Name: "tailrace", Info: cluster.Info{Version: "abc", Fsync: "before ack", Replication: 3, InSync: 2},
		Lines: []Line{{Samples: []Sample{sample(200, 4), sample(220, 5), sample(210, 6)}}}}
	ours.Lines[0].Samples[0].Fsyncs = 5000
	ours.Lines[0].Samples[0].Values = map[string]float64{"kills": 20}
	kafka := Target{Name: "kafka", Info: cluster.Info{Version: "Apache Kafka", Fsync: "never", Replication: 3, InSync: 2},
		Lines: []Line{{Samples: []Sample{sample(100, 20), sample(110, 25), sample(105, 30)}}}}
	kafka.Lines[0].Samples[1].LagOver10ms = 0.2
	kafka.Lines[0].Samples[2].Errors, kafka.Lines[0].Samples[2].FirstError = 3, "NOT_LEADER"
	limit := Target{Name: "limit", Lines: []Line{{Samples: []Sample{sample(400, 2), sample(400, 2), sample(400, 2)}}}}
	null := Target{Name: "null", Lines: []Line{{Samples: []Sample{sample(800, 1)}}}}
	null.Lines[0].Samples[0].Missing = 7
	return &Result{Format: Format, Workload: "produce", Command: "go run ./bench produce --peer kafka", Time: "2026-01-02T03:04:05Z", Commit: "abc",
		Machine: Machine{CPU: "CPU", Cores: 2, MemoryGiB: 24, Kernel: "6", Go: "go1", SyncP50: 0.1, SyncP99: 0.2, NewMemory: 2.4, Filled: true},
		Params:  []Param{{"acks", "all"}, {"record size", "1024"}}, Targets: []Target{ours, kafka, limit, null}}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (run with -update and look at the change):\n%s", path, got)
	}
}

func TestGolden(t *testing.T) {
	var text, md, html bytes.Buffer
	if err := Text(&text, result()); err != nil {
		t.Fatal(err)
	}
	if err := Markdown(&md, result()); err != nil {
		t.Fatal(err)
	}
	if err := HTML(&html, result()); err != nil {
		t.Fatal(err)
	}
	golden(t, "result.txt", text.Bytes())
	golden(t, "result.md", md.Bytes())
	golden(t, "result.html", html.Bytes())
}

// The page must work without a network.
func TestPageIsSelfContained(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, result()); err != nil {
		t.Fatal(err)
	}
	for _, outside := range []string{"http://", "https://", "src=", "href=", "@import", "url("} {
		if strings.Contains(b.String(), outside) {
			t.Errorf("the page refers to the outside: %s", outside)
		}
	}
	if n := strings.Count(b.String(), "<svg"); n != 7 {
		t.Errorf("%d plots, want throughput, CPU of brokers and load, memory, fsyncs and two latency curves", n)
	}
}

func TestShareOfLimitAndExcessOverNull(t *testing.T) {
	got := strings.Join(result().floors(""), "\n")
	for _, want := range []string{"MB/s: 52.5 % of the limit program", "end to end p99, ms: null broker +4.000"} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
}

func TestWarnings(t *testing.T) {
	r := result()
	r.Targets[3].Lines[0].Samples[0].Ack = &stats.Quantiles{P50: 10001} // the window is 10 s
	got := strings.Join(r.warnings(), "\n")
	if n := strings.Count(got, "waited longer"); n != 1 {
		t.Errorf("%d targets did not settle, want one", n)
	}
	for _, want := range []string{"kafka: 3 records failed, first: NOT_LEADER", "kafka: SATURATED in 1 of 3", "null: 7 acknowledged records were not consumed",
		"null: in 1 of 1 rounds half of the records waited longer than the window"} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
}

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	if err := Save(path, result()); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil || !reflect.DeepEqual(got, result()) {
		t.Fatalf("loaded %+v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte(`{"tailrace_bench":99}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil {
		t.Error("a file of another format was read")
	}
}

func TestCompare(t *testing.T) {
	series := func(base float64) *Result {
		r := result()
		r.Targets = r.Targets[:1]
		r.Targets[0].Lines[0].Samples = nil
		for i := range 6 {
			r.Targets[0].Lines[0].Samples = append(r.Targets[0].Lines[0].Samples, sample(base+float64(i), 5+float64(i)))
		}
		return r
	}
	var b bytes.Buffer
	worse, err := Compare(&b, series(200), series(100))
	if err != nil || worse == 0 || !strings.Contains(b.String(), "worse") {
		t.Fatalf("half the throughput: %d worse, %v\n%s", worse, err, &b)
	}
	b.Reset()
	if worse, err = Compare(&b, series(100), series(100)); err != nil || worse != 0 || strings.Contains(b.String(), "worse") {
		t.Fatalf("no change: %d worse, %v\n%s", worse, err, &b)
	}
	other := series(100)
	other.Workload = "latency"
	if _, err := Compare(&b, series(100), other); err == nil {
		t.Error("two workloads were compared")
	}
	b.Reset()
	moved := series(100)
	moved.Machine.Cores, moved.Params[1].Value = 64, "100"
	if _, err := Compare(&b, series(100), moved); err != nil || strings.Count(b.String(), "WARNING") != 2 {
		t.Errorf("other machine and parameters must be said:\n%s", &b)
	}
}

func TestThisMachine(t *testing.T) {
	m, err := ThisMachine(t.TempDir())
	if err != nil || m.Cores == 0 || m.MemoryGiB <= 0 || m.Kernel == "" || m.SyncP50 <= 0 || m.SyncP99 < m.SyncP50 {
		t.Fatalf("%+v, %v", m, err)
	}
}
