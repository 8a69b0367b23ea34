package wire

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const apiVersionsKey = 18

var (
	errShortHeader = errors.New("request header is cut short")
	errBadTags     = errors.New("request header has malformed tagged fields")
)

// firstFlexible holds, by API key, the first version with compact encodings
// and tagged fields (KIP-482).
var firstFlexible = func() [kmsg.MaxKey + 1]int16 {
	var t [kmsg.MaxKey + 1]int16
	for key := range t {
		t[key] = math.MaxInt16
		r := kmsg.RequestForKey(int16(key))
		if r == nil {
			continue
		}
		for v := range r.MaxVersion() + 1 {
			if r.SetVersion(v); r.IsFlexible() {
				t[key] = v
				break
			}
		}
	}
	return t
}()

// KafkaFlexible reports whether Kafka's request key has flexible headers in
// the given version. Unknown keys, private ones included, have not.
func KafkaFlexible(key, version int16) bool {
	return key >= 0 && int(key) < len(firstFlexible) && version >= firstFlexible[key]
}

// parseHeader splits a frame into the header's fields and the body. clientID
// aliases b.
func parseHeader(b []byte, flexible func(key, version int16) bool, r *Request) (clientID []byte, err error) {
	if len(b) < 10 {
		return nil, errShortHeader
	}
	r.Key = int16(binary.BigEndian.Uint16(b))
	r.Version = int16(binary.BigEndian.Uint16(b[2:]))
	r.CorrelationID = int32(binary.BigEndian.Uint32(b[4:]))
	n := int16(binary.BigEndian.Uint16(b[8:]))
	b = b[10:]
	if n > 0 { // null (-1) and empty are the same to us
		if int(n) > len(b) {
			return nil, errShortHeader
		}
		clientID, b = b[:n], b[n:]
	} else if n < -1 {
		return nil, errShortHeader
	}
	r.flexible = flexible(r.Key, r.Version)
	if r.flexible {
		if b, err = skipTags(b); err != nil {
			return nil, err
		}
	}
	r.Body = b
	return clientID, nil
}

// skipTags skips a tagged-field section. Each field takes at least two bytes,
// so the work is bounded by the frame whatever the count claims.
func skipTags(b []byte) ([]byte, error) {
	count, n := binary.Uvarint(b)
	if n <= 0 || count > math.MaxInt32 {
		return nil, errBadTags
	}
	b = b[n:]
	for ; count > 0; count-- {
		_, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errBadTags
		}
		size, m := binary.Uvarint(b[n:])
		if m <= 0 || size > uint64(len(b)-n-m) {
			return nil, errBadTags
		}
		b = b[n+m+int(size):]
	}
	return b, nil
}
