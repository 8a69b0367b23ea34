package segment

import (
	"path"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
)

// What the cluster simulator found, each as the least that shows it.

// modelOptions is a store on a model catalog: what was not synced there is gone
// after a crash. Groups are synced in the files.
func modelOptions(fs vfs.FS, m *ModelCatalog) Options {
	o := small(Options{FS: Mem(fs), Catalog: m, Clock: clock.NewManual(testStart), JournalGroup: -1, JournalPerLog: -1})
	o.SyncParallelism = 1
	return o
}

// A direct commit right after the marks were flushed has nothing for the
// catalog but the record of the segment that it rolled to.
func TestDirectCommitListsItsSegment(t *testing.T) {
	fs, m := vfs.NewCrashableMem(), NewModelCatalog()
	s := mustOpen(t, modelOptions(fs, m))
	l := mustCreate(t, s, LogConfig{SegmentBytes: 400}, tpN(0))[0]
	var want []byte
	for range 4 {
		want = append(want, mustAppend(t, l, 0, 1, 300)...)
		mustCommit(t, s)
		if err := s.Maintain(testStart); err != nil { // flushes the marks
			t.Fatal(err)
		}
	}
	want = append(want, mustAppend(t, l, 0, 1, 300)...)
	mustCommit(t, s)
	if l.Segments() < 4 {
		t.Fatalf("%d segments", l.Segments())
	}
	o := modelOptions(clone(fs), m.Crash(nil))
	o.MustExist = true
	checkLog(t, mustOpen(t, o).Log(tpN(0)), want)
}

// A torn tail stays suspect over a second restart, until it is trusted.
func TestSuspicionOutlivesRestart(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, memOptions(fs))
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	mustAppend(t, l, 0, 1, 300)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file := segmentFiles(t, fs, tpN(0))[0]
	replaceFile(t, fs, file, append(mustRead(t, fs, file), "garbage that is no batch"...))
	for range 3 {
		s = mustOpen(t, memOptions(fs))
		if got := s.Log(tpN(0)).Suspect(); got != TornTail {
			t.Fatalf("suspicion %v", got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s = mustOpen(t, memOptions(fs))
	if !s.Log(tpN(0)).Trust() || s.Log(tpN(0)).Trust() {
		t.Fatal("trust must change something, once")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := mustOpen(t, memOptions(fs)).Log(tpN(0)).Suspect(); got != Trusted {
		t.Fatalf("suspicion %v after it ended", got)
	}
}

// spoiltLog is a log of six batches in one open block, [0, 6), whose first byte
// of records is bad, and the good bytes.
func spoiltLog(t *testing.T) (*Store, *Log, [][]byte) {
	t.Helper()
	fs := vfs.NewMem()
	o := memOptions(fs)
	o.IndexBytes = 64 << 10
	s := mustOpen(t, o)
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	var want [][]byte
	for range 6 {
		want = append(want, mustAppend(t, l, 0, 1, 100))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file := segmentFiles(t, fs, tpN(0))[0]
	data := mustRead(t, fs, file)
	data[len(want[0])+70] ^= 1
	replaceFile(t, fs, file, data)
	o = memOptions(fs)
	o.IndexBytes, o.CacheBytes = 64<<10, -1
	s = mustOpen(t, o)
	return s, s.Log(tpN(0)), want
}

func damageSeen(t *testing.T, l *Log) {
	t.Helper()
	if _, err := readAll(l, l.Start(), l.End(), 1<<20); err == nil || len(l.Damaged()) != 1 {
		t.Fatalf("damage was not noticed: %v, %v", l.Damaged(), err)
	}
}

// A damaged open block grows: what is behind its old end is damaged too, and
// listed as such.
func TestDamagedBlockGrows(t *testing.T) {
	s, l, want := spoiltLog(t)
	damageSeen(t, l)
	for range 2 {
		want = append(want, mustAppend(t, l, 0, 1, 100))
	}
	mustCommit(t, s)
	if _, err := l.Read(7, l.End(), 1<<20, true); err == nil {
		t.Fatal("a read in a damaged block was served")
	}
	if got := l.Damaged(); len(got) != 1 || got[0] != (OffsetRange{0, 8}) {
		t.Fatalf("damaged %v, want all of [0, 8)", got)
	}
	mustRepair(t, l, OffsetRange{0, 8}, want)
}

// A cut inside a damaged block does not need its bytes.
func TestCutInsideDamage(t *testing.T) {
	s, l, want := spoiltLog(t)
	s.opts.Catalog = nil
	if err := l.Truncate(4); err != nil {
		t.Fatal(err)
	}
	if l.End() != 4 || l.Suspect() != Damaged {
		t.Fatalf("end %d, %v", l.End(), l.Suspect())
	}
	if got := l.Damaged(); len(got) != 1 || got[0] != (OffsetRange{0, 4}) {
		t.Fatalf("damaged %v", got)
	}
	// A restart does not find the batches that were cut, although their bytes are
	// still in the file.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, s.opts)
	if l = s.Log(tpN(0)); l.End() != 4 || l.Suspect() != Damaged {
		t.Fatalf("after a restart: end %d, %v", l.End(), l.Suspect())
	}
	mustRepair(t, l, OffsetRange{0, 4}, want[:4])
	want = append(want[:4:4], mustAppend(t, l, 1, 1, 100))
	checkLog(t, l, join(want))
}

// What lies below the log start may be nowhere any more: repair begins there.
func TestRepairBeginsAtLogStart(t *testing.T) {
	_, l, want := spoiltLog(t)
	damageSeen(t, l)
	if err := l.AdvanceStart(3); err != nil {
		t.Fatal(err)
	}
	units, err := l.RepairUnits(OffsetRange{0, 6})
	if err != nil || len(units) != 1 || units[0] != (OffsetRange{3, 6}) {
		t.Fatalf("units %v, %v", units, err)
	}
	mustRepair(t, l, units[0], want[3:])
	got, err := readAll(l, 3, 6, 1<<20)
	if err != nil || string(got) != string(join(want[3:])) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func join(parts [][]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func mustRepair(t *testing.T, l *Log, r OffsetRange, batches [][]byte) {
	t.Helper()
	if err := l.Repair(r, join(batches)); err != nil {
		t.Fatal(err)
	}
	if l.Suspect() != Trusted || len(l.Damaged()) != 0 {
		t.Fatalf("after repair: %v, %v", l.Suspect(), l.Damaged())
	}
	got, err := readAll(l, r.From, r.To, 1<<20)
	if err != nil || string(got) != string(join(batches)) {
		t.Fatalf("after repair: %d bytes, %v", len(got), err)
	}
}

// TestEmptyDirectoriesGo: a crash between the removal of a deleted log's last
// file and that of its directories leaves empty ones. The next start removes
// them, and nothing else.
func TestEmptyDirectoriesGo(t *testing.T) {
	fs, want, _ := damageRig(t)
	root := path.Join("data", segmentsDir)
	gone, mine := model.TopicID{9}, tpN(0).Topic.String()
	for _, dir := range []string{gone.String() + "/0", gone.String() + "/1", model.TopicID{8}.String(), mine + "/5", "notes"} {
		if err := fs.MkdirAll(path.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s := mustOpen(t, memOptions(fs))
	checkLog(t, s.Log(tpN(0)), want)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	topics, err := fs.List(root)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(topics)
	parts, err := fs.List(path.Join(root, mine))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(topics, []string{mine, "notes"}) || !slices.Equal(parts, []string{"0"}) {
		t.Fatalf("left are %v, and %v of the topic", topics, parts)
	}
}
