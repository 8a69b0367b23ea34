package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tailrace/tailrace/bench/stats"
)

// Names of the floor programs among the targets.
const (
	limitName    = "limit"
	nullName     = "null"
	sendfileName = "sendfile"
)

// row is one metric over all targets of one line.
type row struct {
	metric Metric
	cells  []stats.Summary   // by target
	values [][]float64       // by target, then round
	ratios map[int]statRatio // by index of the peer
}

type statRatio struct{ stats.Summary }

// lineNames returns the lines of all targets in the order of the first.
func (r *Result) lineNames() []string {
	var names []string
	for _, t := range r.Targets {
		for _, l := range t.Lines {
			if !slices.Contains(names, l.Name) {
				names = append(names, l.Name)
			}
		}
	}
	return names
}

// rows computes the table of one line; metrics that no target has are left
// out.
func (r *Result) rows(line string) []row {
	var out []row
	for _, m := range r.allMetrics(line) {
		rw := row{metric: m, ratios: map[int]statRatio{}}
		any := false
		for _, t := range r.Targets {
			v := values(t.Line(line), m)
			rw.values = append(rw.values, v)
			s := stats.Summarize(v)
			rw.cells = append(rw.cells, s)
			any = any || s.N > 0
		}
		if !any {
			continue
		}
		for i := 1; i < len(r.Targets); i++ {
			if s := stats.PairwiseRatio(rw.values[0], rw.values[i]); s.N > 0 {
				rw.ratios[i] = statRatio{s}
			}
		}
		out = append(out, rw)
	}
	return out
}

func values(l *Line, m Metric) []float64 {
	v := make([]float64, len(l.Samples))
	for i := range l.Samples {
		v[i] = m.Value(&l.Samples[i])
	}
	return v
}

// allMetrics adds the metrics that only one workload has, by name.
func (r *Result) allMetrics(line string) []Metric {
	extra := map[string]bool{}
	for i := range r.Targets {
		for _, s := range r.Targets[i].Line(line).Samples {
			for k := range s.Values {
				extra[k] = true
			}
		}
	}
	all := slices.Clone(metrics)
	for _, k := range slices.Sorted(maps.Keys(extra)) {
		all = append(all, Metric{Key: k, Name: k, Higher: strings.HasPrefix(k, SharePrefix), Value: func(s *Sample) float64 {
			if v, ok := s.Values[k]; ok {
				return v
			}
			return math.NaN()
		}})
	}
	return all
}

// number formats a value with three to four significant digits.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case a >= 10000:
		return fmt.Sprintf("%.0f", v)
	case a >= 100:
		return fmt.Sprintf("%.1f", v)
	case a >= 10:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// cell shows the median and, over several rounds, the spread.
func cell(s stats.Summary) string {
	switch {
	case s.N == 0:
		return "–"
	case s.N == 1:
		return number(s.Median)
	}
	return fmt.Sprintf("%s ±%.0f%%", number(s.Median), 50*s.Spread())
}

// grid is a table of strings: header first.
func (r *Result) grid(line string) [][]string {
	head := []string{"metric"}
	for _, t := range r.Targets {
		head = append(head, t.Name)
	}
	for _, t := range r.Targets[1:] {
		head = append(head, "÷ "+t.Name)
	}
	out := [][]string{head}
	for _, rw := range r.rows(line) {
		cells := []string{rw.metric.Name}
		for _, s := range rw.cells {
			cells = append(cells, cell(s))
		}
		for i := 1; i < len(r.Targets); i++ {
			c := "–"
			if s, ok := rw.ratios[i]; ok {
				c = number(s.Median)
			}
			cells = append(cells, c)
		}
		out = append(out, cells)
	}
	return out
}

// floors says how the first target stands against the floor programs.
func (r *Result) floors(line string) []string {
	var out []string
	for i := 1; i < len(r.Targets); i++ {
		for _, rw := range r.rows(line) {
			ours, floor := rw.cells[0], rw.cells[i]
			if ours.N == 0 || floor.N == 0 {
				continue
			}
			switch {
			case r.Targets[i].Name == limitName && (rw.metric.Key == "mb_per_s" || rw.metric.Key == "records_per_s"):
				out = append(out, fmt.Sprintf("%s: %.1f %% of the limit program", rw.metric.Name, 100*rw.ratios[i].Median))
			case r.Targets[i].Name == sendfileName && rw.metric.Key == "consumed_mb_per_s":
				out = append(out, fmt.Sprintf("%s: %.1f %% of the sendfile program", rw.metric.Name, 100*rw.ratios[i].Median))
			case r.Targets[i].Name == nullName && strings.HasSuffix(rw.metric.Key, "_ms") && !strings.HasPrefix(rw.metric.Key, "lag"):
				out = append(out, fmt.Sprintf("%s: null broker %+.3f", rw.metric.Name, ours.Median-floor.Median))
			}
		}
	}
	return out
}

// warnings lists what makes a figure unfit for comparison.
func (r *Result) warnings() []string {
	var out []string
	for i := range r.Targets {
		t := &r.Targets[i]
		for _, l := range t.Lines {
			name := strings.TrimSpace(t.Name + " " + l.Name)
			var errs, missing, saturated, unsettled int64
			first := ""
			for j := range l.Samples {
				s := &l.Samples[j]
				errs += s.Errors
				missing += s.Missing
				if first == "" {
					first = s.FirstError
				}
				if s.Saturated() {
					saturated++
				}
				if s.unsettled() {
					unsettled++
				}
			}
			if errs > 0 {
				out = append(out, fmt.Sprintf("%s: %d records failed, first: %s", name, errs, first))
			}
			if missing > 0 {
				out = append(out, fmt.Sprintf("%s: %d acknowledged records were not consumed", name, missing))
			}
			if unsettled > 0 {
				out = append(out, fmt.Sprintf("%s: in %d of %d rounds half of the records waited longer than the window for their acknowledgement: a longer --warmup and --duration give a steady rate", name, unsettled, len(l.Samples)))
			}
			if saturated > 0 {
				out = append(out, fmt.Sprintf("%s: SATURATED in %d of %d rounds (more than 1 %% of the records were sent over 10 ms late): not a latency at this rate", name, saturated, len(l.Samples)))
			}
		}
	}
	return out
}
