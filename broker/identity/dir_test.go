package identity

import (
	"errors"
	"math/rand"
	randv2 "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/tailrace/tailrace/internal/model"
)

func newRNG(r *rand.Rand) *randv2.Rand { return randv2.New(randv2.NewPCG(r.Uint64(), r.Uint64())) }

func open(t *testing.T, fs vfs.FS, broker model.BrokerID) *Dir {
	t.Helper()
	d, err := Open(Options{FS: fs, Dir: "/a/b", Broker: broker})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func reopen(t *testing.T, fs vfs.FS, d *Dir) *Dir {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, fs, d.Node().Broker)
}

func TestDirKeepsWhatItWasTold(t *testing.T) {
	fs := vfs.NewMem()
	d := open(t, fs, 7)
	before := d.Node()
	if before.Storage.IsZero() || before.Directory.IsZero() || before.Storage == before.Directory {
		t.Fatalf("ids %+v", before)
	}
	must(t, d.Accept(set(2, 1)))
	must(t, d.SetCluster("C"))
	must(t, d.SetIncarnation(41))
	must(t, fs.MkdirAll("/a/b/"+CatalogDir, 0o755))
	must(t, d.MarkInitialised())
	d = reopen(t, fs, d)
	n := d.Node()
	if n.Storage != before.Storage || n.Directory != before.Directory || n.Broker != 7 || n.Cluster != "C" ||
		n.Incarnation != 41 || !n.Initialised || !sameSet(n.Founders, set(1, 2)) {
		t.Fatalf("got %+v", n)
	}
	must(t, d.Close())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDirRefusesChangesOfTheUnchangeable(t *testing.T) {
	d := open(t, vfs.NewMem(), 1)
	must(t, d.Accept(set(1, 2)))
	must(t, d.Accept(set(2, 1)))
	if err := d.Accept(set(1, 3)); err == nil {
		t.Error("a second founding set was accepted")
	}
	must(t, d.SetIncarnation(5))
	if err := d.SetIncarnation(4); err == nil {
		t.Error("an older incarnation was accepted")
	}
	must(t, d.SetCluster("C"))
	must(t, d.SetCluster("C"))
	if err := d.SetCluster("D"); err == nil {
		t.Error("a second cluster id was accepted")
	}
	if err := d.Accept(set(1, 2)); err == nil {
		t.Error("a member founded again")
	}
	if n := d.Node(); n.Cluster != "C" || n.Incarnation != 5 || !sameSet(n.Founders, set(1, 2)) {
		t.Errorf("refused changes left traces: %+v", n)
	}
}

func TestOpenErrorsSayWhatToDo(t *testing.T) {
	rewrite := func(from, to string) func(*testing.T, vfs.FS) {
		return func(t *testing.T, fs vfs.FS) {
			b, err := readFile(fs, "/a/b/node.json")
			must(t, err)
			s := strings.Replace(string(b), from, to, 1)
			if s == string(b) {
				t.Fatalf("%q is not in %s", from, b)
			}
			write(t, fs, s)
		}
	}
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, fs vfs.FS)
		o      Options
		says   string
	}{
		{"other broker", nil, Options{Broker: 2}, "belongs to broker 1, not 2: correct --id or --dir"},
		{"other cluster", nil, Options{Broker: 1, Cluster: "D"}, `belongs to cluster "C", not "D"`},
		{"flipped bit", rewrite(`"broker":1`, `"broker":3`), Options{Broker: 3}, "is damaged"},
		{"cut", func(t *testing.T, fs vfs.FS) { write(t, fs, `{"node":{"for`) }, Options{Broker: 1}, "is damaged"},
		{"empty", func(t *testing.T, fs vfs.FS) { write(t, fs, "") }, Options{Broker: 1}, "is damaged"},
		{"newer format", func(t *testing.T, fs vfs.FS) {
			b, err := encode(&Node{Format: FormatVersion + 1, Broker: 1})
			must(t, err)
			write(t, fs, string(b))
		}, Options{Broker: 1}, "upgrade this binary"},
		{"catalog lost", func(t *testing.T, fs vfs.FS) { must(t, fs.RemoveAll("/a/b/catalog")) }, Options{Broker: 1}, "has lost its catalog"},
		{"node.json lost", func(t *testing.T, fs vfs.FS) { must(t, fs.Remove("/a/b/node.json")) }, Options{Broker: 1}, "put the file back"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := vfs.NewMem()
			d := open(t, fs, 1)
			must(t, d.SetCluster("C"))
			must(t, fs.MkdirAll("/a/b/"+CatalogDir, 0o755))
			must(t, d.MarkInitialised())
			must(t, d.Close())
			if tc.damage != nil {
				tc.damage(t, fs)
			}
			tc.o.FS, tc.o.Dir = fs, "/a/b"
			_, err := Open(tc.o)
			if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, want one line that says %q", err, tc.says)
			}
		})
	}
}

func write(t *testing.T, fs vfs.FS, s string) {
	t.Helper()
	f, err := fs.Create("/a/b/node.json", category)
	must(t, err)
	_, err = f.Write([]byte(s))
	must(t, errors.Join(err, f.Close()))
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir() + "/x/y" // parents are made
	d, err := Open(Options{Dir: dir, Broker: 1})
	must(t, err)
	if _, err := Open(Options{Dir: dir, Broker: 1}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatalf("got %v", err)
	}
	must(t, d.Close())
	d, err = Open(Options{Dir: dir, Broker: 1})
	must(t, err)
	must(t, d.Close())
}

// A crash between any two file-system calls leaves either the old node or the
// new one, and what was acknowledged stays.
func TestCrashSweep(t *testing.T) {
	mem := vfs.NewCrashableMem()
	rnd := rand.New(rand.NewSource(1))
	acked := ""
	sweep := func() {
		for _, percent := range []int{0, 50, 100} {
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: newRNG(rnd)})
			d, err := Open(Options{FS: clone, Dir: "/a/b", Broker: 1, Rand: rnd})
			must(t, err)
			if got := d.Node().Cluster; got != acked && (acked != "" || got != "C") {
				t.Fatalf("recovered cluster %q, acknowledged %q", got, acked)
			}
		}
	}
	crashes := 0
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error { crashes++; sweep(); return nil }))
	d, err := Open(Options{FS: fs, Dir: "/a/b", Broker: 1, Rand: rnd})
	must(t, err)
	must(t, d.SetCluster("C"))
	acked = "C"
	sweep()
	must(t, d.SetIncarnation(2))
	if crashes < 10 {
		t.Fatalf("only %d crash points", crashes)
	}
}

// A failed write is final and never seen.
func TestErrorSweep(t *testing.T) {
	for k := range 30 {
		mem := vfs.NewMem()
		open(t, mem, 1)
		n := -1
		broken := errors.New("injected")
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
			if n >= 0 {
				if n++; n == k+1 {
					return broken
				}
			}
			return nil
		}))
		d := &Dir{fs: fs, path: "/a/b", node: Node{Format: 1, Broker: 1}}
		n = 0
		err := d.SetCluster("C")
		if n <= k { // beyond the last call
			must(t, err)
			if k < 5 {
				t.Fatalf("only %d calls in a write", n)
			}
			return
		}
		if !errors.Is(err, broken) || d.Node().Cluster != "" {
			t.Fatalf("call %d: got %v, node %+v", k, err, d.Node())
		}
		if err := d.SetCluster("C"); !errors.Is(err, broken) {
			t.Fatalf("call %d: a later change succeeded: %v", k, err)
		}
	}
	t.Fatal("the sweep never ended")
}

func FuzzDecode(f *testing.F) {
	b, err := encode(&Node{Format: 1, Broker: 1, Storage: model.StorageID{1}, Directory: model.StorageID{2}, Founders: set(1, 2)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := decode(b)
		if err != nil {
			return
		}
		again, err := encode(n)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := decode(again); err != nil || m.Storage != n.Storage || m.Cluster != n.Cluster || !sameSet(m.Founders, n.Founders) {
			t.Fatalf("%+v became %+v (%v)", n, m, err)
		}
	})
}

// TestOpenSaysWhatIsWrong: a path that is no directory is not "in use".
func TestOpenSaysWhatIsWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, nil, 0o600))
	for _, dir := range []string{path, filepath.Join(path, "below")} {
		d, err := Open(Options{Dir: dir, Broker: 1})
		if err == nil {
			t.Fatalf("%s opened: %v", dir, d.Close())
		}
		if text := err.Error(); !strings.Contains(text, "not a directory") || !strings.Contains(text, "--dir") || strings.Contains(text, "in use") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
