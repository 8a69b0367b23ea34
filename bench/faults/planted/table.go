package planted

import (
	"fmt"
	"io"
	"strings"
)

// Detector is a kind of search for a planted bug.
type Detector string

// The detectors.
const (
	Sim     Detector = "sim"     // the simulator of clusters, internal/sim
	Sweep   Detector = "sweep"   // a test that exists for the rule: crash sweeps, tables of decisions
	Process Detector = "process" // a campaign of faults on broker processes
)

// Bug is something wrong that the build tag bug_<Name> puts into the broker.
type Bug struct {
	Name  string
	About string // what the broker does wrong
	Ways  []Way  // what finds it; the first is taken unless one is asked for
	Slow  bool   // its first detector takes more than a few seconds on a machine that is not busy
}

// Way is a detector that finds a bug, and what it said in the run of record that
// docs/reliability.md tells of.
type Way struct {
	Detector Detector
	// Where is the nemesis of a campaign, or package and test of a sweep.
	Where string
	By    string // the invariant, test or anomaly that it was found by
	Took  string // until it was found, building included
}

// Bugs are all planted bugs; internal/bugs has a tag for each.
var Bugs = []Bug{
	{"ackbeforefsync", "the leader acknowledges before its own sync", []Way{
		{Sim, "", "", ""},
		{Process, "cutwipe", "", ""},
	}, false},
	{"nofsync", "segment files are not synced", []Way{
		{Sweep, "./segment TestCrashSweep", "", ""},
		{Process, "cutwipe", "", ""},
	}, false},
	{"nodirsync", "directories are not synced", []Way{
		{Sweep, "./segment TestCrashSweep", "", ""},
	}, false},
	{"pagecacheend", "a follower reports what it has written, not what is durable", []Way{
		{Sim, "", "", ""},
		{Process, "cutwipe", "", ""},
	}, false},
	{"trusttail", "a recovered tail in the page cache counts as durable", []Way{
		{Sim, "", "", ""},
		{Process, "killcut", "", ""},
	}, true},
	{"isrjoin", "a follower joins the in-sync set below the high watermark", []Way{
		{Sim, "", "", ""},
	}, false},
	{"epochstart", "a follower joins the in-sync set below the start of the leader's epoch", []Way{
		{Sim, "", "", ""},
	}, false},
	{"brokerepoch", "in-sync proposals are taken whatever the incarnations of their members", []Way{
		{Sim, "", "", ""},
		{Sweep, "./broker/control TestDecide", "", ""},
	}, false},
	{"rpcadopt", "an in-sync change is adopted from the answer of the controller", []Way{
		{Sim, "", "", ""},
	}, false},
	{"pendingfloor", "pending members count towards min.insync.replicas", []Way{
		{Sim, "", "", ""},
	}, false},
	{"epochreuse", "a restarted leader goes on in its old epoch", []Way{
		{Sim, "", "", ""},
	}, false},
	{"hwtruncate", "a follower truncates to its high watermark", []Way{
		{Sim, "", "", ""},
		{Process, "killall", "", ""},
	}, false},
	{"fetchmixup", "an answer to a fetch is delivered to a later request", []Way{
		{Sim, "", "", ""},
	}, false},
	{"deduploss", "producer state is forgotten on failover", []Way{
		{Sim, "", "", ""},
		{Process, "kill", "", ""},
	}, false},
	{"dupearly", "a duplicate is answered before its original is committed", []Way{
		{Sim, "", "", ""},
	}, false},
	{"staleend", "a deposed leader answers end offsets", []Way{
		{Sim, "", "", ""},
		{Process, "pause", "", ""},
	}, false},
	{"trustgossip", "gossip's word fences a broker, without a probe and before its lease is over", []Way{
		{Sim, "", "", ""},
		{Sweep, "./broker/control TestFalseGossipIsHarmless", "", ""},
	}, false},
	{"nochecksum", "blocks are served without a look at their checksums", []Way{
		{Sim, "", "", ""},
		{Process, "flip", "", ""},
	}, false},
	{"orphandelete", "recovery unlinks files that the catalog does not list", []Way{
		{Sim, "", "", ""},
	}, false},
}

// find returns a bug by its name, with or without the prefix of its tag.
func find(name string) (Bug, error) {
	name = strings.TrimPrefix(name, "bug_")
	var names []string
	for _, b := range Bugs {
		if b.Name == name {
			return b, nil
		}
		names = append(names, b.Name)
	}
	return Bug{}, fmt.Errorf("no planted bug %q; there are: %s", name, strings.Join(names, ", "))
}

// way returns the way of a detector; of none, the first.
func (b Bug) way(d Detector) (Way, bool) {
	for _, w := range b.Ways {
		if d == "" || w.Detector == d {
			return w, true
		}
	}
	return Way{}, false
}

// List writes a line for each bug: its name, what it does and its detectors.
func List(out io.Writer) error {
	for _, b := range Bugs {
		var ways []string
		for _, w := range b.Ways {
			ways = append(ways, w.String())
		}
		if _, err := fmt.Fprintf(out, "%-15s %s (%s)\n", b.Name, b.About, strings.Join(ways, "; ")); err != nil {
			return err
		}
	}
	return nil
}

// String names the detector and what of it.
func (w Way) String() string {
	if w.Where == "" {
		return string(w.Detector)
	}
	return string(w.Detector) + ", " + w.Where
}

// Markdown returns the table of docs/reliability.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| bug | detector | found by | after |\n|---|---|---|---|\n")
	for _, bug := range Bugs {
		name := fmt.Sprintf("`%s` %s", bug.Name, bug.About)
		for _, w := range bug.Ways {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, w, w.By, w.Took)
			name = ""
		}
	}
	return b.String()
}
