//go:build !bug_trusttail

package bugs

// TrustTail: a recovered page-cache tail counts as durable.
const TrustTail = false
