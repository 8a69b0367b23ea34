package segment

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// provenWhole are the file systems (f_type of statfs) whose syncfs is known to
// write everything and to flush the disk's cache. FUSE, for one, may do nothing.
var provenWhole = map[int64]bool{unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true}

type osWhole struct{ dir *os.File }

func (osFS) Whole(dir string) (Whole, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if !provenWhole[int64(st.Type)] {
		return nil, errors.ErrUnsupported
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return osWhole{d}, nil
}

func (w osWhole) Close() error { return w.dir.Close() }

func (w osWhole) Sync() error {
	rc, err := w.dir.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = unix.Syncfs(int(fd)) }); err != nil {
		return err
	}
	if inner != nil {
		return &os.PathError{Op: "syncfs", Path: w.dir.Name(), Err: inner}
	}
	return nil
}

// maxIovecs is the kernel's limit of buffers in one call (UIO_MAXIOV).
const maxIovecs = 1024

// maxSendfile bounds one sendfile call, so that a slow reader's deadline is
// looked at between calls.
const maxSendfile = 4 << 20

func (f *osFile) SyncData() error {
	return f.control(func(fd int) error {
		for {
			if err := unix.Fdatasync(fd); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
}

func (f *osFile) Preallocate(off, n int64) error {
	return f.control(func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, off, n) })
}

func (f *osFile) control(fn func(fd int) error) error {
	rc, err := f.f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func (f *osFile) WriteVAt(bufs [][]byte, off int64) (int64, error) {
	var want int64
	for _, b := range bufs {
		want += int64(len(b))
	}
	if len(bufs) == 1 || len(bufs) > maxIovecs {
		return writeVAt(f.f, bufs, off)
	}
	var n int
	err := f.control(func(fd int) (err error) {
		n, err = unix.Pwritev(fd, bufs, off)
		return err
	})
	if err == nil && int64(n) < want {
		err = io.ErrShortWrite
	}
	return int64(max(n, 0)), err
}

func (f *osFile) SendTo(w io.Writer, off, n int64) (int64, error) {
	conn, ok := socket(w)
	if !ok {
		return copyRange(w, f.f, off, n)
	}
	dst, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var done int64
	err = f.control(func(src int) error {
		for done < n {
			m, err := sendfile(dst, src, off+done, n-done)
			done += m
			if err != nil {
				return err
			}
			if m == 0 {
				return io.ErrUnexpectedEOF // the file is shorter than asked
			}
		}
		return nil
	})
	return done, err
}

// sendfile sends once, waiting for the socket to take some. The file offset is
// passed, not shared, so many sends may use one descriptor.
func sendfile(dst syscall.RawConn, src int, off, n int64) (int64, error) {
	var sent int
	var serr error
	err := dst.Write(func(fd uintptr) bool {
		for {
			pos := off
			sent, serr = unix.Sendfile(int(fd), src, &pos, int(min(n, maxSendfile)))
			if errors.Is(serr, unix.EINTR) {
				continue
			}
			return !errors.Is(serr, unix.EAGAIN)
		}
	})
	if err == nil {
		err = serr
	}
	return int64(max(sent, 0)), err
}

// socket returns w if the kernel can send a file to it.
func socket(w io.Writer) (syscall.Conn, bool) {
	switch c := w.(type) {
	case *net.TCPConn:
		return c, true
	case *net.UnixConn:
		return c, true
	}
	return nil, false
}
