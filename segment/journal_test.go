package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/internal/batch"
)

// journalRig is a store whose groups all go to one journal file, and what it
// acknowledged.
type journalRig struct {
	fs   *vfs.MemFS
	s    *Store
	logs []*Log
	want [][]byte
	ends []int64 // of the journal's file, after each group
}

// openJournal opens a directory and collects what it says of its journal.
func openJournal(t *testing.T, fs *vfs.MemFS, salt uint64) (*Store, *[]Event) {
	t.Helper()
	o := memOptions(fs)
	o.JournalFile, o.Salt = 1<<20, salt
	events := new([]Event)
	o.OnEvent = func(e Event) {
		if e.Kind == EventJournal {
			*events = append(*events, e)
		}
	}
	s := mustOpen(t, o)
	t.Cleanup(func() { s.Close() })
	return s, events
}

// newJournalRig commits groups of one small batch, to two logs in turn; a third
// log stays empty.
func newJournalRig(t *testing.T, groups int) *journalRig {
	t.Helper()
	r := &journalRig{fs: vfs.NewCrashableMem(), want: make([][]byte, 3)}
	r.s, _ = openJournal(t, r.fs, 99)
	r.logs = mustCreate(t, r.s, LogConfig{SegmentBytes: 1 << 20}, tpN(0), tpN(1), tpN(2))
	for i := range groups {
		r.want[i%2] = append(r.want[i%2], mustAppend(t, r.logs[i%2], 0, 1, 100)...)
		mustCommit(t, r.s)
		r.ends = append(r.ends, r.s.journal.cur.end)
	}
	return r
}

// cut is the directory after a power cut that keeps nothing unsynced.
func (r *journalRig) cut() *vfs.MemFS { return r.fs.CrashClone(vfs.CrashCloneCfg{}) }

const firstJournal = "data/journal/0000000000000001.journal"

// alter changes bytes of a file, durably.
func alter(t *testing.T, fs *vfs.MemFS, name string, pos int64, change func([]byte), n int) {
	t.Helper()
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, pos); err != nil {
		t.Fatal(err)
	}
	change(b)
	if _, err := f.WriteAt(b, pos); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func flip(b []byte) { b[0] ^= 1 }

func TestJournalIsReplayed(t *testing.T) {
	r := newJournalRig(t, 7)
	fs := r.cut()
	for range 2 { // the second time nothing is left to replay
		s, events := openJournal(t, fs, 99)
		for i, want := range r.want {
			checkLog(t, s.Log(tpN(int32(i))), want)
			if got := s.Log(tpN(int32(i))).Suspect(); got != Trusted {
				t.Errorf("log %d: suspicion %v", i, got)
			}
		}
		if len(*events) != 0 {
			t.Errorf("events %v", *events)
		}
		fs = fs.CrashClone(vfs.CrashCloneCfg{})
	}
}

// TestJournalDamage: what was durable and is missing makes every log suspect,
// whatever of it is damaged; the group in flight may be torn.
func TestJournalDamage(t *testing.T) {
	const groups = 6
	body := int64(journalHead + journalPart + 3)
	for name, c := range map[string]struct {
		group int // whose record is damaged
		at    int64
		gone  bool
		found bool
	}{
		"body of the third":   {group: 2, at: body, found: true},
		"header of the third": {group: 2, at: 9, found: true},
		"length of the third": {group: 2, at: 18, found: true},
		"header of the first": {group: 0, at: 0, found: true},
		"last but one":        {group: groups - 2, at: body, found: true},
		"last, body":          {group: groups - 1, at: body},
		"last, header":        {group: groups - 1, at: 9},
		"the file":            {gone: true, found: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newJournalRig(t, groups)
			fs := r.cut()
			start := int64(0)
			if c.group > 0 {
				start = r.ends[c.group-1]
			}
			if c.gone {
				if err := fs.Remove(firstJournal); err != nil {
					t.Fatal(err)
				}
			} else {
				alter(t, fs, firstJournal, start+c.at, flip, 1)
			}
			s, events := openJournal(t, fs, 99)
			r.check(t, s, c.found, *events)
			if e := *events; c.found && !c.gone && c.at == body && (e[0].File != firstJournal || e[0].Pos != start) {
				t.Errorf("%s at %d, want %s at %d", e[0].File, e[0].Pos, firstJournal, start)
			}
			again, events := openJournal(t, fs.CrashClone(vfs.CrashCloneCfg{}), 99)
			if len(*events) != 0 {
				t.Errorf("told a second time: %v", *events)
			}
			r.check(t, again, c.found, []Event{{}}[:len(*events)+btoi(c.found)])
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// check looks at a store whose journal was damaged.
func (r *journalRig) check(t *testing.T, s *Store, found bool, events []Event) {
	t.Helper()
	if found != (len(events) > 0) {
		t.Errorf("found %v, want %v", events, found)
	}
	for i := range r.want {
		l := s.Log(tpN(int32(i)))
		if (l.Suspect() != Trusted) != found {
			t.Errorf("log %d: suspicion %v, damage found %v", i, l.Suspect(), found)
		}
		got, err := readAll(l, 0, l.End(), 1<<20)
		if err != nil || !strings.HasPrefix(string(r.want[i]), string(got)) {
			t.Errorf("log %d: %d bytes that are no prefix of what was written (%v)", i, len(got), err)
		}
	}
}

// TestJournalForgery: values that look like records of the journal are never
// taken for some, unless the writer knows the directory's salt.
func TestJournalForgery(t *testing.T) {
	for name, c := range map[string]struct {
		salt  uint64
		taken bool
	}{
		"the salt is guessed wrong": {salt: 98},
		"the salt is known":         {salt: 99, taken: true}, // shows that the forgery is well made
	} {
		t.Run(name, func(t *testing.T) {
			r := newJournalRig(t, 1)
			// The record of the next group starts at ends[0]; its bytes at:
			at := r.ends[0] + journalHead + journalPart
			value := make([]byte, 3*journalAlign)
			l := r.logs[0]
			head := batch.Plain(l.End(), 0, batch.Record{Timestamp: 1, Value: value})
			in := int64(len(head)-len(value)) - 1 // an empty list of headers ends the record
			for off := int64(0); off < int64(len(value)); off++ {
				if pos := at + in + off; pos%journalAlign == 0 && off+journalHead <= int64(len(value)) {
					copy(value[off:], forge(c.salt, 7, pos))
				}
			}
			if _, err := l.Append(batch.Plain(l.End(), 0, batch.Record{Timestamp: 1, Value: value})); err != nil {
				t.Fatal(err)
			}
			r.s.opts.JournalGroup = 1 << 20
			mustCommit(t, r.s)
			fs := r.cut()
			alter(t, fs, firstJournal, r.ends[0], flip, 1) // the record was torn: its bytes are looked through
			_, events := openJournal(t, fs, 99)
			if taken := len(*events) > 0; taken != c.taken {
				t.Errorf("taken: %v, want %v (%v)", taken, c.taken, *events)
			}
		})
	}
}

// forge makes the header of an empty record for a position of the first file.
func forge(salt, seq uint64, pos int64) []byte {
	be := binary.BigEndian
	b := be.AppendUint32(nil, journalMagic)
	b = be.AppendUint64(append(b, journalVersion, 0, 0, 0), seq)
	b = be.AppendUint32(be.AppendUint32(b, 0), 0)
	b = be.AppendUint64(be.AppendUint64(b, 1), uint64(pos))
	return be.AppendUint32(b, crcOf(crc32.Checksum(be.AppendUint64(nil, salt), castagnoli), b))
}

// TestJournalFilesAreUsedAgain: the journal stays as large as what waits in it.
func TestJournalFilesAreUsedAgain(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, memOptions(fs)) // a file takes one group
	defer s.Close()
	l := mustCreate(t, s, LogConfig{SegmentBytes: 1 << 20}, tpN(0))[0]
	for range 10 {
		for range 3 {
			mustAppend(t, l, 0, 1, 100)
			mustCommit(t, s)
		}
		if err := s.flushJournal(); err != nil {
			t.Fatal(err)
		}
	}
	names, err := fs.List("data/journal")
	if slices.Sort(names); err != nil || len(names) != 3 {
		t.Errorf("files %v, %v: want those of three groups", names, err)
	}
}

// TestFormat1 opens a directory that has its journal in the catalog.
func TestFormat1(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s, _ := openJournal(t, fs, 99)
	l := mustCreate(t, s, LogConfig{SegmentBytes: 1 << 20}, tpN(0))[0]
	want := mustAppend(t, l, 0, 2, 300)
	seg := l.lastSegment()
	var b KVBatch
	key := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64([]byte{spaceJournal}, 5), 0)
	head := encoder(appendTP(encoder{typeJournal, valueVersion}, l.tp)).u64(seg.ordinal).i64(0)
	crc := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, want)
	b.Set(key, append(head.u32(crc), want...))
	b.Set(counterFormat, numberValue(1))
	for _, k := range [][]byte{counterJournals, counterRetired, counterSalt} {
		b.Delete(k)
	}
	if err := s.apply(&b, true); err != nil {
		t.Fatal(err)
	}
	fs = fs.CrashClone(vfs.CrashCloneCfg{})
	if err := fs.RemoveAll("data/journal"); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		o := memOptions(fs)
		o.MustExist = true
		s := mustOpen(t, o)
		checkLog(t, s.Log(tpN(0)), want)
		if err := s.catalog.Scan([]byte{spaceJournal}, []byte{spaceJournal + 1}, func(k, _ []byte) bool {
			t.Errorf("open %d left %x", i, k)
			return true
		}); err != nil {
			t.Fatal(err)
		}
		v, err := s.catalog.Get(counterFormat)
		if n, nerr := readNumber(counterFormat, v); err != nil || nerr != nil || n != formatVersion {
			t.Errorf("format %d (%v, %v)", n, err, nerr)
		}
		fs = fs.CrashClone(vfs.CrashCloneCfg{})
		s.Close()
	}
}

// TestNewerFormat: a directory of a later release is refused by name.
func TestNewerFormat(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s, _ := openJournal(t, fs, 99)
	var b KVBatch
	b.Set(counterFormat, numberValue(formatVersion+1))
	if err := s.apply(&b, true); err != nil {
		t.Fatal(err)
	}
	_, err := Open(memOptions(fs.CrashClone(vfs.CrashCloneCfg{})))
	if want := fmt.Sprintf("format version is %d", formatVersion+1); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// TestJournalFileOfACrash: a file that was made but not listed when the process
// died is neither used nor missed before its entry is durable and listed.
func TestJournalFileOfACrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s, _ := openJournal(t, fs, 99)
	mustCreate(t, s, LogConfig{SegmentBytes: 1 << 20}, tpN(0))
	f, err := fs.Create(firstJournal, vfs.WriteCategoryUnspecified) // as place does; then kill -9
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = openJournal(t, fs, 99)
	l := s.Log(tpN(0))
	want := mustAppend(t, l, 0, 1, 100)
	mustCommit(t, s)
	if s.journal.cur == nil || s.journal.cur.id != 1 {
		t.Fatal("the group is not in the file that the crash left")
	}
	after, events := openJournal(t, fs.CrashClone(vfs.CrashCloneCfg{}), 99)
	checkLog(t, after.Log(tpN(0)), want)
	if len(*events) != 0 {
		t.Errorf("events %v", *events)
	}
	clone := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := clone.Remove(firstJournal); err != nil {
		t.Fatal(err)
	}
	if _, events := openJournal(t, clone, 99); len(*events) != 1 {
		t.Errorf("a lost file is told %d times", len(*events))
	}
}

// TestFlushesInTurn: a second lazy sync does not retire what the first is still
// syncing.
func TestFlushesInTurn(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := memOptions(fs)
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	o.FS = &FaultFS{FS: Mem(fs), Hook: func(op Op) Fault {
		if op.Kind == OpWhole {
			once.Do(func() { close(entered); <-leave })
		}
		return Fault{}
	}}
	o.WholeFrom = 1
	s := mustOpen(t, o)
	defer s.Close()
	l := mustCreate(t, s, LogConfig{SegmentBytes: 1 << 20}, tpN(0))[0]
	want := mustAppend(t, l, 0, 1, 100)
	mustCommit(t, s)
	flushed := make(chan error, 2)
	go func() { flushed <- s.flushJournal() }()
	<-entered
	go func() { flushed <- s.flushJournal() }()
	for range 100 { // let the second one go as far as it can
		runtime.Gosched()
	}
	time.Sleep(20 * time.Millisecond)
	after := mustOpen(t, memOptions(fs.CrashClone(vfs.CrashCloneCfg{})))
	defer after.Close()
	checkLog(t, after.Log(tpN(0)), want)
	close(leave)
	for range 2 {
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
	}
}
