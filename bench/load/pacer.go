package load

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// spinBelow is the last stretch before an instant, which the pacer spends
// looking at the clock rather than asleep.
const spinBelow = 60 * time.Microsecond

// pacer calls a function at a fixed rate, whatever the function does: the i-th
// call is due at start + i/rate, and calls that are late follow at once. What
// is measured from the due time is free of coordinated omission.
//
// It sleeps by clock_nanosleep to an absolute time on a thread of its own: the
// runtime's own sleeps wake about a millisecond late, which would be the
// result and not the load.
type pacer struct {
	rate float64 // calls per second
	late func(time.Duration)
}

// run calls send for i = 0, 1, … with the due time, until ctx ends.
func (p *pacer) run(ctx context.Context, send func(i int64, due time.Time)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // best effort: a finer wake-up
	start := time.Now()
	for i := int64(0); ; i++ {
		due := start.Add(time.Duration(float64(i) / p.rate * 1e9))
		if !waitUntil(ctx, due) {
			return
		}
		p.late(time.Since(due))
		send(i, due)
	}
}

// maxNap bounds one sleep, so that the end of the run is noticed.
const maxNap = 20 * time.Millisecond

// waitUntil returns at the instant, or false if ctx ended before.
func waitUntil(ctx context.Context, due time.Time) bool {
	for {
		if ctx.Err() != nil {
			return false
		}
		left := time.Until(due)
		switch {
		case left <= 0:
			return true
		case left > spinBelow:
			nap := unix.NsecToTimespec(int64(min(left-spinBelow, maxNap)))
			_ = unix.Nanosleep(&nap, nil) // a signal ends it early: the loop looks again
		default:
			runtime.Gosched()
		}
	}
}

// Pace calls send at a fixed rate until ctx ends and tells late how late each
// call was. See pacer.
func Pace(ctx context.Context, rate float64, late func(time.Duration), send func(i int64, due time.Time)) {
	(&pacer{rate: rate, late: late}).run(ctx, send)
}
