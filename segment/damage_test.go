package segment

import (
	"bytes"
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/internal/model"
)

// clonedFile is a file of a crash clone that a test may spoil.
func spoil(t *testing.T, fs *vfs.MemFS, name string, fn func(data []byte)) {
	t.Helper()
	data, err := fs.UnsafeGetFileDataBuffer(name)
	if err != nil {
		t.Fatal(err)
	}
	fn(data)
}

// damageRig is a log with sealed segments and an active one, all durable in
// their files and marked.
func damageRig(t *testing.T) (fs *vfs.MemFS, want []byte, files []string) {
	t.Helper()
	fs = vfs.NewCrashableMem()
	s := mustOpen(t, memOptions(fs))
	l := mustCreate(t, s, LogConfig{SegmentBytes: 4 << 10}, tpN(0))[0]
	for i := range 24 {
		want = append(want, mustAppend(t, l, int32(i/8), 1+i%3, 150+i*60)...)
	}
	mustCommit(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return fs, want, segmentFiles(t, fs, tpN(0))
}

func segmentFiles(t *testing.T, fs *vfs.MemFS, tp model.TopicPartition) (out []string) {
	t.Helper()
	dir := path.Join("data", segmentsDir, tp.Topic.String(), "0")
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		out = append(out, path.Join(dir, n))
	}
	return out
}

func clone(fs *vfs.MemFS) *vfs.MemFS { return fs.CrashClone(vfs.CrashCloneCfg{}) }

// TestFlipEachPlace flips a bit every few bytes of every segment file: a read
// either returns what was written or says that it is damaged; the damage is
// repaired from the batches of another replica, also after a restart.
func TestFlipEachPlace(t *testing.T) {
	fs, want, files := damageRig(t)
	step := 97
	if longSweep() {
		step = 1
	}
	if len(files) < 3 {
		t.Fatalf("only %d files", len(files))
	}
	found := 0
	for _, file := range files {
		size := int64(len(mustRead(t, fs, file)))
		for pos := int64(0); pos < size; pos += int64(step) {
			c := clone(fs)
			spoil(t, c, file, func(b []byte) { b[pos] ^= 0x10 })
			if flipOne(t, c, want) {
				found++
			} else {
				t.Fatalf("%s: flipped bit at %d was not noticed", file, pos)
			}
			if t.Failed() {
				t.Fatalf("%s: bit flipped at %d", file, pos)
			}
		}
	}
	if found == 0 {
		t.Fatal("no damage was ever found")
	}
}

func mustRead(t *testing.T, fs *vfs.MemFS, file string) []byte {
	t.Helper()
	b, err := fs.UnsafeGetFileDataBuffer(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flipOne opens a spoilt directory and reports whether damage was found.
func flipOne(t *testing.T, fs *vfs.MemFS, want []byte) bool {
	s := mustOpen(t, memOptions(fs))
	l := s.Log(tpN(0))
	got, err := readAll(l, 0, l.End(), 700)
	if err == nil {
		s.Close()
		return false
	}
	var derr *DamageError
	if !errors.As(err, &derr) || !errors.Is(err, ErrDamaged) || derr.File == "" {
		t.Errorf("read: %v", err)
		return true
	}
	if !bytes.HasPrefix(want, got) {
		t.Errorf("bytes before the damage are wrong")
	}
	if l.Suspect() != Damaged || len(l.Damaged()) != 1 {
		t.Errorf("suspicion %d, damaged %v", l.Suspect(), l.Damaged())
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	s = mustOpen(t, memOptions(fs)) // the quarantine is remembered
	l = s.Log(tpN(0))
	if l.Suspect() != Damaged {
		t.Errorf("suspicion after restart: %d", l.Suspect())
	}
	for _, r := range l.Damaged() {
		if err := l.Repair(r, want); err != nil {
			t.Errorf("repair: %v", err)
		}
	}
	if l.Suspect() != Trusted || len(l.Damaged()) != 0 {
		t.Errorf("after repair: suspicion %d, damaged %v", l.Suspect(), l.Damaged())
	}
	checkLog(t, l, want)
	more := mustAppend(t, l, 9, 1, 100)
	mustCommit(t, s)
	s2 := mustOpen(t, memOptions(clone(fs)))
	checkLog(t, s2.Log(tpN(0)), append(bytes.Clone(want), more...))
	s2.Close()
	s.Close()
	return true
}

// TestCutEachByte cuts the file of the last group at each byte, as a torn write
// does: the log recovers to exactly the batches that are whole.
func TestCutEachByte(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, memOptions(fs))
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	kept := mustAppend(t, l, 0, 2, 3000)
	mustCommit(t, s)
	if err := s.flushMarks(); err != nil {
		t.Fatal(err)
	}
	var group [][]byte
	for i := range 3 {
		group = append(group, mustAppend(t, l, 1, 1, 60+i*30))
	}
	tail := bytes.Join(group, nil)
	file := segmentFiles(t, fs, tpN(0))[0]
	step := 5
	if longSweep() {
		step = 1
	}
	for cutAt := 0; cutAt <= len(tail); cutAt += step {
		for _, fill := range []string{"end", "zeros"} {
			c := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: testRNG(1)})
			b := tail[:cutAt]
			if fill == "zeros" {
				b = append(bytes.Clone(b), make([]byte, len(tail)-cutAt)...)
			}
			replaceFile(t, c, file, append(bytes.Clone(kept), b...))
			want, whole := bytes.Clone(kept), 0
			for _, raw := range group {
				if !bytes.HasPrefix(b[whole:], raw) { // a zero may stand for a zero
					break
				}
				want = append(want, raw...)
				whole += len(raw)
			}
			r := mustOpen(t, memOptions(c))
			rl := r.Log(tpN(0))
			checkLog(t, rl, want)
			torn := len(b) > whole
			if (rl.Suspect() == TornTail) != torn {
				t.Fatalf("cut at %d with %s: suspicion %d", cutAt, fill, rl.Suspect())
			}
			if cutAt%20 == 0 {
				want = append(want, mustAppend(t, rl, 4, 1, 50)...)
				mustCommit(t, r)
				r2 := mustOpen(t, memOptions(clone(c)))
				checkLog(t, r2.Log(tpN(0)), want)
				r2.Close()
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Close()
}

func replaceFile(t *testing.T, fs *vfs.MemFS, file string, data []byte) {
	t.Helper()
	f, err := fs.Create(file, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.Write(bytes.Clone(data)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close(), Mem(fs).SyncDir(path.Dir(file))); err != nil {
		t.Fatal(err)
	}
}

// TestFileGone: a missing or short file with durable bytes is reported, never
// served, never recreated, and repaired from another replica.
func TestFileGone(t *testing.T) {
	fs, want, files := damageRig(t)
	for _, file := range files {
		for _, how := range []string{"missing", "short"} {
			c := clone(fs)
			suspicion := Missing
			if how == "missing" {
				if err := errors.Join(c.Remove(file), Mem(c).SyncDir(path.Dir(file))); err != nil {
					t.Fatal(err)
				}
			} else {
				b := bytes.Clone(mustRead(t, c, file))
				replaceFile(t, c, file, b[:len(b)/2])
				suspicion = Damaged
			}
			s := mustOpen(t, memOptions(c))
			l := s.Log(tpN(0))
			if l.Suspect() != suspicion || len(l.Damaged()) != 1 {
				t.Fatalf("%s %s: suspicion %d, damaged %v", how, file, l.Suspect(), l.Damaged())
			}
			got, err := readAll(l, 0, l.End(), 4000)
			if !errors.Is(err, ErrDamaged) || !bytes.HasPrefix(want, got) {
				t.Fatalf("%s %s: read %d bytes: %v", how, file, len(got), err)
			}
			if err := l.Repair(l.Damaged()[0], want[:10]); err == nil {
				t.Fatal("repair with half a batch succeeded")
			}
			if err := l.Repair(l.Damaged()[0], want); err != nil {
				t.Fatalf("%s %s: repair: %v", how, file, err)
			}
			checkLog(t, l, want)
			s2 := mustOpen(t, memOptions(clone(c)))
			checkLog(t, s2.Log(tpN(0)), want)
			if s2.Log(tpN(0)).Suspect() != Trusted {
				t.Fatalf("%s %s: suspicion %d after repair and restart", how, file, s2.Log(tpN(0)).Suspect())
			}
			s2.Close()
			s.Close()
		}
	}
}

// TestForeignBytes: a block of another partition at the same position, with
// every batch checksum right, does not pass (misdirected writes).
func TestForeignBytes(t *testing.T) {
	fs, _, files := damageRig(t)
	s := mustOpen(t, memOptions(fs))
	other := mustCreate(t, s, LogConfig{SegmentBytes: 4 << 10}, model.TopicPartition{Topic: model.TopicID{9}, Partition: 0})[0]
	for i := range 20 {
		mustAppend(t, other, 7, 1+i%3, 150+i*60) // as long, but not the same
	}
	s.Close()
	names, err := fs.List(path.Join("data", segmentsDir, other.TP().Topic.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	foreign := bytes.Clone(mustRead(t, fs, path.Join("data", segmentsDir, other.TP().Topic.String(), "0", minName(names))))
	spoil(t, fs, minName(files), func(b []byte) { copy(b, foreign) })
	s = mustOpen(t, memOptions(fs))
	if _, err := s.Log(tpN(0)).Read(0, 100, 1<<20, true); !errors.Is(err, ErrDamaged) {
		t.Fatalf("foreign bytes were served: %v", err)
	}
	s.Close()
}

func minName(names []string) string {
	least := names[0]
	for _, n := range names {
		if strings.Compare(n, least) < 0 {
			least = n
		}
	}
	return least
}

// TestScrubFindsDamage: a scrub in small steps meets every bad block once.
func TestScrubFindsDamage(t *testing.T) {
	fs, want, files := damageRig(t)
	file := minName(files)
	spoil(t, fs, file, func(b []byte) { b[40] ^= 1; b[len(b)-700] ^= 1 })
	var events []Event
	o := memOptions(fs)
	o.OnEvent = func(e Event) { events = append(events, e) }
	s := mustOpen(t, o)
	var total ScrubReport
	for !total.Wrapped {
		rep, err := s.Scrub(600)
		if err != nil {
			t.Fatal(err)
		}
		total.Blocks += rep.Blocks
		total.Damaged = append(total.Damaged, rep.Damaged...)
		total.Wrapped = rep.Wrapped
	}
	l := s.Log(tpN(0))
	if len(total.Damaged) != 2 || len(l.Damaged()) != 2 || total.Blocks < 10 || len(events) != 2 {
		t.Fatalf("scrub of %d blocks found %v, log %v, events %v", total.Blocks, total.Damaged, l.Damaged(), events)
	}
	r := l.Damaged()[0]
	if err := l.Repair(r, want); err != nil { // one of two: the other stays
		t.Fatal(err)
	}
	if d := l.Damaged(); len(d) != 1 || l.Suspect() != Damaged {
		t.Fatalf("after one repair: %v, suspicion %d", d, l.Suspect())
	}
	if err := l.Repair(l.Damaged()[0], want); err != nil {
		t.Fatal(err)
	}
	checkLog(t, l, want)
	s.Close()
}

// TestOrphanIsQuarantined: a file that the catalog does not list is set aside.
func TestOrphanIsQuarantined(t *testing.T) {
	fs, want, files := damageRig(t)
	orphan := path.Join(path.Dir(files[0]), segmentName(77777))
	replaceFile(t, fs, orphan, []byte("somebody's bytes"))
	s := mustOpen(t, memOptions(fs))
	checkLog(t, s.Log(tpN(0)), want)
	s.Close()
	c := clone(fs)
	names, err := c.List(path.Join("data", quarantineDir))
	if err != nil || len(names) != 1 {
		t.Fatalf("quarantine has %v: %v", names, err)
	}
	if got := mustRead(t, c, path.Join("data", quarantineDir, names[0])); string(got) != "somebody's bytes" {
		t.Fatalf("quarantined file has %q", got)
	}
	if _, err := c.Stat(orphan); err == nil {
		t.Fatal("the orphan is still in place")
	}
}

// TestCatalogFlips spoils the catalog's files: the directory then fails to open
// or has everything that was acknowledged. It is never silently empty.
func TestCatalogFlips(t *testing.T) {
	fs, want, _ := damageRig(t)
	names, err := fs.List("data/catalog")
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, name := range names {
		file := path.Join("data/catalog", name)
		size := len(mustRead(t, fs, file))
		for pos := 3; pos < size; pos += max(1, size/12) {
			c := clone(fs)
			spoil(t, c, file, func(b []byte) { b[pos] ^= 0x20 })
			o := memOptions(c)
			o.MustExist = true
			s, err := Open(o)
			if err != nil {
				refused++
				continue
			}
			if s.Log(tpN(0)) == nil {
				t.Fatalf("%s flipped at %d: the log is gone and nothing was said", name, pos)
			}
			got, err := readAll(s.Log(tpN(0)), 0, s.Log(tpN(0)).End(), 4000)
			if err == nil && !bytes.Equal(got, want) {
				t.Fatalf("%s flipped at %d: %d of %d bytes, and nothing was said", name, pos, len(got), len(want))
			}
			s.Close()
		}
	}
	if refused == 0 {
		t.Fatal("no flip was ever noticed")
	}
}

// TestMissingCatalog: an initialised directory without its catalog does not
// open as an empty one.
func TestMissingCatalog(t *testing.T) {
	fs, _, _ := damageRig(t)
	if err := fs.RemoveAll("data/catalog"); err != nil {
		t.Fatal(err)
	}
	if err := fs.MkdirAll("data/catalog", 0o755); err != nil {
		t.Fatal(err)
	}
	o := memOptions(fs)
	o.MustExist = true
	if _, err := Open(o); err == nil {
		t.Fatal("opened without a catalog")
	}
}
