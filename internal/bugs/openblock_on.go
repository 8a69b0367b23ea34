//go:build bug_openblock

package bugs

// OpenBlock: the block in the making is not verified.
const OpenBlock = true
