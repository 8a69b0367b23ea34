package segment

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// newestWAL names the newest write-ahead log of the catalog in "data".
func newestWAL(t *testing.T, fs vfs.FS) string {
	t.Helper()
	dir := path.Join("data", catalogDir)
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, walSuffix) })
	if len(names) == 0 {
		t.Fatal("no write-ahead log")
	}
	return path.Join(dir, slices.Max(names))
}

// TestLostWALIsNoticed removes the newest write-ahead log of a directory whose
// process was killed. Without the note it would open as it was at the last
// flush, with acknowledged records forgotten.
func TestLostWALIsNoticed(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fill  int // bytes put into the catalog before: rotates its log
		clean bool
	}{{"first log", 0, false}, {"after rotations", 3 * catalogMemTable, false}, {"after a clean start", 0, true}} {
		t.Run(tt.name, func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			s := mustOpen(t, memOptions(fs))
			mustCreate(t, s, LogConfig{}, tpN(0))
			if tt.clean {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = mustOpen(t, memOptions(fs))
			}
			for n := 0; n < tt.fill; n += 1 << 20 {
				var b KVBatch
				b.Set([]byte{byte(n >> 20)}, make([]byte, 1<<20))
				if err := s.KV().Apply(&b, true); err != nil {
					t.Fatal(err)
				}
			}
			want := mustAppend(t, s.Log(tpN(0)), 1, 3, 200)
			mustCommit(t, s)
			dead := clone(fs) // at one instant, whatever the catalog does in the background
			whole := memOptions(clone(dead))
			whole.MustExist = true
			checkLog(t, mustOpen(t, whole).Log(tpN(0)), want)
			if err := dead.Remove(newestWAL(t, dead)); err != nil {
				t.Fatal(err)
			}
			lost := memOptions(dead)
			lost.MustExist = true
			for range 2 { // the refusal changes nothing
				if s, err := Open(lost); !errors.Is(err, ErrCatalogLost) {
					t.Fatalf("opened with error %v (%v)", err, s)
				}
			}
		})
	}
}

// TestDirectoryWithoutNote: a directory of a version without the note opens and
// gets one.
func TestDirectoryWithoutNote(t *testing.T) {
	o := small(Options{})
	o.Dir = filepath.Join(t.TempDir(), "data")
	note := filepath.Join(o.Dir, catalogDir, walNoteName)
	for range 2 {
		s := mustOpen(t, o)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(note); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWALNote: the newest number survives a torn write of the next.
func TestWALNote(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("c", 0o755); err != nil {
		t.Fatal(err)
	}
	open := func() *walNote {
		n, err := openWALNote(fs, "c")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for num := uint64(2); num < 7; num++ {
		n := open()
		if want := num - 1; num > 2 && n.last != want {
			t.Fatalf("the note says %d, want %d", n.last, want)
		}
		if err := errors.Join(n.created(num), n.close()); err != nil {
			t.Fatal(err)
		}
	}
	newest := open()
	spoil(t, fs, "c/"+walNoteName, func(b []byte) { b[(1-newest.turn)*walNoteSlot+4] ^= 1 })
	older := open()
	if newest.last != 6 || older.last != 5 || older.turn == newest.turn {
		t.Fatalf("the note said %d (next slot %d), and %d (next slot %d) after a torn write", newest.last, newest.turn, older.last, older.turn)
	}
	spoil(t, fs, "c/"+walNoteName, func(b []byte) { clear(b) })
	if n := open(); n.last != 0 {
		t.Fatalf("an empty note says %d", n.last)
	}
}
