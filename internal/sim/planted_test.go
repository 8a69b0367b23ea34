package sim

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// planted are the bugs behind build tags, and a seed from which the simulator
// finds each within plantedSeeds.
var planted = map[string]string{
	"ackbeforefsync": "1", "pagecacheend": "1", "isrjoin": "1", "hwtruncate": "1", "deduploss": "1", "staleend": "8",
	"nochecksum": "1", "epochreuse": "1", "pendingfloor": "1", "rpcadopt": "40", "trusttail": "530", "orphandelete": "8",
	"dupearly": "1", "brokerepoch": "1", "openblock": "1",
}

const plantedSeeds = "100"

// TestPlanted builds this test with a bug in it and wants the simulator to find
// it; TestSeeds shows that the same seeds are clean without. TAILRACE_BUGS names
// the bugs, or says all; otherwise one is tried, another one each day.
func TestPlanted(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a test binary")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		if os.Getenv("TAILRACE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip("no go tool: ", err)
	}
	names := make([]string, 0, len(planted))
	for name := range planted {
		names = append(names, name)
	}
	slices.Sort(names)
	switch v := os.Getenv("TAILRACE_BUGS"); v {
	case "all":
	case "":
		day := int(time.Now().Unix() / 86400)
		names = names[day%len(names):][:1]
	default:
		names = strings.Split(v, ",")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) { findPlanted(t, goTool, name) })
	}
}

var foundLine = regexp.MustCompile(`FOUND .*`)

func findPlanted(t *testing.T, goTool, name string) {
	seed, ok := planted[name]
	if !ok {
		t.Fatalf("no planted bug %q", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	bin := filepath.Join(t.TempDir(), "sim.test")
	if out, err := exec.CommandContext(ctx, goTool, "test", "-c", "-tags", "bug_"+name, "-o", bin, ".").CombinedOutput(); err != nil { //nolint:gosec // our own package
		t.Fatalf("build: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(ctx, bin, "-test.run", "^TestHunt$", "-test.v")
	cmd.Env = append(os.Environ(), "TAILRACE_SIM_HUNT="+plantedSeeds, "TAILRACE_SIM_SEED="+seed)
	out, err := cmd.CombinedOutput()
	line := foundLine.Find(out)
	if err != nil || line == nil {
		t.Fatalf("bug_%s was not found: %v\n%s", name, err, bytes.TrimSpace(out))
	}
	t.Logf("bug_%s: %s", name, line)
}

// TestHunt looks for a violation, for TestPlanted.
func TestHunt(t *testing.T) {
	n := env("TAILRACE_SIM_HUNT", 0)
	if n == 0 {
		t.Skip("run by TestPlanted")
	}
	from, events := env("TAILRACE_SIM_SEED", 1), int64(0)
	for i := range n {
		r := Run(Config{Seed: from + i})
		if events += r.Events; r.Violation != nil {
			t.Logf("FOUND after %d events, seed %d: %v", events, from+i, r.Violation)
			return
		}
	}
	t.Errorf("nothing found in %d events", events)
}
