package segment

import (
	"errors"
	"io/fs"
	"path"
	"sync"

	"github.com/tailrace/tailrace/internal/bugs"
)

// dirEntries knows which directories exist and which of their entries are
// durable, so that a directory is synced when that is needed and once for many
// files.
type dirEntries struct {
	s *Store

	mu      sync.Mutex
	made    map[string]bool
	durable map[string]bool // the directory's own entry in its parent is synced
}

func (d *dirEntries) init(s *Store) {
	d.s, d.made, d.durable = s, map[string]bool{}, map[string]bool{}
}

// create makes the segment's file and the directories on the way to it.
// Nothing of it is durable yet.
func (d *dirEntries) create(seg *segment) (File, error) {
	dir := d.s.partitionDir(seg.tp)
	d.mu.Lock()
	made := d.made[dir]
	d.mu.Unlock()
	if made {
		f, err := d.s.fs.Create(d.s.segmentPath(seg.tp, seg.id))
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		// The directory of a deleted log was removed just now.
	}
	if err := d.s.fs.MkdirAll(dir); err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.made[dir] = true
	d.mu.Unlock()
	return d.s.fs.Create(d.s.segmentPath(seg.tp, seg.id))
}

// sync makes the directory entries of the segments' files durable, each
// directory once.
func (d *dirEntries) sync(segs []*segment) error {
	const partition, topic, root = 0, 1, 2
	var unsynced [3][]string // in the order partition, topic, root
	seen := map[string]bool{}
	add := func(level int, dir string) {
		if !seen[dir] {
			seen[dir] = true
			unsynced[level] = append(unsynced[level], dir)
		}
	}
	d.mu.Lock()
	for _, seg := range segs {
		if seg.entry.Load() {
			continue
		}
		dir := d.s.partitionDir(seg.tp)
		add(partition, dir)
		if parent := path.Dir(dir); !d.durable[dir] {
			add(topic, parent)
			if !d.durable[parent] {
				add(root, path.Dir(parent))
			}
		}
	}
	d.mu.Unlock()
	for _, level := range unsynced {
		if bugs.NoDirSync {
			break
		}
		for _, dir := range level {
			d.s.stats.dirSyncs.Add(1)
			if err := d.s.fs.SyncDir(dir); err != nil {
				return err
			}
		}
	}
	d.synced(segs)
	return nil
}

// synced notes that the directory entries of the segments' files are durable. The
// directory of a deleted log may be gone by now, and made anew for another.
func (d *dirEntries) synced(segs []*segment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, seg := range segs {
		if seg.dead.Load() {
			continue
		}
		dir := d.s.partitionDir(seg.tp)
		d.durable[dir], d.durable[path.Dir(dir)] = true, true
		seg.entry.Store(true)
	}
}

// forget removes the directories of a deleted log if they are empty.
func (d *dirEntries) forget(dir string) {
	d.mu.Lock()
	delete(d.made, dir)
	delete(d.durable, dir)
	delete(d.durable, path.Dir(dir))
	d.mu.Unlock()
	if d.s.fs.Remove(dir) == nil {
		// Not empty is the usual answer; either way nothing depends on it.
		_ = d.s.fs.Remove(path.Dir(dir))
	}
}
