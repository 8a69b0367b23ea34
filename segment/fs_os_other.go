//go:build !linux

package segment

import (
	"errors"
	"io"
)

func (osFS) Whole(string) (Whole, error) { return nil, errors.ErrUnsupported }

func (f *osFile) SyncData() error                { return f.f.Sync() }
func (f *osFile) Preallocate(off, n int64) error { return nil }

func (f *osFile) WriteVAt(bufs [][]byte, off int64) (int64, error) { return writeVAt(f.f, bufs, off) }

func (f *osFile) SendTo(w io.Writer, off, n int64) (int64, error) { return copyRange(w, f.f, off, n) }
