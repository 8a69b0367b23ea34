//go:build bug_epochreuse

package bugs

// EpochReuse: a restarted broker goes on leading in its old epoch.
const EpochReuse = true
