//go:build bug_isrjoin

package bugs

// ISRJoin: a follower may join below the high watermark and the epoch start.
const ISRJoin = true
