package transport

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tailrace/tailrace/internal/model"
)

var errShort = errors.New("message is cut short")

// Identity says who a broker is.
type Identity struct {
	ClusterID   string // "" while it has none
	Broker      model.BrokerID
	Incarnation model.Incarnation // when the connection was opened; 0 before registration
	Storage     model.StorageID
}

const nonceBytes = 32

// hello is the first message of both sides.
type hello struct {
	id    Identity
	class Class // meaningful from the dialling side
	nonce [nonceBytes]byte
}

func (h *hello) encode(b []byte) []byte {
	b = appendString(b, h.id.ClusterID)
	b = binary.BigEndian.AppendUint32(b, uint32(h.id.Broker))
	b = binary.BigEndian.AppendUint64(b, uint64(h.id.Incarnation))
	b = append(b, h.id.Storage[:]...)
	b = append(b, byte(h.class))
	return append(b, h.nonce[:]...)
}

func (h *hello) decode(b []byte) error {
	var ok bool
	if h.id.ClusterID, b, ok = takeString(b); !ok {
		return errShort
	}
	if len(b) < 4+8+len(h.id.Storage)+1+nonceBytes {
		return errShort
	}
	h.id.Broker = model.BrokerID(binary.BigEndian.Uint32(b))
	h.id.Incarnation = model.Incarnation(binary.BigEndian.Uint64(b[4:]))
	b = b[12:]
	b = b[copy(h.id.Storage[:], b):]
	h.class = Class(b[0])
	copy(h.nonce[:], b[1:])
	return nil
}

// Error is an error answer of a peer: a Kafka error code and a message.
type Error struct {
	Code    int16
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("peer answered error %d: %s", e.Code, e.Message) }

// splitAnswer takes the error code off a private response.
func splitAnswer(b []byte) ([]byte, error) {
	if len(b) < 2 {
		return nil, errShort
	}
	code := int16(binary.BigEndian.Uint16(b))
	if code == codeNone {
		return b[2:], nil
	}
	msg, _, _ := takeString(b[2:])
	return nil, &Error{code, msg}
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func takeString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return "", nil, false
	}
	return string(b[2 : 2+n]), b[2+n:], true
}
