// Package batch reads and stamps Kafka record batches of format v2 (magic 2,
// KIP-98). The broker looks at batch headers only; records stay as the
// producer sent them.
//
//	offset size field                      covered by the CRC
//	     0    8 base offset                no
//	     8    4 batch length (from byte 12) no
//	    12    4 partition leader epoch     no
//	    16    1 magic (2)                  no
//	    17    4 CRC32C of bytes 21…        -
//	    21    2 attributes                 yes, and all that follows
//	    23    4 last offset delta
//	    27    8 base timestamp
//	    35    8 max timestamp
//	    43    8 producer id
//	    51    2 producer epoch
//	    53    4 base sequence
//	    57    4 record count
//	    61      records
package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// HeaderLen is the size of a batch without records, in bytes.
const HeaderLen = 61

// lengthPrefix is the part of a batch that the length field does not count.
const lengthPrefix = 12

// Attribute bits.
const (
	compressionMask  = 0x07
	logAppendTimeBit = 0x08
	transactionalBit = 0x10
	controlBit       = 0x20
	NoProducerID     = int64(-1)
	NoSequence       = int32(-1)
	magicV2          = 2
)

// Errors of Parse and Verify. Callers map them to Kafka's CORRUPT_MESSAGE,
// INVALID_RECORD and UNSUPPORTED_FOR_MESSAGE_FORMAT.
var (
	ErrShort   = errors.New("batch: cut short")
	ErrMagic   = errors.New("batch: magic is not 2")
	ErrCRC     = errors.New("batch: checksum does not match")
	ErrInvalid = errors.New("batch: header fields contradict each other")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is the fixed part of a batch.
type Header struct {
	BaseOffset      int64
	Length          int32 // as on the wire: bytes after the first 12
	LeaderEpoch     int32
	Magic           int8
	CRC             uint32
	Attributes      int16
	LastOffsetDelta int32
	BaseTimestamp   int64 // milliseconds since 1970
	MaxTimestamp    int64
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
	Records         int32
}

// Size is the whole batch's length in bytes.
func (h *Header) Size() int { return lengthPrefix + int(h.Length) }

// LastOffset is the offset of the last record.
func (h *Header) LastOffset() int64 { return h.BaseOffset + int64(h.LastOffsetDelta) }

// NextOffset is one past the last record.
func (h *Header) NextOffset() int64 { return h.LastOffset() + 1 }

// Compression is the codec id: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
func (h *Header) Compression() int { return int(h.Attributes & compressionMask) }

// LogAppendTime reports whether timestamps are the broker's.
func (h *Header) LogAppendTime() bool { return h.Attributes&logAppendTimeBit != 0 }

// Transactional reports whether the batch belongs to a transaction.
func (h *Header) Transactional() bool { return h.Attributes&transactionalBit != 0 }

// Control reports whether the batch holds control records (markers).
func (h *Header) Control() bool { return h.Attributes&controlBit != 0 }

// Idempotent reports whether the batch carries producer id and sequence.
func (h *Header) Idempotent() bool { return h.ProducerID >= 0 }

// LastSequence is the sequence number of the last record; it wraps at 2³¹−1.
func (h *Header) LastSequence() int32 {
	return AddSequence(h.BaseSequence, h.LastOffsetDelta)
}

// AddSequence adds delta ≥ 0 to a sequence number, which wraps to 0 past 2³¹−1.
func AddSequence(seq, delta int32) int32 {
	return int32((int64(seq) + int64(delta)) & 0x7fffffff)
}

// Parse decodes the header of the batch at the start of b and checks that its
// fields are coherent. It does not need the whole batch: only HeaderLen bytes.
func Parse(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderLen {
		return h, ErrShort
	}
	be := binary.BigEndian
	h.BaseOffset = int64(be.Uint64(b[0:]))
	h.Length = int32(be.Uint32(b[8:]))
	h.LeaderEpoch = int32(be.Uint32(b[12:]))
	h.Magic = int8(b[16])
	h.CRC = be.Uint32(b[17:])
	h.Attributes = int16(be.Uint16(b[21:]))
	h.LastOffsetDelta = int32(be.Uint32(b[23:]))
	h.BaseTimestamp = int64(be.Uint64(b[27:]))
	h.MaxTimestamp = int64(be.Uint64(b[35:]))
	h.ProducerID = int64(be.Uint64(b[43:]))
	h.ProducerEpoch = int16(be.Uint16(b[51:]))
	h.BaseSequence = int32(be.Uint32(b[53:]))
	h.Records = int32(be.Uint32(b[57:]))
	if h.Magic != magicV2 {
		return h, fmt.Errorf("%w: %d", ErrMagic, h.Magic)
	}
	if h.Length < HeaderLen-lengthPrefix {
		return h, fmt.Errorf("%w: length %d", ErrInvalid, h.Length)
	}
	if h.LastOffsetDelta < 0 || h.BaseOffset < 0 || h.Records < 0 {
		return h, fmt.Errorf("%w: base offset %d, last offset delta %d, %d records", ErrInvalid, h.BaseOffset, h.LastOffsetDelta, h.Records)
	}
	return h, nil
}

// Next parses the batch at the start of b, which must be there whole, and
// returns its bytes.
func Next(b []byte) (Header, []byte, error) {
	h, err := Parse(b)
	if err != nil {
		return h, nil, err
	}
	if len(b) < h.Size() {
		return h, nil, ErrShort
	}
	return h, b[:h.Size():h.Size()], nil
}

// Checksum computes the CRC32C of a whole batch as its header should carry it.
func Checksum(raw []byte) uint32 { return crc32.Checksum(raw[21:], castagnoli) }

// VerifyCRC compares the stored checksum of a whole batch with its bytes.
func VerifyCRC(raw []byte) error {
	if len(raw) < HeaderLen {
		return ErrShort
	}
	if binary.BigEndian.Uint32(raw[17:]) != Checksum(raw) {
		return ErrCRC
	}
	return nil
}

// Stamp writes base offset and leader epoch in place. Neither is covered by
// the batch checksum.
func Stamp(raw []byte, baseOffset int64, epoch int32) {
	binary.BigEndian.PutUint64(raw[0:], uint64(baseOffset))
	binary.BigEndian.PutUint32(raw[12:], uint32(epoch))
}

// SetLogAppendTime sets the timestamp type bit and the max timestamp, and
// recomputes the checksum.
func SetLogAppendTime(raw []byte, ms int64) {
	attrs := binary.BigEndian.Uint16(raw[21:])
	binary.BigEndian.PutUint16(raw[21:], attrs|logAppendTimeBit)
	binary.BigEndian.PutUint64(raw[35:], uint64(ms))
	binary.BigEndian.PutUint32(raw[17:], Checksum(raw))
}

// Record is one record to build a batch from (tests, tools).
type Record struct {
	Timestamp int64
	Key       []byte // nil is null
	Value     []byte // nil is null (a tombstone)
}

// Builder makes uncompressed batches.
type Builder struct {
	BaseOffset    int64
	LeaderEpoch   int32
	ProducerID    int64
	ProducerEpoch int16
	BaseSequence  int32
	Attributes    int16
}

// Plain returns a batch without producer state, at base offset and epoch.
func Plain(baseOffset int64, epoch int32, recs ...Record) []byte {
	return Builder{BaseOffset: baseOffset, LeaderEpoch: epoch, ProducerID: NoProducerID, ProducerEpoch: -1, BaseSequence: NoSequence}.Build(recs...)
}

// Build encodes the records as one batch with a correct checksum.
func (bl Builder) Build(recs ...Record) []byte {
	be := binary.BigEndian
	b := make([]byte, HeaderLen, HeaderLen+64*len(recs))
	var base, maxTS int64
	if len(recs) > 0 {
		base, maxTS = recs[0].Timestamp, recs[0].Timestamp
	}
	for i, r := range recs {
		maxTS = max(maxTS, r.Timestamp)
		body := []byte{0}
		body = binary.AppendVarint(body, r.Timestamp-base)
		body = binary.AppendVarint(body, int64(i))
		body = appendNullable(body, r.Key)
		body = appendNullable(body, r.Value)
		body = binary.AppendVarint(body, 0)
		b = binary.AppendVarint(b, int64(len(body)))
		b = append(b, body...)
	}
	be.PutUint64(b[0:], uint64(bl.BaseOffset))
	be.PutUint32(b[8:], uint32(len(b)-lengthPrefix))
	be.PutUint32(b[12:], uint32(bl.LeaderEpoch))
	b[16] = magicV2
	be.PutUint16(b[21:], uint16(bl.Attributes))
	be.PutUint32(b[23:], uint32(max(len(recs)-1, 0)))
	be.PutUint64(b[27:], uint64(base))
	be.PutUint64(b[35:], uint64(maxTS))
	be.PutUint64(b[43:], uint64(bl.ProducerID))
	be.PutUint16(b[51:], uint16(bl.ProducerEpoch))
	be.PutUint32(b[53:], uint32(bl.BaseSequence))
	be.PutUint32(b[57:], uint32(len(recs)))
	be.PutUint32(b[17:], Checksum(b))
	return b
}

func appendNullable(dst, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(v)))
	return append(dst, v...)
}
