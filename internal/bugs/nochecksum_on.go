//go:build bug_nochecksum

package bugs

// NoChecksum: blocks are served without a look at their checksum.
const NoChecksum = true
