package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/tailrace/tailrace/internal/model"
)

// Types of catalog values. Every value starts with its type and version, then
// big-endian fields.
const (
	typeLog       = 1
	typeSegment   = 2
	typeMark      = 3
	typeNumber    = 4
	typeBlock     = 5
	typeJournal   = 6
	typeTombstone = 7
	typeSnapshot  = 8
	typeDamage    = 9

	valueVersion = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type encoder []byte

func newValue(typ byte, size int) encoder {
	return append(make(encoder, 0, 2+size), typ, valueVersion)
}

func (e encoder) i64(v int64) encoder  { return binary.BigEndian.AppendUint64(e, uint64(v)) }
func (e encoder) u64(v uint64) encoder { return binary.BigEndian.AppendUint64(e, v) }
func (e encoder) u32(v uint32) encoder { return binary.BigEndian.AppendUint32(e, v) }
func (e encoder) raw(b []byte) encoder { return append(e, b...) }
func (e encoder) bool(v bool) encoder {
	if v {
		return append(e, 1)
	}
	return append(e, 0)
}

// decoder reads fields and remembers the first failure.
type decoder struct {
	b   []byte
	err error
}

func readValue(typ byte, key, value []byte) *decoder {
	d := &decoder{b: value}
	if len(value) < 2 || value[0] != typ {
		d.err = fmt.Errorf("catalog: value of key %x is not of type %d", key, typ)
		return d
	}
	if value[1] != valueVersion {
		d.err = fmt.Errorf("catalog: value of key %x has version %d, this program knows %d", key, value[1], valueVersion)
		return d
	}
	d.b = value[2:]
	return d
}

func (d *decoder) take(n int) []byte {
	if d.err == nil && len(d.b) < n {
		d.err = fmt.Errorf("catalog: value is cut short")
	}
	if d.err != nil {
		return make([]byte, n)
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }
func (d *decoder) i64() int64  { return int64(d.u64()) }
func (d *decoder) u32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) byte() byte  { return d.take(1)[0] }
func (d *decoder) bool() bool  { return d.byte() != 0 }
func (d *decoder) rest() []byte {
	return d.take(len(d.b))
}

func numberValue(v int64) []byte { return newValue(typeNumber, 8).i64(v) }

func readNumber(key, value []byte) (int64, error) {
	d := readValue(typeNumber, key, value)
	return d.i64(), d.err
}

// logRecord says that a log exists.
type logRecord struct {
	start int64 // log start offset; the end too while there is no segment
	cfg   LogConfig
}

func (r logRecord) encode() []byte {
	return newValue(typeLog, 41).i64(r.start).i64(r.cfg.SegmentBytes).i64(r.cfg.SegmentMs).
		i64(r.cfg.RetentionMs).i64(r.cfg.RetentionBytes).bool(r.cfg.Compact)
}

func readLogRecord(key, value []byte) (r logRecord, err error) {
	d := readValue(typeLog, key, value)
	r.start = d.i64()
	r.cfg = LogConfig{SegmentBytes: d.i64(), SegmentMs: d.i64(), RetentionMs: d.i64(), RetentionBytes: d.i64(), Compact: d.bool()}
	return r, d.err
}

// segmentRecord says that a segment exists. A sealed one never grows.
type segmentRecord struct {
	id      uint64
	base    int64
	created int64 // wall time, milliseconds
	sealed  bool
	next    int64 // sealed: one past the last offset
	size    int64 // sealed: length in bytes
	top     timeTop
}

func (r segmentRecord) encode() []byte {
	return newValue(typeSegment, 57).u64(r.id).i64(r.base).i64(r.created).bool(r.sealed).
		i64(r.next).i64(r.size).i64(r.top.ts).i64(r.top.offset)
}

func readSegmentRecord(key, value []byte) (r segmentRecord, err error) {
	d := readValue(typeSegment, key, value)
	r = segmentRecord{id: d.u64(), base: d.i64(), created: d.i64(), sealed: d.bool(), next: d.i64(), size: d.i64()}
	r.top = timeTop{ts: d.i64(), offset: d.i64()}
	return r, d.err
}

// timeTop is the greatest timestamp of a run of batches and the base offset of
// the first batch that has it.
type timeTop struct{ ts, offset int64 }

var noTime = timeTop{ts: -1, offset: -1}

func (t timeTop) with(o timeTop) timeTop {
	if o.ts > t.ts {
		return o
	}
	return t
}

// block is a sealed index block: the whole batches in [pos, end) of a segment,
// and their checksum.
type block struct {
	pos, end   int64
	base, next int64 // offsets
	top        timeTop
	crc        uint32 // see blockSeed
}

func (b *block) encode() []byte {
	return newValue(typeBlock, 44).i64(b.end).i64(b.base).i64(b.next).i64(b.top.ts).i64(b.top.offset).u32(b.crc)
}

func readBlock(key, value []byte) (b block, err error) {
	d := readValue(typeBlock, key, value)
	b = block{pos: int64(binary.BigEndian.Uint64(key[1+tpLen+8:])), end: d.i64(), base: d.i64(), next: d.i64()}
	b.top = timeTop{ts: d.i64(), offset: d.i64()}
	b.crc = d.u32()
	return b, d.err
}

// openBlock is the block being filled at the end of a segment.
type openBlock struct {
	pos  int64 // where it starts
	base int64 // its first offset
	top  timeTop
	crc  uint32 // of the bytes so far
}

// mark is a durable mark: every byte of the segments before ordinal, and those
// below pos in that one, are on stable storage. It carries the state of the
// open block there, so that recovery need not read what lies below.
type mark struct {
	ordinal   uint64
	pos, next int64
	open      openBlock
	top       timeTop // of the segment up to pos
}

func (m *mark) less(o *mark) bool {
	return m.ordinal < o.ordinal || m.ordinal == o.ordinal && m.pos < o.pos
}

func (m *mark) encode() []byte {
	return newValue(typeMark, 76).u64(m.ordinal).i64(m.pos).i64(m.next).
		i64(m.open.pos).i64(m.open.base).i64(m.open.top.ts).i64(m.open.top.offset).u32(m.open.crc).
		i64(m.top.ts).i64(m.top.offset)
}

func readMark(key, value []byte) (m mark, err error) {
	d := readValue(typeMark, key, value)
	m = mark{ordinal: d.u64(), pos: d.i64(), next: d.i64()}
	m.open = openBlock{pos: d.i64(), base: d.i64(), top: timeTop{ts: d.i64(), offset: d.i64()}, crc: d.u32()}
	m.top = timeTop{ts: d.i64(), offset: d.i64()}
	return m, d.err
}

// journalEntry holds bytes of a segment that the segment's file may not have
// on stable storage yet.
type journalEntry struct {
	tp      model.TopicPartition
	ordinal uint64
	pos     int64
	data    []byte
}

// readJournal reads an entry of format 1, where the catalog was the journal.
func readJournal(key, value []byte) (j journalEntry, err error) {
	d := readValue(typeJournal, key, value)
	head := value[:max(0, min(len(value), 2+tpLen+8+8))]
	j = journalEntry{tp: readTP(d.take(tpLen)), ordinal: d.u64(), pos: d.i64()}
	crc := d.u32()
	j.data = d.rest()
	if d.err == nil && crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, j.data) != crc {
		d.err = fmt.Errorf("catalog: journal entry %x fails its checksum", key)
	}
	return j, d.err
}

// tombstone names a file that may be unlinked once due.
type tombstone struct {
	id  uint64
	tp  model.TopicPartition
	due int64 // wall time, milliseconds
}

func (t tombstone) encode() []byte {
	return encoder(appendTP(newValue(typeTombstone, tpLen+8), t.tp)).i64(t.due)
}

func readTombstone(key, value []byte) (t tombstone, err error) {
	d := readValue(typeTombstone, key, value)
	return tombstone{id: binary.BigEndian.Uint64(key[1:]), tp: readTP(d.take(tpLen)), due: d.i64()}, d.err
}

// damage is a range of a segment that is quarantined until it is repaired.
type damage struct {
	ordinal  uint64
	pos, end int64 // bytes; for a missing file the whole of it
	offsets  OffsetRange
	missing  bool
}

func (d damage) key(tp model.TopicPartition) []byte {
	return logKey(tp, kindDamage, d.ordinal, uint64(d.pos))
}

func (d damage) encode() []byte {
	return newValue(typeDamage, 25).i64(d.end).i64(d.offsets.From).i64(d.offsets.To).bool(d.missing)
}

func readDamage(key, value []byte) (dm damage, err error) {
	d := readValue(typeDamage, key, value)
	k := key[1+tpLen+1:]
	dm = damage{ordinal: binary.BigEndian.Uint64(k), pos: int64(binary.BigEndian.Uint64(k[8:])), end: d.i64()}
	dm.offsets = OffsetRange{From: d.i64(), To: d.i64()}
	dm.missing = d.bool()
	return dm, d.err
}

// blockSeed is the checksum state that a block starts from: it binds the block
// to its topic, partition, file and position, so that bytes of another place
// never pass for its own (misdirected and lost writes).
func blockSeed(tp model.TopicPartition, id uint64, pos int64) uint32 {
	var buf [tpLen + 16]byte
	b := appendTP(buf[:0], tp)
	b = binary.BigEndian.AppendUint64(b, id)
	b = binary.BigEndian.AppendUint64(b, uint64(pos))
	return crc32.Checksum(b, castagnoli)
}

func crcOf(seed uint32, b []byte) uint32 { return crc32.Update(seed, castagnoli, b) }
