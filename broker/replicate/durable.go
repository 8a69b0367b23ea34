package replicate

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tailrace/tailrace/internal/model"
)

// DurableEnd is a follower's durable end of one partition under one leader
// epoch.
type DurableEnd struct {
	TP    model.TopicPartition
	Epoch model.LeaderEpoch
	End   int64
}

// DurableReport is the body of the private DurableEnds request, version 0:
//
//	int64   incarnation of the follower
//	uvarint number of entries, then each:
//	  16 bytes topic id, uvarint partition, uvarint leader epoch, uvarint end
//
// An empty report is a keep-alive of the pair of brokers. The answer lists the
// indexes of entries that the leader could not take yet (it does not lead that
// epoch so far): uvarint count, then uvarint indexes.
type DurableReport struct {
	Incarnation model.Incarnation
	Ends        []DurableEnd
}

// DurableVersion is the only version of the DurableEnds request.
const DurableVersion = 0

var errReport = errors.New("replicate: malformed durable report")

// minEntry is the least size of an encoded entry.
const minEntry = 16 + 3

// Append encodes the report.
func (r *DurableReport) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Incarnation))
	b = binary.AppendUvarint(b, uint64(len(r.Ends)))
	for _, e := range r.Ends {
		b = append(b, e.TP.Topic[:]...)
		b = binary.AppendUvarint(b, uint64(e.TP.Partition))
		b = binary.AppendUvarint(b, uint64(uint32(e.Epoch)))
		b = binary.AppendUvarint(b, uint64(e.End))
	}
	return b
}

// DecodeDurableReport reads what Append wrote. The number of entries is bounded
// by the bytes that are there.
func DecodeDurableReport(b []byte) (DurableReport, error) {
	var r DurableReport
	if len(b) < 9 {
		return r, errReport
	}
	r.Incarnation = model.Incarnation(binary.BigEndian.Uint64(b))
	b = b[8:]
	n, b, err := uvarint(b)
	if err != nil || n > uint64(len(b)/minEntry) {
		return r, fmt.Errorf("%w: %d entries in %d bytes", errReport, n, len(b))
	}
	r.Ends = make([]DurableEnd, n)
	for i := range r.Ends {
		e := &r.Ends[i]
		if len(b) < minEntry {
			return r, errReport
		}
		copy(e.TP.Topic[:], b)
		var part, epoch, end uint64
		part, b, err = uvarint(b[16:])
		if err == nil {
			epoch, b, err = uvarint(b)
		}
		if err == nil {
			end, b, err = uvarint(b)
		}
		if err != nil || part > 1<<31-1 || epoch > 1<<31-1 || end > 1<<63-1 {
			return r, errReport
		}
		e.TP.Partition, e.Epoch, e.End = int32(part), int32(epoch), int64(end)
	}
	return r, nil
}

// appendIndexes encodes the answer to a report.
func appendIndexes(b []byte, idx []int) []byte {
	b = binary.AppendUvarint(b, uint64(len(idx)))
	for _, i := range idx {
		b = binary.AppendUvarint(b, uint64(i))
	}
	return b
}

// decodeIndexes reads the answer to a report of n entries.
func decodeIndexes(b []byte, n int) ([]int, error) {
	count, b, err := uvarint(b)
	if err != nil || count > uint64(n) {
		return nil, errReport
	}
	out := make([]int, count)
	for i := range out {
		var v uint64
		if v, b, err = uvarint(b); err != nil || v >= uint64(n) {
			return nil, errReport
		}
		out[i] = int(v)
	}
	return out, nil
}

func uvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, errReport
	}
	return v, b[n:], nil
}
