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

// Watcher is woken when a replica has news. Wake must not block, and may be
// called when nothing has changed.
type Watcher interface{ Wake() }

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

// Unwatch removes a watcher. It may still be woken by a Notify under way.
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

var wakeLists = sync.Pool{New: func() any { return new([]Watcher) }}

// Notify wakes the watchers that the effects concern. The caller of a method
// calls it after the method, when it carries the effects out.
func (r *Replica) Notify(eff *Effects) {
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
	wake := wakeLists.Get().(*[]Watcher)
	r.watchers.mu.Lock()
	for _, x := range r.watchers.list {
		if x.kinds&kinds != 0 {
			*wake = append(*wake, x.w)
		}
	}
	r.watchers.mu.Unlock()
	for _, w := range *wake {
		w.Wake()
	}
	clear(*wake)
	*wake = (*wake)[:0]
	wakeLists.Put(wake)
}
