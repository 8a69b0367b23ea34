//go:build bug_orphandelete

package bugs

// OrphanDelete: recovery unlinks files that the catalog does not list.
const OrphanDelete = true
