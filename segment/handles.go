package segment

import (
	"container/list"
	"errors"
	"sync"
	"time"
)

// handle is an open segment file, shared by write, sync, read and send.
type handle struct {
	seg *segment
	f   File

	// Guarded by handles.mu.
	refs    int           // users; a segment with unsynced bytes is one of them
	dropped bool          // close when the last user is gone
	idle    *list.Element // in handles.idle, while refs is 0
	since   time.Duration // when it became idle
}

// handles opens segment files on demand and closes those that nobody uses:
// the longest idle first when there are too many, and each after a while. So
// an idle partition owns no open file. A handle that is in use, in particular
// one with unsynced bytes, is never closed.
type handles struct {
	s   *Store
	max int

	mu   sync.Mutex
	idle list.List // of *handle, longest idle first
	open int
}

// acquire returns the segment's open file and counts a user.
func (hs *handles) acquire(seg *segment) (*handle, error) {
	if h := hs.reuse(seg, nil); h != nil {
		return h, nil
	}
	f, err := hs.s.fs.Open(hs.s.segmentPath(seg.tp, seg.id))
	if err != nil {
		return nil, err
	}
	h := hs.reuse(seg, f)
	if h.f != f { // another one was quicker
		f.Close()
	}
	hs.trim()
	return h, nil
}

// adopt takes over a file that was just created and counts a user.
func (hs *handles) adopt(seg *segment, f File) *handle { return hs.reuse(seg, f) }

// reuse takes the segment's handle, or installs f as such.
func (hs *handles) reuse(seg *segment, f File) *handle {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := seg.h
	if h == nil && f == nil {
		return nil
	}
	if h == nil {
		h = &handle{seg: seg, f: f}
		seg.h = h
		hs.open++
	}
	if h.idle != nil {
		hs.idle.Remove(h.idle)
		h.idle = nil
	}
	h.refs++
	return h
}

// release ends one use.
func (hs *handles) release(h *handle) {
	hs.mu.Lock()
	h.refs--
	var victim *handle
	if h.refs == 0 {
		if h.dropped {
			victim = h
			hs.forget(h)
		} else {
			h.since = hs.s.clock.Elapsed()
			h.idle = hs.idle.PushBack(h)
		}
	}
	hs.mu.Unlock()
	if victim != nil {
		victim.f.Close() // a deleted file: nothing in it matters
	}
}

// share counts another user of a handle in use.
func (hs *handles) share(h *handle) *handle {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h.refs++
	return h
}

func (hs *handles) releaseAll(list []*handle) {
	for _, h := range list {
		hs.release(h)
	}
}

// forget detaches a handle that is about to be closed. Holds mu.
func (hs *handles) forget(h *handle) {
	if h.idle != nil {
		hs.idle.Remove(h.idle)
		h.idle = nil
	}
	if h.seg.h == h {
		h.seg.h = nil
	}
	hs.open--
}

// drop closes the segment's file as soon as its last user is gone.
func (hs *handles) drop(seg *segment) {
	hs.mu.Lock()
	h := seg.h
	if h != nil {
		h.dropped = true
		if h.refs > 0 {
			h = nil
		} else {
			hs.forget(h)
		}
	}
	hs.mu.Unlock()
	if h != nil {
		h.f.Close()
	}
}

// trim closes the longest idle files above the limit.
func (hs *handles) trim() {
	hs.closeWhere(func(*handle) bool { return hs.open > hs.max })
}

// closeIdle closes the files that have been idle since before t.
func (hs *handles) closeIdle(t time.Duration) {
	hs.closeWhere(func(h *handle) bool { return h.since < t })
}

func (hs *handles) closeWhere(cond func(*handle) bool) {
	var victims []*handle
	hs.mu.Lock()
	for e := hs.idle.Front(); e != nil && cond(e.Value.(*handle)); e = hs.idle.Front() {
		h := e.Value.(*handle)
		hs.forget(h)
		victims = append(victims, h)
	}
	hs.mu.Unlock()
	for _, h := range victims {
		if err := h.f.Close(); err != nil { // the file was clean: report only
			hs.s.event(Event{Kind: EventIOError, TP: h.seg.tp, File: hs.s.segmentPath(h.seg.tp, h.seg.id), Err: err})
		}
	}
}

// count returns the number of open files.
func (hs *handles) count() int {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.open
}

// closeAll closes everything idle; what is in use is closed by its last user.
func (hs *handles) closeAll(segs []*segment) error {
	var errs []error
	hs.mu.Lock()
	var victims []*handle
	for _, seg := range segs {
		h := seg.h
		if h == nil {
			continue
		}
		h.dropped = true
		if h.refs == 0 {
			hs.forget(h)
			victims = append(victims, h)
		}
	}
	hs.mu.Unlock()
	for _, h := range victims {
		errs = append(errs, h.f.Close())
	}
	return errors.Join(errs...)
}
