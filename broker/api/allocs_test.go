//go:build !race

// The race detector allocates too.

package api

import "testing"

// TestAllocationBudget: allocations of the hot path, server and fakes together.
// They grow with the request's structure, not with its bytes.
func TestAllocationBudget(t *testing.T) {
	for _, tc := range []struct {
		name   string
		fn     func()
		budget float64
	}{
		{"decode, 1 partition", benchDecode(t, 1), 3},
		{"decode, 10 partitions", benchDecode(t, 10), 3},
		{"produce, 1 partition", benchProduce(t, 1), 10},
		{"produce, 10 partitions", benchProduce(t, 10), 10},
		{"fetch, 1 partition", benchFetch(t, 1), 13},
		{"fetch, 10 partitions", benchFetch(t, 10), 13},
	} {
		if got := testing.AllocsPerRun(200, tc.fn); got > tc.budget {
			t.Errorf("%s: %.0f allocations, budget %.0f", tc.name, got, tc.budget)
		}
	}
}
