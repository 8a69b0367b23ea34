package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Planted is a bug that a build tag bug_<name> puts into the broker, and the
// campaign that must find it: a harness that finds none of them proves nothing.
type Planted struct {
	Bug     string
	Nemesis string
	About   string
}

// PlantedBugs lists the bugs that campaigns on processes must find. Those whose
// scenario needs a message held back or reordered are the simulator's.
var PlantedBugs = []Planted{
	{"nofsync", "cutwipe", "segment files are not synced"},
	{"nodirsync", "powercut", "directories are not synced"},
	{"ackbeforefsync", "cutwipe", "the leader acknowledges before its own sync"},
	{"pagecacheend", "cutwipe", "a follower reports what it has written, not what is durable"},
	{"trusttail", "killcut", "a recovered tail in the page cache counts as durable"},
	{"hwtruncate", "killall", "a follower truncates to its high watermark"},
	{"nochecksum", "flip", "blocks are served without a look at their checksums"},
	{"deduploss", "kill", "producer state is forgotten on failover"},
	{"staleend", "pause", "a deposed leader answers end offsets"},
}

// plantedPatience bounds the search for one bug.
const plantedPatience = 10 * time.Minute

// RunPlanted builds the broker with the bug and runs its campaign, with a new
// seed each time, until it is found. It reports by what and after how long.
func RunPlanted(ctx context.Context, o Options, bug string, out io.Writer) error {
	var errs []error
	ran := 0
	for _, p := range PlantedBugs {
		if bug != "" && p.Bug != strings.TrimPrefix(bug, "bug_") {
			continue
		}
		ran++
		errs = append(errs, runPlanted(ctx, o, p, out))
		if ctx.Err() != nil {
			break
		}
	}
	if ran == 0 {
		return fmt.Errorf("no planted bug %q is looked for by campaigns on processes", bug)
	}
	return errors.Join(errs...)
}

func runPlanted(ctx context.Context, o Options, p Planted, out io.Writer) error {
	begun := time.Now()
	o = o.withDefaults()
	o.Nemesis, o.Tags, o.Binary = p.Nemesis, "bug_"+p.Bug, ""
	for try := 1; time.Since(begun) < plantedPatience; try++ {
		r, err := Run(ctx, o)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if r != nil && r.SkipReason != "" {
			fmt.Fprintf(out, "bug_%s: LEFT OUT: %s\n", p.Bug, r.SkipReason)
			return nil
		}
		what := ""
		switch {
		case err != nil:
			return fmt.Errorf("bug_%s: the campaign could not be run: %w", p.Bug, err)
		case !r.Valid():
			what = foundBy(r)
		}
		if r.Kept != "" && !o.Keep {
			_ = os.RemoveAll(r.Kept) // the anomaly was wanted; what stays of it is a few files
		}
		if what != "" {
			fmt.Fprintf(out, "bug_%s (%s): FOUND after %.0f s in campaign %d of %s, seed %d, by %s\n", p.Bug, p.About, time.Since(begun).Seconds(), try, p.Nemesis, r.Seed, what)
			return nil
		}
		o.Seed++
	}
	return fmt.Errorf("bug_%s (%s): NOT FOUND within %s by %s", p.Bug, p.About, plantedPatience, p.Nemesis)
}

// foundBy names the findings.
func foundBy(r *Result) string {
	var what []string
	if r.Report != nil {
		for _, f := range r.Report.Findings {
			if f.Verdict.String() == "bad" {
				what = append(what, fmt.Sprintf("%s %s (%d)", f.Code, f.Name, f.Count))
			}
		}
	}
	if n := len(r.Anomalies); n > 0 {
		what = append(what, fmt.Sprintf("%d anomalies beside the history, first: %.200s", n, r.Anomalies[0]))
	}
	return strings.Join(what, ", ")
}
