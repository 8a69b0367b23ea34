//go:build bug_dupearly

package bugs

// DupEarly: a duplicate is answered before its original is committed.
const DupEarly = true
