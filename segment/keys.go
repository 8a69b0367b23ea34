package segment

import (
	"encoding/binary"

	"github.com/tailrace/tailrace/internal/model"
)

// Keyspaces of the catalog: the first byte of every key. The numbers in keys
// are big-endian, so that keys sort as the numbers do. The format is frozen.
const (
	spaceCounter   = 'c' // name → number
	spaceJournal   = 'j' // format 1 only: commit group, index → bytes not yet synced in their segment
	spaceLog       = 'p' // topic, partition, kind, … → a log's entries
	spaceBlock     = 'b' // topic, partition, ordinal, position → index block and checksum
	spaceSnapshot  = 'q' // topic, partition, offset → producer snapshot
	spaceTombstone = 't' // segment id → file that may be unlinked
	spaceNode      = 'n' // the node's own data, "n/…"
)

// Kinds of entry in spaceLog.
const (
	kindLog     = 'a' // → logRecord
	kindSegment = 's' // ordinal → segmentRecord
	kindMark    = 'm' // → mark
	kindEpoch   = 'e' // epoch → start offset
	kindHW      = 'h' // → high watermark
	kindDamage  = 'd' // ordinal, position → damage
	kindTorn    = 't' // → log end at which a tail was cut, until the log is trusted again
)

const tpLen = 16 + 4

var (
	counterIDs    = []byte{spaceCounter, 'i'}
	counterFormat = []byte{spaceCounter, 'f'}

	counterJournals = []byte{spaceCounter, 'j'} // files that the journal has
	counterRetired  = []byte{spaceCounter, 'r'} // newest group that is not needed any more
	counterSalt     = []byte{spaceCounter, 's'} // of the headers in the journal
)

func appendTP(k []byte, tp model.TopicPartition) []byte {
	k = append(k, tp.Topic[:]...)
	return binary.BigEndian.AppendUint32(k, uint32(tp.Partition))
}

func readTP(b []byte) (tp model.TopicPartition) {
	copy(tp.Topic[:], b)
	tp.Partition = int32(binary.BigEndian.Uint32(b[16:]))
	return tp
}

func spaceKey(space byte, tp model.TopicPartition, rest ...uint64) []byte {
	k := make([]byte, 0, 1+tpLen+8*len(rest))
	k = appendTP(append(k, space), tp)
	for _, v := range rest {
		k = binary.BigEndian.AppendUint64(k, v)
	}
	return k
}

func logKey(tp model.TopicPartition, kind byte, rest ...uint64) []byte {
	k := make([]byte, 0, 1+tpLen+1+8*len(rest))
	k = append(appendTP(append(k, spaceLog), tp), kind)
	for _, v := range rest {
		k = binary.BigEndian.AppendUint64(k, v)
	}
	return k
}

func blockKey(tp model.TopicPartition, ordinal uint64, pos int64) []byte {
	return spaceKey(spaceBlock, tp, ordinal, uint64(pos))
}

// blocksFrom is the range of a segment's index blocks at and above a position.
func blocksFrom(seg *segment, pos int64) (lo, hi []byte) {
	return blockKey(seg.tp, seg.ordinal, pos), prefixEnd(spaceKey(spaceBlock, seg.tp, seg.ordinal))
}

func tombstoneKey(id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{spaceTombstone}, id)
}

// epochKey sorts by epoch; epochs are ≥ 0 in a log.
func epochKey(tp model.TopicPartition, e model.LeaderEpoch) []byte {
	return logKey(tp, kindEpoch, uint64(uint32(e)))
}

// dropLog deletes every key of a log.
func dropLog(b *KVBatch, tp model.TopicPartition) {
	for _, space := range []byte{spaceLog, spaceBlock, spaceSnapshot} {
		lo := spaceKey(space, tp)
		b.DeleteRange(lo, prefixEnd(lo))
	}
}
