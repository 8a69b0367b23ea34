package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tailrace/tailrace/bench/load"
)

// Bounds of the wait for acknowledgements after a window. What a target has not
// answered then is up to bufferBytes, which one that syncs every small batch needs
// minutes for: it may take long as long as it gets on.
const (
	drainIdle  = 60 * time.Second
	drainLimit = 15 * time.Minute
)

// drainPoll is how often progress is looked at.
const drainPoll = 100 * time.Millisecond

// drain waits until every record has its outcome. outcomes counts them; when it
// stands still for idle, or after limit, the wait is over.
func drain(ctx context.Context, producers []load.Producer, outcomes func() int64, idle, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("records without an outcome after %s", limit))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	flushed := make(chan error, 1)
	go func() { flushed <- flushAll(ctx, producers) }()
	last, since := outcomes(), time.Now()
	for poll := time.NewTicker(min(drainPoll, idle)); ; {
		select {
		case err := <-flushed:
			poll.Stop()
			if err != nil {
				err = errors.Join(context.Cause(ctx), err)
			}
			return err
		case <-poll.C:
			if n := outcomes(); n != last {
				last, since = n, time.Now()
			} else if time.Since(since) > idle {
				stop(fmt.Errorf("records without an outcome, none came for %s", idle))
			}
		}
	}
}

func flushAll(ctx context.Context, producers []load.Producer) error {
	for _, p := range producers {
		if err := p.Flush(ctx); err != nil {
			return err
		}
	}
	return nil
}
