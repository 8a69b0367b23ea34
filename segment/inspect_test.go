package segment

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// TestInspect looks at a directory as a killed process leaves it: what it calls
// settled is whole, and looking changes nothing.
func TestInspect(t *testing.T) {
	parent := t.TempDir()
	o := small(Options{JournalGroup: 1, JournalPerLog: 1}) // marks follow at once
	o.Dir = filepath.Join(parent, "live")
	s := mustOpen(t, o)
	defer s.Close()
	l := mustCreate(t, s, LogConfig{SegmentBytes: 4 << 10}, tpN(0))[0]
	var want []byte
	for range 40 {
		want = append(want, mustAppend(t, l, 1, 2, 400)...)
		mustCommit(t, s)
	}
	if _, err := Inspect(o.Dir); err == nil {
		t.Fatal("a directory that is open was inspected")
	}
	dead := copyLive(t, o.Dir, filepath.Join(parent, "dead"))
	before := filesOf(t, dead)
	segs, err := Inspect(dead)
	if err != nil {
		t.Fatal(err)
	}
	if after := filesOf(t, dead); !maps.Equal(before, after) {
		t.Fatal("inspection changed the directory")
	}
	var got []byte
	settled, next := 0, int64(0)
	for _, seg := range segs {
		data, err := os.ReadFile(seg.File)
		if err != nil {
			t.Fatal(err)
		}
		if seg.Settled {
			settled++
		}
		for _, b := range seg.Blocks {
			if b.Base != next {
				t.Fatalf("block %+v of %s, want it to begin at offset %d", b, seg.File, next)
			}
			next, got = b.Next, append(got, data[b.Pos:b.End]...)
		}
	}
	if settled < 2 || settled == len(segs) || !bytes.HasPrefix(want, got) {
		t.Fatalf("%d of %d segments are settled; the blocks hold %d bytes, want the first of %d", settled, len(segs), len(got), len(want))
	}
}

// copyLive copies the directory of an open store. The catalog may delete a file
// of its own in the middle of it: then it begins again.
func copyLive(t *testing.T, from, to string) string {
	t.Helper()
	for {
		err := os.CopyFS(to, os.DirFS(from))
		if err == nil {
			return to
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
	}
}

// filesOf reads every file below dir.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
