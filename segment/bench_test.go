package segment

import (
	"io"
	"testing"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
)

func benchLog(b *testing.B, n int) (*Store, []*Log) {
	b.Helper()
	s := mustOpen(b, Options{Dir: b.TempDir()})
	b.Cleanup(func() { s.Close() })
	var tps []model.TopicPartition
	for i := range n {
		tps = append(tps, tpN(int32(i)))
	}
	return s, mustCreate(b, s, LogConfig{SegmentBytes: 1 << 30, RetentionBytes: 256 << 20}, tps...)
}

// restamp moves a one-batch group to a log's end.
func restamp(b []byte, l *Log) { batch.Stamp(b, l.End(), 0) }

func BenchmarkAppend(b *testing.B) {
	for name, size := range map[string]int{"1KiB": 1 << 10, "16KiB": 16 << 10, "1MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			_, ls := benchLog(b, 1)
			raw := makeBatch(0, 0, 1, size)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				restamp(raw, ls[0])
				if _, err := ls[0].Append(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCommit is one group: an append of 1 KiB to each of n logs and the
// commit of all.
func BenchmarkCommit(b *testing.B) {
	for name, n := range map[string]int{"1": 1, "100": 100, "1000": 1000} {
		b.Run(name, func(b *testing.B) {
			s, ls := benchLog(b, n)
			raw := makeBatch(0, 0, 1, 1<<10)
			b.SetBytes(int64(n * len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				for _, l := range ls {
					restamp(raw, l)
					if _, err := l.Append(raw); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := s.Commit(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("direct-1MiB", func(b *testing.B) {
		s, ls := benchLog(b, 4)
		raw := makeBatch(0, 0, 1, 1<<20)
		b.SetBytes(int64(len(ls) * len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			for _, l := range ls {
				restamp(raw, l)
				if _, err := l.Append(raw); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := s.Commit(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkMaintainIdle is what n logs with nothing to do cost each second.
func BenchmarkMaintainIdle(b *testing.B) {
	s, _ := benchLog(b, 10000)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Maintain(s.clock.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	s, ls := benchLog(b, 1)
	l := ls[0]
	raw := makeBatch(0, 0, 1, 1<<10)
	for range 64 << 10 {
		restamp(raw, l)
		if _, err := l.Append(raw); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := s.Commit(); err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]struct{ back, max int }{
		"tail-1KiB": {1, 1 << 20}, "tail-16KiB": {16, 1 << 20}, "cold-1MiB": {60 << 10, 1 << 20},
	} {
		b.Run(name, func(b *testing.B) {
			at := l.End() - int64(c.back)
			b.ReportAllocs()
			for b.Loop() {
				r, err := l.Read(at, l.End(), c.max, true)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(r.Len())
				if c.max > sendfileMin && r.Len() < sendfileMin {
					if _, err := r.WriteTo(io.Discard); err != nil {
						b.Fatal(err)
					}
				}
				r.Release()
			}
		})
	}
}

// BenchmarkOpen opens a directory of 10,000 clean logs.
func BenchmarkOpen(b *testing.B) {
	o := Options{Dir: b.TempDir(), JournalAge: 1}
	s := mustOpen(b, o)
	var tps []model.TopicPartition
	for i := range int32(10000) {
		tps = append(tps, tpN(i))
	}
	raw := makeBatch(0, 0, 1, 100)
	for _, l := range mustCreate(b, s, LogConfig{}, tps...) {
		if _, err := l.Append(raw); err != nil {
			b.Fatal(err)
		}
	}
	mustCommit(b, s)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s := mustOpen(b, o)
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}
