package broker

import (
	"context"
	"time"
)

// Periods of the broker's own loops.
const (
	tickEvery     = 50 * time.Millisecond
	maintainEvery = time.Second
	scrubEvery    = time.Second
)

// syncer is the only caller of the group commit. While one commit is on its way
// appends go on; they make up the next group.
type syncer struct {
	dirty  chan struct{}
	commit func() error
	fatal  func(error)
}

func newSyncer(commit func() error, fatal func(error)) *syncer {
	return &syncer{dirty: make(chan struct{}, 1), commit: commit, fatal: fatal}
}

// Dirty asks for a commit of everything appended so far.
func (s *syncer) Dirty() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

func (s *syncer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.dirty:
		}
		if err := s.commit(); err != nil {
			s.fatal(err)
			return
		}
	}
}

// every calls f once per period until ctx ends.
func every(ctx context.Context, period time.Duration, f func()) {
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f()
		}
	}
}

// onDemand calls f after each signal of wake, but not more often than once per
// period, until ctx ends.
func onDemand(ctx context.Context, period time.Duration, wake <-chan struct{}, f func()) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
		t.Reset(period)
		f()
	}
}
