//go:build !poison

package wire

// poisonFreed overwrites buffers on release, to make use after release visible
// (build tag "poison").
const poisonFreed = false
