package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"gopkg.in/yaml.v3"
)

// table is rows for people.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = cell(c)
	}
	t.rows = append(t.rows, row)
}

// cell renders unknown (-1) and empty values as a dash.
func cell(v any) string {
	var s string
	switch v := v.(type) {
	case []int32:
		parts := make([]string, len(v))
		for i, n := range v {
			parts[i] = strconv.Itoa(int(n))
		}
		s = strings.Join(parts, ",")
	case bool:
		s = map[bool]string{true: "yes", false: "no"}[v]
	default:
		s = fmt.Sprint(v)
	}
	if s == "" || s == "-1" {
		return "-"
	}
	return s
}

func (t *table) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var b strings.Builder
	for _, row := range append([][]string{t.header}, t.rows...) {
		b.WriteString(strings.Join(row, "\t"))
		b.WriteByte('\n')
	}
	if _, err := io.WriteString(tw, b.String()); err != nil {
		return err
	}
	return tw.Flush()
}

// print writes one document: doc as JSON or YAML with the same field names, or
// the table, which may be nil if there is nothing to show to people.
func (a *app) print(doc any, tables ...*table) error {
	switch a.output {
	case "json":
		return writeJSON(a.out, doc)
	case "yaml":
		return writeYAML(a.out, doc)
	}
	for i, t := range tables {
		if i > 0 {
			if _, err := fmt.Fprintln(a.out); err != nil {
				return err
			}
		}
		if err := t.write(a.out); err != nil {
			return err
		}
	}
	return nil
}

func writeJSON(w io.Writer, doc any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(doc)
}

// writeYAML goes through JSON, which YAML contains, so that both have the same
// names in the same order.
func writeYAML(w io.Writer, doc any) error {
	var b bytes.Buffer
	if err := writeJSON(&b, doc); err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Unmarshal(b.Bytes(), &n); err != nil {
		return err
	}
	blockStyle(&n)
	out, err := yaml.Marshal(&n)
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

func blockStyle(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}
