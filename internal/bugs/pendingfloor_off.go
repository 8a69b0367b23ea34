//go:build !bug_pendingfloor

package bugs

// PendingFloor: pending members count towards the minimum.
const PendingFloor = false
