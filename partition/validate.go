package partition

import (
	"errors"
	"fmt"
	"math"

	"github.com/tailrace/tailrace/internal/batch"
)

// rejection is why an append is refused before it is ordered.
type rejection struct {
	code    int16
	message string
}

func reject(code int16, format string, args ...any) rejection {
	return rejection{code, fmt.Sprintf(format, args...)}
}

// validate checks a produce as far as that is possible without the log, and
// stamps LogAppendTime. The entry's offsets are relative to 0.
func validate(req *AppendRequest, topic *TopicConfig, nowMs int64) (entry, rejection) {
	e := entry{raw: req.Batches, done: req.Done, timestamp: -1}
	switch {
	case req.Acks < -1 || req.Acks > 1:
		return e, reject(codeInvalidRequiredAcks, "acks=%d", req.Acks)
	case len(req.Batches) == 0:
		return e, reject(codeInvalidRecord, "no record batch")
	}
	e.early = req.Acks == 0 || (req.Acks == 1 && topic.AcksFloorClient)
	for rest, n := req.Batches, 0; len(rest) > 0; n++ {
		h, raw, rej := validateBatch(rest, topic, nowMs)
		if rej.code != codeNone {
			return e, rej
		}
		if n > 0 && (h.Idempotent() || e.head.Idempotent()) {
			return e, reject(codeInvalidRecord, "more than one batch of an idempotent producer")
		}
		if topic.LogAppendTime {
			batch.SetLogAppendTime(raw, nowMs)
			h.Attributes, h.MaxTimestamp = h.Attributes|logAppendTime, nowMs
			e.timestamp = nowMs
		}
		if n == 0 {
			e.head = h
		}
		e.next += int64(h.LastOffsetDelta) + 1
		rest = rest[len(raw):]
	}
	return e, rejection{}
}

const logAppendTime = 0x08 // timestamp type bit of a batch's attributes

func validateBatch(b []byte, topic *TopicConfig, nowMs int64) (batch.Header, []byte, rejection) {
	h, raw, err := batch.Next(b)
	switch {
	case errors.Is(err, batch.ErrMagic):
		return h, nil, reject(codeUnsupportedForMessageFormat, "%v; only record batches of magic 2 are stored", err)
	case err != nil:
		return h, nil, reject(codeCorruptMessage, "%v", err)
	case len(raw) > topic.maxMessageBytes():
		return h, nil, reject(codeMessageTooLarge, "batch of %d bytes, max.message.bytes is %d", len(raw), topic.maxMessageBytes())
	}
	if err := batch.VerifyCRC(raw); err != nil {
		return h, nil, reject(codeCorruptMessage, "%v", err)
	}
	if rej := validateHeader(&h, topic, nowMs); rej.code != codeNone {
		return h, nil, rej
	}
	if topic.Compact {
		if rej := requireKeys(&h, raw); rej.code != codeNone {
			return h, nil, rej
		}
	}
	return h, raw, rejection{}
}

func validateHeader(h *batch.Header, topic *TopicConfig, nowMs int64) rejection {
	switch {
	case h.Control():
		return reject(codeInvalidRecord, "clients may not write control records")
	case h.Transactional():
		return reject(codeInvalidTxnState, "transactional batch outside a transaction")
	case h.Records <= 0 || h.LastOffsetDelta == math.MaxInt32 || h.Records != h.LastOffsetDelta+1:
		return reject(codeInvalidRecord, "%d records, last offset delta %d", h.Records, h.LastOffsetDelta)
	case h.Compression() > 4:
		return reject(codeInvalidRecord, "unknown compression %d", h.Compression())
	case h.Idempotent() && (h.ProducerEpoch < 0 || h.BaseSequence < 0):
		return reject(codeInvalidRecord, "producer epoch %d, base sequence %d", h.ProducerEpoch, h.BaseSequence)
	case h.LogAppendTime() && !topic.LogAppendTime:
		return reject(codeInvalidTimestamp, "timestamp type is the broker's to set")
	}
	if topic.LogAppendTime {
		return rejection{}
	}
	return validateTimes(h, topic, nowMs)
}

func validateTimes(h *batch.Header, topic *TopicConfig, nowMs int64) rejection {
	if d := topic.TimestampAfter.Milliseconds(); d > 0 && h.MaxTimestamp > nowMs+d {
		return reject(codeInvalidTimestamp, "timestamp %d is more than %d ms after the broker's time %d", h.MaxTimestamp, d, nowMs)
	}
	for _, ts := range [2]int64{h.BaseTimestamp, h.MaxTimestamp} {
		if d := topic.TimestampBefore.Milliseconds(); d > 0 && ts >= 0 && ts < nowMs-d {
			return reject(codeInvalidTimestamp, "timestamp %d is more than %d ms before the broker's time %d", ts, d, nowMs)
		}
	}
	return rejection{}
}
