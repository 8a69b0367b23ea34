package api

import (
	"testing"

	"github.com/tailrace/tailrace/partition"
)

// brokenReplica has a read that panics.
type brokenReplica struct{ *fakeReplica }

func (brokenReplica) Read(partition.ReadRequest) partition.ReadResult { panic("planted") }

// TestFetchPanicEndsItsSession: a panic in a round closes the connection, lets
// go of what was read, and costs the session, not the server.
func TestFetchPanicEndsItsSession(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	good := b.replica("t", 0)
	good.put(1)
	b.replicas[b.tp("t", 1)] = brokenReplica{b.replica("t", 1)}
	for _, epoch := range []int32{-1, 0} {
		if a := c.start(fetchRequest(13, 0, epoch, fetchPart{"t", 0, 0}, fetchPart{"t", 1, 0})).wait(); a.closed == nil {
			t.Errorf("%+v", a)
		}
	}
	if _, pinned, watchers := good.counts(); pinned != 0 || watchers != 0 {
		t.Errorf("%d ranges pinned, %d watchers left", pinned, watchers)
	}
	if st := c.s.Stats(); st != (Stats{}) {
		t.Errorf("%+v", st)
	}
	if resp := c.fetch(fetchRequest(13, 0, -1, fetchPart{"t", 0, 0})); len(resp.Topics) != 1 {
		t.Errorf("%+v", resp)
	}
	if kinds := b.eventKinds(); len(kinds) != 2 || kinds[0] != EventPanic {
		t.Errorf("events %v", kinds)
	}
}
