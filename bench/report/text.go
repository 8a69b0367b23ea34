package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Text writes the result for a terminal.
func Text(w io.Writer, r *Result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  %s\n  commit %s, %s\n", r.Command, r.Machine, r.Commit, r.Time)
	for _, t := range r.Targets {
		fmt.Fprintf(&b, "  %s\n", describe(&t))
	}
	fmt.Fprintf(&b, "  %s\n", params(r))
	for _, line := range r.lineNames() {
		b.WriteByte('\n')
		if line != "" {
			fmt.Fprintf(&b, "[%s]\n", line)
		}
		writeGrid(&b, r.grid(line))
		for _, f := range r.floors(line) {
			fmt.Fprintf(&b, "  %s\n", f)
		}
	}
	for _, s := range r.warnings() {
		fmt.Fprintf(&b, "WARNING %s\n", s)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func describe(t *Target) string {
	return fmt.Sprintf("%s: %s; replication factor %d, at least %d in sync; fsync: %s", t.Name, t.Info.Version, t.Info.Replication, t.Info.InSync, t.Info.Fsync)
}

func params(r *Result) string {
	var out []string
	for _, p := range r.Params {
		out = append(out, p.Name+" "+p.Value)
	}
	return strings.Join(out, ", ")
}

// writeGrid aligns columns: the first to the left, numbers to the right.
func writeGrid(b *strings.Builder, grid [][]string) {
	width := make([]int, len(grid[0]))
	for _, r := range grid {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range grid {
		for i, c := range r {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			switch {
			case i == 0 && len(r) > 1:
				b.WriteString("  " + c + pad)
			case i == 0:
				b.WriteString("  " + c)
			default:
				b.WriteString("  " + pad + c)
			}
		}
		b.WriteByte('\n')
	}
}

// Markdown writes the result as a section to paste into a document.
func Markdown(w io.Writer, r *Result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n`%s`\n\n%s; commit %s, %s.\n\n", r.Workload, r.Command, r.Machine, r.Commit, r.Time)
	for _, t := range r.Targets {
		fmt.Fprintf(&b, "* %s\n", describe(&t))
	}
	fmt.Fprintf(&b, "* %s\n", params(r))
	for _, line := range r.lineNames() {
		if line != "" {
			fmt.Fprintf(&b, "\n**%s**\n", line)
		}
		b.WriteByte('\n')
		for i, row := range r.grid(line) {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				fmt.Fprintf(&b, "|---|%s\n", strings.Repeat("---:|", len(row)-1))
			}
		}
		for _, f := range r.floors(line) {
			fmt.Fprintf(&b, "\n* %s", f)
		}
		if len(r.floors(line)) > 0 {
			b.WriteByte('\n')
		}
	}
	for _, s := range r.warnings() {
		fmt.Fprintf(&b, "\n> **Warning:** %s\n", s)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
