package api

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Special epochs of KIP-227.
const (
	initialEpoch = 0  // make a session
	finalEpoch   = -1 // none, and close the named one
)

const (
	// sessionIdle is how long a session must be unused before it is evicted
	// for another (min.incremental.fetch.session.eviction.ms).
	sessionIdle = 2 * time.Minute
	// maxSessionEntries bounds the partitions of all sessions together.
	maxSessionEntries = 1 << 20
	// maxQueuedFetches bounds the requests that wait for their session.
	maxQueuedFetches = 4
)

// sessionCache holds the fetch sessions. A follower's session is privileged: a
// consumer's cannot push it out.
type sessionCache struct {
	limit int

	mu      sync.Mutex
	byID    map[int32]*fetchSet
	charged map[*fetchSet]int // partitions accounted for
	entries int               // sum of charged
}

func newSessionCache(limit int) *sessionCache {
	return &sessionCache{limit: limit, byID: make(map[int32]*fetchSet), charged: make(map[*fetchSet]int)}
}

// enterSet resolves the request's session (KIP-227) and takes its place in it.
// started is true if the caller owns the set now; otherwise the call runs when
// those before it are done. code is not 0 for an error of the whole request.
func (f *fetchCall) enterSet() (code int16, started bool) {
	id, epoch := f.req.SessionID, f.req.SessionEpoch
	if f.version < 7 {
		id, epoch = 0, finalEpoch
	}
	if epoch != initialEpoch && epoch != finalEpoch {
		return f.enterSession(id, epoch)
	}
	if id != 0 {
		if old := f.s.sessions.get(id, &f.peer); old != nil {
			f.s.sessions.remove(old)
		}
	}
	s := &fetchSet{active: f, byID: f.version >= 13}
	f.set, f.full = s, true
	if epoch == initialEpoch && f.s.sessions.add(s, f) {
		f.sessionID = s.id
	}
	f.s.fetches.add(f)
	f.reserve()
	if !f.apply() {
		f.leaveSessionless()
	}
	return 0, true
}

// reserve makes room for the partitions of a new set.
func (f *fetchCall) reserve() {
	n := 0
	for i := range f.req.Topics {
		n += len(f.req.Topics[i].Partitions)
	}
	lists := make([]*fetchEntry, 5*n)
	for i, list := range []*[]*fetchEntry{&f.set.all, &f.set.next, &f.set.spare, &f.set.later, &f.touched} {
		*list = lists[i*n : i*n : (i+1)*n]
	}
}

// leaveSessionless goes on with a set that found no room as a session.
func (f *fetchCall) leaveSessionless() {
	f.s.sessions.remove(f.set)
	f.sessionID = 0
}

// enterSession joins an existing session.
func (f *fetchCall) enterSession(id, epoch int32) (code int16, started bool) {
	s := f.s.sessions.get(id, &f.peer)
	if s == nil {
		return kerr.FetchSessionIDNotFound.Code, false
	}
	if s.byID != (f.version >= 13) {
		return kerr.FetchSessionTopicIDError.Code, false
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return kerr.FetchSessionIDNotFound.Code, false
	}
	if epoch != s.epoch || len(s.queue) >= maxQueuedFetches {
		s.mu.Unlock()
		return kerr.InvalidFetchSessionEpoch.Code, false
	}
	s.epoch = nextEpoch(epoch)
	s.lastUsed = f.s.b.Clock().Elapsed()
	f.set, f.sessionID = s, s.id
	f.s.fetches.add(f)
	before := s.active
	if before != nil {
		before.hurry = true
		s.queue = append(s.queue, f)
		run := before.unparkLocked()
		s.mu.Unlock()
		if run {
			go before.run()
		}
		return 0, false
	}
	s.active = f
	s.mu.Unlock()
	f.begin()
	return 0, false
}

// nextEpoch counts 1 … 2³¹-1 and starts again at 1.
func nextEpoch(epoch int32) int32 {
	if epoch == math.MaxInt32 {
		return 1
	}
	return epoch + 1
}

// get returns a session of the same principal on the same kind of listener.
func (c *sessionCache) get(id int32, p *Peer) *fetchSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.byID[id]
	if s == nil || s.owner.Principal != p.Principal || s.owner.Internal != p.Internal || s.owner.Broker != p.Broker {
		return nil
	}
	return s
}

// add makes a session of s, if there is room or an idle one can go.
func (c *sessionCache) add(s *fetchSet, f *fetchCall) bool {
	c.mu.Lock()
	var victim *fetchSet
	if len(c.byID) >= c.limit {
		if victim = c.evictableLocked(f); victim == nil {
			c.mu.Unlock()
			return false
		}
		c.removeLocked(victim)
	}
	for s.id == 0 || c.byID[s.id] != nil {
		s.id = randomID()
	}
	s.byKey = make(map[entryKey]*fetchEntry)
	s.watching = true
	s.owner = f.peer
	s.epoch, s.lastUsed = 1, f.s.b.Clock().Elapsed()
	c.byID[s.id] = s
	c.mu.Unlock()
	if victim != nil {
		victim.close()
	}
	return true
}

// evictableLocked returns the session to give up for f, or nil: a consumer's
// before a follower's, then the one unused for longest. It must be idle, unless
// f is a follower and it is not.
func (c *sessionCache) evictableLocked(f *fetchCall) *fetchSet {
	var best *fetchSet
	var bestUse time.Duration
	for _, s := range c.byID {
		if s.owner.Internal && !f.peer.Internal {
			continue
		}
		s.mu.Lock()
		used := s.lastUsed
		s.mu.Unlock()
		better := best == nil || (best.owner.Internal && !s.owner.Internal)
		if better || (best.owner.Internal == s.owner.Internal && used < bestUse) {
			best, bestUse = s, used
		}
	}
	if best == nil || (best.owner.Internal == f.peer.Internal && f.s.b.Clock().Elapsed()-bestUse < sessionIdle) {
		return nil
	}
	return best
}

// charge accounts for the partitions of s; false if there are too many.
func (c *sessionCache) charge(s *fetchSet) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[s.id] != s {
		return true // evicted meanwhile; the next request finds no session
	}
	c.entries += len(s.all) - c.charged[s]
	c.charged[s] = len(s.all)
	return c.entries <= maxSessionEntries
}

// remove closes a session. The call that owns it goes on without.
func (c *sessionCache) remove(s *fetchSet) {
	c.mu.Lock()
	c.removeLocked(s)
	c.mu.Unlock()
	s.close()
}

func (c *sessionCache) removeLocked(s *fetchSet) {
	if c.byID[s.id] != s {
		return
	}
	delete(c.byID, s.id)
	c.entries -= c.charged[s]
	delete(c.charged, s)
}

// close ends a session: now, or when its calls are done.
func (s *fetchSet) close() {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	idle := s.active == nil
	s.mu.Unlock()
	if first && idle {
		s.unwatchAll()
	}
}

// close ends all sessions.
func (c *sessionCache) close() {
	c.mu.Lock()
	all := c.byID
	c.byID = make(map[int32]*fetchSet)
	c.mu.Unlock()
	for _, s := range all {
		s.close()
	}
}

// randomID draws a session id that cannot be guessed, above 0.
func randomID() int32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return int32(binary.BigEndian.Uint32(b[:]) &^ (1 << 31))
}

// fetchRegistry knows the fetches that are not answered, so that closing the
// server ends those that are parked.
type fetchRegistry struct {
	mu   sync.Mutex
	set  map[*fetchCall]struct{}
	idle sync.WaitGroup
}

func (r *fetchRegistry) add(f *fetchCall) {
	r.mu.Lock()
	r.set[f] = struct{}{}
	r.mu.Unlock()
	r.idle.Add(1)
}

func (r *fetchRegistry) remove(f *fetchCall) {
	r.mu.Lock()
	_, ok := r.set[f]
	delete(r.set, f)
	r.mu.Unlock()
	if ok {
		r.idle.Done()
	}
}

// drain wakes everything that is parked and waits for it.
func (r *fetchRegistry) drain() {
	r.mu.Lock()
	var all []*fetchCall
	for f := range r.set {
		all = append(all, f)
	}
	r.mu.Unlock()
	for _, f := range all {
		f.resume()
	}
	r.idle.Wait()
}
