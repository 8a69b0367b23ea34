package segment

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// plantBlocks has the catalog list index blocks behind a segment's end, as a
// crash leaves them that takes the bytes and not the batch of the catalog.
func plantBlocks(t *testing.T, s *Store, seg *segment, n int) {
	t.Helper()
	var b KVBatch
	pos, base := seg.size+1, seg.next+1
	for range n {
		blk := block{pos: pos, end: pos + 100, base: base, next: base + 5, top: noTime}
		b.Set(blockKey(seg.tp, seg.ordinal, pos), blk.encode())
		pos, base = blk.end, blk.next
	}
	if err := s.apply(&b, true); err != nil {
		t.Fatal(err)
	}
}

func catalogBlocks(t *testing.T, s *Store, seg *segment) (out []block) {
	t.Helper()
	lo, hi := blocksFrom(seg, 0)
	if err := s.catalog.Scan(lo, hi, func(k, v []byte) bool {
		b, err := readBlock(k, v)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLeftoverBlocks: index blocks that a crash left behind the recovered end are
// not believed, and are gone before others come between them; whether the log
// goes on in that segment, is opened over and over before it does, or is cut.
func TestLeftoverBlocks(t *testing.T) {
	for name, meanwhile := range map[string]func(t *testing.T, l *Log, want []byte) []byte{
		"at once":      func(_ *testing.T, _ *Log, want []byte) []byte { return want },
		"within block": func(t *testing.T, l *Log, want []byte) []byte { return append(want, mustAppend(t, l, 1, 1, 40)...) },
		"sealed": func(t *testing.T, l *Log, want []byte) []byte {
			want = append(want, mustAppend(t, l, 1, 1, 150)...)
			if err := l.sealActive(); err != nil {
				t.Fatal(err)
			}
			return want
		},
		"cut": func(t *testing.T, l *Log, want []byte) []byte {
			if err := l.Truncate(0); err != nil {
				t.Fatal(err)
			}
			return nil
		},
	} {
		for _, size := range []int{60, 200} { // no block is sealed yet, or some are
			o := memOptions(vfs.NewCrashableMem())
			s := mustOpen(t, o)
			l := mustCreate(t, s, LogConfig{}, tpN(0))[0]
			var want []byte
			for range 5 {
				want = append(want, mustAppend(t, l, 1, 1, size)...)
			}
			mustCommit(t, s)
			plantBlocks(t, s, l.segs[0], 4)
			reopen := func() {
				t.Helper()
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = mustOpen(t, o)
				l = s.Log(tpN(0))
				checkLog(t, l, want)
			}
			reopen()
			want = meanwhile(t, l, want)
			mustCommit(t, s)
			reopen()
			for range 30 {
				want = append(want, mustAppend(t, l, 1, 1, 230)...)
				mustCommit(t, s)
			}
			reopen()
			for _, seg := range l.segs {
				if err := l.load(seg); err != nil {
					t.Fatal(err)
				}
				at := int64(0)
				for _, b := range catalogBlocks(t, s, seg) {
					if b.pos != at {
						t.Fatalf("%s, %d: block at %d of segment %d where %d belongs", name, size, b.pos, seg.ordinal, at)
					}
					at = b.end
				}
				if at != seg.open.pos || len(seg.blocks) == 0 && at > 0 {
					t.Fatalf("%s, %d: blocks end at %d, the open one begins at %d", name, size, at, seg.open.pos)
				}
			}
		}
	}
}

// TestRecoveryLeavesNoRanges: a range tombstone for each of many logs would make
// every look-up in the catalog read all of them.
func TestRecoveryLeavesNoRanges(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, memOptions(fs))
	for i := range int32(20) {
		mustAppend(t, mustCreate(t, s, LogConfig{}, tpN(i))[0], 1, 1, 60)
	}
	mustCommit(t, s)
	after := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ranges := 0
	o := memOptions(after)
	c, err := OpenPebble(PebbleOptions{Dir: "data/catalog", FS: after})
	if err != nil {
		t.Fatal(err)
	}
	o.Catalog = &countingCatalog{Catalog: c, ranges: &ranges}
	s = mustOpen(t, o)
	if n := len(s.Refs()); n != 20 || ranges > 0 {
		t.Fatalf("%d logs recovered with %d range deletions", n, ranges)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// countingCatalog counts range deletions.
type countingCatalog struct {
	Catalog
	ranges *int
}

func (c *countingCatalog) Apply(b *KVBatch, sync bool) error {
	for _, op := range b.Ops {
		if op.End != nil {
			*c.ranges++
		}
	}
	return c.Catalog.Apply(b, sync)
}
