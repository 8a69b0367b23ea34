package faults

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/tailrace/tailrace/bench/stats"
)

// Print writes the result for people.
func (r *Result) Print(w io.Writer) {
	if r.SkipReason != "" {
		fmt.Fprintf(w, "%s: LEFT OUT: %s\n", r.Nemesis, r.SkipReason)
		return
	}
	fmt.Fprintf(w, "nemesis %s, seed %d, commit %s, %d brokers, %s, %.0f s\n", r.Nemesis, r.Seed, r.Commit, r.Brokers, r.Network, r.Took.Seconds())
	var names []string
	for what := range r.Acted {
		names = append(names, what)
	}
	sort.Strings(names)
	for _, what := range names {
		fmt.Fprintf(w, "  %-44s %d\n", what, r.Acted[what])
	}
	if len(r.NextAck) > 0 {
		fmt.Fprintf(w, "  kill of the leader → next acknowledged produce: median %.0f ms, p99 %.0f ms, worst %.0f ms (%d kills)\n",
			1e3*stats.Quantile(r.NextAck, 0.5), 1e3*stats.Quantile(r.NextAck, 0.99), 1e3*slices.Max(r.NextAck), len(r.NextAck))
	}
	fmt.Fprintf(w, "  all partitions writable after the last fault   %.2f s\n", r.Writable.Seconds())
	if r.Report != nil {
		fmt.Fprint(w, r.Report)
	}
	for _, a := range r.Anomalies {
		fmt.Fprintf(w, "  ANOMALY %s\n", a)
	}
	if r.Kept != "" {
		fmt.Fprintf(w, "history, logs and data: %s\n", r.Kept)
	}
}

// Bad names what must not have happened; empty for a valid campaign.
func (r *Result) Bad() string {
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
