//go:build bug_staleend

package bugs

// StaleEnd: end answers are given without a lease.
const StaleEnd = true
