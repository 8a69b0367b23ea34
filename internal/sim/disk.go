package sim

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/segment"
)

// errDead is what every call on a disk gets once its machine has crashed.
var errDead = errors.New("sim: the machine is down")

// disk is the file system of one machine (segment.FS): what a process wrote and
// what is on stable storage are two different things, for file contents and for
// directory entries alike. It is for one goroutine.
type disk struct {
	rng     *rand.Rand
	names   map[string]*inode // as processes see it
	durable map[string]*inode // directory entries on stable storage
	pending []dirOp           // changes of entries that no SyncDir covered

	dead     bool // the machine crashed: calls have no effect
	full     bool // writes fail with ENOSPC
	eio      int  // that many syncs fail, and what they covered never arrives
	stray    *stray
	countIn  int // calls until the machine crashes; 0: not armed
	bytes    int64
	acted    *Acted
	removed  func(name string, dir bool) // told of each removal
	syncErrs int
}

// inode is a file or a directory.
type inode struct {
	dir     bool
	data    []byte   // the page cache
	stable  []byte   // stable storage
	unwrote []extent // written, not synced
	rotten  []rot    // decay of the medium that the page cache does not show yet
	hidden  bool     // a stray write changed the medium, and the page cache does not show it yet
}

type extent struct{ off, n int64 }

// rot is a flipped bit of stable storage.
type rot struct {
	at  int64
	bit byte
}

// dirOp is a change of one directory entry; group ties the halves of a rename.
type dirOp struct {
	name  string
	ino   *inode // nil: removed
	group int
}

func newDisk(rng *rand.Rand, acted *Acted) *disk {
	root := &inode{dir: true}
	return &disk{rng: rng, acted: acted,
		names:   map[string]*inode{".": root},
		durable: map[string]*inode{".": root},
	}
}

// call counts a call that changes something and says whether it may go on.
func (d *disk) call() error {
	if d.countIn > 0 {
		if d.countIn--; d.countIn == 0 {
			d.dead = true
		}
	}
	if d.dead {
		return errDead
	}
	return nil
}

func (d *disk) lookup(name string) (*inode, error) {
	if d.dead {
		return nil, errDead
	}
	ino := d.names[name]
	if ino == nil {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return ino, nil
}

func (d *disk) enter(name string, ino *inode, group int) {
	if ino == nil {
		delete(d.names, name)
	} else {
		d.names[name] = ino
	}
	d.pending = append(d.pending, dirOp{name, ino, group})
}

// Create implements segment.FS.
func (d *disk) Create(name string) (segment.File, error) {
	if err := d.call(); err != nil {
		return nil, err
	}
	if d.names[name] != nil {
		return nil, fmt.Errorf("create %s: %w", name, fs.ErrExist)
	}
	if p := d.names[path.Dir(name)]; p == nil || !p.dir {
		return nil, fmt.Errorf("create %s: %w", name, fs.ErrNotExist)
	}
	if d.full {
		return nil, fmt.Errorf("create %s: %w", name, syscall.ENOSPC)
	}
	ino := &inode{}
	d.enter(name, ino, 0)
	return &diskFile{d, ino}, nil
}

// Open implements segment.FS.
func (d *disk) Open(name string) (segment.File, error) {
	ino, err := d.lookup(name)
	if err != nil {
		return nil, err
	}
	return &diskFile{d, ino}, nil
}

// Size implements segment.FS.
func (d *disk) Size(name string) (int64, error) {
	ino, err := d.lookup(name)
	if err != nil {
		return 0, err
	}
	return int64(len(ino.data)), nil
}

// MkdirAll implements segment.FS.
func (d *disk) MkdirAll(name string) error {
	if err := d.call(); err != nil {
		return err
	}
	if d.names[name] != nil {
		return nil
	}
	if err := d.MkdirAll(path.Dir(name)); err != nil {
		return err
	}
	d.enter(name, &inode{dir: true}, 0)
	return nil
}

// SyncDir implements segment.FS.
func (d *disk) SyncDir(name string) error {
	if err := d.call(); err != nil {
		return err
	}
	if _, err := d.lookup(name); err != nil {
		return err
	}
	rest := d.pending[:0]
	for _, op := range d.pending {
		if path.Dir(op.name) != name {
			rest = append(rest, op)
			continue
		}
		apply(d.durable, op)
	}
	d.pending = rest
	return nil
}

func apply(names map[string]*inode, op dirOp) {
	if op.ino == nil {
		delete(names, op.name)
	} else {
		names[op.name] = op.ino
	}
}

// Rename implements segment.FS.
func (d *disk) Rename(oldname, newname string) error {
	if err := d.call(); err != nil {
		return err
	}
	ino, err := d.lookup(oldname)
	if err != nil {
		return err
	}
	group := len(d.pending) + 1
	d.enter(newname, ino, group)
	d.enter(oldname, nil, group)
	return nil
}

// Remove implements segment.FS.
func (d *disk) Remove(name string) error {
	if err := d.call(); err != nil {
		return err
	}
	ino, err := d.lookup(name)
	if err != nil {
		return err
	}
	if ino.dir && len(d.children(name)) > 0 {
		return fmt.Errorf("remove %s: %w", name, syscall.ENOTEMPTY)
	}
	if d.removed != nil {
		d.removed(name, ino.dir)
	}
	d.enter(name, nil, 0)
	return nil
}

func (d *disk) children(dir string) []string {
	var out []string
	for name := range d.names {
		if name != "." && path.Dir(name) == dir {
			out = append(out, path.Base(name))
		}
	}
	slices.Sort(out)
	return out
}

// List implements segment.FS.
func (d *disk) List(name string) ([]string, error) {
	if _, err := d.lookup(name); err != nil {
		return nil, err
	}
	return d.children(name), nil
}

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

// Lock implements segment.FS.
func (d *disk) Lock(string) (io.Closer, error) { return nopCloser{}, nil }

// Free implements segment.FS.
func (d *disk) Free(string) (free, total int64, err error) {
	if d.full {
		return 0, 1 << 40, nil
	}
	return 1 << 39, 1 << 40, nil
}

// Pebble implements segment.FS. The simulator's catalog is a model.
func (d *disk) Pebble() vfs.FS { return nil }

// powerOff leaves what stable storage holds, and a random part of what was on
// its way there: whole files, or prefixes cut at any byte.
func (d *disk) powerOff() {
	keep := map[int]bool{}
	for _, op := range d.pending {
		k, known := keep[op.group]
		if op.group == 0 || !known {
			k = d.rng.IntN(2) == 0
			keep[op.group] = k
		}
		if k {
			apply(d.durable, op)
		}
	}
	d.pending = nil
	names := make([]string, 0, len(d.durable))
	for name := range d.durable {
		names = append(names, name)
	}
	slices.Sort(names) // a directory comes before what is in it
	d.names = make(map[string]*inode, len(names))
	for _, name := range names {
		ino := d.durable[name]
		if p := d.durable[path.Dir(name)]; name != "." && (p == nil || !p.dir) {
			delete(d.durable, name)
			continue
		}
		d.names[name] = ino
		if !ino.dir {
			d.settle(ino)
		}
	}
}

// settle decides what became of a file's unsynced bytes.
func (d *disk) settle(ino *inode) {
	for _, e := range ino.unwrote {
		n := e.n
		switch d.rng.IntN(4) {
		case 0:
			n = 0
		case 1:
			n = d.rng.Int64N(e.n + 1)
			d.acted.TornWrites++
		case 2: // a hole: the later part arrived, the earlier did not
			skip := d.rng.Int64N(e.n + 1)
			e.off, n = e.off+skip, e.n-skip
		}
		ino.store(e.off, n)
	}
	ino.unwrote = nil
	ino.data = slices.Clone(ino.stable)
	ino.rotten, ino.hidden = nil, false
}

// store copies a range of the page cache to stable storage.
func (ino *inode) store(off, n int64) {
	n = min(n, int64(len(ino.data))-off)
	if n <= 0 {
		return
	}
	if need := int(off + n); need > len(ino.stable) {
		ino.stable = append(ino.stable, make([]byte, need-len(ino.stable))...)
	}
	copy(ino.stable[off:off+n], ino.data[off:off+n])
}

// evict drops the page cache of clean pages, as happens to any file in time:
// decay of the medium shows.
func (d *disk) evict() {
	for _, ino := range d.names {
		if ino.hidden {
			ino.reread()
		}
		for _, r := range ino.rotten {
			if r.at < int64(len(ino.data)) {
				ino.data[r.at] ^= r.bit
			}
		}
		ino.rotten = nil
	}
}

func isSegment(name string) bool { return strings.HasPrefix(name, "data/segments/") }

// segments lists the segment files with stable bytes, sorted.
func (d *disk) segments() []string {
	var out []string
	for name, ino := range d.names {
		if !ino.dir && isSegment(name) && len(ino.stable) > 0 {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// decay flips a bit of stable storage. The page cache keeps the good byte
// until the pages are evicted.
func (d *disk) decay(name string, at int64, bit byte) {
	ino := d.names[name]
	ino.stable[at] ^= bit
	ino.rotten = append(ino.rotten, rot{at, bit})
}

// diskFile is an open file.
type diskFile struct {
	d   *disk
	ino *inode
}

func (f *diskFile) ReadAt(p []byte, off int64) (int, error) {
	if f.d.dead {
		return 0, errDead
	}
	if off >= int64(len(f.ino.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.ino.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.d.call()
	n := len(p)
	switch {
	case err != nil: // the machine goes down in the middle of this write
		n = f.d.rng.IntN(len(p) + 1)
	case f.d.full:
		n, err = f.d.rng.IntN(len(p)+1), fmt.Errorf("write: %w", syscall.ENOSPC)
	}
	f.put(p[:n], off)
	return n, err
}

func (f *diskFile) put(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	ino, n := f.ino, int64(len(p))
	if end := off + n; end > int64(len(ino.data)) {
		ino.data = append(ino.data, make([]byte, end-int64(len(ino.data)))...)
	}
	copy(ino.data[off:], p)
	f.d.bytes += n
	ino.rotten = slices.DeleteFunc(ino.rotten, func(r rot) bool { return r.at >= off && r.at < off+n })
	if k := len(ino.unwrote); k > 0 && ino.unwrote[k-1].off+ino.unwrote[k-1].n == off {
		ino.unwrote[k-1].n += n
		return
	}
	ino.unwrote = append(ino.unwrote, extent{off, n})
}

func (f *diskFile) WriteVAt(bufs [][]byte, off int64) (n int64, err error) {
	for _, b := range bufs {
		m, err := f.WriteAt(b, off+n)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (f *diskFile) SendTo(w io.Writer, off, n int64) (int64, error) {
	b := make([]byte, n)
	if m, err := f.ReadAt(b, off); m < len(b) {
		return 0, err
	}
	m, err := w.Write(b)
	return int64(m), err
}

// SyncData implements segment.File. A sync that fails loses what it covered,
// although the page cache goes on showing it, and a later sync does not write
// it again (as on Linux).
func (f *diskFile) SyncData() error {
	if err := f.d.call(); err != nil {
		return err
	}
	if f.d.eio > 0 {
		f.d.eio--
		f.d.syncErrs++
		f.ino.unwrote = nil
		return fmt.Errorf("sync: %w", syscall.EIO)
	}
	f.d.writeOut(f.ino)
	return nil
}

// writeOut brings what was written to an inode to stable storage.
func (d *disk) writeOut(ino *inode) {
	for _, e := range ino.unwrote {
		if !d.astray(ino, e) {
			ino.store(e.off, e.n)
		}
	}
	ino.unwrote = nil
}

// Whole implements segment.FS.
func (d *disk) Whole(string) (segment.Whole, error) { return whole{d}, nil }

type whole struct{ d *disk }

func (whole) Close() error { return nil }

// Sync writes every file and entry of the disk, the files in the order of their
// names.
func (w whole) Sync() error {
	d := w.d
	if err := d.call(); err != nil {
		return err
	}
	if d.eio > 0 {
		d.eio--
		d.syncErrs++
		for _, ino := range d.names {
			ino.unwrote = nil
		}
		return fmt.Errorf("sync: %w", syscall.EIO)
	}
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		d.writeOut(d.names[name])
	}
	for _, op := range d.pending {
		apply(d.durable, op)
	}
	d.pending = nil
	return nil
}

func (f *diskFile) Preallocate(_, _ int64) error { return nil }
func (f *diskFile) Size() (int64, error)         { return int64(len(f.ino.data)), nil }
func (f *diskFile) Close() error                 { return nil }
