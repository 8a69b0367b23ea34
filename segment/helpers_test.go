package segment

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
)

// tpN is a partition of a fixed topic.
func tpN(n int32) model.TopicPartition {
	return model.TopicPartition{Topic: model.TopicID{1, 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, 15, 16}, Partition: n}
}

var testStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// small makes blocks, rolls and journal decisions happen within a few KiB.
func small(o Options) Options {
	o.Dir = "data"
	o.IndexBytes = 512
	o.SyncParallelism = 2
	if o.JournalGroup == 0 {
		o.JournalGroup = 2 << 10
		o.JournalPerLog = 256
		o.JournalFile = 4 << 10
		o.WholeFrom = 2
	}
	return o
}

func memOptions(fs vfs.FS) Options {
	return small(Options{FS: Mem(fs), Clock: clock.NewManual(testStart)})
}

func mustOpen(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

func mustCreate(t testing.TB, s *Store, cfg LogConfig, tps ...model.TopicPartition) []*Log {
	t.Helper()
	var specs []CreateSpec
	for _, tp := range tps {
		specs = append(specs, CreateSpec{TP: tp, Config: cfg})
	}
	ls, err := s.Create(specs...)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return ls
}

// makeBatch is one batch of n records with a value of about size bytes in all,
// different for every (offset, epoch).
func makeBatch(offset int64, epoch int32, n, size int) []byte {
	recs := make([]batch.Record, n)
	for i := range recs {
		o := offset + int64(i)
		v := bytes.Repeat([]byte(fmt.Sprintf("%d/%d.", o, epoch)), size/n/8+1)
		recs[i] = batch.Record{Timestamp: 1000 + o, Value: v}
	}
	return batch.Plain(offset, epoch, recs...)
}

// mustAppend appends one batch at the log end and returns its bytes.
func mustAppend(t testing.TB, l *Log, epoch int32, n, size int) []byte {
	t.Helper()
	b := makeBatch(l.End(), epoch, n, size)
	if _, err := l.Append(b); err != nil {
		t.Fatalf("append: %v", err)
	}
	return b
}

func mustCommit(t testing.TB, s *Store) []Committed {
	t.Helper()
	c, err := s.Commit()
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return c
}

// readAll reads [from, limit) in chunks of at most chunk bytes.
func readAll(l *Log, from, limit int64, chunk int) ([]byte, error) {
	var out bytes.Buffer
	for from < limit {
		r, err := l.Read(from, limit, chunk, true)
		if err != nil {
			return out.Bytes(), err
		}
		if r.Len() == 0 {
			r.Release()
			return out.Bytes(), fmt.Errorf("nothing at %d below %d", from, limit)
		}
		n, err := r.WriteTo(&out)
		if err == nil && n != r.Len() {
			err = io.ErrShortWrite
		}
		if err == nil && r.Next() <= from {
			err = fmt.Errorf("read at %d below %d returned [%d, %d), %d bytes", from, limit, r.Base(), r.Next(), n)
		}
		from = r.Next()
		r.Release()
		if err != nil {
			return out.Bytes(), err
		}
	}
	return out.Bytes(), nil
}

// checkLog compares a log's content with what it should be.
func checkLog(t testing.TB, l *Log, want []byte) {
	t.Helper()
	for _, chunk := range []int{1, 700, 1 << 20} {
		got, err := readAll(l, l.Start(), l.End(), chunk)
		if err != nil {
			t.Fatalf("read %s by %d: %v", l.TP(), chunk, err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("read %s by %d: %d bytes, want %d; they differ", l.TP(), chunk, len(got), len(want))
		}
	}
}

func testRNG(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }
