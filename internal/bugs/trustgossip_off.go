//go:build !bug_trustgossip

package bugs

// TrustGossip: gossip's word alone fences a broker, without a probe and before its lease is over.
const TrustGossip = false
