package report

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/tailrace/tailrace/bench/stats"
)

// Compare writes how two runs of one workload differ, metric by metric, with
// the probability that the difference is chance. It returns how many metrics
// became significantly worse.
func Compare(w io.Writer, old, new *Result) (worse int, err error) {
	if old.Workload != new.Workload {
		return 0, fmt.Errorf("%s and %s are different workloads", old.Workload, new.Workload)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: old %s, new %s\n", old.Workload, old.Commit, new.Commit)
	if a, n := params(old), params(new); a != n {
		fmt.Fprintf(&b, "WARNING parameters differ\n  old: %s\n  new: %s\n", a, n)
	}
	if old.Machine.CPU != new.Machine.CPU || old.Machine.Cores != new.Machine.Cores {
		fmt.Fprintf(&b, "WARNING machines differ\n  old: %s\n  new: %s\n", old.Machine, new.Machine)
	}
	for i := range new.Targets {
		nt := &new.Targets[i]
		for j := range old.Targets {
			if old.Targets[j].Name == nt.Name {
				worse += compareTarget(&b, old, new, &old.Targets[j], nt)
			}
		}
	}
	_, err = io.WriteString(w, b.String())
	return worse, err
}

func compareTarget(b *strings.Builder, old, new *Result, ot, nt *Target) (worse int) {
	for _, line := range new.lineNames() {
		grid := [][]string{{strings.TrimSpace(nt.Name + " " + line), "old", "new", "change", "p"}}
		for _, m := range new.allMetrics(line) {
			c := stats.Compare(values(ot.Line(line), m), values(nt.Line(line), m))
			if c.Old.N == 0 || c.New.N == 0 {
				continue
			}
			verdict := "~"
			if c.Significant {
				verdict = fmt.Sprintf("%+.1f%%", 100*c.Delta())
				if (c.Delta() < 0) == m.Higher {
					verdict += " worse"
					worse++
				} else {
					verdict += " better"
				}
			}
			grid = append(grid, []string{m.Name, cell(c.Old), cell(c.New), verdict, probability(c)})
		}
		if len(grid) > 1 {
			b.WriteByte('\n')
			writeGrid(b, grid)
		}
	}
	return worse
}

func probability(c stats.Comparison) string {
	if math.IsNaN(c.P) {
		return "–"
	}
	return fmt.Sprintf("%.3f n=%d+%d", c.P, c.Old.N, c.New.N)
}
