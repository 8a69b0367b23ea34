//go:build bug_ackbeforefsync

package bugs

// AckBeforeFsync: a leader counts what it has only written as durable.
const AckBeforeFsync = true
