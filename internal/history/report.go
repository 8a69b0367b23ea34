package history

import (
	"fmt"
	"sort"
	"strings"
)

// Verdict says what a finding means for the run.
type Verdict uint8

// Verdicts: Bad breaks a promise; Allowed is legal and counted only.
const (
	Allowed Verdict = iota
	Bad
)

// String returns "bad" or "allowed".
func (v Verdict) String() string {
	if v == Bad {
		return "bad"
	}
	return "allowed"
}

// MarshalText implements encoding.TextMarshaler.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// maxExamples bounds the examples kept per kind of finding.
const maxExamples = 10

// Finding is one kind of anomaly and how often it occurred.
type Finding struct {
	Code     string   `json:"code"` // A1 … B10, P1, P2
	Name     string   `json:"name"`
	Verdict  Verdict  `json:"verdict"`
	Count    int      `json:"count"`
	Examples []string `json:"examples"` // the first few in key, then offset order
}

// Lag is how far behind reality polls were (A16), in nanoseconds.
type Lag struct {
	Polls int   `json:"polls"`
	P50   int64 `json:"p50"`
	P99   int64 `json:"p99"`
	Max   int64 `json:"max"`
	Key   Key   `json:"key"` // of the maximum
}

// Report is what Check found.
type Report struct {
	Ops, Sends, Acked, Unknown, Failed, Reads int
	Findings                                  []Finding
	Lag                                       Lag
}

// Valid reports whether no finding is bad.
func (r *Report) Valid() bool {
	for _, f := range r.Findings {
		if f.Verdict == Bad {
			return false
		}
	}
	return true
}

// Has reports whether a finding with that code exists, bad or allowed.
func (r *Report) Has(code string) bool { return r.Find(code) != nil }

// Find returns the finding with that code, or nil.
func (r *Report) Find(code string) *Finding {
	for i := range r.Findings {
		if r.Findings[i].Code == code {
			return &r.Findings[i]
		}
	}
	return nil
}

// String renders the report for people. It is the same for the same history.
func (r *Report) String() string {
	var b strings.Builder
	verdict := "VALID"
	if !r.Valid() {
		verdict = "INVALID"
	}
	fmt.Fprintf(&b, "%s: %d operations, %d sends (%d acknowledged, %d unknown, %d failed), %d reads\n",
		verdict, r.Ops, r.Sends, r.Acked, r.Unknown, r.Failed, r.Reads)
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "  %-4s %-26s %-7s %d\n", f.Code, f.Name, f.Verdict, f.Count)
		for _, e := range f.Examples {
			fmt.Fprintf(&b, "         %s\n", e)
		}
		if n := f.Count - len(f.Examples); n > 0 {
			fmt.Fprintf(&b, "         and %d more\n", n)
		}
	}
	if r.Lag.Polls > 0 {
		fmt.Fprintf(&b, "  A16  realtime lag of %d polls: p50 %.1f ms, p99 %.1f ms, max %.1f ms (key %d)\n",
			r.Lag.Polls, ms(r.Lag.P50), ms(r.Lag.P99), ms(r.Lag.Max), r.Lag.Key)
	}
	return b.String()
}

func ms(ns int64) float64 { return float64(ns) / 1e6 }

// example is one occurrence, with what orders it.
type example struct {
	key  Key
	at   int64 // offset, value or time: a stable order within the key
	text string
}

// collector gathers occurrences of each kind of finding. It keeps the least
// maxExamples in (key, at, text) order, so the result does not depend on the
// order in which they were found.
type collector struct {
	counts   map[string]int
	examples map[string][]example
}

func newCollector() *collector {
	return &collector{counts: map[string]int{}, examples: map[string][]example{}}
}

func (c *collector) add(code string, k Key, at int64, format string, args ...any) {
	c.counts[code]++
	ex := c.examples[code]
	e := example{key: k, at: at}
	if len(ex) == maxExamples && after(e, ex[maxExamples-1]) {
		return // and its text is not needed
	}
	e.text = fmt.Sprintf(format, args...)
	i := sort.Search(len(ex), func(i int) bool { return before(e, ex[i]) })
	ex = append(ex, example{})
	copy(ex[i+1:], ex[i:])
	ex[i] = e
	c.examples[code] = ex[:min(len(ex), maxExamples)]
}

// after compares without the text, which may not be there yet.
func after(a, b example) bool {
	return a.key > b.key || a.key == b.key && a.at > b.at
}

func before(a, b example) bool {
	if a.key != b.key {
		return a.key < b.key
	}
	if a.at != b.at {
		return a.at < b.at
	}
	return a.text < b.text
}

// kinds lists every finding in the order of the report.
var kinds = []struct{ code, name string }{
	{"A1", "inconsistent-offsets"}, {"A2", "duplicate"}, {"A3", "lost-write"}, {"A4", "unseen"},
	{"A5", "aborted-read"}, {"A6", "precommitted-read"}, {"A7", "int-poll-skip"}, {"A8", "int-nonmonotonic-poll"},
	{"A9", "poll-skip"}, {"A10", "nonmonotonic-poll"}, {"A11", "nonmonotonic-send"}, {"A12", "int-nonmonotonic-send"},
	{"A13", "int-send-skip"}, {"A17", "consumed-twice"}, {"B1", "lost-tail"}, {"B2", "unequal-replicas"},
	{"B3", "bounds"}, {"B9", "liveness"}, {"B10", "session-order"}, {"P1", "phantom-read"}, {"P2", "read-before-send"},
}

func (c *collector) findings(verdict func(code string) Verdict) []Finding {
	var out []Finding
	for _, k := range kinds {
		n := c.counts[k.code]
		if n == 0 {
			continue
		}
		f := Finding{Code: k.code, Name: k.name, Verdict: verdict(k.code), Count: n}
		for _, e := range c.examples[k.code] {
			f.Examples = append(f.Examples, e.text)
		}
		out = append(out, f)
	}
	return out
}
