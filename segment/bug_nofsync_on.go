//go:build bug_nofsync

package segment

const skipFileSync = true
