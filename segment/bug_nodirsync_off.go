//go:build !bug_nodirsync

package segment

// skipDirSync is the planted bug bug_nodirsync, which skips the syncs of directories. The crash
// sweep must fail with it.
const skipDirSync = false
