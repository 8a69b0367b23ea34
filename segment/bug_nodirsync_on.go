//go:build bug_nodirsync

package segment

const skipDirSync = true
