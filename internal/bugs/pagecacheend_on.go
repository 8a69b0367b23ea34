//go:build bug_pagecacheend

package bugs

// PageCacheEnd: a follower reports its log end instead of its durable end.
const PageCacheEnd = true
