package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/bench/report"
)

// The floor programs are this program started again: in tests, the test
// binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "limit-node" || os.Args[1] == "null-node" || os.Args[1] == "sendfile-node") {
		os.Exit(run())
	}
	if i := slices.Index(os.Args, "--kafka"); len(os.Args) > 1 && os.Args[1] == "run" && i > 0 {
		os.Args = []string{os.Args[0], "null-node", "--kafka", os.Args[i+1]} // stands in for a broker of ours
		os.Exit(run())
	}
	code := m.Run()
	proc.KillAll()
	os.Exit(code)
}

func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := rootCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

var short = []string{"-q", "--fill-memory", "off", "--duration", "1s", "--warmup", "50ms", "--first-warmup", "50ms", "--rounds", "2", "--record-size", "200", "--partitions", "3"}

// Both floor programs start as processes, are measured in turn, reported and
// stopped.
func TestLimitCommand(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "r.json")
	args := append([]string{"limit", "--limit-insync", "2", "--json", file, "--md", filepath.Join(dir, "r.md"), "--html", filepath.Join(dir, "r.html")}, short...)
	for try := 1; ; try++ { // a busy machine may acknowledge nothing in a short window
		out, err := execute(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		if problem := checkLimit(file, out); problem == "" {
			break
		} else if try == 5 {
			t.Fatal(problem)
		}
		args = append(args, "--duration", strconv.Itoa(2*try)+"s")
	}
	same, err := execute(t, "compare", file, file)
	if err != nil || strings.Contains(same, "worse") {
		t.Errorf("a result against itself: %v\n%s", err, same)
	}
}

// checkLimit says what is wrong with a result of the limit command.
func checkLimit(file, out string) string {
	r, err := report.Load(file)
	if err != nil {
		return err.Error()
	}
	if len(r.Targets) != 2 || r.Targets[0].Name != "limit" || r.Targets[0].Info.InSync != 2 || r.Targets[1].Name != "null" {
		return fmt.Sprintf("targets %+v", r.Targets)
	}
	for _, target := range r.Targets {
		samples := target.Line("").Samples
		if len(samples) != 2 || samples[1].Records == 0 || samples[1].Errors != 0 || samples[1].Brokers.PeakRSS == 0 {
			return fmt.Sprintf("%s: %+v", target.Name, samples)
		}
	}
	if !strings.Contains(out, "acknowledged, MB/s") {
		return "report:\n" + out
	}
	return ""
}

// A running cluster is joined, a peer is measured beside it, and the cluster
// is left alone.
func TestBootstrapAndPeer(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ports, err := proc.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + strconv.Itoa(ports[0])
	p, err := proc.Start(proc.Spec{Name: "null", Path: self, Args: []string{"null-node", "--kafka", addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	file := filepath.Join(t.TempDir(), "r.json")
	_, err = execute(t, append([]string{"latency", "--bootstrap", addr, "--pids", strconv.Itoa(p.Pid), "--peer", "null", "--rate", "1000", "--json", file}, short...)...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := report.Load(file)
	if err != nil || len(r.Targets) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, target := range r.Targets {
		if s := target.Line("").Samples[0]; s.Missing != 0 || s.Errors != 0 {
			t.Errorf("%s: %+v", target.Name, s)
		}
	}
	if !p.Alive() {
		t.Error("the cluster that was only joined is gone")
	}
	if _, err := execute(t, append([]string{"failover", "--bootstrap", addr}, short...)...); err == nil {
		t.Error("failover must refuse a cluster that it did not start")
	}
}

// Brokers of ours are started with the documented command line, stopped and
// started again on the same addresses.
func TestRestartWorkload(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"term", "kill", "fresh"} {
		file := filepath.Join(t.TempDir(), "r.json")
		_, err := execute(t, append([]string{"restart", "--broker-binary", self, "--brokers", "1", "--replication-factor", "1", "--min-insync", "1",
			"--preload", "10000", "--mode", mode, "--json", file}, short...)...)
		if err != nil {
			t.Fatal(err)
		}
		r, err := report.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		if s := r.Targets[0].Line("").Samples; len(s) != 2 || s[1].Values["start to first ack, s"] <= 0 {
			t.Errorf("%s: %+v", mode, s)
		}
	}
}

// The real thing: three brokers, one short round.
func TestSpawnedBrokers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.json")
	if _, err := execute(t, append([]string{"produce", "--json", file}, short...)...); err != nil {
		t.Fatal(err)
	}
	r, err := report.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Targets[0].Line("").Samples {
		if s.Errors != 0 {
			t.Errorf("%d errors, first: %s", s.Errors, s.FirstError)
		}
	}
}

func TestWantFill(t *testing.T) {
	for _, tc := range []struct {
		mode    string
		virtual bool
		cost    float64
		want    bool
	}{
		{fillOn, false, 0.1, true}, {fillOff, true, 9, false}, {fillAuto, false, 0.4, false}, {fillAuto, false, 2.4, true}, {fillAuto, true, 0.4, true},
	} {
		if got := wantFill(tc.mode, tc.virtual, tc.cost); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"produce", "--record-size", "1"}, {"limit", "--workload", "idle"}, {"produce", "--fill-memory", "maybe"}, {"compare", "one"}, {"compare", "no-such-file", "no-such-file"}, {"nonsense"},
	} {
		if out, err := execute(t, args...); err == nil {
			t.Errorf("%v succeeded: %s", args, out)
		}
	}
}
