// Package clock is the injected source of time. Elapsed time (leases, lag) is
// monotonic and never jumps; wall time (timestamps, retention) may.
package clock

import (
	"sync"
	"time"
)

// Clock tells time. Safe for concurrent use.
type Clock interface {
	// Now returns wall time, for timestamps and retention only.
	Now() time.Time
	// Elapsed returns monotonic time since an arbitrary start. Every lease,
	// timeout and lag is computed from it, so a clock jump has no effect on
	// safety.
	Elapsed() time.Duration
}

// Real is the clock of the machine; Offset shifts its wall time (for tests of
// skewed clocks).
type Real struct {
	start  time.Time
	Offset time.Duration
}

// NewReal returns the machine's clock.
func NewReal() *Real { return &Real{start: time.Now()} }

// Now implements Clock.
func (r *Real) Now() time.Time { return time.Now().Add(r.Offset) }

// Elapsed implements Clock.
func (r *Real) Elapsed() time.Duration { return time.Since(r.start) }

// Manual is a clock that moves only when told to. Safe for concurrent use.
type Manual struct {
	mu      sync.Mutex
	wall    time.Time
	elapsed time.Duration
}

// NewManual starts at the given wall time with zero elapsed time.
func NewManual(wall time.Time) *Manual { return &Manual{wall: wall} }

// Now implements Clock.
func (m *Manual) Now() time.Time { m.mu.Lock(); defer m.mu.Unlock(); return m.wall }

// Elapsed implements Clock.
func (m *Manual) Elapsed() time.Duration { m.mu.Lock(); defer m.mu.Unlock(); return m.elapsed }

// Advance moves both times forward by d.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall, m.elapsed = m.wall.Add(d), m.elapsed+d
}

// Jump moves wall time only, by d, which may be negative.
func (m *Manual) Jump(d time.Duration) { m.mu.Lock(); defer m.mu.Unlock(); m.wall = m.wall.Add(d) }
