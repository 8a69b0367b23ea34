// Package member tells which brokers gossip believes alive. It is the only
// importer of memberlist. Gossip is a hint: it may trigger a decision of the
// controller, it never is one.
package member

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tailrace/tailrace/internal/model"
)

// Meta is what a node gossips about itself.
type Meta struct {
	Broker   model.BrokerID
	Storage  model.StorageID
	Cluster  string // "" until it founded or joined one
	Internal string // address of the internal listener
	HTTP     string // URL of the console, "" if off
	Version  string // release
	// Leaving is set before a graceful stop, so that others can tell it from
	// a failure.
	Leaving bool
	// Start tells one process from the next of the same node.
	Start uint64
}

const (
	metaVersion = 1
	// maxMeta is memberlist's limit.
	maxMeta = 512
)

var errMeta = errors.New("malformed gossip metadata")

func (m *Meta) encode() ([]byte, error) {
	b := []byte{metaVersion, 0}
	if m.Leaving {
		b[1] = 1
	}
	b = binary.BigEndian.AppendUint32(b, uint32(m.Broker))
	b = append(b, m.Storage[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Start)
	for _, s := range []string{m.Cluster, m.Internal, m.HTTP, m.Version} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	if len(b) > maxMeta {
		return nil, fmt.Errorf("gossip metadata takes %d bytes, %d are allowed: shorten the advertised addresses", len(b), maxMeta)
	}
	return b, nil
}

// decode reads what encode writes. Later versions may only append, so what
// follows is ignored.
func (m *Meta) decode(b []byte) error {
	if len(b) < 2+4+len(m.Storage)+8 || b[0] < metaVersion {
		return errMeta
	}
	m.Leaving = b[1]&1 != 0
	m.Broker = model.BrokerID(binary.BigEndian.Uint32(b[2:]))
	b = b[6:]
	b = b[copy(m.Storage[:], b):]
	m.Start = binary.BigEndian.Uint64(b)
	b = b[8:]
	for _, s := range []*string{&m.Cluster, &m.Internal, &m.HTTP, &m.Version} {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > uint64(len(b)-k) {
			return errMeta
		}
		*s, b = string(b[k:k+int(n)]), b[k+int(n):]
	}
	if m.Broker < 0 || m.Storage.IsZero() {
		return errMeta
	}
	return nil
}

// name is the node's name in gossip: unique per process, so that a restart on
// another port never conflicts with its own past.
func (m *Meta) name() string {
	return fmt.Sprintf("%d-%.8s-%x", m.Broker, m.Storage, m.Start)
}
