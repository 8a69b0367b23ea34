// Package replicate moves records and durable ends between brokers: one fetch
// session per leader this broker follows (KIP-227, on the internal listener),
// durable ends on a connection of their own so that a parked fetch never delays
// an acknowledgement, and in-sync proposals in batches to the controller.
package replicate

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
)

// FetchVersion is the version of Fetch that followers speak: topic ids,
// replica state and the follower's high watermark (KIP-516, KIP-903, KIP-1166).
const FetchVersion = 18

// Limits of a follower's fetch.
const (
	fetchMaxBytes     = 16 << 20
	partitionMaxBytes = 4 << 20
	fetchMaxWait      = 500 * time.Millisecond
	retryDelay        = 50 * time.Millisecond
	// fullDelay is the pause after the disk had no room: each try starts a
	// segment, which takes room too.
	fullDelay = time.Second
)

// Applier carries calls on hosted replicas out with their effects.
type Applier interface {
	Do(tp model.TopicPartition, f func(r *partition.Replica, eff *partition.Effects)) bool
	// Together is for several replicas: whoever must hear of it hears of all
	// at once, not of each.
	Together(f func(do partition.Do))
}

// Session is the follower's half of one fetch session with one leader. It does
// no I/O: Build makes the next request, Apply takes its answer. One request is
// outstanding at a time. Add and Remove may be called at any time.
type Session struct {
	self, leader model.BrokerID
	host         Applier

	mu sync.Mutex // guards the fields below
	// parts are the replicas that follow leader.
	parts map[model.TopicPartition]*fetchPart
	// changed are the partitions that the next request must carry: new ones,
	// those whose position moved, those to be tried again.
	changed map[model.TopicPartition]struct{}
	// forgotten left parts but may still be in the leader's session.
	forgotten map[model.TopicPartition]struct{}
	id, epoch int32
	late      lateAnswers
}

// fetchPart is a followed partition. sent is what the outstanding or last
// request said, so that an answer is applied only if it still fits (I22).
type fetchPart struct {
	r         *partition.Replica
	sent      partition.FetchState
	inSession bool
	retryAt   time.Duration // not sent before; 0 when healthy
}

// NewSession returns a session without partitions.
func NewSession(self, leader model.BrokerID, host Applier) *Session {
	return &Session{
		self: self, leader: leader, host: host,
		parts: map[model.TopicPartition]*fetchPart{}, changed: map[model.TopicPartition]struct{}{},
		forgotten: map[model.TopicPartition]struct{}{},
	}
}

// Add starts fetching r, or has its position sent again if it is there.
func (s *Session) Add(r *partition.Replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tp := r.TP()
	p := s.parts[tp]
	if p == nil || p.r != r {
		p = &fetchPart{r: r, inSession: p != nil && p.inSession}
		s.parts[tp] = p
	}
	p.retryAt = 0
	delete(s.forgotten, tp)
	s.changed[tp] = struct{}{}
}

// Remove stops fetching tp.
func (s *Session) Remove(tp model.TopicPartition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.parts[tp]; p != nil {
		if p.inSession {
			s.forgotten[tp] = struct{}{}
		}
		delete(s.parts, tp)
		delete(s.changed, tp)
	}
}

// Empty reports whether nothing is followed from this leader.
func (s *Session) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.parts) == 0
}

// Reset forgets the leader's session: the next request names every partition.
func (s *Session) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reset()
}

func (s *Session) reset() {
	s.id, s.epoch = 0, 0
	clear(s.forgotten)
	for tp, p := range s.parts {
		p.inSession = false
		s.changed[tp] = struct{}{}
	}
}

// Build returns the next request under the given incarnation.
func (s *Session) Build(now time.Duration, inc model.Incarnation) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(FetchVersion)
	req.ReplicaState.ID = int32(s.self)
	req.ReplicaState.Epoch = int64(inc)
	req.MinBytes, req.MaxBytes = 1, fetchMaxBytes
	wait := fetchMaxWait

	s.mu.Lock()
	defer s.mu.Unlock()
	req.SessionID, req.SessionEpoch = s.id, s.epoch
	for _, tp := range sortedKeys(s.changed) {
		p := s.parts[tp]
		if p.retryAt > now {
			wait = min(wait, max(p.retryAt-now, time.Millisecond))
			continue
		}
		delete(s.changed, tp)
		p.sent = p.r.FetchState()
		if !p.sent.Following || p.sent.Leader != s.leader {
			continue // the metadata that moved it will remove it
		}
		p.inSession, p.retryAt = true, 0
		delete(s.forgotten, tp)
		addPartition(req, tp, p.sent)
	}
	for _, tp := range sortedKeys(s.forgotten) {
		addForgotten(req, tp)
	}
	clear(s.forgotten)
	req.MaxWaitMillis = int32(wait.Milliseconds())
	return req
}

func addPartition(req *kmsg.FetchRequest, tp model.TopicPartition, st partition.FetchState) {
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition = tp.Partition
	p.CurrentLeaderEpoch = st.Epoch
	p.FetchOffset = st.Offset
	p.LastFetchedEpoch = st.LastEpoch
	p.LogStartOffset = st.LogStart
	p.PartitionMaxBytes = partitionMaxBytes
	if n := len(req.Topics); n > 0 && req.Topics[n-1].TopicID == tp.Topic {
		req.Topics[n-1].Partitions = append(req.Topics[n-1].Partitions, p)
		return
	}
	t := kmsg.NewFetchRequestTopic()
	t.TopicID = tp.Topic
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
}

func addForgotten(req *kmsg.FetchRequest, tp model.TopicPartition) {
	if n := len(req.ForgottenTopics); n > 0 && req.ForgottenTopics[n-1].TopicID == tp.Topic {
		req.ForgottenTopics[n-1].Partitions = append(req.ForgottenTopics[n-1].Partitions, tp.Partition)
		return
	}
	t := kmsg.NewFetchRequestForgottenTopic()
	t.TopicID = tp.Topic
	t.Partitions = []int32{tp.Partition}
	req.ForgottenTopics = append(req.ForgottenTopics, t)
}

// Apply takes the answer to the last built request. A non-nil error means that
// the session must be started anew after a pause.
func (s *Session) Apply(resp *kmsg.FetchResponse, now time.Duration) error {
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		s.Reset()
		return err
	}
	s.mu.Lock()
	if resp.SessionID == 0 {
		s.reset() // the leader declined a session: every request is a full one
	} else {
		s.id = resp.SessionID
		s.epoch = nextEpoch(s.epoch)
	}
	s.mu.Unlock()
	s.host.Together(func(do partition.Do) {
		for i := range resp.Topics {
			t := &resp.Topics[i]
			for j := range t.Partitions {
				s.applyPartition(do, model.TopicPartition{Topic: t.TopicID, Partition: t.Partitions[j].Partition}, &t.Partitions[j], now)
			}
		}
	})
	return nil
}

// nextEpoch of a session; it wraps to 1, since 0 starts a new session.
func nextEpoch(e int32) int32 {
	if e == 1<<31-1 {
		return 1
	}
	return e + 1
}

// applyPartition hands the answer to the replica if it still follows this
// leader as the request said.
func (s *Session) applyPartition(do partition.Do, tp model.TopicPartition, p *kmsg.FetchResponseTopicPartition, now time.Duration) {
	s.mu.Lock()
	part := s.parts[tp]
	var sent partition.FetchState
	if part != nil {
		sent = part.sent
	}
	if bugs.FetchMixup {
		if part == nil || !sent.Following {
			s.late.keep(tp, p)
		} else {
			p = s.late.swap(tp, p)
		}
	}
	s.mu.Unlock()
	if part == nil || !sent.Following {
		return
	}
	err := partition.ErrStale
	do(tp, func(r *partition.Replica, eff *partition.Effects) {
		if r == part.r {
			err = s.take(r, sent, p, now, eff)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts[tp] != part {
		return
	}
	s.changed[tp] = struct{}{}
	part.retryAt = 0
	if err != nil && !errors.Is(err, partition.ErrStale) {
		// Out of the session until then: the leader would answer each fetch
		// at once with what cannot be used.
		part.retryAt = now + retryDelay
		if errors.Is(err, partition.ErrDiskFull) {
			part.retryAt = now + fullDelay
		}
		part.inSession = false
		s.forgotten[tp] = struct{}{}
	}
}

// take carries one partition's answer into its replica. An error means that the
// position should be tried again after a pause.
func (s *Session) take(r *partition.Replica, sent partition.FetchState, p *kmsg.FetchResponseTopicPartition, now time.Duration, eff *partition.Effects) error {
	f := partition.Fetched{
		Leader: s.leader, Epoch: sent.Epoch, FetchOffset: sent.Offset, Generation: sent.Generation, Batches: p.RecordBatches,
		LeaderHW: p.HighWatermark, LeaderStart: p.LogStartOffset, Now: now,
	}
	switch err := kerr.ErrorForCode(p.ErrorCode); {
	case err == kerr.OffsetOutOfRange:
		return r.FetchOutOfRange(f, eff)
	case err != nil:
		return err
	}
	if d := p.DivergingEpoch; d.Epoch >= 0 || d.EndOffset >= 0 {
		return r.Diverged(s.leader, sent.Epoch, partition.EpochEnd{Epoch: d.Epoch, End: d.EndOffset}, eff)
	}
	return r.AppendFetched(f, eff)
}

func sortedKeys(m map[model.TopicPartition]struct{}) []model.TopicPartition {
	out := make([]model.TopicPartition, 0, len(m))
	for tp := range m {
		out = append(out, tp)
	}
	slices.SortFunc(out, compareTP)
	return out
}

func compareTP(a, b model.TopicPartition) int {
	return cmp.Or(bytes.Compare(a.Topic[:], b.Topic[:]), cmp.Compare(a.Partition, b.Partition))
}
