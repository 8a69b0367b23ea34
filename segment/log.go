package segment

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/tailrace/tailrace/internal/model"
)

// segment is one file of a log.
type segment struct {
	tp      model.TopicPartition
	id      uint64 // names the file; never used twice
	ordinal uint64 // order in the log: the id, or that of the segment it replaced
	base    int64  // first offset
	created int64  // wall time of creation, milliseconds

	entry atomic.Bool // the file's directory entries are durable
	dead  atomic.Bool // not part of the log any more
	h     *handle     // guarded by handles.mu; nil while the file is closed

	// Guarded by Log.mu. size, next, open and top move together, by Append
	// alone; blocks only grows while it is loaded, so a reader may keep the
	// slice that it saw.
	size      int64 // bytes of the log in the file; what lies behind is garbage
	next      int64 // one past the last offset
	top       timeTop
	sealed    bool      // never appended to again
	listed    bool      // a synced batch has had the segment's record
	committed int64     // bytes that a group commit made durable; ≤ size
	synced    int64     // bytes durable in the file itself; ≤ committed, or ahead of it in a commit
	pinned    *handle   // while writing or size > synced: the file must stay open
	writing   bool      // an append is in flight at size
	blocks    []block   // sealed index blocks, if loaded
	loaded    bool      // blocks is complete
	recorded  int       // blocks[:recorded] are in the catalog
	leftovers bool      // the catalog may also have blocks behind open: of bytes that a crash took
	open      openBlock // the block behind the last of blocks
	verified  []uint64  // bitmap over blocks: checked, or written by this process lately
	unsure    bool      // the open block has bytes that were neither checked nor written by this process lately
	used      int64     // monotonic nanoseconds of the last read, for unloading
}

// Log is the log of one partition. Append, Truncate, ResetTo and Repair are for
// one writer; everything else may be called by anyone at any time.
type Log struct {
	s    *Store
	tp   model.TopicPartition
	tail tail // guarded by tailCache.mu

	// structure serialises changes of the segment list over their catalog
	// batch. Reads and commits never take it; Append takes it only to roll,
	// and if it is busy rolls at a later append.
	structure sync.Mutex
	// write is held while the one writer's bytes go to the file.
	write sync.Mutex

	dirty atomic.Bool // in Store.dirty

	mu     sync.Mutex // no I/O under it
	cfg    LogConfig
	closed bool
	start  int64 // log start offset; only grows, except by ResetTo; ≤ hw
	end    int64 // log end offset; only grows, except by Truncate and ResetTo
	// durable is the offset below which a group commit made everything
	// durable; start ≤ durable ≤ end.
	durable int64
	gen     uint64     // counts truncations: what was seen in an earlier one is void
	segs    []*segment // by offset, contiguous; replaced, never changed in place
	active  *segment   // the last of segs if it takes appends
	epochs  []epochEntry
	unsaved []epochEntry // of epochs: not yet in the catalog
	hw      int64
	hwSaved int64
	hwMoved bool     // in Store.moved
	bound   int64    // retention stays below it; -1: the high watermark
	damaged []damage // ranges that are not served
	suspect Suspicion
	recent  [recentAppends]appendPoint
	recentN int
	snaps   []int64 // offsets of the saved producer snapshots, ascending
}

// appendPoint remembers where an append began: followers and consumers at the
// tail ask for exactly these places.
type appendPoint struct {
	offset int64
	seg    *segment
	pos    int64
}

const recentAppends = 16

func newLog(s *Store, tp model.TopicPartition, cfg LogConfig) *Log {
	return &Log{s: s, tp: tp, cfg: cfg, bound: -1}
}

// TP names the partition.
func (l *Log) TP() model.TopicPartition { return l.tp }

// Start is the log start offset.
func (l *Log) Start() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.start }

// End is the log end offset: that of the next record.
func (l *Log) End() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.end }

// DurableEnd is the offset below which everything is on stable storage.
func (l *Log) DurableEnd() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.durable }

// Bytes is the size of the log's segments.
func (l *Log) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, seg := range l.segs {
		n += seg.size
	}
	return n
}

// Segments is the number of segment files.
func (l *Log) Segments() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.segs) }

// Config returns the configuration in force.
func (l *Log) Config() LogConfig { l.mu.Lock(); defer l.mu.Unlock(); return l.cfg }

// SetConfig changes the configuration. It is remembered lazily: the caller owns
// the truth and sets it again after a restart.
func (l *Log) SetConfig(c LogConfig) {
	l.structure.Lock()
	defer l.structure.Unlock()
	l.mu.Lock()
	same := l.cfg == c || l.closed
	l.cfg = c
	rec := logRecord{start: l.start, cfg: c}
	l.mu.Unlock()
	if same {
		return
	}
	var b KVBatch
	b.Set(logKey(l.tp, kindLog), rec.encode())
	_ = l.s.apply(&b, false) // a failure is sticky and meets the next commit
}

// HighWatermark is the last one set, after a restart the last checkpoint
// clamped to the recovered end.
func (l *Log) HighWatermark() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.hw }

// SetHighWatermark moves the high watermark; it never moves back except with a
// truncation. Maintain saves it.
func (l *Log) SetHighWatermark(hw int64) {
	l.mu.Lock()
	first := l.raiseHW(min(hw, l.end))
	l.mu.Unlock()
	if first {
		l.s.noteMoved(l)
	}
}

// raiseHW moves the high watermark up and reports whether the caller must let
// the next checkpoint know, by noteMoved. Holds mu.
func (l *Log) raiseHW(hw int64) (first bool) {
	if hw <= l.hw {
		return false
	}
	l.hw = hw
	first, l.hwMoved = !l.hwMoved, true
	return first
}

// SetRetentionBound limits retention to offsets below bound as well as below
// the high watermark (the last stable offset, invariant I25); -1 lifts it.
func (l *Log) SetRetentionBound(bound int64) { l.mu.Lock(); defer l.mu.Unlock(); l.bound = bound }

// Suspect says why this log is not trusted in the next election.
func (l *Log) Suspect() Suspicion { l.mu.Lock(); defer l.mu.Unlock(); return l.suspect }

// Trust ends the suspicion that a torn tail caused: the caller knows that the
// log holds every committed record again. Damage stays suspect until it is
// repaired. It reports whether something changed.
func (l *Log) Trust() bool {
	l.mu.Lock()
	torn := l.suspect == TornTail && !l.closed
	if torn {
		l.suspect = Trusted
	}
	l.mu.Unlock()
	if !torn {
		return false
	}
	var b KVBatch
	b.Delete(logKey(l.tp, kindTorn))
	_ = l.s.apply(&b, false) // a failure is sticky and meets the next commit
	return true
}

// Damaged lists the ranges that are neither served nor cut until repaired.
func (l *Log) Damaged() []OffsetRange {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]OffsetRange, 0, len(l.damaged))
	for _, d := range l.damaged {
		out = append(out, d.offsets)
	}
	slices.SortFunc(out, func(a, b OffsetRange) int { return int(min(max(a.From-b.From, -1), 1)) })
	return out
}

// close makes the log refuse everything and returns its segments. Holds write.
func (l *Log) close() []*segment {
	l.s.cache.clear(&l.tail)
	l.mu.Lock()
	segs := l.segs
	l.closed, l.segs, l.active = true, nil, nil
	l.gen++
	l.recent = [recentAppends]appendPoint{}
	var drop []*handle
	for _, seg := range segs {
		drop = seg.discard(drop)
	}
	l.mu.Unlock()
	l.s.files.releaseAll(drop)
	return segs
}

// unpin gives up the hold of unsynced bytes on their file once there are none.
// It returns what to release, appended to dst. Holds Log.mu.
func (seg *segment) unpin(dst []*handle) []*handle {
	if seg.pinned != nil && !seg.writing && seg.synced >= seg.size {
		dst = append(dst, seg.pinned)
		seg.pinned = nil
	}
	return dst
}

// discard gives up the hold on a file whose bytes do not matter any more.
// Holds Log.mu and Log.write.
func (seg *segment) discard(dst []*handle) []*handle {
	if seg.pinned != nil {
		dst = append(dst, seg.pinned)
		seg.pinned = nil
	}
	return dst
}

// markDirty queues the log for the next commit.
func (l *Log) markDirty() {
	if l.dirty.Swap(true) {
		return
	}
	l.s.mu.Lock()
	l.s.dirty = append(l.s.dirty, l)
	l.s.mu.Unlock()
}

// segmentAt returns the index of the segment that holds offset. Holds mu;
// start ≤ offset < end.
func (l *Log) segmentAt(offset int64) int {
	return sort.Search(len(l.segs), func(i int) bool { return l.segs[i].base > offset }) - 1
}

// epochEntry says where a leader epoch starts.
type epochEntry struct {
	epoch model.LeaderEpoch
	start int64
}

// LastEpoch is the leader epoch of the last batch, -1 if there is none.
func (l *Log) LastEpoch() model.LeaderEpoch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.epochs); n > 0 {
		return l.epochs[n-1].epoch
	}
	return model.NoEpoch
}

// EpochEnd returns the largest epoch ≤ e in the log and its end offset: the
// start of the next one, or the log end (KIP-279). It is (-1, -1) where the log
// knows no such epoch.
func (l *Log) EpochEnd(e model.LeaderEpoch) (epoch model.LeaderEpoch, end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.epochs), func(i int) bool { return l.epochs[i].epoch > e })
	if i == 0 {
		return model.NoEpoch, -1
	}
	if i == len(l.epochs) {
		return l.epochs[i-1].epoch, l.end
	}
	return l.epochs[i-1].epoch, l.epochs[i].start
}

// EpochAt is the leader epoch of the batch at offset, -1 outside the log.
func (l *Log) EpochAt(offset int64) model.LeaderEpoch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if offset < l.start || offset >= l.end {
		return model.NoEpoch
	}
	i := sort.Search(len(l.epochs), func(i int) bool { return l.epochs[i].start > offset })
	if i == 0 {
		return model.NoEpoch
	}
	return l.epochs[i-1].epoch
}

// addEpoch notes that a batch of epoch e starts at offset. Holds mu.
func (l *Log) addEpoch(e model.LeaderEpoch, offset int64) {
	if n := len(l.epochs); n > 0 && l.epochs[n-1].epoch >= e {
		return
	}
	en := epochEntry{e, offset}
	l.epochs = append(l.epochs, en)
	l.unsaved = append(l.unsaved, en)
}

// cutEpochs forgets the epochs that start at or above end, and asks for the
// same in the catalog. Holds mu.
func (l *Log) cutEpochs(b *KVBatch, end int64) {
	i := sort.Search(len(l.epochs), func(i int) bool { return l.epochs[i].start >= end })
	for _, e := range l.epochs[i:] {
		b.Delete(epochKey(l.tp, e.epoch))
	}
	l.epochs = l.epochs[:i:i]
	l.unsaved = slices.DeleteFunc(l.unsaved, func(e epochEntry) bool { return e.start >= end })
}
