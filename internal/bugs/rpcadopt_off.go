//go:build !bug_rpcadopt

package bugs

// RPCAdopt: a rejected or unknown proposal counts as committed.
const RPCAdopt = false
