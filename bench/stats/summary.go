package stats

import (
	"math"
	"slices"

	"golang.org/x/perf/benchmath"
)

// Summary describes one metric over the rounds of a run.
type Summary struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Summarize returns the summary of the values that are numbers. The zero
// Summary (N = 0) means that there is none.
func Summarize(values []float64) Summary {
	v := finite(values)
	if len(v) == 0 {
		return Summary{}
	}
	slices.Sort(v)
	return Summary{N: len(v), Median: median(v), Min: v[0], Max: v[len(v)-1]}
}

func finite(values []float64) []float64 {
	var v []float64
	for _, x := range values {
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			v = append(v, x)
		}
	}
	return v
}

// median of sorted values.
func median(v []float64) float64 {
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// Quantile returns the q-quantile (0 … 1) of values by the nearest rank.
func Quantile(values []float64, q float64) float64 {
	v := finite(values)
	if len(v) == 0 {
		return math.NaN()
	}
	slices.Sort(v)
	return v[min(len(v)-1, max(0, int(math.Ceil(q*float64(len(v))))-1))]
}

// Spread is (max − min) / median, 0 for less than two values.
func (s Summary) Spread() float64 {
	if s.N < 2 || s.Median == 0 {
		return 0
	}
	return (s.Max - s.Min) / math.Abs(s.Median)
}

// PairwiseRatio compares two targets whose rounds alternated: round i of ours
// against round i of the peer, so that slow drift of the machine cancels out.
func PairwiseRatio(ours, peer []float64) Summary {
	var r []float64
	for i := range min(len(ours), len(peer)) {
		if peer[i] != 0 {
			r = append(r, ours[i]/peer[i])
		}
	}
	return Summarize(r)
}

// Comparison is a test of two samples of one metric.
type Comparison struct {
	Old, New    Summary
	P           float64 // probability of such a difference by chance (Mann-Whitney U)
	Significant bool    // P below the usual 0.05
}

// Delta is the relative change of the median.
func (c Comparison) Delta() float64 {
	if c.Old.Median == 0 {
		return 0
	}
	return c.New.Median/c.Old.Median - 1
}

// Compare tests whether two samples differ, without assuming a distribution.
// With fewer than four rounds on a side no difference can be significant.
func Compare(old, new []float64) Comparison {
	c := Comparison{Old: Summarize(old), New: Summarize(new), P: 1}
	if c.Old.N == 0 || c.New.N == 0 {
		return c
	}
	t := &benchmath.DefaultThresholds
	res := benchmath.AssumeNothing.Compare(benchmath.NewSample(finite(old), t), benchmath.NewSample(finite(new), t))
	c.P = res.P
	c.Significant = res.P < t.CompareAlpha
	return c
}
