package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
)

// window is how many batches of a producer a duplicate is looked up in, as many
// as a producer may have in flight.
const window = 5

// producers is the idempotence state of a partition: a function of its log up
// to the log end (I26), so every replica has the same. Expiry aside, nothing
// else changes it.
type producers struct {
	byID map[int64]*producer
}

// producer is the state of one producer id.
type producer struct {
	epoch  int16
	count  int8 // batches known, ≤ window
	recent [window]sequenced
	usedAt int64 // wall time of the last append, milliseconds
}

// sequenced is a batch that was appended: its sequence range and its offsets.
type sequenced struct {
	first, last int32
	base, next  int64
	timestamp   int64 // log append time, -1 for CreateTime
}

func (p *producer) batches() []sequenced { return p.recent[:p.count] }

func (p *producer) lastSequence() int32 { return p.recent[p.count-1].last }

func (p *producer) push(s sequenced) {
	if p.count == window {
		copy(p.recent[:], p.recent[1:])
		p.count--
	}
	p.recent[p.count] = s
	p.count++
}

// duplicate finds the batch with the same sequence range.
func (p *producer) duplicate(first, last int32) *sequenced {
	for i := range p.batches() {
		if s := &p.recent[i]; s.first == first && s.last == last {
			return s
		}
	}
	return nil
}

// follows judges the sequence of a batch of epoch e against the last known
// epoch and sequence.
func follows(epoch, e int16, lastSeq, first int32) int16 {
	switch {
	case e < epoch:
		return codeInvalidProducerEpoch
	case e > epoch && first != 0:
		return codeOutOfOrderSequence
	case e == epoch && first != batch.AddSequence(lastSeq, 1):
		return codeOutOfOrderSequence
	}
	return codeNone
}

// apply takes in an appended batch.
func (ps *producers) apply(h *batch.Header, nowMs int64) {
	if !h.Idempotent() || h.Control() {
		return
	}
	p := ps.byID[h.ProducerID]
	if p == nil {
		if ps.byID == nil {
			ps.byID = make(map[int64]*producer)
		}
		p = &producer{epoch: h.ProducerEpoch}
		ps.byID[h.ProducerID] = p
	}
	if h.ProducerEpoch != p.epoch {
		p.epoch, p.count = h.ProducerEpoch, 0
	}
	ts := int64(-1)
	if h.LogAppendTime() {
		ts = h.MaxTimestamp
	}
	p.push(sequenced{first: h.BaseSequence, last: h.LastSequence(), base: h.BaseOffset, next: h.NextOffset(), timestamp: ts})
	p.usedAt = nowMs
}

// expire forgets producers that were idle for longer than d.
func (ps *producers) expire(nowMs int64, d time.Duration) {
	for id, p := range ps.byID {
		if nowMs-p.usedAt > d.Milliseconds() {
			delete(ps.byID, id)
		}
	}
}

const (
	snapshotVersion  = 1
	snapshotProducer = 8 + 2 + 8 + 1     // id, epoch, used at, count
	snapshotBatch    = 4 + 4 + 8 + 8 + 8 // sequenced
)

var errSnapshot = errors.New("partition: bad producer snapshot")

// encode writes a snapshot: version, count, then the producers by id.
func (ps *producers) encode() []byte {
	ids := make([]int64, 0, len(ps.byID))
	for id := range ps.byID {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	be := binary.BigEndian
	b := be.AppendUint32([]byte{snapshotVersion}, uint32(len(ids)))
	for _, id := range ids {
		p := ps.byID[id]
		b = be.AppendUint64(b, uint64(id))
		b = be.AppendUint16(b, uint16(p.epoch))
		b = be.AppendUint64(b, uint64(p.usedAt))
		b = append(b, byte(p.count))
		for _, s := range p.batches() {
			b = be.AppendUint32(b, uint32(s.first))
			b = be.AppendUint32(b, uint32(s.last))
			b = be.AppendUint64(b, uint64(s.base))
			b = be.AppendUint64(b, uint64(s.next))
			b = be.AppendUint64(b, uint64(s.timestamp))
		}
	}
	return b
}

// decodeProducers reads what encode wrote.
func decodeProducers(b []byte) (producers, error) {
	be := binary.BigEndian
	if len(b) < 5 || b[0] != snapshotVersion {
		return producers{}, fmt.Errorf("%w: %d bytes", errSnapshot, len(b))
	}
	n := int(be.Uint32(b[1:]))
	b = b[5:]
	if n > len(b)/snapshotProducer {
		return producers{}, fmt.Errorf("%w: %d producers in %d bytes", errSnapshot, n, len(b))
	}
	ps := producers{byID: make(map[int64]*producer, n)}
	for range n {
		if len(b) < snapshotProducer {
			return producers{}, fmt.Errorf("%w: cut short", errSnapshot)
		}
		p := &producer{epoch: int16(be.Uint16(b[8:])), usedAt: int64(be.Uint64(b[10:])), count: int8(b[18])}
		id := int64(be.Uint64(b))
		b = b[snapshotProducer:]
		if p.count < 1 || p.count > window || len(b) < int(p.count)*snapshotBatch {
			return producers{}, fmt.Errorf("%w: %d batches of producer %d", errSnapshot, p.count, id)
		}
		for i := range p.count {
			p.recent[i] = sequenced{
				first: int32(be.Uint32(b)), last: int32(be.Uint32(b[4:])),
				base: int64(be.Uint64(b[8:])), next: int64(be.Uint64(b[16:])), timestamp: int64(be.Uint64(b[24:])),
			}
			b = b[snapshotBatch:]
		}
		ps.byID[id] = p
	}
	if len(b) != 0 {
		return producers{}, fmt.Errorf("%w: %d bytes too many", errSnapshot, len(b))
	}
	return ps, nil
}
