package segment

import (
	"io"
	"path"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is the file system that a data directory lives on. It is narrower than
// Pebble's vfs.FS where that one offers too much (overwriting Create) and wider
// where it offers too little (positional vectored write, send to a socket).
// Names use forward slashes. Implementations are safe for concurrent use.
type FS interface {
	// Create makes a new file and fails with fs.ErrExist if there is one.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// Size returns a file's length in bytes without opening it.
	Size(name string) (int64, error)
	// MkdirAll makes a directory and its parents; existing ones are fine.
	MkdirAll(name string) error
	// SyncDir makes the directory's entries durable.
	SyncDir(name string) error
	Rename(oldname, newname string) error
	Remove(name string) error
	// List returns the names in a directory, in no particular order.
	List(name string) ([]string, error)
	// Lock excludes other processes until the Closer is closed.
	Lock(name string) (io.Closer, error)
	// Whole opens the file system that holds a directory as one thing to sync.
	// It fails with errors.ErrUnsupported where there is no such call, or where
	// it is not known to reach stable storage.
	Whole(dir string) (Whole, error)
	// Free returns the bytes available to this process and in total.
	Free(name string) (free, total int64, err error)
	// Pebble is the same file system as the catalog sees it.
	Pebble() vfs.FS
}

// Whole is a file system that is synced as a whole (syncfs): with thousands of
// files that is a hundredth of the work, and takes with it what others have
// written there. One that stays open sees every write that has failed since.
type Whole interface {
	// Sync makes durable whatever was written before the call to any file of
	// the file system, lengths and directory entries included.
	Sync() error
	Close() error
}

// File is one open file. Positional calls may run concurrently with each other
// and with SyncData.
type File interface {
	io.ReaderAt
	io.WriterAt
	// WriteVAt writes the buffers back to back at off.
	WriteVAt(bufs [][]byte, off int64) (int64, error)
	// SendTo copies [off, off+n) to w, inside the kernel (sendfile) where w
	// is a TCP or Unix socket and the system can.
	SendTo(w io.Writer, off, n int64) (int64, error)
	// SyncData makes everything written before the call durable, length
	// included (fdatasync).
	SyncData() error
	// Preallocate asks for space without changing the file's length. It may
	// do nothing.
	Preallocate(off, n int64) error
	Size() (int64, error)
	Close() error
}

// copyBufSize is the size of the pooled buffers for copies and scans.
const copyBufSize = 64 << 10

var copyBufs = sync.Pool{New: func() any { b := make([]byte, copyBufSize); return &b }}

// copyRange copies [off, off+n) of r to w through a pooled buffer.
func copyRange(w io.Writer, r io.ReaderAt, off, n int64) (int64, error) {
	bp := copyBufs.Get().(*[]byte)
	defer copyBufs.Put(bp)
	var done int64
	for done < n {
		b := (*bp)[:min(int64(copyBufSize), n-done)]
		if err := readFull(r, b, off+done); err != nil {
			return done, err
		}
		m, err := w.Write(b)
		done += int64(m)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readFull fills b from off. A short file is io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeFull writes all of b at off and makes a short write an error.
func writeFull(w io.WriterAt, b []byte, off int64) error {
	n, err := w.WriteAt(b, off)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// mkdirSynced makes a directory below root and makes the entries of every
// level durable, root's own included.
func mkdirSynced(f FS, name string) error {
	if err := f.MkdirAll(name); err != nil {
		return err
	}
	return f.SyncDir(path.Dir(name))
}
