package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
)

//go:embed page.html
var pageHTML string

var page = template.Must(template.New("page").Parse(pageHTML))

type htmlLine struct {
	Name   string
	Grid   [][]string
	Floors []string
	Plots  []template.HTML
}

// HTML writes one page without outside references: tables and plots as inline
// SVG.
func HTML(w io.Writer, r *Result) error {
	var lines []htmlLine
	for _, name := range r.lineNames() {
		lines = append(lines, htmlLine{Name: name, Grid: r.grid(name), Floors: r.floors(name), Plots: r.plots(name)})
	}
	var targets []string
	for i := range r.Targets {
		targets = append(targets, describe(&r.Targets[i]))
	}
	return page.Execute(w, map[string]any{
		"R": r, "Machine": r.Machine.String(), "Params": params(r), "Targets": targets, "Lines": lines, "Warnings": r.warnings(),
	})
}

// plots draws what the line has data for.
func (r *Result) plots(line string) []template.HTML {
	var out []template.HTML
	for _, key := range []string{"mb_per_s", "consumed_mb_per_s", "broker_cpu_per_gib", "load_cpu_per_gib", "peak_rss_mib", "fsyncs_per_s"} {
		for _, rw := range r.rows(line) {
			if rw.metric.Key == key {
				out = append(out, r.bars(rw))
			}
		}
	}
	if s := r.curves(line, "end to end latency, ms", func(s *Sample) []point { return curveOf(s.EndToEnd) }); s != "" {
		out = append(out, s)
	}
	if s := r.curves(line, "acknowledgement latency, ms", func(s *Sample) []point { return curveOf(s.Ack) }); s != "" {
		out = append(out, s)
	}
	return out
}

// colours of targets, in order; distinguishable without colour vision.
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"}

func colour(i int) string { return colours[i%len(colours)] }

const (
	plotW, plotH = 460, 260
	padL, padB   = 64, 34
	padT, padR   = 30, 12
)

// bars draws the median of each target, with a dot for each round.
func (r *Result) bars(rw row) template.HTML {
	top := 0.0
	for _, c := range rw.cells {
		top = max(top, c.Max)
	}
	if top == 0 {
		top = 1
	}
	var b strings.Builder
	open(&b, rw.metric.Name)
	y := func(v float64) float64 { return plotH - padB - v/top*(plotH-padB-padT) }
	for i := range 5 {
		v := top * float64(i) / 4
		gridline(&b, y(v), number(v))
	}
	step := float64(plotW-padL-padR) / float64(len(r.Targets))
	for i, c := range rw.cells {
		x := padL + step*float64(i)
		if c.N > 0 {
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" opacity="0.75"><title>%s</title></rect>`,
				x+step*0.2, y(c.Median), step*0.6, y(0)-y(c.Median), colour(i), template.HTMLEscapeString(cell(c)))
		}
		for _, v := range rw.values[i] {
			if v == v {
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="2.5" class="dot"/>`, x+step/2, y(v))
			}
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`, x+step/2, plotH-padB+16, template.HTMLEscapeString(r.Targets[i].Name))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}

func open(b *strings.Builder, title string) {
	fmt.Fprintf(b, `<svg viewBox="0 0 %d %d" role="img"><title>%[3]s</title><text x="%d" y="16" class="title">%[3]s</text>`,
		plotW, plotH, template.HTMLEscapeString(title), padL)
}

func gridline(b *strings.Builder, y float64, label string) {
	fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" class="grid"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`,
		padL, plotW-padR, y, y, padL-6, y+4, label)
}
