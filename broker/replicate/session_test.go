package replicate

import (
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/internal/batch"
)

// follower is a session of broker 1 with leader 2.
type follower struct {
	*testing.T
	b   *broker
	s   *Session
	now time.Duration
}

func newFollower(t *testing.T, n int32) *follower {
	b := newBroker(t, 1, 2, n)
	f := &follower{T: t, b: b, s: NewSession(1, 2, b)}
	for i := range n {
		f.s.Add(b.replicas[tpN(i)])
	}
	return f
}

// build renders the next request: its session and, for each partition, the
// position; forgotten ones have a minus.
func (f *follower) build() (session string, parts []string) {
	req := f.s.Build(f.now, inc)
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			parts = append(parts, fmt.Sprintf("%d@%d", p.Partition, p.FetchOffset))
		}
	}
	for _, t := range req.ForgottenTopics {
		for _, p := range t.Partitions {
			parts = append(parts, fmt.Sprintf("-%d", p))
		}
	}
	return fmt.Sprintf("%d/%d", req.SessionID, req.SessionEpoch), parts
}

func (f *follower) wantBuild(session string, parts ...string) {
	f.Helper()
	gotSession, got := f.build()
	if gotSession != session || !reflect.DeepEqual(got, parts) {
		f.Errorf("request %s %v, want %s %v", gotSession, got, session, parts)
	}
}

// answer hands an answer of session 7 to the follower.
func (f *follower) answer(parts ...kmsg.FetchResponseTopicPartition) {
	f.Helper()
	if err := f.s.Apply(response(7, parts...), f.now); err != nil {
		f.Fatal(err)
	}
}

func response(session int32, parts ...kmsg.FetchResponseTopicPartition) *kmsg.FetchResponse {
	resp := kmsg.NewPtrFetchResponse()
	resp.SessionID = session
	t := kmsg.NewFetchResponseTopic()
	t.TopicID, t.Partitions = tpN(0).Topic, parts
	resp.Topics = append(resp.Topics, t)
	return resp
}

func part(n int32, records []byte, hw int64) kmsg.FetchResponseTopicPartition {
	p := kmsg.NewFetchResponseTopicPartition()
	p.Partition, p.RecordBatches, p.HighWatermark, p.LogStartOffset = n, records, hw, 0
	return p
}

func failed(n int32, err *kerr.Error) kmsg.FetchResponseTopicPartition {
	p := part(n, nil, -1)
	p.ErrorCode = err.Code
	return p
}

func records(base int64, n int) []byte {
	return batch.Plain(base, 1, make([]batch.Record, n)...)
}

func corrupt(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

func (f *follower) wantEnd(n int32, end int64) {
	f.Helper()
	if st := f.b.replicas[tpN(n)].Status(); st.LogEnd != end {
		f.Errorf("partition %d ends at %d, want %d", n, st.LogEnd, end)
	}
}

// A session names every partition once, and afterwards only what changed.
func TestSessionIsIncremental(t *testing.T) {
	f := newFollower(t, 3)
	f.wantBuild("0/0", "0@0", "1@0", "2@0")
	f.answer(part(1, records(0, 4), 0))
	f.wantEnd(1, 4)
	f.wantBuild("7/1", "1@4")
	f.answer()
	f.wantBuild("7/2")
	f.s.Add(f.b.replicas[tpN(2)])
	f.wantBuild("7/2", "2@0")
}

func TestSessionForgetsOnce(t *testing.T) {
	f := newFollower(t, 2)
	f.wantBuild("0/0", "0@0", "1@0")
	f.answer()
	f.s.Remove(tpN(0))
	f.wantBuild("7/1", "-0")
	f.answer(part(0, records(0, 1), 0)) // was on its way
	f.wantEnd(0, 0)
	f.wantBuild("7/2")
	f.s.Remove(tpN(1))
	if !f.s.Empty() {
		t.Error("not empty")
	}
	f.wantBuild("7/2", "-1")
}

// A partition that leaves and comes back between two requests is not forgotten.
func TestSessionTakesBack(t *testing.T) {
	f := newFollower(t, 1)
	f.build()
	f.answer()
	f.s.Remove(tpN(0))
	f.s.Add(f.b.replicas[tpN(0)])
	f.wantBuild("7/1", "0@0")
}

// What cannot be used is left out of the session for a while: the leader would
// answer every fetch at once with it.
func TestSessionRetriesLater(t *testing.T) {
	for name, bad := range map[string]kmsg.FetchResponseTopicPartition{
		"an error":        failed(0, kerr.NotLeaderForPartition),
		"damaged records": part(0, corrupt(records(0, 3)), 0),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFollower(t, 2)
			f.build()
			f.answer(bad)
			f.wantEnd(0, 0)
			f.wantBuild("7/1", "-0")
			if req := f.s.Build(f.now, inc); req.MaxWaitMillis > int32(retryDelay.Milliseconds()) {
				t.Errorf("waits %d ms although a retry is due before", req.MaxWaitMillis)
			}
			f.answer()
			f.now += retryDelay
			f.wantBuild("7/2", "0@0")
		})
	}
}

// Only an answer to the position that was sent is taken.
func TestSessionIgnoresAnswersToAnotherState(t *testing.T) {
	f := newFollower(t, 1)
	f.build()
	f.b.lead(tpN(0), 2) // a new epoch voids what is on its way
	f.answer(part(0, records(0, 2), 2))
	f.wantEnd(0, 0)
	f.wantBuild("7/1", "0@0")
	f.answer(part(0, records(0, 2), 2))
	f.wantEnd(0, 2)
	if hw := f.b.replicas[tpN(0)].Status().HighWatermark; hw != 2 {
		t.Errorf("high watermark %d", hw)
	}
}

func TestSessionTruncatesOnDivergence(t *testing.T) {
	f := newFollower(t, 1)
	f.build()
	f.answer(part(0, append(records(0, 2), records(2, 2)...), 0))
	f.wantEnd(0, 4)
	f.b.lead(tpN(0), 2)
	f.wantBuild("7/1", "0@4")
	p := part(0, nil, 0)
	p.DivergingEpoch.Epoch, p.DivergingEpoch.EndOffset = 1, 2
	f.answer(p)
	f.wantEnd(0, 2)
	f.wantBuild("7/2", "0@2")
}

func TestSessionStartsAnew(t *testing.T) {
	f := newFollower(t, 2)
	f.build()
	f.answer()
	f.s.Remove(tpN(1))
	resp := response(0)
	resp.ErrorCode = kerr.FetchSessionIDNotFound.Code
	if err := f.s.Apply(resp, f.now); err == nil {
		t.Fatal("a lost session is no error")
	}
	f.wantBuild("0/0", "0@0") // nothing to forget in a new session
}

// A leader that declines sessions is sent full requests.
func TestWithoutSession(t *testing.T) {
	f := newFollower(t, 2)
	for range 3 {
		f.wantBuild("0/0", "0@0", "1@0")
		if err := f.s.Apply(response(0), f.now); err != nil {
			t.Fatal(err)
		}
	}
}

// A replica that stopped following between Add and Build is not asked for.
func TestLeaderFetchesNothing(t *testing.T) {
	f := newFollower(t, 2)
	f.b.lead(tpN(0), 1)
	f.wantBuild("0/0", "1@0")
}

func TestSessionEpochWraps(t *testing.T) {
	if a, b := nextEpoch(3), nextEpoch(math.MaxInt32); a != 4 || b != 1 {
		t.Errorf("%d, %d", a, b)
	}
}
