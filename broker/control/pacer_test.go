package control

import (
	"testing"
	"time"
)

// TestPacer: a calm quorum gets the same ticks in half as many steps, and the
// first sign of trouble ends the longer wait.
func TestPacer(t *testing.T) {
	const period = time.Minute // nothing fires by itself
	p := newPacer(period)
	defer p.timer.Stop()
	if p.pace(false); p.ticks != 1 {
		t.Fatalf("%d ticks without a leader", p.ticks)
	}
	if p.pace(true); p.fired() != 2 {
		t.Fatalf("%d ticks in calm", p.ticks)
	}
	p.last = p.last.Add(-period - time.Second) // so much of the double wait is over
	p.pace(true)
	select {
	case <-p.timer.C:
		t.Fatal("fired in the middle of a calm wait")
	default:
	}
	p.pace(false)
	select {
	case <-p.timer.C:
	case <-time.After(30 * time.Second):
		t.Fatal("the tick that is due did not come")
	}
	if n := p.fired(); n != 1 {
		t.Fatalf("%d ticks after one period", n)
	}
}
