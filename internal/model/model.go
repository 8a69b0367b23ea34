// Package model holds the vocabulary that every package shares: identities of
// brokers, topics, partitions and storage. It has no behaviour beyond naming.
package model

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
)

// BrokerID is the configured id of a broker (Kafka's node.id), ≥ 0.
type BrokerID int32

// NoBroker stands for "no broker": an offline partition's leader.
const NoBroker BrokerID = -1

// Incarnation numbers one life of a broker process (Kafka's broker epoch). It
// is the metadata log index of the registration record, so a later
// registration always has the greater number. Zero means "not registered".
type Incarnation int64

// LeaderEpoch numbers the leaderships of one partition (KIP-101, KIP-320). It
// grows with each election, also when the same broker is elected again.
type LeaderEpoch = int32

// NoEpoch is the leader epoch of an empty log, as on the wire.
const NoEpoch LeaderEpoch = -1

// PartitionEpoch numbers the committed states of one partition; every change
// of leader, in-sync set or replicas adds one. In-sync proposals compare it.
type PartitionEpoch = int32

// TopicID is the immutable identity of a topic (KIP-516). All durable state is
// keyed by it, so a recreated topic never meets its predecessor's records.
type TopicID [16]byte

// NewTopicID draws a random topic id from r.
func NewTopicID(r io.Reader) (TopicID, error) {
	var id TopicID
	_, err := io.ReadFull(r, id[:])
	id[6] = id[6]&0x0f | 0x40 // RFC 9562 version 4, as Kafka's Uuid.randomUuid
	id[8] = id[8]&0x3f | 0x80
	return id, err
}

// String returns Kafka's text form: unpadded URL-safe base64, 22 characters.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// IsZero reports whether id is the zero id, which names no topic.
func (id TopicID) IsZero() bool { return id == TopicID{} }

// ParseTopicID reads the form that String writes.
func ParseTopicID(s string) (TopicID, error) {
	var id TopicID
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("topic id %q: want 22 characters of URL-safe base64", s)
	}
	copy(id[:], b)
	return id, nil
}

// TopicPartition names a partition by topic id.
type TopicPartition struct {
	Topic     TopicID
	Partition int32
}

// String returns "topic-id/partition".
func (tp TopicPartition) String() string { return fmt.Sprintf("%s/%d", tp.Topic, tp.Partition) }

// StorageID is the random identity of one data directory, written once. A
// wiped disk has another one and is therefore a new, empty node (I13).
type StorageID [16]byte

// NewStorageID draws a random storage id from r.
func NewStorageID(r io.Reader) (StorageID, error) {
	var id StorageID
	_, err := io.ReadFull(r, id[:])
	return id, err
}

// String returns 32 hexadecimal digits.
func (id StorageID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is unset.
func (id StorageID) IsZero() bool { return id == StorageID{} }

// ParseStorageID reads the form that String writes.
func ParseStorageID(s string) (StorageID, error) {
	var id StorageID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("storage id %q: want 32 hexadecimal digits", s)
	}
	copy(id[:], b)
	return id, nil
}

// MarshalText implements encoding.TextMarshaler.
func (id StorageID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *StorageID) UnmarshalText(b []byte) error {
	v, err := ParseStorageID(string(b))
	if err == nil {
		*id = v
	}
	return err
}
