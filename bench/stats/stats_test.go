package stats

import (
	"math"
	"testing"
	"time"
)

func TestQuantiles(t *testing.T) {
	l := NewLatency()
	if l.Quantiles() != nil {
		t.Fatal("an empty histogram has no quantiles")
	}
	for i := 1; i <= 1000; i++ {
		l.Record(time.Duration(i) * time.Millisecond)
	}
	q := l.Quantiles()
	near := func(got, want float64) bool { return math.Abs(got-want) <= want/500 }
	if q.Count != 1000 || !near(q.P50, 500) || !near(q.P99, 990) || !near(q.P999, 999) || !near(q.Max, 1000) {
		t.Fatalf("quantiles %+v", q)
	}
	if got := l.Over(900 * time.Millisecond); math.Abs(got-0.1) > 0.005 {
		t.Fatalf("share over 900 ms = %v, want 0.1", got)
	}
	l.Record(-time.Second)
	l.Record(time.Hour)
	if q := l.Quantiles(); q.Count != 1002 || q.Max > 600_500 {
		t.Fatalf("values out of bounds: %+v", q)
	}
	l.Reset()
	if l.Quantiles() != nil || l.Over(0) != 0 {
		t.Fatal("reset must forget")
	}
}

func TestSummarize(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want Summary
	}{
		{nil, Summary{}},
		{[]float64{math.NaN()}, Summary{}},
		{[]float64{3}, Summary{1, 3, 3, 3}},
		{[]float64{5, 1, 3}, Summary{3, 3, 1, 5}},
		{[]float64{4, 1, 3, 2}, Summary{4, 2.5, 1, 4}},
		{[]float64{math.Inf(1), 1, 3}, Summary{2, 2, 1, 3}},
	} {
		if got := Summarize(tt.in); got != tt.want {
			t.Errorf("Summarize(%v) = %+v, want %+v", tt.in, got, tt.want)
		}
	}
	if got := (Summary{N: 3, Median: 4, Min: 3, Max: 5}).Spread(); got != 0.5 {
		t.Errorf("spread %v, want 0.5", got)
	}
}

func TestPairwiseRatio(t *testing.T) {
	// Both slow down by half in round 2: the ratio does not move.
	got := PairwiseRatio([]float64{100, 50, 100}, []float64{50, 25, 50})
	if got != (Summary{3, 2, 2, 2}) {
		t.Errorf("ratio %+v, want 2 in every round", got)
	}
	if got := PairwiseRatio([]float64{1, 2, 3}, []float64{0, 2}); got != (Summary{1, 1, 1, 1}) {
		t.Errorf("unpaired and zero rounds must not count: %+v", got)
	}
}

func TestQuantile(t *testing.T) {
	v := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := Quantile(v, q); got != want {
			t.Errorf("quantile %v = %v, want %v", q, got, want)
		}
	}
	if !math.IsNaN(Quantile(nil, 0.5)) {
		t.Error("no values, no quantile")
	}
}

func TestCompare(t *testing.T) {
	low := []float64{10, 11, 10.5, 10.2, 10.9, 10.4}
	high := []float64{20, 21, 20.5, 20.2, 20.9, 20.4}
	if c := Compare(low, high); !c.Significant || c.P > 0.05 || math.Abs(c.Delta()-0.95) > 0.1 {
		t.Errorf("twice as high: %+v, delta %v", c, c.Delta())
	}
	if c := Compare(low, []float64{10.3, 10.8, 10.6, 10.1, 11, 10.45}); c.Significant {
		t.Errorf("the same: %+v", c)
	}
	if c := Compare(low[:2], high[:2]); c.Significant {
		t.Errorf("two rounds prove nothing: %+v", c)
	}
	if c := Compare(nil, high); c.Significant || c.P != 1 {
		t.Errorf("nothing to compare: %+v", c)
	}
}
