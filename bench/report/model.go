// Package report holds the results of a run and renders them: text, JSON,
// Markdown, an HTML page that works offline, and the comparison of two runs.
package report

import (
	"encoding/json"
	"fmt"
	"math"
	"os"

	"github.com/tailrace/tailrace/bench/cluster"
	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/bench/stats"
)

// Sample is one measured round of one line.
type Sample struct {
	Seconds       float64          `json:"seconds"`
	Records       int64            `json:"records"` // acknowledged in the window
	Bytes         int64            `json:"bytes"`   // of keys and values, uncompressed
	Consumed      int64            `json:"consumed,omitempty"`
	ConsumedBytes int64            `json:"consumed_bytes,omitempty"`
	Errors        int64            `json:"errors,omitempty"`
	FirstError    string           `json:"first_error,omitempty"`
	Missing       int64            `json:"missing,omitempty"` // acknowledged in the round and not consumed at its end
	Ack           *stats.Quantiles `json:"ack,omitempty"`     // from the due time to the acknowledgement
	AckRaw        *stats.Quantiles `json:"ack_uncorrected,omitempty"`
	EndToEnd      *stats.Quantiles `json:"end_to_end,omitempty"` // from the due time to the consumer
	Lag           *stats.Quantiles `json:"generator_lag,omitempty"`
	LagOver10ms   float64          `json:"lag_over_10ms,omitempty"` // share of records sent more than 10 ms late
	Brokers       proc.Total       `json:"brokers"`
	Load          proc.Total       `json:"load"`
	IdleRSS       int64            `json:"idle_rss_bytes,omitempty"` // of the largest broker, after the setup and before the first load
	Fsyncs        float64          `json:"fsyncs,omitempty"`         // of all brokers in the window; 0: not shown by the target
	// Values are the metrics of one workload, by name; lower is better unless
	// the name begins with SharePrefix.
	Values map[string]float64 `json:"values,omitempty"`
}

// SharePrefix begins the names of values of which more is better.
const SharePrefix = "share of "

// saturatedShare and its 10 ms are the rule above which an open-loop result
// measures a queue and not the target.
const saturatedShare = 0.01

// Saturated reports whether the generator could not keep its schedule.
func (s *Sample) Saturated() bool { return s.LagOver10ms > saturatedShare }

// unsettled reports whether the window was shorter than what half of the records
// waited: its rate is that of a few bursts.
func (s *Sample) unsettled() bool { return s.Ack != nil && s.Ack.P50 > 1e3*s.Seconds }

// Line is one case of a workload with its rounds, such as one partition count.
type Line struct {
	Name    string   `json:"name,omitempty"`
	Samples []Sample `json:"samples"`
}

// Target is one cluster and what was measured on it.
type Target struct {
	Name  string       `json:"name"`
	Info  cluster.Info `json:"info"`
	Lines []Line       `json:"lines"`
}

// Line returns the line with that name, made if it does not exist.
func (t *Target) Line(name string) *Line {
	for i := range t.Lines {
		if t.Lines[i].Name == name {
			return &t.Lines[i]
		}
	}
	t.Lines = append(t.Lines, Line{Name: name})
	return &t.Lines[len(t.Lines)-1]
}

// Param is one setting of the run, in the order of the report.
type Param struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Result is one run of one workload over one or more targets. The first
// target is ours; the others are compared with it.
type Result struct {
	Format   int      `json:"tailrace_bench"` // version of this structure
	Workload string   `json:"workload"`
	Command  string   `json:"command"`
	Time     string   `json:"time"` // RFC 3339
	Commit   string   `json:"commit"`
	Machine  Machine  `json:"machine"`
	Params   []Param  `json:"params"`
	Targets  []Target `json:"targets"`
}

// Format is the version that this package writes and reads.
const Format = 1

// Metric is one number of a sample. Value is NaN where it does not apply.
type Metric struct {
	Key    string
	Name   string
	Higher bool // higher is better
	Value  func(*Sample) float64
}

const (
	mb  = 1e6
	gib = 1 << 30
	mib = 1 << 20
)

// nonzero is a/b, NaN where either says nothing.
func nonzero(a, b float64) float64 {
	if a == 0 || b == 0 {
		return math.NaN()
	}
	return a / b
}

func quantile(q *stats.Quantiles, f func(*stats.Quantiles) float64) float64 {
	if q == nil {
		return math.NaN()
	}
	return f(q)
}

func p50(q *stats.Quantiles) float64  { return q.P50 }
func p99(q *stats.Quantiles) float64  { return q.P99 }
func p999(q *stats.Quantiles) float64 { return q.P999 }

// moved is what went through the brokers: produced, or consumed where nothing
// was produced.
func (s *Sample) moved() (records, bytes float64) {
	if s.Records > 0 {
		return float64(s.Records), float64(s.Bytes)
	}
	return float64(s.Consumed), float64(s.ConsumedBytes)
}

func perGiB(cpu float64, s *Sample) float64 { _, b := s.moved(); return nonzero(cpu, b/gib) }

func perMillion(cpu float64, s *Sample) float64 { r, _ := s.moved(); return nonzero(cpu, r/1e6) }

// metrics that any workload may have, in the order of the report.
var metrics = []Metric{
	{"records_per_s", "acknowledged, records/s", true, func(s *Sample) float64 { return nonzero(float64(s.Records), s.Seconds) }},
	{"mb_per_s", "acknowledged, MB/s", true, func(s *Sample) float64 { return nonzero(float64(s.Bytes)/mb, s.Seconds) }},
	{"consumed_records_per_s", "consumed, records/s", true, func(s *Sample) float64 { return nonzero(float64(s.Consumed), s.Seconds) }},
	{"consumed_mb_per_s", "consumed, MB/s", true, func(s *Sample) float64 { return nonzero(float64(s.ConsumedBytes)/mb, s.Seconds) }},
	{"ack_p50_ms", "ack p50, ms", false, func(s *Sample) float64 { return quantile(s.Ack, p50) }},
	{"ack_p99_ms", "ack p99, ms", false, func(s *Sample) float64 { return quantile(s.Ack, p99) }},
	{"ack_p999_ms", "ack p99.9, ms", false, func(s *Sample) float64 { return quantile(s.Ack, p999) }},
	{"ack_raw_p99_ms", "ack p99 uncorrected, ms", false, func(s *Sample) float64 { return quantile(s.AckRaw, p99) }},
	{"e2e_p50_ms", "end to end p50, ms", false, func(s *Sample) float64 { return quantile(s.EndToEnd, p50) }},
	{"e2e_p99_ms", "end to end p99, ms", false, func(s *Sample) float64 { return quantile(s.EndToEnd, p99) }},
	{"e2e_p999_ms", "end to end p99.9, ms", false, func(s *Sample) float64 { return quantile(s.EndToEnd, p999) }},
	{"lag_p99_ms", "generator lag p99, ms", false, func(s *Sample) float64 { return quantile(s.Lag, p99) }},
	{"broker_cpu_per_gib", "broker CPU s/GiB", false, func(s *Sample) float64 { return perGiB(s.Brokers.CPU, s) }},
	{"broker_cpu_per_mrec", "broker CPU s/10⁶ records", false, func(s *Sample) float64 { return perMillion(s.Brokers.CPU, s) }},
	{"broker_cpu", "broker CPU, cores", false, func(s *Sample) float64 { return nonzero(s.Brokers.CPU, s.Seconds) }},
	{"load_cpu_per_gib", "load CPU s/GiB", false, func(s *Sample) float64 { return perGiB(s.Load.CPU, s) }},
	{"load_cpu_per_mrec", "load CPU s/10⁶ records", false, func(s *Sample) float64 { return perMillion(s.Load.CPU, s) }},
	{"idle_rss_mib", "idle RSS of a broker, MiB", false, func(s *Sample) float64 { return nonzero(float64(s.IdleRSS), mib) }},
	{"peak_rss_mib", "peak RSS of a broker, MiB", false, func(s *Sample) float64 { return nonzero(float64(s.Brokers.PeakRSS), mib) }},
	{"sum_rss_mib", "peak RSS of all brokers, MiB", false, func(s *Sample) float64 { return nonzero(float64(s.Brokers.SumRSS), mib) }},
	{"written_per_byte", "bytes written per byte produced", false, func(s *Sample) float64 { return nonzero(float64(s.Brokers.Written), float64(s.Bytes)) }},
	{"fsyncs_per_s", "fsyncs/s, all brokers", false, func(s *Sample) float64 { return nonzero(s.Fsyncs, s.Seconds) }},
}

// Save writes the result as JSON.
func Save(path string, r *Result) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// Load reads what Save wrote.
func Load(path string) (*Result, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Result
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.Format != Format {
		return nil, fmt.Errorf("%s: result format %d, this program reads %d", path, r.Format, Format)
	}
	return &r, nil
}
