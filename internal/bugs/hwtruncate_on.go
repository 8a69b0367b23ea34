//go:build bug_hwtruncate

package bugs

// HWTruncate: a new follower cuts its log to its high watermark.
const HWTruncate = true
