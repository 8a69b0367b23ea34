//go:build poison

package wire

const poisonFreed = true
