package broker

import (
	"context"
	"sync"

	"github.com/tailrace/tailrace/broker/control"
)

// applier carries metadata updates into the replicas, in log order, on one
// goroutine: creating logs is disk work that the quorum must not wait for.
type applier struct {
	apply func(control.Update) error
	after func(control.Update) // called after each applied update
	fatal func(error)

	mu      sync.Mutex
	queue   []control.Update // bounded by the metadata log's own pace
	wake    chan struct{}
	index   uint64 // applied
	changed chan struct{}
}

func newApplier(index uint64, apply func(control.Update) error, after func(control.Update), fatal func(error)) *applier {
	return &applier{apply: apply, after: after, fatal: fatal, index: index, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// add queues an update; it never blocks.
func (a *applier) add(u control.Update) {
	a.mu.Lock()
	a.queue = append(a.queue, u)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *applier) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		}
		a.mu.Lock()
		us := a.queue
		a.queue = nil
		a.mu.Unlock()
		for _, u := range us {
			if err := a.apply(u); err != nil {
				a.fatal(err)
				return
			}
			a.advance(u.Next.Index)
			a.after(u)
		}
	}
}

func (a *applier) advance(index uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if index <= a.index {
		return
	}
	a.index = index
	close(a.changed)
	a.changed = make(chan struct{})
}

// applied is the metadata index that every replica here has acted on.
func (a *applier) applied() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index
}

// wait returns when index is applied or ctx ends.
func (a *applier) wait(ctx context.Context, index uint64) error {
	for {
		a.mu.Lock()
		done, ch := a.index >= index, a.changed
		a.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ch:
		}
	}
}
