package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Mem adapts a file system of Pebble's, in practice vfs.NewMem or
// vfs.NewCrashableMem, whose CrashClone shows what a power cut would leave.
func Mem(inner vfs.FS) FS { return memFS{inner} }

type memFS struct{ inner vfs.FS }

type memFile struct{ f vfs.File }

func (m memFS) Create(name string) (File, error) {
	if _, err := m.inner.Stat(name); err == nil {
		return nil, fmt.Errorf("create %s: %w", name, fs.ErrExist)
	}
	f, err := m.inner.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	return &memFile{f}, nil
}

func (m memFS) Open(name string) (File, error) {
	if _, err := m.inner.Stat(name); err != nil { // OpenReadWrite would create it
		return nil, err
	}
	f, err := m.inner.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	return &memFile{f}, nil
}

func (m memFS) Size(name string) (int64, error) {
	fi, err := m.inner.Stat(name)
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

func (m memFS) MkdirAll(name string) error { return m.inner.MkdirAll(name, 0o750) }

func (m memFS) SyncDir(name string) error {
	d, err := m.inner.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (m memFS) Rename(oldname, newname string) error     { return m.inner.Rename(oldname, newname) }
func (m memFS) Remove(name string) error                 { return m.inner.Remove(name) }
func (m memFS) List(name string) ([]string, error)       { return m.inner.List(name) }
func (m memFS) Lock(name string) (io.Closer, error)      { return m.inner.Lock(name) }
func (m memFS) Pebble() vfs.FS                           { return m.inner }
func (f *memFile) ReadAt(p []byte, o int64) (int, error) { return f.f.ReadAt(p, o) }

func (m memFS) Free(name string) (free, total int64, err error) {
	u, err := m.inner.GetDiskUsage(name)
	if errors.Is(err, vfs.ErrUnsupported) {
		return 1 << 50, 1 << 50, nil // memory has no reserve to keep
	}
	return int64(u.AvailBytes), int64(u.TotalBytes), err
}

// Whole implements FS by syncing every file and directory that there is.
func (m memFS) Whole(string) (Whole, error) { return memWhole{m.inner}, nil }

type memWhole struct{ fs vfs.FS }

func (memWhole) Close() error { return nil }

func (w memWhole) Sync() error { return w.sync("/") }

func (w memWhole) sync(name string) error {
	fi, err := w.fs.Stat(name)
	if err != nil || !fi.IsDir() {
		return w.syncOne(name, err)
	}
	names, err := w.fs.List(name)
	for _, n := range names {
		err = errors.Join(err, w.sync(w.fs.PathJoin(name, n)))
	}
	d, derr := w.fs.OpenDir(name)
	if derr != nil {
		return errors.Join(err, derr)
	}
	return errors.Join(err, d.Sync(), d.Close())
}

// syncOne syncs a file; one that was removed meanwhile needs none.
func (w memWhole) syncOne(name string, err error) error {
	var f vfs.File
	if err == nil {
		f, err = w.fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	}
	if isNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }
func (f *memFile) SyncData() error                          { return f.f.SyncData() }
func (f *memFile) Preallocate(off, n int64) error           { return nil }
func (f *memFile) Close() error                             { return f.f.Close() }

func (f *memFile) WriteVAt(bufs [][]byte, off int64) (int64, error) {
	return writeVAt(f.f, bufs, off)
}

func (f *memFile) SendTo(w io.Writer, off, n int64) (int64, error) {
	return copyRange(w, f.f, off, n)
}

func (f *memFile) Size() (int64, error) {
	fi, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}
