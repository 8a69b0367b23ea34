package planted

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/bench/faults"
	"github.com/tailrace/tailrace/bench/proc"
)

func TestMain(m *testing.M) {
	code := m.Run()
	proc.KillAll()
	os.Exit(code)
}

// root is the module's directory.
var root = filepath.Join("..", "..", "..")

// Each build tag is in the table, and each bug of the table has a tag.
func TestEveryTagIsListed(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "internal", "bugs", "*_on.go"))
	if err != nil {
		t.Fatal(err)
	}
	var tags, names []string
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), "_on.go")
		text, err := os.ReadFile(f) //nolint:gosec // a file of this module
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(text, []byte("//go:build bug_"+name+"\n")) {
			t.Errorf("%s is not built by bug_%s", f, name)
		}
		tags = append(tags, name)
	}
	for _, b := range Bugs {
		names = append(names, b.Name)
		if len(b.Ways) == 0 {
			t.Errorf("nothing looks for %s", b.Name)
		}
	}
	slices.Sort(names)
	if !slices.Equal(tags, names) {
		t.Errorf("tags %q, bugs %q", tags, names)
	}
}

// Every way says how it is gone and what the run of record gave.
func TestWays(t *testing.T) {
	for _, b := range Bugs {
		for _, w := range b.Ways {
			pkg, test, isTest := strings.Cut(w.Where, " ")
			ok := w.By != "" && w.Took != ""
			switch w.Detector {
			case Sim:
				ok = ok && w.Where == ""
			case Sweep:
				ok = ok && isTest && testExists(t, pkg, test)
			case Process:
				ok = ok && slices.Contains(faults.Names(), w.Where)
			default:
				ok = false
			}
			if !ok {
				t.Errorf("%s: %s by %q after %q", b.Name, w, w.By, w.Took)
			}
		}
	}
}

func testExists(t *testing.T, pkg, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(f string) bool {
		text, err := os.ReadFile(f) //nolint:gosec // a file of this module
		return err == nil && bytes.Contains(text, []byte("\nfunc "+test+"(t *testing.T)"))
	})
}

// docs/reliability.md holds the table as it is in code.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n"+Markdown()+"\n") {
		t.Errorf("docs/reliability.md lacks this table (go run ./bench faults planted --markdown):\n%s", Markdown())
	}
}

// Only the failure of the very test counts as found.
func TestJudgeTest(t *testing.T) {
	for _, c := range []struct {
		name, out string
		failed    bool
		by        string
		err       bool
	}{
		{name: "found", out: "=== RUN   TestX\n    x_test.go:7: record 3 is gone\n--- FAIL: TestX (0.10s)\nFAIL\n", failed: true, by: "TestX"},
		{name: "found in a part", out: "=== RUN   TestX\n=== RUN   TestX/a\n    x_test.go:7: fine\n=== RUN   TestX/b\n    x_test.go:6: so far\n    x_test.go:7: gone\n--- FAIL: TestX (0.10s)\n    --- FAIL: TestX/b (0.10s)\n", failed: true, by: "TestX"},
		{name: "clean", out: "=== RUN   TestX\n--- PASS: TestX (0.10s)\nPASS\n"},
		{name: "no such test", out: "testing: warning: no tests to run\nPASS\n", err: true},
		{name: "skipped", out: "--- SKIP: TestX (0.00s)\nPASS\n", err: true},
		{name: "another one fails", out: "--- FAIL: TestXY (0.10s)\nFAIL\n", failed: true, err: true},
		{name: "a leak after it", out: "--- PASS: TestX (0.10s)\nPASS\ngoleak: found unexpected goroutines\n", failed: true, err: true},
	} {
		f, err := judgeTest([]byte(c.out), "TestX", c.failed)
		if f.By != "" && !strings.HasSuffix(f.Detail, "gone") {
			t.Errorf("%s: told as %q", c.name, f.Detail)
		}
		if f.By != c.by || (err != nil) != c.err {
			t.Errorf("%s: %+v, %v", c.name, f, err)
		}
	}
}

// What is asked for is what is looked for.
func TestChoose(t *testing.T) {
	names := func(o Options) (out []string) {
		list, err := o.choose()
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		for _, s := range list {
			out = append(out, s.bug.Name+" "+string(s.way.Detector))
		}
		return out
	}
	if got := names(Options{}); len(got) != len(Bugs) {
		t.Errorf("all bugs: %q", got)
	}
	for o, want := range map[Options]string{
		{Bug: "bug_nofsync"}:                            "nofsync sweep",
		{Bug: "nofsync", Detector: Process}:             "nofsync process",
		{Bug: "nofsync", Detector: All}:                 "nofsync sweep nofsync process",
		{Bug: "staleend", Detector: Sim}:                "staleend sim",
		{Bug: "staleend", Detector: All, Control: true}: "staleend sim staleend process",
	} {
		if got := strings.Join(names(o), " "); got != want {
			t.Errorf("%+v: %q", o, got)
		}
	}
	for _, o := range []Options{{Bug: "nosuch"}, {Bug: "nodirsync", Detector: Sim}, {Detector: "luck"}} {
		if list, err := o.choose(); err == nil {
			t.Errorf("%+v: %d searches", o, len(list))
		}
	}
	a, b := names(Options{Some: 3, Seed: 7, Detector: All}), names(Options{Some: 3, Seed: 7, Detector: All})
	if len(a) != 3 || !slices.Equal(a, b) {
		t.Errorf("%q, then %q", a, b)
	}
}

// A search that finds nothing says so, in the time that it has.
func TestNotFound(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	err := Run(ctx, Options{Bug: "isrjoin", Detector: Sim, Patience: time.Nanosecond, Out: &out})
	if err == nil || !strings.Contains(err.Error(), "NOT FOUND by sim") || out.Len() > 0 {
		t.Errorf("%v, %s", err, &out)
	}
}
