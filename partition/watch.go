package partition

import "sync"

// Kind is what a watcher wants to hear of.
type Kind uint8

// The kinds of news; they match the fields of Effects.
const (
	EndMoved Kind = 1 << iota
	HWMoved
	RoleChanged
)

// Watcher is told when a replica has news: Mark notes it and returns whom to wake
// when everything that happened at once is noted, or nil if nobody. Neither Mark
// nor Wake may block. Both may be called when nothing has changed.
type Watcher interface{ Mark() Waker }

// Waker goes and looks at what was marked.
type Waker interface{ Wake() }

// Wakes are those to wake. The zero value is empty and ready.
type Wakes []Waker

// Wake wakes all, and empties the list.
func (w *Wakes) Wake() {
	for _, x := range *w {
		x.Wake()
	}
	clear(*w)
	*w = (*w)[:0]
}

// add leaves out who comes several times in a row, as a session does of which
// many partitions have news.
func (w *Wakes) add(x Waker) {
	if l := *w; x != nil && (len(l) == 0 || l[len(l)-1] != x) {
		*w = append(l, x)
	}
}

type watch struct {
	w     Watcher
	kinds Kind
}

// watchers is a set with its own lock, never held while calling out.
type watchers struct {
	mu   sync.Mutex
	list []watch
}

// Watch adds a watcher for the given kinds. A role change wakes every watcher.
// Look at the replica again after adding: what came before is not told.
func (r *Replica) Watch(w Watcher, kinds Kind) {
	r.watchers.mu.Lock()
	defer r.watchers.mu.Unlock()
	r.watchers.list = append(r.watchers.list, watch{w, kinds | RoleChanged})
}

// Unwatch removes a watcher. It may still be told by a Mark under way.
func (r *Replica) Unwatch(w Watcher) {
	r.watchers.mu.Lock()
	defer r.watchers.mu.Unlock()
	l := r.watchers.list
	for i := range l {
		if l[i].w == w {
			l[i] = l[len(l)-1]
			l[len(l)-1] = watch{}
			r.watchers.list = l[:len(l)-1]
			return
		}
	}
}

var markLists = sync.Pool{New: func() any { return new([]Watcher) }}

// Mark tells the watchers that the effects concern, and adds to wakes those who
// must be woken. The caller of a method calls it after the method, when it
// carries the effects out, and wakes them in the end.
func (r *Replica) Mark(eff *Effects, wakes *Wakes) {
	var kinds Kind
	if eff.EndMoved {
		kinds |= EndMoved
	}
	if eff.HWMoved {
		kinds |= HWMoved
	}
	if eff.Role {
		kinds |= RoleChanged
	}
	if kinds == 0 {
		return
	}
	list := markLists.Get().(*[]Watcher)
	r.watchers.mu.Lock()
	for _, x := range r.watchers.list {
		if x.kinds&kinds != 0 {
			*list = append(*list, x.w)
		}
	}
	r.watchers.mu.Unlock()
	for _, w := range *list {
		wakes.add(w.Mark())
	}
	clear(*list)
	*list = (*list)[:0]
	markLists.Put(list)
}
