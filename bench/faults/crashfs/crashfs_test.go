package crashfs

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// disk mounts an empty disk; it skips where that is not possible.
func disk(t *testing.T) (*FS, string) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		if os.Getenv("TAILRACE_CI") == "1" {
			t.Fatal("needs /dev/fuse and root")
		}
		t.Skip("needs /dev/fuse and root")
	}
	f := New(1 << 30)
	dir := t.TempDir()
	mount(t, f, dir)
	return f, dir
}

func mount(t *testing.T, f *FS, dir string) {
	t.Helper()
	m, err := f.Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Unmount() }) // remounted disks were unmounted before
}

// cut cuts the power and mounts the disk again.
func cut(t *testing.T, f *FS, dir string, rng *rand.Rand) {
	t.Helper()
	f.PowerCut(rng)
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	mount(t, f, dir)
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func create(t *testing.T, path string, synced, unsynced []byte) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	_, err = f.Write(synced)
	must(t, err, f.Sync())
	_, err = f.Write(unsynced)
	must(t, err, f.Close())
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestSyncedDataSurvives(t *testing.T) {
	f, dir := disk(t)
	synced, unsynced := bytes.Repeat([]byte("s"), 10_000), bytes.Repeat([]byte("u"), 10_000)
	path := filepath.Join(dir, "file")
	create(t, path, synced, unsynced)
	must(t, syncDir(dir))
	if b, err := os.ReadFile(path); err != nil || len(b) != 20_000 {
		t.Fatalf("before the cut: %d bytes, %v", len(b), err)
	}
	cut(t, f, dir, nil)
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, synced) {
		t.Fatalf("after the cut: %d bytes, %v", len(b), err)
	}
	if s := f.Stats(); s.LostPages == 0 || s.LostFiles != 1 || s.Cuts != 1 {
		t.Fatalf("stats %+v", s)
	}
}

// An overwrite of synced bytes is taken back too.
func TestOverwriteIsTakenBack(t *testing.T) {
	f, dir := disk(t)
	path := filepath.Join(dir, "file")
	create(t, path, []byte("old contents"), nil)
	must(t, syncDir(dir))
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = w.WriteAt([]byte("NEW"), 0)
	must(t, err, w.Truncate(5), w.Close())
	cut(t, f, dir, nil)
	if b, err := os.ReadFile(path); err != nil || string(b) != "old contents" {
		t.Fatalf("%q, %v", b, err)
	}
}

// A name is lost without a sync of its directory, however well the file is
// synced; so is a rename, as a whole; so is a removal.
func TestNamesNeedTheirDirectory(t *testing.T) {
	f, dir := disk(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	create(t, at("renamed"), []byte("1"), nil)
	create(t, at("removed"), []byte("2"), nil)
	must(t, os.Mkdir(at("sub"), 0o755), syncDir(dir))
	create(t, at("sub/inner"), []byte("3"), nil)
	create(t, at("new"), []byte("4"), nil)
	must(t, os.Rename(at("renamed"), at("other")), os.Remove(at("removed")))
	cut(t, f, dir, nil)
	for name, want := range map[string]bool{"renamed": true, "other": false, "removed": true, "new": false, "sub": true, "sub/inner": false} {
		if exists(at(name)) != want {
			t.Errorf("%s exists: %v, want %v", name, !want, want)
		}
	}
}

func TestSyncedNamesSurvive(t *testing.T) {
	f, dir := disk(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	create(t, at("a"), []byte("1"), nil)
	create(t, at("b"), []byte("2"), nil)
	must(t, os.Rename(at("a"), at("b")), os.Mkdir(at("d"), 0o755), syncDir(dir))
	cut(t, f, dir, nil)
	if b, err := os.ReadFile(at("b")); err != nil || string(b) != "1" || exists(at("a")) || !exists(at("d")) {
		t.Fatalf("b holds %q, %v", b, err)
	}
}

// After the cut every call of the old life fails: nothing leaks into the next.
func TestNoCallAfterTheCut(t *testing.T) {
	f, dir := disk(t)
	path := filepath.Join(dir, "file")
	create(t, path, []byte("synced"), nil)
	must(t, syncDir(dir))
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer w.Close()
	f.PowerCut(nil)
	if _, err := w.Write([]byte("late")); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a write after the cut: %v", err)
	}
	if err := w.Sync(); err == nil {
		t.Fatal("a sync after the cut succeeded")
	}
	cut(t, f, dir, nil)
	if b, err := os.ReadFile(path); err != nil || string(b) != "synced" {
		t.Fatalf("%q, %v", b, err)
	}
}

// Torn: unsynced pages survive in part, synced bytes never change.
func TestTornWrites(t *testing.T) {
	f, dir := disk(t)
	rng := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(dir, "file")
	create(t, path, bytes.Repeat([]byte("s"), 64<<10), bytes.Repeat([]byte("u"), 256<<10))
	must(t, syncDir(dir))
	cut(t, f, dir, rng)
	b, err := os.ReadFile(path)
	must(t, err)
	if len(b) < 64<<10 || !bytes.Equal(b[:64<<10], bytes.Repeat([]byte("s"), 64<<10)) {
		t.Fatal("synced bytes changed")
	}
	s := f.Stats()
	if s.KeptPages+s.LostPages != 64 {
		t.Fatalf("of 64 unsynced pages %d were kept and %d lost", s.KeptPages, s.LostPages)
	}
	for i, x := range b[64<<10:] {
		if x != 'u' && x != 0 {
			t.Fatalf("byte %d is %q", i, x)
		}
	}
}

func TestFaults(t *testing.T) {
	f, dir := disk(t)
	path := filepath.Join(dir, "file")
	w, err := os.Create(path)
	must(t, err, syncDir(dir))
	_, err = w.Write([]byte("x"))
	must(t, err)
	f.SetFaults(Faults{SyncError: syscall.EIO})
	if err := w.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	f.SetFaults(Faults{SyncDelay: 50 * time.Millisecond})
	begun := time.Now()
	must(t, w.Sync())
	if d := time.Since(begun); d < 50*time.Millisecond {
		t.Fatalf("a slow sync took %s", d)
	}
	f.SetFaults(Faults{})
	must(t, w.Close())
	if s := f.Stats(); s.Failed != 1 || s.Syncs != 1 {
		t.Fatalf("stats %+v", s)
	}
}

// Random writes and truncations read back as in a plain buffer.
func TestModel(t *testing.T) {
	f := New(1 << 30)
	n := f.newNode(syscall.S_IFREG)
	var want, durable []byte
	rng := rand.New(rand.NewPCG(3, 4))
	for step := range 3000 {
		switch rng.IntN(8) {
		case 0:
			size := rng.IntN(5 * pageSize)
			n.truncate(int64(size))
			want = append(want[:min(len(want), size):min(len(want), size)], make([]byte, max(0, size-len(want)))...)
		case 1:
			n.sync()
			durable = bytes.Clone(want)
		case 2:
			if rng.IntN(4) == 0 {
				f.revertData(n, nil)
				want = bytes.Clone(durable)
			}
		default:
			off, data := rng.IntN(4*pageSize), make([]byte, rng.IntN(3*pageSize)+1)
			for i := range data {
				data[i] = byte(step + i)
			}
			n.write(data, int64(off))
			if end := off + len(data); end > len(want) {
				want = append(bytes.Clone(want), make([]byte, end-len(want))...)
			}
			copy(want[off:], data)
		}
		if got := n.read(make([]byte, 1<<20), 0); !bytes.Equal(got, want) {
			t.Fatalf("step %d: %d bytes differ from %d expected", step, len(got), len(want))
		}
	}
}
