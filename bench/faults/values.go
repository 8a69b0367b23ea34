package faults

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/history"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A record's value is
//
//	value  8 bytes, big endian
//	key    4 bytes: which partition it was sent to
//	filler, a function of both
//	CRC32  4 bytes over all before
//
// so that a record which is damaged or in the wrong place is recognised.
const valueOverhead = 8 + 4 + 4

// badValue stands for a record whose value nobody sent.
const badValue history.Value = -1

// encodeValue returns a value of about size bytes.
func encodeValue(k history.Key, v history.Value, size int) []byte {
	b := make([]byte, max(size, valueOverhead))
	binary.BigEndian.PutUint64(b, uint64(v))
	binary.BigEndian.PutUint32(b[8:], uint32(k))
	x := uint64(v)*0x9e3779b97f4a7c15 ^ uint64(k)<<32 | 1
	for i := 12; i < len(b)-4; i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.ChecksumIEEE(b[:len(b)-4]))
	return b
}

// decodeValue is the inverse; badValue if the bytes are not what was sent to k.
func decodeValue(k history.Key, b []byte) history.Value {
	if len(b) < valueOverhead || binary.BigEndian.Uint32(b[8:]) != uint32(k) {
		return badValue
	}
	if binary.BigEndian.Uint32(b[len(b)-4:]) != crc32.ChecksumIEEE(b[:len(b)-4]) {
		return badValue
	}
	return history.Value(binary.BigEndian.Uint64(b))
}

// fetched is what one answer to a fetch held, from the asked offset on.
type fetched struct {
	reads   []history.Read
	batches []history.Batch
	next    int64
}

// decodeFetched reads whole batches and drops records below the asked offset.
// An error is a damaged answer: a broker must never send one.
func decodeFetched(k history.Key, offset int64, raw []byte) (fetched, error) {
	out := fetched{next: offset}
	for len(raw) > 0 {
		h, b, err := batch.Next(raw)
		if errors.Is(err, batch.ErrShort) {
			return out, nil // the limit cut the last batch
		}
		if err == nil {
			err = batch.VerifyCRC(b)
		}
		if err != nil {
			return out, fmt.Errorf("batch at offset %d: %w", out.next, err)
		}
		raw = raw[len(b):]
		if h.LastOffset() < offset {
			continue
		}
		if h.Compression() != 0 || h.Control() {
			return out, fmt.Errorf("batch at offset %d: attributes %#x, which no client of ours sends", h.BaseOffset, h.Attributes)
		}
		if out.reads, err = appendReads(out.reads, k, offset, &h, b[batch.HeaderLen:]); err != nil {
			return out, err
		}
		out.batches = append(out.batches, history.Batch{Base: h.BaseOffset, Last: h.LastOffset(), Epoch: h.LeaderEpoch, CRC: h.CRC})
		out.next = h.NextOffset()
	}
	return out, nil
}

func appendReads(dst []history.Read, k history.Key, from int64, h *batch.Header, recs []byte) ([]history.Read, error) {
	for range h.Records {
		n, w := binary.Varint(recs)
		if w <= 0 || n < 0 || int64(len(recs)-w) < n {
			return dst, fmt.Errorf("batch at offset %d: records cut short", h.BaseOffset)
		}
		var r kmsg.Record
		if err := r.ReadFrom(recs[:w+int(n)]); err != nil {
			return dst, fmt.Errorf("batch at offset %d: %w", h.BaseOffset, err)
		}
		recs = recs[w+int(n):]
		if o := h.BaseOffset + int64(r.OffsetDelta); o >= from {
			dst = append(dst, history.Read{Key: k, Offset: o, Value: decodeValue(k, r.Value)})
		}
	}
	return dst, nil
}
