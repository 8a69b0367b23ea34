package partition

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/tailrace/tailrace/internal/batch"
)

// edit changes header bytes of a batch and makes its checksum right again.
func edit(raw []byte, fn func(b []byte)) []byte {
	b := bytes.Clone(raw)
	fn(b)
	binary.BigEndian.PutUint32(b[17:], batch.Checksum(b))
	return b
}

// compressed re-encodes the records of an uncompressed batch.
func compressed(t *testing.T, codec int16, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	out.Write(raw[:batch.HeaderLen])
	body := raw[batch.HeaderLen:]
	var err error
	switch codec {
	case 1:
		w := gzip.NewWriter(&out)
		_, err = w.Write(body)
		_ = w.Close()
	case 2:
		out.Write(s2.EncodeSnappy(nil, body))
	case 3:
		w := lz4.NewWriter(&out)
		_, err = w.Write(body)
		_ = w.Close()
	case 4:
		w, _ := zstd.NewWriter(&out)
		_, err = w.Write(body)
		_ = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return edit(out.Bytes(), func(b []byte) {
		binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
		binary.BigEndian.PutUint16(b[21:], binary.BigEndian.Uint16(b[21:])|uint16(codec))
	})
}

func records(n int, value int, keys ...string) []batch.Record {
	recs := make([]batch.Record, n)
	for i := range recs {
		recs[i] = batch.Record{Timestamp: start + int64(i)*10, Value: make([]byte, value)}
		if i < len(keys) {
			recs[i].Key = []byte(keys[i])
		}
	}
	return recs
}

func TestValidation(t *testing.T) {
	good := batch.Plain(0, 0, records(3, 10)...)
	idem := idempotent(7, 0, 0, 1)
	limit := TopicConfig{MaxMessageBytes: 120}
	times := TopicConfig{TimestampBefore: time.Hour, TimestampAfter: time.Minute}
	compact := TopicConfig{Compact: true}
	at := func(d time.Duration) []byte {
		return batch.Plain(0, 0, batch.Record{Timestamp: start + d.Milliseconds()})
	}
	for _, x := range []struct {
		what  string
		topic TopicConfig
		raw   []byte
		want  int16
	}{
		{"good", TopicConfig{}, good, 0},
		{"nothing", TopicConfig{}, nil, codeInvalidRecord},
		{"short", TopicConfig{}, good[:len(good)-1], codeCorruptMessage},
		{"shorter than a header", TopicConfig{}, good[:20], codeCorruptMessage},
		{"trailing bytes", TopicConfig{}, append(bytes.Clone(good), 1, 2), codeCorruptMessage},
		{"magic 1", TopicConfig{}, edit(good, func(b []byte) { b[16] = 1 }), codeUnsupportedForMessageFormat},
		{"checksum", TopicConfig{}, append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), codeCorruptMessage},
		{"no records", TopicConfig{}, batch.Plain(0, 0), codeInvalidRecord},
		{"count", TopicConfig{}, edit(good, func(b []byte) { b[60]++ }), codeInvalidRecord},
		{"control", TopicConfig{}, edit(good, func(b []byte) { b[22] |= 0x20 }), codeInvalidRecord},
		{"transactional", TopicConfig{}, edit(good, func(b []byte) { b[22] |= 0x10 }), codeInvalidTxnState},
		{"log append time set", TopicConfig{}, edit(good, func(b []byte) { b[22] |= 0x08 }), codeInvalidTimestamp},
		{"codec 5", TopicConfig{}, edit(good, func(b []byte) { b[22] |= 5 }), codeInvalidRecord},
		{"negative sequence", TopicConfig{}, idempotent(7, 0, -1, 1), codeInvalidRecord},
		{"two batches", TopicConfig{}, append(bytes.Clone(good), good...), 0},
		{"two idempotent batches", TopicConfig{}, append(bytes.Clone(idem), idempotent(7, 0, 1, 1)...), codeInvalidRecord},
		{"idempotent behind plain", TopicConfig{}, append(bytes.Clone(good), idem...), codeInvalidRecord},
		{"fits", limit, batch.Plain(0, 0, records(1, 45)...), 0},
		{"too large", limit, batch.Plain(0, 0, records(1, 60)...), codeMessageTooLarge},
		{"each fits", limit, bytes.Repeat(batch.Plain(0, 0, records(1, 45)...), 2), 0},
		{"future", times, at(2 * time.Minute), codeInvalidTimestamp},
		{"near future", times, at(30 * time.Second), 0},
		{"past", times, at(-2 * time.Hour), codeInvalidTimestamp},
		{"no timestamp", times, batch.Plain(0, 0, batch.Record{Timestamp: -1}), 0},
		{"keys", compact, batch.Plain(0, 0, records(2, 5, "a", "b")...), 0},
		{"missing key", compact, batch.Plain(0, 0, records(2, 5, "a")...), codeInvalidRecord},
		{"missing key, zstd", compact, compressed(t, 4, batch.Plain(0, 0, records(2, 5, "a")...)), codeInvalidRecord},
		{"keys, lz4", compact, compressed(t, 3, batch.Plain(0, 0, records(2, 5, "a", "b")...)), 0},
		{"rubbish", compact, edit(good, func(b []byte) { b[61] = 0xff }), codeCorruptMessage},
	} {
		_, rej := validate(&AppendRequest{Batches: bytes.Clone(x.raw), Acks: -1}, &x.topic, start)
		if rej.code != x.want {
			t.Errorf("%s: error %d (%s), want %d", x.what, rej.code, rej.message, x.want)
		}
		if (rej.code != 0) != (rej.message != "") {
			t.Errorf("%s: error %d with message %q", x.what, rej.code, rej.message)
		}
	}
	if _, rej := validate(&AppendRequest{Batches: good, Acks: 2}, &TopicConfig{}, start); rej.code != codeInvalidRequiredAcks {
		t.Errorf("acks=2: error %d", rej.code)
	}
}

func FuzzValidate(f *testing.F) {
	f.Add(batch.Plain(0, 0, records(3, 10, "a", "b", "c")...))
	f.Add(idempotent(7, 0, 0, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		topic := TopicConfig{Compact: true}
		e, rej := validate(&AppendRequest{Batches: b, Acks: -1}, &topic, start)
		if rej.code == 0 && (e.next <= 0 || len(e.raw) < batch.HeaderLen) {
			t.Errorf("accepted %d bytes as %d records", len(b), e.next)
		}
	})
}

func TestAcksPolicy(t *testing.T) {
	c := newCluster(t, 3)
	l := c.node(1)
	c.want("acks=1 waits", l.append(batch.Plain(0, 0, records(1, 1)...), 1), "waiting")
	c.want("acks=0", l.append(batch.Plain(0, 0, records(1, 1)...), 0), "ok at 1")
	l.r.SetConfig(TopicConfig{AcksFloorClient: true})
	c.want("acks=1 with acks.floor=client", l.append(batch.Plain(0, 0, records(1, 1)...), 1), "ok at 2")
	c.want("acks=all all the same", l.append(batch.Plain(0, 0, records(1, 1)...), -1), "waiting")
}

func TestStamping(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	l.r.SetConfig(TopicConfig{LogAppendTime: true})
	c.pass(time.Second)
	two := append(batch.Plain(0, 0, records(2, 1)...), batch.Plain(0, 0, records(3, 1)...)...)
	ans := l.append(two, -1)
	l.sync()
	c.want("append", ans, "ok at 0")
	c.wantNum("log append time", ans.res.LogAppendTime, start+1000)
	base := int64(0)
	for _, b := range l.log.batches {
		h, _ := batch.Parse(b.raw)
		if h.BaseOffset != base || h.LeaderEpoch != 1 || !h.LogAppendTime() || h.MaxTimestamp != start+1000 {
			t.Errorf("batch %+v at %d", h, base)
		}
		if err := batch.VerifyCRC(b.raw); err != nil {
			t.Error(err)
		}
		base = h.NextOffset()
	}
	c.wantNum("end", base, 5)
}

// All that queued behind a write goes into one more write, in order.
func TestGroupedAppends(t *testing.T) {
	c := newCluster(t, 1)
	l := c.node(1)
	answers := make([]answer, 50)
	l.log.onAppend = func() {
		l.log.onAppend = nil
		for i := range answers {
			l.r.Append(&AppendRequest{Batches: batch.Plain(0, 0, records(2, 100)...), Acks: -1, Epoch: -1, Done: &answers[i]}, &l.eff)
		}
	}
	big := batch.Plain(0, 0, records(1, joinBytes)...)
	l.r.SetConfig(TopicConfig{MaxMessageBytes: 1 << 20})
	l.append(big, -1)
	l.append(big, -1)
	c.wantNum("writes", int64(l.log.writes), 3)
	l.sync()
	for i := range answers {
		if got, want := answers[i].res.BaseOffset, int64(1+2*i); answers[i].n != 1 || got != want {
			t.Fatalf("append %d at %d (%d answers), want %d", i, got, answers[i].n, want)
		}
	}
	c.wantNum("end", l.log.End(), 102)
}

func TestRecordsOfEveryCodec(t *testing.T) {
	plain := batch.Plain(40, 2, records(5, 20, "a")...)
	for codec := range int16(5) {
		raw := plain
		if codec > 0 {
			raw = compressed(t, codec, plain)
		}
		off, ts, ok := findRecord(raw, 0, func(ts int64) bool { return ts >= start+25 })
		if !ok || off != 43 || ts != start+30 {
			t.Errorf("codec %d: %d at %d (%v), want %d at 43", codec, ts, off, ok, start+30)
		}
	}
	// Snappy in the frames of Java clients.
	block := s2.EncodeSnappy(nil, plain[batch.HeaderLen:])
	framed := append(bytes.Clone(plain[:batch.HeaderLen]), xerialHeader...)
	framed = append(framed, 0, 0, 0, 1, 0, 0, 0, 1)
	framed = binary.BigEndian.AppendUint32(framed, uint32(len(block)))
	framed = edit(append(framed, block...), func(b []byte) {
		binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
		b[22] |= 2
	})
	if off, _, ok := findRecord(framed, 0, func(ts int64) bool { return ts >= start+25 }); !ok || off != 43 {
		t.Errorf("framed snappy: %d, %v", off, ok)
	}
}

func TestRecordsBelowLogStartAreSkipped(t *testing.T) {
	raw := batch.Plain(40, 2, records(5, 20)...)
	if off, _, ok := findRecord(raw, 42, func(ts int64) bool { return ts >= start }); !ok || off != 42 {
		t.Errorf("%d, %v", off, ok)
	}
}

func TestDecompressionIsBounded(t *testing.T) {
	for codec := int16(1); codec < 5; codec++ {
		bomb := compressed(t, codec, batch.Plain(0, 0, records(1, maxInflated+1)...))
		h, _ := batch.Parse(bomb)
		if b, err := payload(&h, bomb); err == nil {
			t.Errorf("codec %d: %d bytes out of %d", codec, len(b), len(bomb))
		}
	}
}

func TestWaitingOrder(t *testing.T) {
	var w waiting
	var eff Effects
	answers := make([]answer, 9)
	for i, next := range []int64{3, 6, 9, 6, 3, 12, 9} {
		w.add(waiter{base: next - 3, next: next, done: &answers[i]})
	}
	w.release(6, 0, &eff)
	var got []int64
	for _, d := range eff.Done {
		got = append(got, d.Result.BaseOffset)
	}
	if len(got) != 4 || got[0] != 0 || got[1] != 0 || got[2] != 3 || got[3] != 3 || w.len() != 3 {
		t.Errorf("released %v, %d left", got, w.len())
	}
	for range 2000 { // the head is reclaimed
		w.add(waiter{next: 100, done: &answers[8]})
		w.release(6, 0, &eff)
	}
	w.release(1000, 0, &eff)
	if w.len() != 0 || w.head != 0 {
		t.Errorf("%d left, head %d", w.len(), w.head)
	}
}
