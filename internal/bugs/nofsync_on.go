//go:build bug_nofsync

package bugs

// NoFsync: segment files are not synced.
const NoFsync = true
