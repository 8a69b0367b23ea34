package api

import (
	"sync"
	"testing"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestFetchNoLostWakeup: consumers that would wait for ever for a wake-up that
// is lost read everything that is appended while they park and wake, with and
// without sessions.
func TestFetchNoLostWakeup(t *testing.T) {
	const partitions, batches, consumers = 8, 150, 4
	b := newFakeBackend()
	b.addTopic("wide", topicID(4), 1, partitions)
	c := newTestServer(t, b, Options{})
	var all sync.WaitGroup
	for n := range consumers {
		all.Go(func() { consumeAll(t, c, n%2 == 0, partitions, batches) })
	}
	for p := range int32(partitions) {
		all.Go(func() {
			for range batches {
				b.replica("wide", p).put(1)
			}
		})
	}
	all.Wait()
	for p := range int32(partitions) {
		r := b.replica("wide", p)
		eventually(t, "nothing pinned", func() bool { _, pinned, _ := r.counts(); return pinned == 0 })
	}
}

// consumeAll reads every partition to its last batch, as an incremental session
// or with full requests.
func consumeAll(t *testing.T, c *client, session bool, partitions, batches int) {
	next := make([]int64, partitions)
	id, epoch, left := int32(0), int32(-1), partitions
	if session {
		epoch = 0
	}
	moved := map[int32]bool{}
	for left > 0 {
		var parts []fetchPart
		for p := range partitions {
			if epoch <= 0 || moved[int32(p)] {
				parts = append(parts, fetchPart{"wide", int32(p), next[p]})
			}
		}
		req := fetchRequest(13, id, epoch, parts...)
		req.MaxWaitMillis, req.MaxBytes = 1<<30, 400
		resp := c.do(req).(*kmsg.FetchResponse)
		if resp.ErrorCode != 0 {
			t.Errorf("fetch: error %d", resp.ErrorCode)
			return
		}
		clear(moved)
		for _, topic := range resp.Topics {
			for _, p := range topic.Partitions {
				n := int64(len(p.RecordBatches) / len(oneBatch(1)))
				if n == 0 {
					continue
				}
				if h, err := batch.Parse(p.RecordBatches); err != nil || h.BaseOffset != next[p.Partition] {
					t.Errorf("partition %d: read offset %d, want %d (%v)", p.Partition, h.BaseOffset, next[p.Partition], err)
					return
				}
				next[p.Partition] += n
				moved[p.Partition] = true
				if next[p.Partition] == int64(batches) {
					left--
				}
			}
		}
		if session {
			id, epoch = resp.SessionID, epoch+1
		}
	}
}

// TestFetchConnectionGone: a parked fetch whose client hung up ends at its next
// look at the connection, unanswered.
func TestFetchConnectionGone(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	req := fetchRequest(12, 0, -1, fetchPart{"t", 0, 0})
	req.MaxWaitMillis = 1 << 30
	conn := c.start(req)
	eventually(t, "parked", func() bool { return c.parked() == 1 })
	close(conn.done)
	c.s.fetches.mu.Lock()
	var parked *fetchCall
	for f := range c.s.fetches.set {
		parked = f
	}
	c.s.fetches.mu.Unlock()
	parked.timeout()
	if a := conn.wait(); !a.silent {
		t.Errorf("%+v", a)
	}
	if _, _, w := b.replica("t", 0).counts(); w != 0 {
		t.Errorf("%d watchers left", w)
	}
}

// TestFetchRechecksFollowers: a partition served by a follower is read again by
// each request of the session, because a follower falls behind without a sign;
// one served by its leader is not.
func TestFetchRechecksFollowers(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	resp := c.fetch(fetchRequest(13, 0, 0, fetchPart{"t", 0, 0}, fetchPart{"other", 0, 0}))
	leader, follower := b.replica("t", 0), b.replica("other", 0)
	was, _, _ := leader.counts()
	wasFollower, _, _ := follower.counts()
	for epoch := int32(1); epoch <= 3; epoch++ {
		if resp := c.fetch(fetchRequest(13, resp.SessionID, epoch)); len(resp.Topics) != 0 {
			t.Errorf("idle partitions in the answer: %+v", resp)
		}
	}
	is, _, _ := leader.counts()
	isFollower, _, _ := follower.counts()
	if is != was || isFollower != wasFollower+3 {
		t.Errorf("leader read %d times, follower %d times, want 0 and 3", is-was, isFollower-wasFollower)
	}
}

// TestProducePipelined: produces of one connection are appended in the order of
// their arrival, although their answers wait.
func TestProducePipelined(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	r := b.replica("t", 0)
	r.hold = true
	var conns []*fakeConn
	for range 20 {
		conns = append(conns, c.start(produceRequest(13, -1, oneBatch(1), 0)))
	}
	for _, conn := range conns {
		if conn.answered() {
			t.Fatal("answered before it was committed")
		}
	}
	r.commit()
	for i, conn := range conns {
		p := c.decode(produceRequest(13, -1, nil), conn.wait()).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if p.BaseOffset != int64(i) {
			t.Errorf("produce %d is at offset %d", i, p.BaseOffset)
		}
	}
}
