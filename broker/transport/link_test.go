package transport

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestDemandFollowsTheCall: whoever answers the demand for a connection must see
// the call that it is for. Otherwise a dial that fails at once fails nobody, and
// the call waits for a dial that nobody asks for.
func TestDemandFollowsTheCall(t *testing.T) {
	l := newLink(pool(t, PeersOptions{}), linkKey{To{2, "127.0.0.1:1"}, Control}) // nobody runs it
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	l.mu.Lock() // the call cannot register yet
	go func() {
		_, err := l.call(ctx, KeyCommand, 0, nil)
		over <- err
	}()
	select {
	case <-l.demand:
		t.Error("a connection is wanted before the call can be seen")
		l.want()
	case <-time.After(20 * time.Millisecond):
	}
	l.mu.Unlock()
	<-l.demand
	if !l.outstanding() || len(l.queue) != 1 {
		t.Error("a connection is wanted for nothing")
	}
	cancel()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
