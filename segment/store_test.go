package segment

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestAppendCommitReopen(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, memOptions(fs))
	l := mustCreate(t, s, LogConfig{SegmentBytes: 4 << 10}, tpN(0))[0]
	var want []byte
	for i := range 60 {
		want = append(want, mustAppend(t, l, int32(i/20), 1+i%3, 40+(i*37)%900)...)
		if i%5 == 4 {
			mustCommit(t, s)
			if l.DurableEnd() != l.End() {
				t.Fatalf("durable end %d after commit, log end %d", l.DurableEnd(), l.End())
			}
		}
	}
	checkLog(t, l, want)

	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	s2 := mustOpen(t, memOptions(crashed))
	l2 := s2.Log(tpN(0))
	if l2.End() != l.End() || l2.LastEpoch() != 2 || l2.Suspect() != Trusted {
		t.Fatalf("recovered end %d epoch %d suspicion %d; want %d, 2, 0", l2.End(), l2.LastEpoch(), l2.Suspect(), l.End())
	}
	checkLog(t, l2, want)
	want2 := append([]byte(nil), want...)
	for range 20 {
		want2 = append(want2, mustAppend(t, l2, 3, 2, 300)...)
	}
	mustCommit(t, s2)
	checkLog(t, l2, want2)
	if err := s2.Close(); err != nil {
		t.Fatal(err)
	}
	s3 := mustOpen(t, memOptions(crashed))
	checkLog(t, s3.Log(tpN(0)), want2)
	if err := s3.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
