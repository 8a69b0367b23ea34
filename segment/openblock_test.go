package segment

import (
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/internal/clock"
)

// stalePlace is damagedOpenBlock in which the bytes of the first batch lie in
// the place of the third too: a write that went astray. Each batch's own
// checksum is right.
func stalePlace(t *testing.T) (s *Store, l *Log, clk *clock.Manual, want []byte) {
	t.Helper()
	return damagedOpenBlock(t, func(b []byte, n int) { copy(b[2*n:3*n], b[:n]) })
}

// damagedOpenBlock is a log of six batches of one length in one block that is
// still in the making. spoiling gets the file and the length of a batch.
func damagedOpenBlock(t *testing.T, spoiling func(b []byte, n int)) (s *Store, l *Log, clk *clock.Manual, want []byte) {
	t.Helper()
	fs := vfs.NewCrashableMem()
	clk = clock.NewManual(testStart)
	o := small(Options{FS: Mem(fs), Clock: clk})
	o.IndexBytes = 64 << 10
	s = mustOpen(t, o)
	l = mustCreate(t, s, LogConfig{}, tpN(0))[0]
	for range 6 {
		want = append(want, mustAppend(t, l, 3, 1, 200)...)
	}
	mustCommit(t, s)
	spoil(t, fs, segmentFiles(t, fs, tpN(0))[0], func(b []byte) { spoiling(b, len(want)/6) })
	s.cache.clear(&l.tail) // as when something else took the room
	l.recent = [recentAppends]appendPoint{}
	return s, l, clk, want
}

// later lets verified blocks be verified again.
func later(t *testing.T, s *Store, clk *clock.Manual) {
	t.Helper()
	clk.Advance(s.opts.VerifyPeriod + time.Second)
	if err := s.Maintain(clk.Now()); err != nil {
		t.Fatal(err)
	}
}

// TestOpenBlockIsVerified: what an idle partition wrote last never fills a
// block, and is compared with its checksum all the same, by readers and by the
// scrub; it is repaired, and the log goes on.
func TestOpenBlockIsVerified(t *testing.T) {
	for _, by := range []string{"read", "scrub"} {
		t.Run(by, func(t *testing.T) {
			s, l, clk, want := stalePlace(t)
			later(t, s, clk)
			if by == "scrub" {
				rep, err := s.Scrub(1 << 20)
				if err != nil || len(rep.Damaged) != 1 {
					t.Fatalf("scrub found %v, %v", rep.Damaged, err)
				}
			}
			if _, err := l.Read(0, 6, 1<<20, true); !errors.Is(err, ErrDamaged) {
				t.Fatalf("a misdirected batch was served: %v", err)
			}
			short := want
			want = append(want, mustAppend(t, l, 3, 1, 200)...)
			if err := l.Repair(OffsetRange{0, 6}, short); err == nil {
				t.Fatal("repaired a block without its last batch")
			}
			units, err := l.RepairUnits(l.Damaged()[0])
			if err != nil || len(units) != 1 || units[0] != (OffsetRange{0, 7}) {
				t.Fatalf("units %v, %v", units, err)
			}
			if err := l.Repair(units[0], want); err != nil {
				t.Fatal(err)
			}
			checkLog(t, l, append(want, mustAppend(t, l, 3, 1, 200)...))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestOpenBlockVerifiedOnce: bytes that this process wrote, or has checked, are
// not read again for each reader, appends in between or not.
func TestOpenBlockVerifiedOnce(t *testing.T) {
	clk := clock.NewManual(testStart)
	o := small(Options{FS: Mem(vfs.NewCrashableMem()), Clock: clk})
	o.IndexBytes = 64 << 10
	s := mustOpen(t, o)
	l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
	want := mustAppend(t, l, 1, 1, 200)
	read := func() int64 {
		before := s.stats.blocksVerified.Load()
		s.cache.clear(&l.tail)
		checkLog(t, l, want)
		return s.stats.blocksVerified.Load() - before
	}
	if n := read(); n != 0 {
		t.Errorf("%d checks of bytes just written", n)
	}
	later(t, s, clk)
	if n := read(); n != 1 {
		t.Errorf("%d checks a period later, want 1", n)
	}
	want = append(want, mustAppend(t, l, 1, 1, 200)...)
	if n := read(); n != 0 {
		t.Errorf("%d checks after an append to what was checked", n)
	}
	s.Close()
}

// TestTruncateBlessesNothing: a truncation computes the checksum of the block
// that it cuts anew. It goes by bytes that it has compared itself, however
// lately they were written: otherwise the new checksum would make them right.
func TestTruncateBlessesNothing(t *testing.T) {
	s, l, _, want := damagedOpenBlock(t, func(b []byte, n int) { b[3*n-1] ^= 1 })
	if err := l.Truncate(5); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(l, 0, 5, 1<<20); !errors.Is(err, ErrDamaged) {
		t.Fatalf("%d bytes were served after the cut: %v", len(got), err)
	}
	if err := l.Repair(OffsetRange{0, 5}, want); err != nil {
		t.Fatal(err)
	}
	checkLog(t, l, want[:5*len(want)/6])
	s.Close()
}
