package api

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fetchSet is the partitions of a fetch session, or of one request without a
// session. One call at a time owns the entries (active); others of the same
// session queue behind it. Watchers on the replicas put entries on the dirty
// list from any goroutine, so a round costs what changed, not what is fetched.
type fetchSet struct {
	all      []*fetchEntry // owned by the active call, like all that is not said to be guarded
	byKey    map[entryKey]*fetchEntry
	next     []*fetchEntry // to be read in the next round: unread, with data, or in error
	recheck  []*fetchEntry // to be read again by the next request: served by a replica that is not the leader
	spare    []*fetchEntry // memory of the last round's work,
	later    []*fetchEntry // of those that had their turn,
	touched  []*fetchEntry // and of the last call's list
	watching bool

	// Identity of a session; zero without one.
	id    int32
	byID  bool // topics by id (version 13); a session does not mix (KIP-516)
	owner Peer

	mu       sync.Mutex
	dirty    []*fetchEntry // guarded by mu; each once (entry.dirty)
	active   *fetchCall    // guarded by mu
	queue    []*fetchCall  // guarded by mu; bounded by maxQueuedFetches
	epoch    int32         // guarded by mu: of the next request
	lastUsed time.Duration // guarded by mu
	closed   bool          // guarded by mu: watches go when the active call leaves
}

// entryKey names a partition in a session: by id or by name, not both.
type entryKey struct {
	id        model.TopicID
	name      string
	partition int32
}

// fetchTopic is a topic of a set.
type fetchTopic struct {
	id   model.TopicID // version 13
	name string        // before
	// Scratch of the encoder.
	group int
	mark  *fetchResponse
}

// fetchEntry is one partition of a set.
type fetchEntry struct {
	set              *fetchSet
	topic            *fetchTopic
	partition        int32
	offset           int64
	maxBytes         int32
	currentEpoch     model.LeaderEpoch
	lastFetchedEpoch model.LeaderEpoch

	sentHW    int64 // of the last answer that contained it; -1 never
	sentStart int64
	queued    bool // in set.next
	rechecked bool // in set.recheck
	removed   bool
	replica   Replica // that is watched; nil: none

	dirty atomic.Bool // in set.dirty

	// Of the call that reads it now.
	touchedBy   *fetchCall
	at          *control.Partition
	res         partition.ReadResult
	leaderID    int32 // hint, -1 none
	leaderEpoch int32
	nextInGroup *fetchEntry
}

func (s *fetchSet) empty() bool { return len(s.all) == 0 }

// take returns the entries to read, each once.
func (s *fetchSet) take() []*fetchEntry {
	work := append(s.spare[:0], s.next...)
	s.next = s.next[:0]
	s.mu.Lock()
	for _, e := range s.dirty {
		// Cleared before the read: a change during it marks the entry again.
		e.dirty.Store(false)
		if !e.queued && !e.removed {
			work = append(work, e)
		}
	}
	s.dirty = s.dirty[:0]
	s.mu.Unlock()
	live := work[:0]
	for _, e := range work {
		e.queued = false
		if !e.removed {
			live = append(live, e)
		}
	}
	s.spare = work
	return live
}

// requeue has entries read in the next round.
func (s *fetchSet) requeue(entries ...*fetchEntry) {
	for _, e := range entries {
		if !e.queued && !e.removed {
			e.queued = true
			s.next = append(s.next, e)
		}
	}
}

// watchAll begins to watch every entry of a set that did not need it before,
// and has all of them read again.
func (s *fetchSet) watchAll(f *fetchCall) {
	s.watching = true
	for _, e := range s.all {
		e.watch(f.s.b.Replica(e.tp(f)), f)
	}
	s.requeue(s.all...)
}

// watch follows the entry's replica, which may have changed since the last
// read: created, deleted, or another topic of the same name.
func (e *fetchEntry) watch(r Replica, f *fetchCall) {
	if !e.set.watching || e.replica == r {
		return
	}
	e.stopWatching()
	e.replica = r
	if r != nil {
		r.Watch(e, f.kinds())
	}
}

func (e *fetchEntry) stopWatching() {
	if e.replica != nil {
		e.replica.Unwatch(e)
		e.replica = nil
	}
}

// tp resolves the entry's partition; a zero value has no replica.
func (e *fetchEntry) tp(f *fetchCall) model.TopicPartition {
	img := f.s.b.Image()
	t := img.Topics[e.topic.id]
	if f.version < 13 {
		t = img.TopicsByName[e.topic.name]
	}
	if t == nil {
		return model.TopicPartition{}
	}
	return model.TopicPartition{Topic: t.ID, Partition: e.partition}
}

// Mark implements partition.Watcher: it is called by the replica, from any
// goroutine.
func (e *fetchEntry) Mark() partition.Waker {
	if e.dirty.Swap(true) {
		return nil
	}
	s := e.set
	s.mu.Lock()
	s.dirty = append(s.dirty, e)
	s.mu.Unlock()
	return s
}

// Wake implements partition.Waker: a parked call reads what was marked.
func (s *fetchSet) Wake() {
	s.mu.Lock()
	f := s.active
	run := f != nil && f.unparkLocked()
	s.mu.Unlock()
	if run {
		go f.run()
	}
}

// settle judges what was read: whether the entry must be read again even if
// nothing changes, and whether the answer must leave now.
func (e *fetchEntry) settle(f *fetchCall) (keep, immediate bool) {
	res := &e.res
	switch {
	case res.Err == kerr.OffsetNotAvailable.Code && f.follower == model.NoBroker:
		// A new leader that does not know the committed end yet. Not every
		// client knows this error on a fetch, so it is an empty answer.
		res.Err, keep = 0, true
	case res.Err != 0 || res.NoWait || res.Diverging != nil || res.PreferredReplica != model.NoBroker:
		return true, true
	}
	if f.follower != model.NoBroker && res.HighWatermark != e.sentHW {
		immediate = true
	}
	if f.follower == model.NoBroker && e.at.Leader != f.s.b.Self() && !e.rechecked {
		// A replica that falls behind must redirect even if nothing happens
		// in it any more (replica.read.max.lag.ms).
		e.rechecked = true
		e.set.recheck = append(e.set.recheck, e)
	}
	return keep || e.bytes() > 0, immediate
}

// unserved reports whether there are committed records that the limits of this
// answer left out.
func (e *fetchEntry) unserved() bool {
	return e.res.Err == 0 && e.bytes() == 0 && e.res.PreferredReplica == model.NoBroker && e.res.Diverging == nil && e.offset < e.res.HighWatermark
}

// news reports whether an incremental answer must contain the entry (KIP-227).
// What may not wait is news even if it says nothing new: a follower reports no
// durable end in a leader epoch before the leader has answered it in that epoch.
func (e *fetchEntry) news() bool {
	res := &e.res
	return e.bytes() > 0 || res.NoWait || res.Err != 0 || res.Diverging != nil || res.PreferredReplica != model.NoBroker ||
		res.HighWatermark != e.sentHW || res.LogStart != e.sentStart
}

// bytes is the size of the records read.
func (e *fetchEntry) bytes() int {
	if e.res.Range == nil {
		return 0
	}
	return int(e.res.Range.Len())
}

// release unpins what was read and not sent.
func (e *fetchEntry) release() {
	if r := e.res.Range; r != nil {
		e.res.Range = nil
		r.Release()
	}
}

// leave gives the set to the session's next request, if there is one.
func (f *fetchCall) leave() {
	s := f.set
	s.mu.Lock()
	s.active = nil
	var next *fetchCall
	if len(s.queue) > 0 {
		next, s.queue = s.queue[0], s.queue[1:]
		s.active = next
	}
	closed := s.closed && next == nil
	s.mu.Unlock()
	if closed || s.id == 0 {
		s.unwatchAll()
	}
	f.s.fetches.remove(f)
	if next != nil {
		go next.begin()
	}
}

func (s *fetchSet) unwatchAll() {
	for _, e := range s.all {
		e.stopWatching()
	}
}

// begin applies the request to the set, which it owns, and runs it.
func (f *fetchCall) begin() {
	defer f.recoverRun()
	f.touched = f.set.touched
	if !f.apply() {
		f.s.sessions.remove(f.set)
		f.sessionID = 0
		f.touched = nil
		f.leave()
		f.replyParts(encodeFetch(f.version, &fetchResponse{code: kerr.FetchSessionIDNotFound.Code})...)
		return
	}
	if f.set.empty() { // KIP-227: nothing left is the end of the session
		f.s.sessions.remove(f.set)
		f.sessionID = 0
	}
	f.run()
}

// apply brings the set up to what the request says. It is false if the set
// became too large.
func (f *fetchCall) apply() bool {
	s := f.set
	forgotten := false
	for i := range f.req.ForgottenTopics {
		t := &f.req.ForgottenTopics[i]
		for _, p := range t.Partitions {
			if e := s.byKey[entryKey{t.TopicID, t.Topic, p}]; e != nil {
				e.removed, forgotten = true, true
				e.stopWatching()
				delete(s.byKey, entryKey{t.TopicID, t.Topic, p})
			}
		}
	}
	if forgotten {
		s.dropRemoved()
	}
	for i := range f.req.Topics {
		f.applyTopic(&f.req.Topics[i])
	}
	s.requeueRechecks()
	if f.full {
		s.requeue(s.all...)
	}
	return s.byKey == nil || f.s.sessions.charge(s)
}

// requeueRechecks has the partitions read again whose state can change without
// a sign.
func (s *fetchSet) requeueRechecks() {
	for _, e := range s.recheck {
		e.rechecked = false
	}
	s.requeue(s.recheck...)
	s.recheck = s.recheck[:0]
}

func (s *fetchSet) dropRemoved() {
	keep := s.all[:0]
	for _, e := range s.all {
		if !e.removed {
			keep = append(keep, e)
		}
	}
	clear(s.all[len(keep):])
	s.all = keep
}

func (f *fetchCall) applyTopic(t *kmsg.FetchRequestTopic) {
	s := f.set
	var topic *fetchTopic
	var fresh []fetchEntry
	for j := range t.Partitions {
		p := &t.Partitions[j]
		e := s.byKey[entryKey{t.TopicID, t.Topic, p.Partition}]
		if e == nil {
			if topic == nil {
				topic = s.newTopic(t)
				fresh = make([]fetchEntry, 0, len(t.Partitions)-j)
			}
			fresh = append(fresh, fetchEntry{set: s, topic: topic, partition: p.Partition, sentHW: -1, sentStart: -1})
			e = &fresh[len(fresh)-1]
			s.all = append(s.all, e)
			if s.byKey != nil {
				s.byKey[entryKey{topic.id, topic.name, p.Partition}] = e
			}
		}
		e.offset, e.maxBytes = p.FetchOffset, p.PartitionMaxBytes
		e.currentEpoch, e.lastFetchedEpoch = p.CurrentLeaderEpoch, p.LastFetchedEpoch
		if hw := knownHW(f.version, p); hw >= 0 {
			e.sentHW = hw
		}
		s.requeue(e)
	}
}

// newTopic keeps a topic's name; it outlives the request only in a session.
func (s *fetchSet) newTopic(t *kmsg.FetchRequestTopic) *fetchTopic {
	name := t.Topic
	if s.byKey != nil {
		name = cloneString(name)
	}
	return &fetchTopic{id: t.TopicID, name: name}
}
