//go:build !bug_nofsync

package segment

// skipFileSync is the planted bug bug_nofsync, which skips the syncs of segment files. The crash
// sweep must fail with it.
const skipFileSync = false
