// Package identity keeps who a node is: node.json in its data directory, and
// the founding of a cluster by nodes that have none yet.
//
// A data directory belongs to one broker of one cluster for ever. Its storage
// id is drawn once; a wiped disk therefore is a new, empty node (invariant
// I13), never an old one with amnesia.
package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"

	"github.com/tailrace/tailrace/internal/model"
)

// FormatVersion is the data directory format that this release writes. A
// directory with a later one is refused.
const FormatVersion = 1

// Founder is one member of a founding set.
type Founder struct {
	Broker  model.BrokerID  `json:"broker"`
	Storage model.StorageID `json:"storage"`
}

// Node is the contents of node.json.
type Node struct {
	Format    int             `json:"format"`
	Broker    model.BrokerID  `json:"broker"`
	Storage   model.StorageID `json:"storage"`
	Directory model.StorageID `json:"directory"` // KIP-858 directory id
	// Cluster is "" until the node founded or joined one; then it never
	// changes.
	Cluster string `json:"cluster,omitempty"`
	// Founders is the one set that this node ever agreed to found a cluster
	// with, in canonical order. Once written it never changes: two sets that
	// share a member can therefore not both become a cluster.
	Founders []Founder `json:"founders,omitempty"`
	// Incarnation is that of the last registration; it only grows.
	Incarnation model.Incarnation `json:"incarnation,omitempty"`
	// Initialised says that the catalog was created: from then on a missing
	// catalog is lost data, not a fresh directory.
	Initialised bool `json:"initialised,omitempty"`
}

func (n *Node) founder() Founder { return Founder{n.Broker, n.Storage} }

func (n *Node) clone() Node {
	c := *n
	c.Founders = append([]Founder(nil), n.Founders...)
	return c
}

// envelope adds a checksum, so that a flipped bit never turns one id into
// another.
type envelope struct {
	Node   json.RawMessage `json:"node"`
	CRC32C string          `json:"crc32c"` // of node's bytes, hexadecimal
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encode(n *Node) ([]byte, error) {
	body, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(envelope{body, checksum(body)})
	return append(b, '\n'), err
}

func decode(b []byte) (*Node, error) {
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, err
	}
	if e.CRC32C != checksum(e.Node) {
		return nil, errors.New("checksum does not match")
	}
	n := new(Node)
	if err := json.Unmarshal(e.Node, n); err != nil {
		return nil, err
	}
	switch {
	case n.Format > FormatVersion:
		return nil, fmt.Errorf("format %d is newer than this release's %d: %w", n.Format, FormatVersion, errNewer)
	case n.Format < 1 || n.Broker < 0 || n.Storage.IsZero() || n.Directory.IsZero():
		return nil, errors.New("fields are missing")
	}
	return n, nil
}

var errNewer = errors.New("written by a newer release")

func checksum(b []byte) string {
	return strconv.FormatUint(uint64(crc32.Checksum(b, castagnoli)), 16)
}
