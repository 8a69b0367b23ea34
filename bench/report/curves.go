package report

import (
	"fmt"
	"html/template"
	"math"
	"strings"

	"github.com/tailrace/tailrace/bench/stats"
)

type point struct{ percentile, ms float64 }

func curveOf(q *stats.Quantiles) []point {
	if q == nil {
		return nil
	}
	var out []point
	for _, p := range q.Curve {
		out = append(out, point{p.Percentile, p.Ms})
	}
	return out
}

// medianCurve is, percentile by percentile, the median over rounds.
func medianCurve(samples []Sample, get func(*Sample) []point) []point {
	byP := map[float64][]float64{}
	var order []float64
	for i := range samples {
		for _, p := range get(&samples[i]) {
			if byP[p.percentile] == nil {
				order = append(order, p.percentile)
			}
			byP[p.percentile] = append(byP[p.percentile], p.ms)
		}
	}
	var out []point
	for _, p := range order {
		out = append(out, point{p, stats.Summarize(byP[p]).Median})
	}
	return out
}

// nines places a percentile on the usual axis of tails: 90 → 1, 99 → 2, …
func nines(p float64) float64 { return -math.Log10(max(1-p/100, 1e-5)) }

// curves draws latency over percentile, both logarithmic. It returns nothing
// if no target has the data.
func (r *Result) curves(line, title string, get func(*Sample) []point) template.HTML {
	lo, hi := math.Inf(1), 0.0
	all := make([][]point, len(r.Targets))
	for i := range r.Targets {
		all[i] = medianCurve(r.Targets[i].Line(line).Samples, get)
		for _, p := range all[i] {
			if p.ms > 0 {
				lo, hi = min(lo, p.ms), max(hi, p.ms)
			}
		}
	}
	if hi == 0 {
		return ""
	}
	bottom, top := math.Floor(math.Log10(lo)), math.Ceil(math.Log10(hi))
	if top <= bottom {
		top = bottom + 1
	}
	x := func(p float64) float64 { return padL + nines(p)/5*(plotW-padL-padR) }
	y := func(ms float64) float64 {
		return plotH - padB - (math.Log10(ms)-bottom)/(top-bottom)*(plotH-padB-padT)
	}
	var b strings.Builder
	open(&b, title)
	for e := bottom; e <= top; e++ {
		gridline(&b, y(math.Pow(10, e)), fmt.Sprintf("%g", math.Pow(10, e)))
	}
	for _, p := range []float64{0, 90, 99, 99.9, 99.99} {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">p%g</text>`, x(p), plotH-padB+16, p)
	}
	for i, curve := range all {
		var pts []string
		for _, p := range curve {
			if p.ms > 0 {
				pts = append(pts, fmt.Sprintf("%.1f,%.1f", x(p.percentile), y(p.ms)))
			}
		}
		if len(pts) == 0 {
			continue
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`, strings.Join(pts, " "), colour(i))
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s" class="key">%s</text>`, padL+8, padT+12+14*i, colour(i), template.HTMLEscapeString(r.Targets[i].Name))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}
