package control

import (
	"fmt"

	"github.com/tailrace/tailrace/internal/model"
)

// HeartbeatRequest keeps a broker's session with the controller.
type HeartbeatRequest struct {
	Broker       model.BrokerID
	Incarnation  model.Incarnation
	AppliedIndex uint64 // metadata index that the broker has applied and acted on
	WantDrain    bool   // it wants to stop: move its leaderships away
	Stopped      bool   // its last word: fence it at once
}

// HeartbeatResponse answers a heartbeat. It is sent only after a majority of
// the voters confirmed the controller, later than the request arrived.
type HeartbeatResponse struct {
	Index uint64 // the controller's applied metadata index
	// LeaseGranted: the broker may act as leader for the lease's duration,
	// counted from the sending of the request (I15).
	LeaseGranted bool
	Fenced       bool
	MayStop      bool // it leads nothing any more
	NeedReport   bool // send ReportLogs
	// Unknown: the incarnation is not the registered one; register again.
	Unknown bool
}

func (h *HeartbeatRequest) code(c *coder) {
	c.broker(&h.Broker)
	c.incarnation(&h.Incarnation)
	c.u64(&h.AppliedIndex)
	c.bool(&h.WantDrain)
	c.bool(&h.Stopped)
}

func (h *HeartbeatResponse) code(c *coder) {
	c.u64(&h.Index)
	c.bool(&h.LeaseGranted)
	c.bool(&h.Fenced)
	c.bool(&h.MayStop)
	c.bool(&h.NeedReport)
	c.bool(&h.Unknown)
}

// Evidence is what a broker saw of another one. Gossip alone is none of these:
// it makes the member layer probe, and the outcome of the probe is evidence.
type Evidence uint8

// Kinds of evidence.
const (
	// EvidenceRefused: a fresh connection to it was refused, so its process
	// is gone. It is fenced at once.
	EvidenceRefused Evidence = iota + 1
	// EvidenceSilence: it is suspected and direct probes failed. It is fenced
	// when its lease is over and nobody has vouched for it lately.
	EvidenceSilence
	// EvidenceAlive: it lately reported durable progress, or answered; it
	// vetoes EvidenceSilence.
	EvidenceAlive
)

// Suspicion is a message of evidence about an incarnation of a broker.
type Suspicion struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation
	Evidence    Evidence
}

func (s *Suspicion) code(c *coder) {
	c.broker(&s.Broker)
	c.incarnation(&s.Incarnation)
	codeByte(c, &s.Evidence)
}

// coded is any message with a fixed sequence of fields.
type coded interface{ code(c *coder) }

func encodeMessage(m coded) []byte {
	c := &coder{buf: []byte{messageVersion}}
	m.code(c)
	return c.buf
}

func decodeMessage(b []byte, m coded) error {
	if len(b) < 1 || len(b) > MaxMessage || b[0] != messageVersion {
		return fmt.Errorf("%w: message of %d bytes", ErrCorrupt, len(b))
	}
	c := &coder{buf: b[1:], reading: true, limit: maxList}
	m.code(c)
	return c.end()
}
