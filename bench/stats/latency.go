// Package stats turns measurements into numbers that can be compared: latency
// histograms, medians and spread over rounds, pairwise ratios, significance.
package stats

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Bounds of every latency histogram: 1 µs to 10 minutes, three digits.
const (
	minLatency = int64(time.Microsecond)
	maxLatency = int64(10 * time.Minute)
	digits     = 3
)

// Latency is a histogram of durations. Safe for concurrent use; its zero value
// is not, use NewLatency.
type Latency struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

// NewLatency returns an empty histogram.
func NewLatency() *Latency {
	return &Latency{h: hdrhistogram.New(minLatency, maxLatency, digits)}
}

// Record adds one duration; what is out of bounds counts as the bound.
func (l *Latency) Record(d time.Duration) {
	v := min(max(int64(d), minLatency), maxLatency)
	l.mu.Lock()
	_ = l.h.RecordValue(v) // v is within the bounds, the only error there is
	l.mu.Unlock()
}

// Reset forgets everything, at the end of a warm-up.
func (l *Latency) Reset() {
	l.mu.Lock()
	l.h.Reset()
	l.mu.Unlock()
}

// Point is one point of a percentile curve.
type Point struct {
	Percentile float64 `json:"p"`
	Ms         float64 `json:"ms"`
}

// Quantiles summarises a histogram, in milliseconds.
type Quantiles struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
	Curve []Point `json:"curve,omitempty"`
}

// curvePercentiles are the points that plots show.
var curvePercentiles = []float64{0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100}

// Quantiles returns the summary, or nil if nothing was recorded.
func (l *Latency) Quantiles() *Quantiles {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.h.TotalCount() == 0 {
		return nil
	}
	at := func(p float64) float64 { return float64(l.h.ValueAtQuantile(p)) / 1e6 }
	q := &Quantiles{Count: l.h.TotalCount(), Mean: l.h.Mean() / 1e6, P50: at(50), P99: at(99), P999: at(99.9), Max: float64(l.h.Max()) / 1e6}
	for _, p := range curvePercentiles {
		q.Curve = append(q.Curve, Point{p, at(p)})
	}
	return q
}

// Over returns the share of values above d, 0 … 1.
func (l *Latency) Over(d time.Duration) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.h.TotalCount() == 0 {
		return 0
	}
	var over int64
	for _, b := range l.h.Distribution() {
		if b.From > int64(d) {
			over += b.Count
		}
	}
	return float64(over) / float64(l.h.TotalCount())
}
