package segment

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// OpKind names a call on FS or File for fault injection.
type OpKind string

// The kinds of call that FaultFS shows to its hook. OpPebble stands for any
// call of the catalog's.
const (
	OpCreate  OpKind = "create"
	OpOpen    OpKind = "open"
	OpMkdir   OpKind = "mkdir"
	OpSyncDir OpKind = "syncdir"
	OpRename  OpKind = "rename"
	OpRemove  OpKind = "remove"
	OpList    OpKind = "list"
	OpRead    OpKind = "read"
	OpWrite   OpKind = "write"
	OpSend    OpKind = "send"
	OpSync    OpKind = "sync"
	OpWhole   OpKind = "syncwhole"
	OpPebble  OpKind = "pebble"
)

// Op is one call, as the hook sees it before it is made.
type Op struct {
	Kind  OpKind
	Name  string
	Off   int64 // position, for reads, writes and sends
	Len   int64 // bytes, likewise
	Index int64 // counts the calls of this FaultFS from 0
	// Pebble is set when Kind is OpPebble.
	Pebble errorfs.OpKind
}

// Fault says what happens to a call. The zero Fault lets it pass.
type Fault struct {
	Err   error
	Delay time.Duration
	// Partial makes a write or send carry that many bytes out before Err.
	Partial int64
	// After makes the call happen in full and report Err nevertheless.
	After bool
}

// FaultFS asks Hook before every call on the wrapped file system, the
// catalog's included, and does what it answers.
type FaultFS struct {
	FS
	Hook func(Op) Fault

	calls atomic.Int64
}

// Calls returns how many calls have been made so far.
func (x *FaultFS) Calls() int64 { return x.calls.Load() }

// do runs one call under its fault.
func (x *FaultFS) do(op Op, call func() error) error {
	op.Index = x.calls.Add(1) - 1
	f := x.Hook(op)
	if f.Delay > 0 {
		time.Sleep(f.Delay)
	}
	if f.Err != nil && !f.After {
		return f.Err
	}
	if err := call(); err != nil {
		return err
	}
	return f.Err
}

// Create implements FS.
func (x *FaultFS) Create(name string) (f File, err error) {
	err = x.do(Op{Kind: OpCreate, Name: name}, func() (err error) { f, err = x.FS.Create(name); return err })
	return x.file(name, f, err)
}

// Open implements FS.
func (x *FaultFS) Open(name string) (f File, err error) {
	err = x.do(Op{Kind: OpOpen, Name: name}, func() (err error) { f, err = x.FS.Open(name); return err })
	return x.file(name, f, err)
}

func (x *FaultFS) file(name string, f File, err error) (File, error) {
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	return &faultFile{File: f, x: x, name: name}, nil
}

// MkdirAll implements FS.
func (x *FaultFS) MkdirAll(name string) error {
	return x.do(Op{Kind: OpMkdir, Name: name}, func() error { return x.FS.MkdirAll(name) })
}

// SyncDir implements FS.
func (x *FaultFS) SyncDir(name string) error {
	return x.do(Op{Kind: OpSyncDir, Name: name}, func() error { return x.FS.SyncDir(name) })
}

// Rename implements FS.
func (x *FaultFS) Rename(oldname, newname string) error {
	return x.do(Op{Kind: OpRename, Name: oldname}, func() error { return x.FS.Rename(oldname, newname) })
}

// Remove implements FS.
func (x *FaultFS) Remove(name string) error {
	return x.do(Op{Kind: OpRemove, Name: name}, func() error { return x.FS.Remove(name) })
}

// List implements FS.
func (x *FaultFS) List(name string) (names []string, err error) {
	err = x.do(Op{Kind: OpList, Name: name}, func() (err error) { names, err = x.FS.List(name); return err })
	return names, err
}

// Whole implements FS. Opening it is not shown.
func (x *FaultFS) Whole(dir string) (Whole, error) {
	w, err := x.FS.Whole(dir)
	if err != nil {
		return nil, err
	}
	return faultWhole{w, x, dir}, nil
}

type faultWhole struct {
	Whole
	x   *FaultFS
	dir string
}

func (w faultWhole) Sync() error { return w.x.do(Op{Kind: OpWhole, Name: w.dir}, w.Whole.Sync) }

// Pebble shows the catalog's calls to the hook too.
func (x *FaultFS) Pebble() vfs.FS {
	return errorfs.Wrap(x.FS.Pebble(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		return x.do(Op{Kind: OpPebble, Name: op.Path, Off: op.Offset, Pebble: op.Kind}, func() error { return nil })
	}))
}

type faultFile struct {
	File
	x    *FaultFS
	name string
}

func (f *faultFile) op(k OpKind, off, n int64) Op { return Op{Kind: k, Name: f.name, Off: off, Len: n} }

func (f *faultFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.x.do(f.op(OpRead, off, int64(len(p))), func() (err error) { n, err = f.File.ReadAt(p, off); return err })
	return n, err
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WriteVAt([][]byte{p}, off)
	return int(n), err
}

// WriteVAt honours Fault.Partial: a prefix is written, then the error comes.
func (f *faultFile) WriteVAt(bufs [][]byte, off int64) (n int64, err error) {
	var total int64
	for _, b := range bufs {
		total += int64(len(b))
	}
	op := f.op(OpWrite, off, total)
	op.Index = f.x.calls.Add(1) - 1
	ft := f.x.Hook(op)
	time.Sleep(ft.Delay)
	if ft.Err == nil || ft.After {
		if n, err = f.File.WriteVAt(bufs, off); err != nil {
			return n, err
		}
		return n, ft.Err
	}
	for _, b := range bufs {
		part := b[:min(int64(len(b)), ft.Partial-n)]
		m, err := f.File.WriteAt(part, off+n)
		n += int64(m)
		if err != nil || len(part) < len(b) {
			break
		}
	}
	return n, ft.Err
}

func (f *faultFile) SendTo(w io.Writer, off, n int64) (sent int64, err error) {
	err = f.x.do(f.op(OpSend, off, n), func() (err error) { sent, err = f.File.SendTo(w, off, n); return err })
	return sent, err
}

func (f *faultFile) SyncData() error {
	return f.x.do(f.op(OpSync, 0, 0), func() error { return f.File.SyncData() })
}
