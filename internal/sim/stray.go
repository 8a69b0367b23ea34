package sim

import "slices"

// stray is a write-back that the drive puts somewhere else, once: it says that
// the bytes are on stable storage, the place where they belong keeps what it
// had, and other bytes of the disk are lost under them. The page cache shows
// neither until the pages are evicted.
type stray struct {
	syncs int         // of segment files to let pass before
	may   func() bool // asked at the last moment: another good copy exists
	acted func(of, to string, at, n int64)
}

// misdirect arms the drive of a machine. Some time after the write went astray
// the page cache is dropped, by a restart or without.
func misdirect(w *world, n *node, f Fault) {
	if !n.up || !w.mayDestroy(n) {
		return
	}
	n.disk.stray = &stray{
		syncs: int(f.Arg % 8),
		may:   func() bool { return w.mayDestroy(n) },
		acted: func(of, to string, at, size int64) {
			w.acted.Misdirected++
			w.faults.impaired, w.faults.rotten[n.idx] = n.idx, true
			w.trace.note("%d: %d bytes for %s went to %s at %d", n.id, size, of, to, at)
			w.after(f.For/2, evFault, func() {
				switch f.Arg % 3 {
				case 0:
					w.down(n, false, f.For/4)
				case 1:
					w.down(n, true, f.For/4)
				default:
					n.trusts = w.now + verifyPeriod + 2*maintainEvery
				}
				n.disk.evict()
			})
		},
	}
}

// trusting reports whether a process may still take bytes for right that it wrote
// or verified before the page cache was dropped under it.
func (n *node) trusting() bool { return n.w.now < n.trusts }

// astray reports whether the write-back of an extent went elsewhere.
func (d *disk) astray(ino *inode, e extent) bool {
	of := d.nameOf(ino)
	if d.stray == nil || e.n == 0 || !isSegment(of) {
		return false
	}
	if d.stray.syncs > 0 {
		d.stray.syncs--
		return false
	}
	if !d.stray.may() {
		return false
	}
	s := d.stray
	d.stray = nil
	if need := e.off + e.n - int64(len(ino.stable)); need > 0 { // the file has its size all the same
		ino.stable = append(ino.stable, make([]byte, need)...)
	}
	ino.hidden = true
	files := d.segments()
	to := files[d.rng.IntN(len(files))]
	other := d.names[to]
	room := int64(len(other.stable))
	if other == ino {
		room = e.off
	}
	if room == 0 { // nowhere: the write is lost
		s.acted(of, "nowhere", 0, e.n)
		return true
	}
	at := d.rng.Int64N(room)
	n := min(e.n, room-at)
	copy(other.stable[at:at+n], ino.data[e.off:])
	other.hidden = true
	s.acted(of, to, at, n)
	return true
}

func (d *disk) nameOf(ino *inode) string {
	if d.stray == nil {
		return ""
	}
	for name, x := range d.names {
		if x == ino {
			return name
		}
	}
	return ""
}

// reread fills the page cache from the medium, what is dirty aside.
func (ino *inode) reread() {
	old := ino.data
	ino.data = slices.Grow(slices.Clone(ino.stable), max(0, len(old)-len(ino.stable)))[:max(len(old), len(ino.stable))]
	clear(ino.data[len(ino.stable):])
	for _, e := range ino.unwrote {
		copy(ino.data[e.off:], old[e.off:e.off+e.n])
	}
	ino.hidden, ino.rotten = false, nil
}

// sound reports whether the node's disk holds what its logs say, which it finds
// out by reading all of it.
func (n *node) sound() bool {
	if !n.up {
		return false
	}
	for _, ino := range n.disk.names {
		if ino.hidden || len(ino.rotten) > 0 {
			return false
		}
	}
	for range 2 { // the first call may begin in the middle
		rep, err := n.store.Scrub(1 << 40)
		if err != nil || len(rep.Damaged) > 0 {
			return false
		}
	}
	return true
}

// evictAll drops every page cache.
func (w *world) evictAll() {
	for _, n := range w.nodes {
		n.disk.stray = nil
		n.disk.evict()
	}
}
