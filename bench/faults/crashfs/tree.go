// Package crashfs is a FUSE file system in memory that can lose power: it
// remembers, for each file and directory, what a sync has made durable, and a
// power cut takes everything back to that.
//
// It promises what POSIX promises and no more: fsync of a file covers its data
// and size, not its name; a name is durable when its directory was synced.
// What was not synced is lost at a power cut, or, with torn writes, kept in
// part: a random subset of blocks of a file, a prefix of the changes of a
// directory.
package crashfs

import (
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"
)

// pageSize is the unit in which unsynced data is kept or lost.
const pageSize = 4096

// sectorSize is the unit in which a single page may be torn.
const sectorSize = 512

type page [pageSize]byte

// node is a file or a directory. All fields are guarded by FS.mu.
type node struct {
	ino   uint64
	mode  uint32 // S_IFREG or S_IFDIR, and permissions
	mtime time.Time
	nlink uint32

	// A file: pages as processes see them and as they are on stable storage.
	// A page that is the same in both is shared, and copied when written.
	size, syncedSize   int64
	pages, syncedPages []*page // nil: a hole, zeros

	// A directory: names as seen, and as on stable storage; the changes since
	// are in order.
	names, syncedNames map[string]*node
	log                []change
}

// change is one step of a directory: names that it sets (nil removes).
type change map[string]*node

func (n *node) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

// Faults are the faults of a mounted file system. The zero value has none.
type Faults struct {
	SyncError error         // what fsync and fdatasync answer, having synced nothing
	SyncDelay time.Duration // how long each takes more
}

// Stats count what happened.
type Stats struct {
	Syncs, DirSyncs int64
	Failed          int64 // syncs that were made to fail
	Cuts            int64
	LostPages       int64 // unsynced pages taken back by power cuts
	KeptPages       int64 // unsynced pages, whole or torn, that survived
	LostNames       int64 // unsynced directory changes taken back
	LostFiles       int64 // files with unsynced data or size at a cut
}

// FS is one disk. It outlives its mounts.
type FS struct {
	mu     sync.Mutex
	root   *node
	ino    uint64
	dead   bool // power is off: every call fails until the next mount
	faults Faults
	stats  Stats
	limit  int64 // bytes
}

// New returns an empty disk that tells the given size.
func New(size int64) *FS {
	f := &FS{limit: size}
	f.root = f.newNode(syscall.S_IFDIR | 0o755)
	f.root.nlink = 1
	return f
}

func (f *FS) newNode(mode uint32) *node {
	f.ino++
	n := &node{ino: f.ino, mode: mode, mtime: time.Now()}
	if n.isDir() {
		n.names, n.syncedNames = map[string]*node{}, map[string]*node{}
	}
	return n
}

// SetFaults changes the faults from now on.
func (f *FS) SetFaults(x Faults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = x
}

// Stats returns the counts so far.
func (f *FS) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// apply makes a change of a directory, as processes see it.
func (d *node) apply(c change) {
	d.log = append(d.log, c)
	for name, n := range c {
		if old := d.names[name]; old != nil {
			old.nlink--
		}
		if n == nil {
			delete(d.names, name)
			continue
		}
		n.nlink++
		d.names[name] = n
	}
	d.mtime = time.Now()
}

// write stores data at an offset.
func (n *node) write(data []byte, off int64) {
	n.grow(off + int64(len(data)))
	for len(data) > 0 {
		p := n.own(int(off / pageSize))
		k := copy(p[off%pageSize:], data)
		data, off = data[k:], off+int64(k)
	}
	n.mtime = time.Now()
}

func (n *node) grow(size int64) {
	if size <= n.size {
		return
	}
	n.size = size
	if want := int((size + pageSize - 1) / pageSize); want > len(n.pages) {
		n.pages = append(n.pages, make([]*page, want-len(n.pages))...)
	}
}

// own returns page i for writing: not the one that is on stable storage.
func (n *node) own(i int) *page {
	p := n.pages[i]
	if p == nil {
		p = new(page)
	} else if i < len(n.syncedPages) && n.syncedPages[i] == p {
		c := *p
		p = &c
	}
	n.pages[i] = p
	return p
}

// truncate sets the size; what lies beyond reads as zeros when the file grows
// again.
func (n *node) truncate(size int64) {
	n.grow(size)
	if size < n.size {
		n.size = size
		n.pages = n.pages[:(size+pageSize-1)/pageSize]
		if rest := size % pageSize; rest > 0 && n.pages[len(n.pages)-1] != nil {
			clear(n.own(len(n.pages) - 1)[rest:])
		}
	}
	n.mtime = time.Now()
}

// read returns up to len(dst) bytes at an offset.
func (n *node) read(dst []byte, off int64) []byte {
	if off >= n.size {
		return nil
	}
	dst = dst[:min(int64(len(dst)), n.size-off)]
	for at := 0; at < len(dst); {
		i, in := (off+int64(at))/pageSize, (off+int64(at))%pageSize
		k := min(len(dst)-at, pageSize-int(in))
		if p := n.pages[i]; p != nil {
			copy(dst[at:at+k], p[in:])
		} else {
			clear(dst[at : at+k])
		}
		at += k
	}
	return dst
}

// sync makes what processes see durable.
func (n *node) sync() {
	if n.isDir() {
		n.syncedNames = make(map[string]*node, len(n.names))
		for name, c := range n.names {
			n.syncedNames[name] = c
		}
		n.log = nil
		return
	}
	n.syncedSize, n.syncedPages = n.size, append(n.syncedPages[:0], n.pages...)
}

// PowerCut takes the disk back to what is durable, at one instant: calls that
// come later fail until the disk is mounted again. With rng it keeps a random
// part of what was not synced.
func (f *FS) PowerCut(rng *rand.Rand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut(rng)
}

// PowerCutAll cuts the power of several disks at the same instant: no call on
// any of them lies between.
func PowerCutAll(rng *rand.Rand, disks ...*FS) {
	for _, f := range disks {
		f.mu.Lock()
	}
	for _, f := range disks {
		f.cut(rng)
	}
	for _, f := range disks {
		f.mu.Unlock()
	}
}

func (f *FS) cut(rng *rand.Rand) {
	f.dead = true
	f.stats.Cuts++
	f.faults = Faults{}
	f.revert(f.root, rng, map[*node]bool{})
}

// revert takes a node and all that it names back.
func (f *FS) revert(n *node, rng *rand.Rand, seen map[*node]bool) {
	if seen[n] {
		return
	}
	seen[n] = true
	n.nlink = 0
	if !n.isDir() {
		f.revertData(n, rng)
		return
	}
	names := make(map[string]*node, len(n.syncedNames))
	for name, c := range n.syncedNames {
		names[name] = c
	}
	keep := 0
	if rng != nil {
		keep = rng.IntN(len(n.log) + 1)
	}
	for _, c := range n.log[:keep] {
		for name, x := range c {
			if names[name] = x; x == nil {
				delete(names, name)
			}
		}
	}
	f.stats.LostNames += int64(len(n.log) - keep)
	n.names, n.log = names, nil
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted) // one seed, one outcome
	for _, name := range sorted {
		f.revert(names[name], rng, seen)
	}
	n.sync()
	for _, c := range names {
		c.nlink++
	}
}

func (f *FS) revertData(n *node, rng *rand.Rand) {
	dirty := 0
	size, pages := n.syncedSize, slices.Clone(n.syncedPages)
	if rng != nil && n.size != size && rng.IntN(2) == 0 { // the size reached the disk, the data perhaps not
		size = n.size
		pages = slices.Clone(pages[:min(len(pages), len(n.pages))])
		pages = append(pages, make([]*page, len(n.pages)-len(pages))...)
	}
	for i, p := range n.pages {
		var old *page
		if i < len(n.syncedPages) {
			old = n.syncedPages[i]
		}
		if p == old || p == nil {
			continue
		}
		dirty++
		if rng == nil || i >= len(pages) || rng.IntN(2) == 0 {
			f.stats.LostPages++
			continue
		}
		pages[i] = torn(old, p, rng)
		f.stats.KeptPages++
	}
	if dirty > 0 || n.size != n.syncedSize {
		f.stats.LostFiles++
	}
	n.size, n.pages = size, pages
	n.sync()
}

// torn returns the new page, or one time in four a mixture of sectors.
func torn(old, new *page, rng *rand.Rand) *page {
	if rng.IntN(4) > 0 {
		return new
	}
	var out page
	if old != nil {
		out = *old
	}
	for at := 0; at < pageSize; at += sectorSize {
		if rng.IntN(2) == 0 {
			copy(out[at:at+sectorSize], new[at:at+sectorSize])
		}
	}
	return &out
}
