//go:build !bug_journalreuse

package bugs

// JournalReuse: a journal file is written over while its groups are needed.
const JournalReuse = false
