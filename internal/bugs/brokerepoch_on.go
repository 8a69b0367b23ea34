//go:build bug_brokerepoch

package bugs

// BrokerEpoch: the controller ignores the incarnations of proposed members.
const BrokerEpoch = true
