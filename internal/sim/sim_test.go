package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// env reads a number from the environment.
func env(name string, def uint64) uint64 {
	if v, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return v
	}
	return def
}

// fail reports a violation with all that is needed to see it again: the seed,
// the shortest schedule found, and the end of its trace.
func fail(t *testing.T, r Result) {
	t.Helper()
	t.Errorf("seed %d (%d brokers, %d partitions): %v", r.Config.Seed, r.Config.Brokers, r.Config.Partitions, r.Violation)
	s := Shrink(r, 150)
	t.Logf("shrunk from %d faults to %d: %v", len(r.Config.Faults), len(s.Config.Faults), s.Violation)
	for _, l := range s.Tail {
		t.Log(l)
	}
	raw, err := json.MarshalIndent(s.Config, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("TAILRACE_SIM_SAVE"); dir != "" {
		name := filepath.Join(dir, fmt.Sprintf("seed-%d.json", r.Config.Seed))
		t.Logf("saved as %s: %v", name, os.WriteFile(name, raw, 0o600))
		return
	}
	t.Logf("to keep it as a regression test, put this into testdata: %s", raw)
}

// sweep runs seeds until so many events were handled or so many seeds were run.
// Without strict, a cluster that is slow to recover is only told of.
func sweep(t *testing.T, from, seeds uint64, events int64, strict bool) (sum Acted, handled int64) {
	t.Helper()
	begin, bad := time.Now(), 0
	for i := uint64(0); i < seeds && (events == 0 || handled < events); i++ {
		r := Run(Config{Seed: from + i})
		handled += r.Events
		sum.Add(&r.Acted)
		if r.Violation == nil {
			continue
		}
		if r.Violation.Invariant == invRecovery && !strict {
			t.Logf("seed %d: %v", from+i, r.Violation)
			continue
		}
		if bad++; bad > 3 {
			t.Errorf("seed %d: %v", from+i, r.Violation)
			continue
		}
		fail(t, r)
	}
	t.Logf("from seed %d: %d events, %.0f a second\n%v", from, handled, float64(handled)/time.Since(begin).Seconds(), &sum)
	return sum, handled
}

// TestSeeds runs the same few schedules every time. What they must have made
// happen is checked too: a run without truncations proves nothing about them.
func TestSeeds(t *testing.T) {
	n := uint64(40)
	if testing.Short() {
		n = 15
	}
	sum, _ := sweep(t, 1, n, 0, true)
	if sum.LateRefused == 0 && !testing.Short() {
		t.Errorf("no proposal met another life of its member in %d runs: they prove nothing about it", n)
	}
	for name, count := range map[string]int64{"elections": sum.Elections, "truncations": sum.Truncations, "shrinks": sum.Shrinks,
		"expands": sum.Expands, "swaps": sum.Swaps, "power cuts": sum.PowerCuts, "kills": sum.Kills, "acknowledgements": sum.Acks,
		"deduplicated retries": sum.Deduplicated, "repairs": sum.Repairs,
		"topic deletions": sum.TopicDeletions, "partitions added": sum.Grown, "misdirected writes": sum.Misdirected,
		"follower reads": sum.FollowerReads, "quorum elections": sum.QuorumElections} {
		if count == 0 {
			t.Errorf("no %s in %d runs: they prove nothing about them", name, n)
		}
	}
}

// TestFresh runs seeds that nobody has seen. They are printed; a failing one is
// shrunk and can be run again by TAILRACE_SIM_SEED.
func TestFresh(t *testing.T) {
	from := env("TAILRACE_SIM_SEED", rand.Uint64()>>16)
	sweep(t, from, 8, 0, false)
}

// TestReplay: a seed decides a run to the last event.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= 6; seed++ {
		a, b := Run(Config{Seed: seed}), Run(Config{Seed: seed})
		if a.Hash != b.Hash || a.Events != b.Events || a.Acted != b.Acted {
			t.Errorf("seed %d: %d events with hash %x, then %d with %x", seed, a.Events, a.Hash, b.Events, b.Hash)
		}
		if c := Run(Config{Seed: seed + 100}); c.Hash == a.Hash {
			t.Errorf("seeds %d and %d have one hash: it says nothing", seed, seed+100)
		}
	}
}

// TestCalm: without faults nothing is lost, refused or unknown.
func TestCalm(t *testing.T) {
	r := Run(Config{Seed: 7, NoFaults: true, Length: 5 * time.Second})
	if r.Violation != nil {
		fail(t, r)
	}
	if r.Acted.Acks < 50 || r.Acted.Epochs > 3 {
		t.Errorf("%+v", r.Acted)
	}
}

// TestSaved runs the schedules that once broke something.
func TestSaved(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no saved schedules: %v", err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f) //nolint:gosec // a file of this package
		if err != nil {
			t.Fatal(err)
		}
		var cfg Config
		if err := json.Unmarshal(raw, &cfg); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if r := Run(cfg); r.Violation != nil {
			t.Errorf("%s: %v", f, r.Violation)
		}
	}
}

// TestLong runs for as many events as it is told, few unless it is:
//
//	TAILRACE_SIM_EVENTS=10000000 TAILRACE_SIM_SEED=1 go test ./internal/sim -run Long -v -timeout 0
func TestLong(t *testing.T) {
	events := int64(env("TAILRACE_SIM_EVENTS", 50_000))
	sum, _ := sweep(t, env("TAILRACE_SIM_SEED", 1), 1<<62, events, true)
	t.Logf("how often it acted:\n%s", sum.Table())
}

// TestOne shows the last events of one run: TAILRACE_SIM_TRACE of them, with
// TAILRACE_SIM_SEED.
func TestOne(t *testing.T) {
	trace := int(env("TAILRACE_SIM_TRACE", 20))
	r := Run(Config{Seed: env("TAILRACE_SIM_SEED", 1), Trace: trace})
	if r.Violation != nil || len(r.Tail) != min(trace, int(r.Events)) {
		t.Errorf("%d lines of %d events: %v", len(r.Tail), r.Events, r.Violation)
	}
	for _, l := range r.Tail {
		t.Log(l)
	}
	t.Logf("%d events, %v simulated, hash %x, %v\n%v", r.Events, r.Simulated, r.Hash, r.Violation, &r.Acted)
}
