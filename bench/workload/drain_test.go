package workload

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tailrace/tailrace/bench/load"
)

// slowProducer flushes when its channel is closed.
type slowProducer struct{ done chan struct{} }

func (slowProducer) Send(int32, []byte, []byte, func(int64, error)) {}
func (slowProducer) Close()                                         {}
func (p slowProducer) Flush(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A target that gets on is waited for however long it takes, one that stands still is
// not, and there is an end to everything.
func TestDrain(t *testing.T) {
	var outcomes atomic.Int64
	slow := slowProducer{make(chan struct{})}
	step := func() int64 { // each look sees one more, until all are there
		if outcomes.Load() == 20 {
			close(slow.done)
		}
		return outcomes.Add(1)
	}
	if err := drain(t.Context(), []load.Producer{slow, slow}, step, 50*time.Millisecond, time.Hour); err != nil {
		t.Errorf("getting on: %v", err)
	}
	if outcomes.Load() < 20 {
		t.Errorf("ended after %d looks", outcomes.Load())
	}
	stuck := slowProducer{make(chan struct{})}
	err := drain(t.Context(), []load.Producer{stuck}, func() int64 { return 7 }, 50*time.Millisecond, time.Hour)
	if err == nil || !strings.Contains(err.Error(), "none came for 50ms") {
		t.Errorf("standing still: %v", err)
	}
	n := int64(0)
	err = drain(t.Context(), []load.Producer{stuck}, func() int64 { n++; return n }, time.Hour, 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "after 50ms") {
		t.Errorf("for ever: %v", err)
	}
}
