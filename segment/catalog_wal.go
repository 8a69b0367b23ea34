package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrCatalogLost says that a file of the catalog is gone which held durable
// changes. The directory would open as it was some time ago, and forget what it
// has acknowledged.
var ErrCatalogLost = errors.New("a write-ahead log of the catalog is gone, and with it what this directory has acknowledged")

// walNote is a file beside Pebble's that holds the number of the newest
// write-ahead log. Pebble records a log nowhere until it has been flushed: if
// the newest one is lost it opens without a word, as of the flush before.
//
// The note has two slots of a sector each, written in turn, so that a torn
// write leaves the other: format, number, CRC32C of both. It is synced before
// the log that it names takes its first record.
type walNote struct {
	fs   vfs.FS
	dir  string
	file vfs.File // nil until the first write
	turn int64    // slot of the next write
	last uint64   // newest number on disk; 0: none was noted
}

const (
	walNoteName   = "newest-wal"
	walNoteFormat = 1
	walNoteSlot   = 512
	walNoteLen    = 1 + 8 + 4
	walSuffix     = ".log"
)

// openWALNote reads the note of a catalog's directory. One without a whole slot
// says nothing: the directory is new, or was written by a version without.
func openWALNote(fs vfs.FS, dir string) (*walNote, error) {
	n := &walNote{fs: fs, dir: dir}
	f, err := fs.Open(n.name())
	if isNotExist(err) {
		return n, nil
	}
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 2*walNoteSlot)
	_, err = f.ReadAt(buf, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", n.name(), err)
	}
	for slot := range int64(2) {
		if num, ok := decodeWALNote(buf[slot*walNoteSlot:]); ok && num > n.last {
			n.last, n.turn = num, 1-slot
		}
	}
	return n, nil
}

func (n *walNote) name() string { return path.Join(n.dir, walNoteName) }

// check fails with ErrCatalogLost if the log that the note names, or a newer
// one, is not there.
func (n *walNote) check() error {
	if n.last == 0 {
		return nil
	}
	names, err := n.fs.List(n.dir)
	if err != nil {
		return err
	}
	newest := uint64(0)
	for _, name := range names {
		digits, isLog := strings.CutSuffix(name, walSuffix)
		if num, err := strconv.ParseUint(digits, 10, 64); isLog && err == nil {
			newest = max(newest, num)
		}
	}
	if newest < n.last {
		return fmt.Errorf("%w: number %d was in use, the newest there is %d", ErrCatalogLost, n.last, newest)
	}
	return nil
}

// created notes that a log exists, durably.
func (n *walNote) created(num uint64) error {
	if n.file == nil {
		var err error
		if n.file, err = n.fs.OpenReadWrite(n.name(), vfs.WriteCategoryUnspecified); err != nil {
			return err
		}
		if err := n.syncDir(); err != nil {
			return err
		}
	}
	if _, err := n.file.WriteAt(encodeWALNote(num), n.turn*walNoteSlot); err != nil {
		return err
	}
	if err := n.file.Sync(); err != nil {
		return err
	}
	n.last, n.turn = num, 1-n.turn
	return nil
}

func (n *walNote) syncDir() error {
	d, err := n.fs.OpenDir(n.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (n *walNote) close() error {
	if n == nil || n.file == nil {
		return nil
	}
	f := n.file
	n.file = nil
	return f.Close()
}

func encodeWALNote(num uint64) []byte {
	b := make([]byte, 0, walNoteLen)
	b = binary.BigEndian.AppendUint64(append(b, walNoteFormat), num)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeWALNote reads a slot; false if nothing whole was written there.
func decodeWALNote(b []byte) (uint64, bool) {
	const body = walNoteLen - 4
	ok := b[0] == walNoteFormat && binary.BigEndian.Uint32(b[body:]) == crc32.Checksum(b[:body], castagnoli)
	return binary.BigEndian.Uint64(b[1:]), ok
}
