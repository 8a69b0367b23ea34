package segment

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

var errInjected = errors.New("injected")

// TestErrorSweep fails the k-th call of the store's own on the file system, for
// every k until a run has no such call: by an error before the call, by one
// after it, and by half a write. Nothing that was acknowledged may be lost, and
// after a failed write or sync nothing may be acknowledged at all.
func TestErrorSweep(t *testing.T) {
	faults := map[string]Fault{
		"before": {Err: errInjected},
		"after":  {Err: errInjected, After: true},
		"half":   {Err: errInjected, Partial: 100},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			k := 0
			for ; errorRun(t, k, fault); k++ {
				if t.Failed() {
					return
				}
			}
			if k < 50 {
				t.Fatalf("the sweep ended after %d calls", k)
			}
		})
	}
}

// errorRun reports whether there was a k-th call.
func errorRun(t *testing.T, k int, fault Fault) (hit bool) {
	fs := vfs.NewCrashableMem()
	w := newWorkload()
	seen := 0
	var at Op
	hook := func(op Op) Fault {
		if op.Kind == OpPebble {
			return Fault{}
		}
		seen++
		if seen-1 != k {
			return Fault{}
		}
		hit, at = true, op
		return fault
	}
	o := memOptions(fs)
	o.SyncParallelism = 1 // calls in one order
	o.FS = &FaultFS{FS: Mem(fs), Hook: hook}
	s, err := Open(o)
	if err == nil {
		err = w.run(s)
		if err != nil && (at.Kind == OpWrite || at.Kind == OpSync || at.Kind == OpSyncDir) {
			if !errors.Is(s.Poisoned(), ErrPoisoned) {
				t.Errorf("k=%d: %s of %s failed (%v) and the store is not poisoned", k, at.Kind, at.Name, err)
			}
			if done, err := s.Commit(); len(done) > 0 || !errors.Is(err, ErrPoisoned) {
				t.Errorf("k=%d: commit after a failed %s: %d logs, %v", k, at.Kind, len(done), err)
			}
			if _, err := s.Log(tpN(0)).Append(makeBatch(s.Log(tpN(0)).End(), 90, 1, 10)); !errors.Is(err, ErrPoisoned) {
				t.Errorf("k=%d: append after a failed %s: %v", k, at.Kind, err)
			}
		}
	}
	if hit && err == nil && at.Kind != OpRemove && at.Kind != OpRead && at.Kind != OpList {
		t.Errorf("k=%d: %s of %s failed and nobody was told", k, at.Kind, at.Name)
	}
	if rerr := recoverTwice(fs.CrashClone(vfs.CrashCloneCfg{}), w.snapshot()); rerr != nil {
		t.Errorf("k=%d: after a failed %s of %s (%v): %v", k, at.Kind, at.Name, err, rerr)
	}
	if s != nil {
		s.Close()
	}
	return hit
}

// TestCatalogFailure: a catalog that fails poisons the store; whatever it was
// doing is not acknowledged, and a crash leaves every earlier acknowledgement.
func TestCatalogFailure(t *testing.T) {
	for k := 0; ; k++ {
		fs := vfs.NewCrashableMem()
		model := NewModelCatalog()
		var mu sync.Mutex // a commit writes to the catalog on two goroutines
		calls, hit := 0, false
		model.Fail = func(call string) error {
			if call != "apply" && call != "sync" {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			calls++
			if hit = hit || calls-1 == k; hit {
				return errInjected
			}
			return nil
		}
		o := memOptions(fs)
		o.Catalog = model
		w := newWorkload()
		s, err := Open(o)
		if err == nil {
			if err = w.run(s); err != nil && !errors.Is(err, ErrPoisoned) {
				t.Fatalf("k=%d: %v", k, err)
			}
		}
		if !hit {
			if err != nil || k < 20 {
				t.Fatalf("sweep ended at k=%d: %v", k, err)
			}
			return
		}
		if err == nil {
			t.Fatalf("k=%d: nobody was told", k)
		}
		o2 := memOptions(fs.CrashClone(vfs.CrashCloneCfg{}))
		o2.Catalog = model.Crash(nil)
		s2, err := Open(o2)
		if err != nil {
			t.Fatalf("k=%d: %v", k, err)
		}
		if err := checkRecovered(s2, w.snapshot()); err != nil {
			t.Fatalf("k=%d: %v", k, err)
		}
	}
}

// TestDiskFull: a full disk fails the append, not the store; when there is
// space again the log goes on in a new segment.
func TestDiskFull(t *testing.T) {
	fs := vfs.NewCrashableMem()
	full := false
	o := memOptions(fs)
	o.FS = &FaultFS{FS: Mem(fs), Hook: func(op Op) Fault {
		if full && op.Kind == OpWrite {
			return Fault{Err: fmt.Errorf("write: %w", syscall.ENOSPC), Partial: 50}
		}
		return Fault{}
	}}
	s := mustOpen(t, o)
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	want := mustAppend(t, l, 0, 2, 300)
	full = true
	if _, err := l.Append(makeBatch(l.End(), 0, 1, 400)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("append on a full disk: %v", err)
	}
	if err := s.Poisoned(); err != nil {
		t.Fatal(err)
	}
	checkLog(t, l, want)
	full = false
	want = append(want, mustAppend(t, l, 0, 1, 200)...)
	mustCommit(t, s)
	checkLog(t, l, want)
	s2 := mustOpen(t, memOptions(fs.CrashClone(vfs.CrashCloneCfg{})))
	checkLog(t, s2.Log(tpN(0)), want)
}

// TestDamagedCatalogLetsGo has Pebble find damage while the catalog is being
// opened: the refusal must not keep the directory's lock.
func TestDamagedCatalogLetsGo(t *testing.T) {
	dir := t.TempDir()
	o := PebbleOptions{Dir: dir, FS: vfs.Default}
	db, err := pebble.Open(dir, &pebble.Options{FS: o.FS})
	if err != nil {
		t.Fatal(err)
	}
	c := &pebbleCatalog{db: db}
	c.Fatalf("block %d: checksum mismatch", 7)
	if err := c.usable(); err == nil || !strings.Contains(err.Error(), "block 7") {
		t.Fatalf("a damaged catalog is %v", err)
	}
	again, err := OpenPebble(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
