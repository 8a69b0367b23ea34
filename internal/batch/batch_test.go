package batch

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

func sample() []byte {
	return Builder{BaseOffset: 40, LeaderEpoch: 3, ProducerID: 7, ProducerEpoch: 2, BaseSequence: math.MaxInt32 - 1}.Build(
		Record{Timestamp: 100, Key: []byte("k"), Value: []byte("v")}, Record{Timestamp: 300}, Record{Timestamp: 200, Value: []byte{}})
}

func TestRoundTrip(t *testing.T) {
	raw := sample()
	h, got, err := Next(append(bytes.Clone(raw), 1, 2, 3))
	if err != nil || !bytes.Equal(got, raw) {
		t.Fatalf("%v, %d bytes of %d", err, len(got), len(raw))
	}
	want := Header{BaseOffset: 40, Length: int32(len(raw) - 12), LeaderEpoch: 3, Magic: 2, CRC: Checksum(raw), LastOffsetDelta: 2,
		BaseTimestamp: 100, MaxTimestamp: 300, ProducerID: 7, ProducerEpoch: 2, BaseSequence: math.MaxInt32 - 1, Records: 3}
	if h != want {
		t.Errorf("%+v, want %+v", h, want)
	}
	if h.NextOffset() != 43 || h.LastSequence() != 0 || !h.Idempotent() || h.Size() != len(raw) {
		t.Errorf("next %d, last sequence %d, size %d", h.NextOffset(), h.LastSequence(), h.Size())
	}
	if err := VerifyCRC(raw); err != nil {
		t.Error(err)
	}
}

func TestStampKeepsChecksum(t *testing.T) {
	raw := sample()
	Stamp(raw, 1<<40, 9)
	h, err := Parse(raw)
	if err != nil || h.BaseOffset != 1<<40 || h.LeaderEpoch != 9 || VerifyCRC(raw) != nil {
		t.Errorf("%+v, %v, %v", h, err, VerifyCRC(raw))
	}
	SetLogAppendTime(raw, 777)
	h, err = Parse(raw)
	if err != nil || !h.LogAppendTime() || h.MaxTimestamp != 777 || VerifyCRC(raw) != nil {
		t.Errorf("%+v, %v, %v", h, err, VerifyCRC(raw))
	}
}

func TestErrors(t *testing.T) {
	for n := range sample() {
		if _, _, err := Next(sample()[:n]); !errors.Is(err, ErrShort) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	for what, x := range map[string]struct {
		at   int
		b    byte
		want error
	}{
		"magic": {16, 1, ErrMagic}, "base offset": {0, 0x80, ErrInvalid}, "length": {11, 3, ErrInvalid},
		"last offset delta": {23, 0x80, ErrInvalid}, "count": {57, 0x80, ErrInvalid},
	} {
		raw := sample()
		raw[x.at] = x.b
		if _, err := Parse(raw); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", what, err, x.want)
		}
	}
	for i := 21; i < len(sample()); i++ {
		raw := sample()
		raw[i] ^= 4
		if !errors.Is(VerifyCRC(raw), ErrCRC) {
			t.Fatalf("a flipped bit in byte %d is not noticed", i)
		}
	}
}

func FuzzNext(f *testing.F) {
	f.Add(sample())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, raw, err := Next(b)
		if err != nil {
			return
		}
		if len(raw) < HeaderLen || len(raw) > len(b) || h.Records < 0 || h.LastOffset() < h.BaseOffset && h.BaseOffset < math.MaxInt64-math.MaxInt32 {
			t.Errorf("%+v from %d bytes", h, len(b))
		}
		_ = VerifyCRC(raw)
	})
}
