package sim

import (
	"os"
	"strconv"
	"testing"
	"time"
)

func report(t *testing.T, r Result) {
	t.Helper()
	if r.Violation == nil {
		return
	}
	for _, l := range r.Tail {
		t.Log(l)
	}
	t.Errorf("seed %d (%d brokers, %d partitions): %v", r.Config.Seed, r.Config.Brokers, r.Config.Partitions, r.Violation)
}

func TestOne(t *testing.T) {
	seed, _ := strconv.ParseUint(os.Getenv("TAILRACE_SIM_SEED"), 10, 64)
	start := time.Now()
	trace, _ := strconv.Atoi(os.Getenv("TRACE"))
	r := Run(Config{Seed: seed, NoFaults: os.Getenv("NOFAULTS") != "", Trace: trace})
	t.Logf("seed %d: %d events, %v simulated, %.0f events/s, hash %x\n%v", seed, r.Events, r.Simulated, float64(r.Events)/time.Since(start).Seconds(), r.Hash, &r.Acted)
	report(t, r)
}

func TestMany(t *testing.T) {
	from, _ := strconv.ParseUint(os.Getenv("TAILRACE_SIM_SEED"), 10, 64)
	n, _ := strconv.Atoi(os.Getenv("N"))
	var sum Acted
	var events int64
	start := time.Now()
	bad := map[string][]uint64{}
	for i := range uint64(n) {
		r := Run(Config{Seed: from + i})
		events += r.Events
		sum.Add(&r.Acted)
		if r.Violation != nil {
			bad[r.Violation.Invariant] = append(bad[r.Violation.Invariant], from+i)
			if len(bad[r.Violation.Invariant]) <= 2 {
				t.Logf("seed %d: %v", from+i, r.Violation)
			}
		}
	}
	t.Logf("%d events, %.0f/s\n%v", events, float64(events)/time.Since(start).Seconds(), &sum)
	for k, v := range bad {
		t.Logf("%s: %d seeds, %v", k, len(v), v[:min(len(v), 10)])
	}
}
