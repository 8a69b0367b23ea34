package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tailrace/tailrace/client"
)

// offsets returns the offsets of records.
func offsets(records []*client.Record) []int64 {
	out := make([]int64, len(records))
	for i, r := range records {
		out[i] = r.Offset
	}
	return out
}

func TestPositions(t *testing.T) {
	_, cl := newCluster(t, 1)
	p, err := cl.Producer(client.ProducerOptions{Topic: "t"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range 10 {
		r := &client.Record{Value: []byte("v"), Timestamp: time.UnixMilli(int64(1000 * (i + 1)))}
		if _, err := p.Produce(testContext(t), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		from  client.Position
		first int64
		n     int
	}{
		{client.Position{}, 0, 10},
		{client.Earliest(), 0, 10},
		{client.Latest(), 0, 0},
		{client.Last(3), 7, 3},
		{client.Last(0), 0, 0},
		{client.Last(99), 0, 10},
		{client.At(4), 4, 6},
		{client.At(10), 0, 0},
		{client.Since(time.UnixMilli(3500)), 3, 7},
		{client.Since(time.UnixMilli(0)), 0, 10},
		{client.Since(time.UnixMilli(99000)), 0, 0},
	} {
		got, err := collect(t, cl, client.ConsumerOptions{From: c.from})
		if err != nil {
			t.Errorf("%v: %v", c.from, err)
			continue
		}
		if len(got) != c.n || c.n > 0 && got[0].Offset != c.first {
			t.Errorf("%v: offsets %v, want %d from %d", c.from, offsets(got), c.n, c.first)
		}
	}
}

func TestPositionOutsideOfTheLog(t *testing.T) {
	k, cl := newCluster(t, 1)
	fill(t, cl, 0, 10)
	if err := k.DeleteRecords("t", 0, 4); err != nil {
		t.Fatal(err)
	}
	var oor *client.OffsetOutOfRangeError
	for _, offset := range []int64{3, 11} {
		_, err := collect(t, cl, client.ConsumerOptions{From: client.At(offset)})
		if !errors.As(err, &oor) || oor.Offset != offset || oor.Start != 4 || oor.End != 10 {
			t.Errorf("at %d: %v", offset, err)
		}
	}
	// A position that falls out of the log later is found by the fetch.
	_, err := collect(t, cl, client.ConsumerOptions{Offsets: map[int32]int64{0: 1}})
	if !errors.As(err, &oor) || oor.Offset != 1 || oor.Start != 4 {
		t.Errorf("resumed at 1: %v", err)
	}
	got, err := collect(t, cl, client.ConsumerOptions{From: client.Earliest()})
	if err != nil || len(got) != 6 || got[0].Offset != 4 {
		t.Errorf("earliest: %v %v", offsets(got), err)
	}
}

func TestParsePosition(t *testing.T) {
	for in, want := range map[string]client.Position{
		"earliest": client.Earliest(), "latest": client.Latest(), "-5": client.Last(5), "-0": client.Last(0), "0": client.At(0), "42": client.At(42),
		"@1700000000123": client.Since(time.UnixMilli(1700000000123)), "@2023-11-14T22:13:20.123Z": client.Since(time.UnixMilli(1700000000123)),
		"2023-11-14T23:13:20+01:00": client.Since(time.UnixMilli(1700000000000)),
	} {
		got, err := client.ParsePosition(in)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
		if again, err := client.ParsePosition(got.String()); err != nil || again != got {
			t.Errorf("%s: String %q reads as %v, %v", in, got.String(), again, err)
		}
	}
	for _, in := range []string{"", "x", "+5", "--5", "@", "@-5", "1.5", "9223372036854775808", "@yesterday", "Earliest", " 1"} {
		if p, err := client.ParsePosition(in); err == nil {
			t.Errorf("%q reads as %v", in, p)
		}
	}
}

func TestResumeAfterBreak(t *testing.T) {
	_, cl := newCluster(t, 1)
	fill(t, cl, 0, 10)
	con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t", StopAtEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	next := int64(0)
	for range 3 {
		for r, err := range con.Records(testContext(t)) {
			if err != nil || r.Offset != next {
				t.Fatalf("got %v %v, want offset %d", r, err, next)
			}
			if next++; next%4 == 0 {
				break
			}
		}
		if got := con.Positions()[0]; got != next {
			t.Errorf("position %d after reading up to %d", got, next)
		}
	}
	if next != 10 {
		t.Errorf("read %d records", next)
	}
}

func TestBatches(t *testing.T) {
	_, cl := newCluster(t, 2)
	fill(t, cl, 0, 5)
	fill(t, cl, 1, 5)
	con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t", StopAtEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	n := 0
	for batch, err := range con.Batches(testContext(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if len(batch) == 0 {
			t.Error("empty batch")
		}
		n += len(batch)
	}
	if n != 10 {
		t.Errorf("read %d records", n)
	}
}

func TestFollow(t *testing.T) {
	_, cl := newCluster(t, 1)
	con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t", From: client.Latest()})
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	ctx, cancel := context.WithCancel(testContext(t))
	fill(t, cl, 0, 3)
	n := 0
	var last error
	for _, err := range con.Records(ctx) {
		if last = err; err != nil {
			break
		}
		if n++; n == 3 {
			cancel()
		}
	}
	cancel()
	if n != 3 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d records, then %v", n, last)
	}
}

func TestOneReaderAtATime(t *testing.T) {
	_, cl := newCluster(t, 1)
	fill(t, cl, 0, 2)
	con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t"})
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	for range con.Records(testContext(t)) {
		for _, err := range con.Records(testContext(t)) {
			if !errors.Is(err, client.ErrInvalid) {
				t.Errorf("a second reader gets %v", err)
			}
		}
		break
	}
	for _, err := range con.Records(testContext(t)) {
		if err != nil {
			t.Errorf("after the first has ended: %v", err)
		}
		break
	}
}

func TestCloseEndsReading(t *testing.T) {
	_, cl := newCluster(t, 1)
	fill(t, cl, 0, 1)
	con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t"})
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range con.Records(testContext(t)) {
		last = err
		con.Close()
	}
	if !errors.Is(last, client.ErrClosed) {
		t.Errorf("ended with %v", last)
	}
	for _, err := range con.Records(testContext(t)) {
		if !errors.Is(err, client.ErrClosed) {
			t.Errorf("reading a closed consumer gives %v", err)
		}
	}
}

func TestTopicDeletedWhileReading(t *testing.T) {
	for _, again := range []bool{false, true} {
		k, cl := newCluster(t, 1)
		fill(t, cl, 0, 1)
		con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t", MaxWait: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		var last error
		for r, err := range con.Records(testContext(t)) {
			if last = err; r == nil {
				break
			}
			if err := k.DeleteTopic("t"); err != nil {
				t.Fatal(err)
			}
			if again {
				if err := k.CreateTopic("t", 1, nil); err != nil {
					t.Fatal(err)
				}
				fill(t, cl, 0, 5)
			}
		}
		con.Close()
		if !errors.Is(last, client.ErrNotFound) {
			t.Errorf("made again %v: ended with %v", again, last)
		}
	}
}

// TestStopAtEndBehindControlRecords: the last offset is a transaction marker,
// which is never delivered, and an aborted record is not either.
func TestStopAtEndBehindControlRecords(t *testing.T) {
	k, cl := newCluster(t, 1)
	tx, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.TransactionalID("x"), kgo.DefaultProduceTopic("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	for _, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		if err := tx.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := tx.ProduceSync(testContext(t), kgo.StringRecord("v")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := tx.EndTransaction(testContext(t), end); err != nil {
			t.Fatal(err)
		}
	}
	got, err := collect(t, cl, client.ConsumerOptions{})
	if err != nil || len(got) != 1 || got[0].Offset != 0 {
		t.Errorf("committed: %v %v", offsets(got), err)
	}
	got, err = collect(t, cl, client.ConsumerOptions{ReadUncommitted: true})
	if err != nil || len(got) != 2 {
		t.Errorf("uncommitted: %v %v", offsets(got), err)
	}
}

func TestPartitionsOfConsumer(t *testing.T) {
	_, cl := newCluster(t, 3)
	for p := range int32(3) {
		fill(t, cl, p, 2)
	}
	got, err := collect(t, cl, client.ConsumerOptions{Partitions: []int32{2, 0, 2}})
	if err != nil || len(got) != 4 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	for _, r := range got {
		if r.Partition == 1 {
			t.Error("a record of partition 1")
		}
	}
	if _, err := collect(t, cl, client.ConsumerOptions{Partitions: []int32{3}}); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("partition 3: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	cl, err := client.New(context.Background(), client.Options{Seeds: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, err = cl.Consumer(ctx, client.ConsumerOptions{Topic: "t"})
	if !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if want := "consume t: unavailable: cannot reach 127.0.0.1:1: connection refused"; err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
