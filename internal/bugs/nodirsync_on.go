//go:build bug_nodirsync

package bugs

// NoDirSync: directories are not synced.
const NoDirSync = true
