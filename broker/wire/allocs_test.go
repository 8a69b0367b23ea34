//go:build !race && !poison

// The race detector and poisoned buffers allocate too.

package wire

import (
	"runtime"
	"testing"
)

// TestAllocationsPerRequest: the budget of a request that is answered at once,
// the Request and the reply's parts.
func TestAllocationsPerRequest(t *testing.T) {
	const n = 20_000
	ping := pinger(t)
	ping(n / 10) // fills the pools
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ping(n)
	runtime.ReadMemStats(&after)
	if per := float64(after.Mallocs-before.Mallocs) / n; per > 3 {
		t.Fatalf("%.2f allocations per request, want at most 3", per)
	}
}
