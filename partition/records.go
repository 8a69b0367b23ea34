package partition

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/tailrace/tailrace/internal/batch"
)

// maxInflated bounds what a batch may decompress to when the broker looks
// inside; past it the batch counts as undecodable.
const maxInflated = 16 << 20

var (
	errInflated = errors.New("partition: batch decompresses to too much")
	errRecord   = errors.New("partition: malformed record")
)

// record is what the broker looks at in a record.
type record struct {
	offsetDelta    int64
	timestampDelta int64
	hasKey         bool
}

// payload returns the records of a whole batch, decompressed.
func payload(h *batch.Header, raw []byte) ([]byte, error) {
	body := raw[batch.HeaderLen:]
	switch h.Compression() {
	case 0:
		return body, nil
	case 1:
		zr, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		return readBounded(zr)
	case 2:
		return unsnappy(body)
	case 3:
		return readBounded(lz4.NewReader(bytes.NewReader(body)))
	case 4:
		zr, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*maxInflated))
		if err != nil {
			return nil, err
		}
		defer zr.Close()
		return readBounded(zr)
	}
	return nil, fmt.Errorf("partition: unknown compression %d", h.Compression())
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxInflated+1))
	if err == nil && len(b) > maxInflated {
		err = errInflated
	}
	return b, err
}

// xerialHeader starts the framing that Java clients put around snappy blocks:
// magic, version and compatible version, then length-prefixed blocks.
var xerialHeader = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

func unsnappy(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, xerialHeader) {
		return unsnappyBlock(nil, b)
	}
	if len(b) < 16 {
		return nil, errRecord
	}
	var out []byte
	for b = b[16:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, errRecord
		}
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			return nil, errRecord
		}
		var err error
		if out, err = unsnappyBlock(out, b[:n]); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	return out, nil
}

func unsnappyBlock(dst, b []byte) ([]byte, error) {
	n, err := s2.DecodedLen(b)
	if err != nil {
		return nil, err
	}
	if n > maxInflated-len(dst) {
		return nil, errInflated
	}
	out, err := s2.Decode(nil, b)
	if err != nil {
		return nil, err
	}
	if dst == nil {
		return out, nil
	}
	return append(dst, out...), nil
}

// eachRecord calls fn for the records of a batch until it returns false.
func eachRecord(h *batch.Header, raw []byte, fn func(record) bool) error {
	b, err := payload(h, raw)
	if err != nil {
		return err
	}
	for range h.Records {
		n, w := binary.Varint(b)
		if w <= 0 || n < 0 || n > int64(len(b)-w) {
			return errRecord
		}
		rec, err := parseRecord(b[w : w+int(n)])
		if err != nil {
			return err
		}
		if !fn(rec) {
			return nil
		}
		b = b[w+int(n):]
	}
	if len(b) != 0 {
		return errRecord
	}
	return nil
}

// parseRecord reads a record's body as far as its key.
func parseRecord(b []byte) (rec record, err error) {
	if len(b) < 1 {
		return rec, errRecord
	}
	b = b[1:] // attributes
	var fields [3]int64
	for i := range fields {
		v, n := binary.Varint(b)
		if n <= 0 {
			return rec, errRecord
		}
		fields[i], b = v, b[n:]
	}
	if fields[2] > int64(len(b)) {
		return rec, errRecord
	}
	return record{timestampDelta: fields[0], offsetDelta: fields[1], hasKey: fields[2] >= 0}, nil
}

// requireKeys refuses records without a key, which compaction could not keep.
func requireKeys(h *batch.Header, raw []byte) rejection {
	missing := int64(-1)
	err := eachRecord(h, raw, func(r record) bool {
		if !r.hasKey {
			missing = r.offsetDelta
		}
		return missing < 0
	})
	switch {
	case err != nil:
		return reject(codeCorruptMessage, "records do not decode: %v", err)
	case missing >= 0:
		return reject(codeInvalidRecord, "record %d has no key, and the topic is compacted", missing)
	}
	return rejection{}
}

// findRecord returns the first record of the first batch in raw, from offset
// start on, whose timestamp matches.
func findRecord(raw []byte, start int64, match func(ts int64) bool) (offset, ts int64, ok bool) {
	h, b, err := batch.Next(raw)
	if err != nil {
		return 0, 0, false
	}
	if h.LogAppendTime() {
		return max(h.BaseOffset, start), h.MaxTimestamp, match(h.MaxTimestamp)
	}
	err = eachRecord(&h, b, func(r record) bool {
		offset, ts = h.BaseOffset+r.offsetDelta, h.BaseTimestamp+r.timestampDelta
		ok = offset >= start && match(ts)
		return !ok
	})
	return offset, ts, ok && err == nil
}
