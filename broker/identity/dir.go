package identity

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/internal/model"
)

const (
	nodeFile = "node.json"
	tmpFile  = "node.json.tmp"
	lockFile = "lock"
	// CatalogDir is the catalog's directory below the data directory.
	CatalogDir = "catalog"

	maxNodeBytes = 1 << 20
	category     = vfs.DiskWriteCategory("identity")
)

// Options say which directory to open, and for whom.
type Options struct {
	FS     vfs.FS // default: the operating system's
	Dir    string
	Broker model.BrokerID
	// Cluster, if not "", must match what the directory says.
	Cluster string
	Rand    io.Reader // default: crypto/rand
}

// Dir is an open, locked data directory. Changes are durable when they return;
// after a failed one nothing can be changed any more. Safe for concurrent use.
type Dir struct {
	fs   vfs.FS
	path string
	lock io.Closer

	writing sync.Mutex // one change at a time, held in I/O

	mu     sync.Mutex
	node   Node // what is durably on disk
	failed error
}

// Open locks the directory and reads who it belongs to; an empty or absent one
// becomes a new node's. Errors are one line and say what to do.
func Open(o Options) (*Dir, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if err := makeDir(o.FS, o.Dir); err != nil {
		return nil, unusable(o.Dir, err)
	}
	lock, err := o.FS.Lock(o.FS.PathJoin(o.Dir, lockFile))
	if path := new(fs.PathError); errors.As(err, &path) {
		return nil, unusable(o.Dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("data directory %s is in use by another process: stop it, or choose another --dir (%w)", o.Dir, err)
	}
	d := &Dir{fs: o.FS, path: o.Dir, lock: lock}
	if err := d.load(o); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// unusable is the error of a directory that cannot be made or entered.
func unusable(dir string, err error) error {
	return fmt.Errorf("data directory %s cannot be used (%w): correct its path and permissions, or choose another --dir", dir, err)
}

// makeDir creates the directory and makes its entry, and those of its parents,
// durable.
func makeDir(fsys vfs.FS, dir string) error {
	_, err := fsys.Stat(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := fsys.PathDir(dir)
	if parent != dir {
		if err := makeDir(fsys, parent); err != nil {
			return err
		}
	}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return syncDir(fsys, parent)
}

func (d *Dir) load(o Options) error {
	catalog, err := exists(d.fs, d.fs.PathJoin(d.path, CatalogDir))
	if err != nil {
		return err
	}
	name := d.fs.PathJoin(d.path, nodeFile)
	b, err := readFile(d.fs, name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && catalog:
		return fmt.Errorf("%s is missing but %s has data: put the file back, or move the directory away to start this broker as a new, empty one", name, d.path)
	case errors.Is(err, fs.ErrNotExist):
		return d.create(o)
	case err != nil:
		return fmt.Errorf("%s cannot be read: %w", name, err)
	}
	n, err := decode(b)
	switch {
	case errors.Is(err, errNewer):
		return fmt.Errorf("%s: %w: upgrade this binary", name, err)
	case err != nil:
		return fmt.Errorf("%s is damaged (%w): restore it from a copy, or move the directory away to start this broker as a new, empty one", name, err)
	}
	d.node = *n
	return d.check(o, n, catalog)
}

// check compares what the directory says with what the node was started as.
func (d *Dir) check(o Options, n *Node, catalog bool) error {
	switch {
	case n.Broker != o.Broker:
		return fmt.Errorf("data directory %s belongs to broker %d, not %d: correct --id or --dir", d.path, n.Broker, o.Broker)
	case o.Cluster != "" && n.Cluster != "" && n.Cluster != o.Cluster:
		return fmt.Errorf("data directory %s belongs to cluster %q, not %q: correct --dir or --join", d.path, n.Cluster, o.Cluster)
	case n.Initialised && !catalog:
		return fmt.Errorf("data directory %s has lost its %s: restore it, or move the directory away to start this broker as a new, empty one", d.path, CatalogDir)
	}
	return nil
}

// create writes the first node.json of a new node.
func (d *Dir) create(o Options) error {
	n := Node{Format: FormatVersion, Broker: o.Broker}
	var err error
	if n.Storage, err = model.NewStorageID(o.Rand); err != nil {
		return err
	}
	if n.Directory, err = model.NewStorageID(o.Rand); err != nil {
		return err
	}
	return d.store(n)
}

// Node returns what is durably known.
func (d *Dir) Node() Node {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.node.clone()
}

// Path returns the directory.
func (d *Dir) Path() string { return d.path }

// Accept durably agrees to found a cluster with exactly this set. A node does
// so once in its life: a different set is refused.
func (d *Dir) Accept(set []Founder) error {
	return d.change(func(n *Node) error {
		set = canonical(set)
		switch {
		case n.Cluster != "":
			return fmt.Errorf("broker %d is in cluster %q already", n.Broker, n.Cluster)
		case n.Founders != nil && !sameSet(n.Founders, set):
			return fmt.Errorf("broker %d has agreed to found a cluster with %s before", n.Broker, describe(n.Founders))
		}
		n.Founders = set
		return nil
	})
}

// SetCluster durably makes the node a member of a cluster, for ever.
func (d *Dir) SetCluster(id string) error {
	return d.change(func(n *Node) error {
		if id == "" || (n.Cluster != "" && n.Cluster != id) {
			return fmt.Errorf("data directory %s belongs to cluster %q, not %q", d.path, n.Cluster, id)
		}
		n.Cluster = id
		return nil
	})
}

// SetIncarnation durably notes the last registration. An older one than noted
// is refused: it would be a message from the past.
func (d *Dir) SetIncarnation(i model.Incarnation) error {
	return d.change(func(n *Node) error {
		if i < n.Incarnation {
			return fmt.Errorf("incarnation %d is older than %d", i, n.Incarnation)
		}
		n.Incarnation = i
		return nil
	})
}

// MarkInitialised durably notes that the catalog exists.
func (d *Dir) MarkInitialised() error {
	return d.change(func(n *Node) error { n.Initialised = true; return nil })
}

// Close releases the lock.
func (d *Dir) Close() error { return d.lock.Close() }

// change edits a copy of the node and makes it durable before it is seen.
func (d *Dir) change(edit func(n *Node) error) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	old, failed := d.node, d.failed
	d.mu.Unlock()
	if failed != nil {
		return failed
	}
	n := old.clone()
	if err := edit(&n); err != nil {
		return err
	}
	return d.store(n)
}

// store writes node.json atomically. A failure is final: what is on disk is
// not known any more.
func (d *Dir) store(n Node) error {
	err := d.write(&n)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.failed = fmt.Errorf("%s: %w", d.fs.PathJoin(d.path, nodeFile), err)
		return d.failed
	}
	d.node = n
	return nil
}

func (d *Dir) write(n *Node) error {
	b, err := encode(n)
	if err != nil {
		return err
	}
	tmp := d.fs.PathJoin(d.path, tmpFile)
	f, err := d.fs.Create(tmp, category)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := d.fs.Rename(tmp, d.fs.PathJoin(d.path, nodeFile)); err != nil {
		return err
	}
	return syncDir(d.fs, d.path)
}

func syncDir(fsys vfs.FS, dir string) error {
	f, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func exists(fsys vfs.FS, name string) (bool, error) {
	_, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func readFile(fsys vfs.FS, name string) (b []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, maxNodeBytes))
}
