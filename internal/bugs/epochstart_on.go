//go:build bug_epochstart

package bugs

// EpochStart: a follower may join below the start of the leader's epoch.
const EpochStart = true
