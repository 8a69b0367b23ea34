//go:build !bug_deduploss

package bugs

// DedupLoss: a new leader forgets its producers.
const DedupLoss = false
