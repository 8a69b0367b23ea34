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
		{Sim, "", "I2 every replica that may be elected has all committed records", "84 s, 1,147 events"},
		{Process, "cutwipe", "A1, B1", "110 s"},
	}, false},
	{"nofsync", "segment files are not synced", []Way{
		{Sweep, "./segment TestCrashSweep", "a crash before the 90th call loses acknowledged records", "21 s"},
		{Process, "cutwipe", "B9: brokers find their logs damaged; nothing wrong is served", "356 s"},
	}, false},
	{"nodirsync", "directories are not synced", []Way{
		{Sweep, "./segment TestCrashSweep", "a crash before the 88th call loses acknowledged records", "57 s"},
	}, false},
	{"journalreuse", "a journal file is written over while its groups are needed", []Way{
		{Sweep, "./segment TestErrorSweep", "acknowledged records are lost after a failed sync", "6 s"},
		{Sim, "", "I6 who joins the in-sync set has caught up", "4 s, 6,129 events"},
	}, false},
	{"pagecacheend", "a follower reports what it has written, not what is durable", []Way{
		{Sim, "", "I6 who joins the in-sync set has caught up", "51 s, 4,152 events"},
		{Process, "cutwipe", "A1, A10, B1", "118 s"},
	}, false},
	{"trusttail", "a recovered tail in the page cache counts as durable", []Way{
		{Sim, "", "I6 who joins the in-sync set has caught up", "201 s, 3,804,144 events"},
		{Process, "killcut", "A4, B9", "356 s"},
	}, true},
	{"isrjoin", "a follower joins the in-sync set below the high watermark", []Way{
		{Sim, "", "I6 who joins the in-sync set has caught up", "32 s, 4,152 events"},
	}, false},
	{"epochstart", "a follower joins the in-sync set below the start of the leader's epoch", []Way{
		{Sim, "", "I6 who joins the in-sync set has caught up", "25 s, 40,941 events"},
	}, false},
	{"brokerepoch", "in-sync proposals are taken whatever the incarnations of their members", []Way{
		{Sim, "", "I6 who joins the in-sync set has caught up", "37 s, 605,480 events"},
		{Sweep, "./broker/control TestDecide", "TestDecide/proposals", "78 s"},
	}, false},
	{"rpcadopt", "an in-sync change is adopted from the answer of the controller", []Way{
		{Sim, "", "I2 every replica that may be elected has all committed records", "110 s, 9,267 events"},
	}, false},
	{"pendingfloor", "pending members count towards min.insync.replicas", []Way{
		{Sim, "", "I4 the high watermark stands still below min.insync.replicas", "45 s, 85,670 events"},
	}, false},
	{"epochreuse", "a restarted leader goes on in its old epoch", []Way{
		{Sim, "", "I3 logs match: one batch for an offset and epoch, and all before it", "23 s, 103,031 events"},
	}, false},
	{"hwtruncate", "a follower truncates to its high watermark", []Way{
		{Sim, "", "I18 a log is cut only on the answer of a leader", "15 s, 9,660 events"},
		{Process, "killall", "A1, A3, A4, A10, A11, B1, B3, B10", "129 s"},
	}, false},
	{"fetchmixup", "an answer to a fetch is delivered to a later request", []Way{
		{Sim, "", "I2 every replica that may be elected has all committed records", "14 s, 391,095 events"},
	}, true},
	{"deduploss", "producer state is forgotten on failover", []Way{
		{Sim, "", "I26 a batch of an idempotent producer is in the log once", "15 s, 18,103 events"},
		{Process, "kill", "A2", "164 s"},
	}, false},
	{"dupearly", "a duplicate is answered before its original is committed", []Way{
		{Sim, "", "I1 acknowledged records are durable on the whole in-sync set", "16 s, 11,864 events"},
	}, false},
	{"staleend", "a deposed leader answers end offsets", []Way{
		{Sim, "", "I15 end answers cover what was acknowledged a lease before the question", "49 s, 4,087,935 events"},
		{Process, "pause", "B3", "167 s"},
	}, true},
	{"trustgossip", "gossip's word fences a broker, without a probe and before its lease is over", []Way{
		{Sim, "", "I17 gossip fences nobody whose lease may be valid", "21 s, 97,383 events"},
		{Sweep, "./broker/control TestFalseGossipIsHarmless", "TestFalseGossipIsHarmless", "21 s"},
	}, false},
	{"nochecksum", "blocks are served without a look at their checksums", []Way{
		{Sim, "", "I23 consumers get committed records only", "21 s, 111,820 events"},
		{Process, "flip", "damaged bytes served", "71 s"},
	}, false},
	{"openblock", "the last block of a log is not verified", []Way{
		{Sim, "", "the cluster recovers after the last fault", "140 s, 2,424,421 events"},
	}, true},
	{"orphandelete", "recovery unlinks files that the catalog does not list", []Way{
		{Sim, "", "I37 recovery unlinks nothing", "16 s, 117,962 events"},
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
