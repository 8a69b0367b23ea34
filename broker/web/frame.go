package web

import (
	"encoding/json"
	"unicode/utf8"

	"github.com/tailrace/tailrace/client"
)

// Frame is one record as a tail sends it: one JSON text frame. Bytes that are
// not UTF-8 are in the field with _b64 (standard base64), and the field without
// is left out; a null key or value is null.
type Frame struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Offset    int64         `json:"offset"`
	Timestamp int64         `json:"timestamp"` // epoch milliseconds
	Key       *Text         `json:"key,omitzero"`
	KeyB64    []byte        `json:"key_b64,omitempty"`
	Value     *Text         `json:"value,omitzero"`
	ValueB64  []byte        `json:"value_b64,omitempty"`
	Headers   []FrameHeader `json:"headers"`
}

// FrameHeader is one header, in the record's order; names may repeat.
type FrameHeader struct {
	Key      string `json:"key"`
	Value    *Text  `json:"value,omitzero"`
	ValueB64 []byte `json:"value_b64,omitempty"`
}

// Text is UTF-8 bytes, or null.
type Text struct {
	bytes []byte
	null  bool
}

// MarshalJSON implements json.Marshaler.
func (t *Text) MarshalJSON() ([]byte, error) {
	if t.null {
		return []byte("null"), nil
	}
	return json.Marshal(string(t.bytes))
}

// split gives bytes as text if they are UTF-8 or null, otherwise as they are.
func split(b []byte) (*Text, []byte) {
	if b == nil {
		return &Text{null: true}, nil
	}
	if utf8.Valid(b) {
		return &Text{bytes: b}, nil
	}
	return nil, b
}

func encodeFrame(r *client.Record) ([]byte, error) {
	f := Frame{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(),
		Headers: make([]FrameHeader, 0, len(r.Headers)),
	}
	f.Key, f.KeyB64 = split(r.Key)
	f.Value, f.ValueB64 = split(r.Value)
	for _, h := range r.Headers {
		fh := FrameHeader{Key: h.Key}
		fh.Value, fh.ValueB64 = split(h.Value)
		f.Headers = append(f.Headers, fh)
	}
	return json.Marshal(f)
}
