package crashfs

import (
	"context"
	"fmt"
	"io"
	"log"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Mount is a disk at a place in the file tree.
type Mount struct {
	FS     *FS
	Dir    string
	server *fuse.Server
}

// Mount mounts the disk, and turns its power on. It needs /dev/fuse and the
// right to mount.
func (f *FS) Mount(dir string) (*Mount, error) {
	f.mu.Lock()
	f.dead = false
	f.mu.Unlock()
	none := time.Duration(0) // the kernel asks again each time: nothing to invalidate
	s, err := fs.Mount(dir, &entry{f: f, n: f.root}, &fs.Options{
		EntryTimeout: &none, AttrTimeout: &none, NegativeTimeout: &none,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "crashfs", Name: "crashfs", MaxWrite: 1 << 20, DisableXAttrs: true,
			Logger: log.New(io.Discard, "", 0)},
	})
	if err != nil {
		return nil, fmt.Errorf("mount a crashfs at %s: %w", dir, err)
	}
	return &Mount{FS: f, Dir: dir, server: s}, nil
}

// Unmount takes the disk away. Processes that still use it see errors.
func (m *Mount) Unmount() error {
	m.FS.mu.Lock()
	m.FS.dead = true
	m.FS.mu.Unlock()
	if err := syscall.Unmount(m.Dir, syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", m.Dir, err)
	}
	return nil
}

// entry is an inode of one mount.
type entry struct {
	fs.Inode
	f *FS
	n *node
}

// lock takes the disk's lock, or tells that its power is off.
func (e *entry) lock() syscall.Errno {
	e.f.mu.Lock()
	if e.f.dead {
		e.f.mu.Unlock()
		return syscall.EIO
	}
	return 0
}

func (e *entry) unlock() { e.f.mu.Unlock() }

func (n *node) attr(a *fuse.Attr) {
	a.Ino, a.Mode, a.Nlink, a.Size = n.ino, n.mode, n.nlink, uint64(n.size)
	a.Blocks, a.Blksize = uint64(n.size+511)/512, pageSize
	a.SetTimes(nil, &n.mtime, &n.mtime)
}

// child returns the kernel's inode for a node of ours.
func (e *entry) child(ctx context.Context, n *node, out *fuse.EntryOut) *fs.Inode {
	n.attr(&out.Attr)
	return e.NewInode(ctx, &entry{f: e.f, n: n}, fs.StableAttr{Mode: n.mode & syscall.S_IFMT, Ino: n.ino})
}

func (e *entry) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if err := e.lock(); err != 0 {
		return nil, err
	}
	defer e.unlock()
	n := e.n.names[name]
	if n == nil {
		return nil, syscall.ENOENT
	}
	return e.child(ctx, n, out), 0
}

func (e *entry) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if err := e.lock(); err != 0 {
		return err
	}
	defer e.unlock()
	e.n.attr(&out.Attr)
	return 0
}

func (e *entry) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if err := e.lock(); err != 0 {
		return err
	}
	defer e.unlock()
	if size, ok := in.GetSize(); ok {
		e.n.truncate(int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		e.n.mode = e.n.mode&syscall.S_IFMT | mode&^syscall.S_IFMT
	}
	if t, ok := in.GetMTime(); ok {
		e.n.mtime = t
	}
	e.n.attr(&out.Attr)
	return 0
}

// add makes a new name.
func (e *entry) add(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if err := e.lock(); err != 0 {
		return nil, err
	}
	defer e.unlock()
	if e.n.names[name] != nil {
		return nil, syscall.EEXIST
	}
	n := e.f.newNode(mode)
	e.n.apply(change{name: n})
	return e.child(ctx, n, out), 0
}

func (e *entry) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return e.add(ctx, name, syscall.S_IFDIR|mode&0o7777, out)
}

func (e *entry) Create(ctx context.Context, name string, _ uint32, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	n, err := e.add(ctx, name, syscall.S_IFREG|mode&0o7777, out)
	return n, nil, 0, err
}

func (e *entry) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if err := e.lock(); err != 0 {
		return nil, err
	}
	defer e.unlock()
	t, ok := target.(*entry)
	if !ok || e.n.names[name] != nil {
		return nil, syscall.EEXIST
	}
	e.n.apply(change{name: t.n})
	return e.child(ctx, t.n, out), 0
}

func (e *entry) Unlink(_ context.Context, name string) syscall.Errno { return e.remove(name, false) }
func (e *entry) Rmdir(_ context.Context, name string) syscall.Errno  { return e.remove(name, true) }

func (e *entry) remove(name string, dir bool) syscall.Errno {
	if err := e.lock(); err != 0 {
		return err
	}
	defer e.unlock()
	n := e.n.names[name]
	switch {
	case n == nil:
		return syscall.ENOENT
	case dir && len(n.names) > 0:
		return syscall.ENOTEMPTY
	}
	e.n.apply(change{name: nil})
	return 0
}

// Rename is atomic within one directory. Between two, each side is durable
// when its directory was synced.
func (e *entry) Rename(_ context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if err := e.lock(); err != 0 {
		return err
	}
	defer e.unlock()
	to, ok := parent.(*entry)
	n := e.n.names[name]
	switch {
	case n == nil:
		return syscall.ENOENT
	case !ok || flags != 0:
		return syscall.EINVAL
	case to.n == e.n && name == newName:
		return 0
	case to.n == e.n:
		e.n.apply(change{name: nil, newName: n})
	default:
		to.n.apply(change{newName: n})
		e.n.apply(change{name: nil})
	}
	return 0
}

func (e *entry) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	if err := e.lock(); err != 0 {
		return nil, err
	}
	defer e.unlock()
	list := make([]fuse.DirEntry, 0, len(e.n.names))
	for name, n := range e.n.names {
		list = append(list, fuse.DirEntry{Name: name, Mode: n.mode & syscall.S_IFMT, Ino: n.ino})
	}
	slices.SortFunc(list, func(a, b fuse.DirEntry) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	return fs.NewListDirStream(list), 0
}

func (e *entry) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (e *entry) Read(_ context.Context, _ fs.FileHandle, dst []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if err := e.lock(); err != 0 {
		return nil, err
	}
	defer e.unlock()
	return fuse.ReadResultData(e.n.read(dst, off)), 0
}

func (e *entry) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if err := e.lock(); err != 0 {
		return 0, err
	}
	defer e.unlock()
	e.n.write(data, off)
	return uint32(len(data)), 0
}

// Allocate reserves space, which is a matter of size only.
func (e *entry) Allocate(_ context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	const keepSize = 1
	if err := e.lock(); err != 0 {
		return err
	}
	defer e.unlock()
	if mode&^keepSize != 0 {
		return syscall.EOPNOTSUPP
	}
	if mode&keepSize == 0 {
		e.n.grow(int64(off + size))
	}
	return 0
}

func (e *entry) Flush(context.Context, fs.FileHandle) syscall.Errno { return 0 }

// Fsync serves files and directories.
func (e *entry) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	e.f.mu.Lock()
	delay := e.f.faults.SyncDelay
	e.f.mu.Unlock()
	time.Sleep(delay)
	if err := e.lock(); err != 0 {
		return err
	}
	defer e.unlock()
	if e.f.faults.SyncError != nil {
		e.f.stats.Failed++
		return fs.ToErrno(e.f.faults.SyncError)
	}
	if e.n.isDir() {
		e.f.stats.DirSyncs++
	} else {
		e.f.stats.Syncs++
	}
	e.n.sync()
	return 0
}

func (e *entry) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	out.Blocks = uint64(e.f.limit / pageSize)
	out.Bfree, out.Bavail = out.Blocks, out.Blocks
	out.Files, out.Ffree = 1<<20, 1<<20
	return 0
}
