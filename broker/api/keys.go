package api

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Key is one row of the table that drives everything about an API key: what
// ApiVersions says, dispatch, version checks, headers, limits, authorization
// and the documentation.
type Key struct {
	Key      int16
	Name     string
	Min, Max int16 // advertised; both served whole
	// ServedMin is above Min only for Produce: versions below it are
	// advertised because clients derive features from them (KAFKA-18659), and
	// close the connection when used.
	ServedMin int16
	// FlexibleFrom is the first version with compact lengths and tags (KIP-482).
	FlexibleFrom int16
	MaxBytes     int // of a request's body
	PreAuth      bool
	// Auth is what the request is checked for before its handler runs, or by
	// the handler for each resource that it names.
	Auth Auth
	Note string // for the documentation: what is particular here

	layout string // see schema
	handle func(*call)

	layouts []*layout // by version
}

// Size limits by key. Before authentication they are capped by maxPreAuthBytes.
const (
	maxPreAuthBytes = 64 << 10
	maxSmallBytes   = 64 << 10
	maxAdminBytes   = 1 << 20
	maxFetchBytes   = 4 << 20   // about 100,000 partitions
	maxProduceBytes = 100 << 20 // socket.request.max.bytes
)

// Keys returns the table, by number. The rows are shared: read only.
func Keys() []*Key { keyTable.once.Do(prepareTable); return keyTable.rows }

// Lookup returns the row of a key, or nil if it is not served.
func Lookup(key int16) *Key {
	keyTable.once.Do(prepareTable)
	if key < 0 || int(key) >= len(keyTable.byNumber) {
		return nil
	}
	return keyTable.byNumber[key]
}

// Flexible reports whether a version of the key has flexible headers and
// bodies.
func (k *Key) Flexible(version int16) bool { return version >= k.FlexibleFrom }

// keyTable is built on first use: the rows name handlers, and handlers look
// rows up.
var keyTable struct {
	once     sync.Once
	rows     []*Key
	byNumber []*Key // nil where no key is served
}

func prepareTable() {
	keyTable.rows = rows()
	for _, k := range keyTable.rows {
		k.prepare()
		for len(keyTable.byNumber) <= int(k.Key) {
			keyTable.byNumber = append(keyTable.byNumber, nil)
		}
		keyTable.byNumber[k.Key] = k
	}
}

func (k *Key) prepare() {
	k.ServedMin = max(k.ServedMin, k.Min)
	k.Name = kmsg.NameForKey(k.Key)
	s := parseSchema(k.layout)
	k.layouts = make([]*layout, k.Max+1)
	for v := k.ServedMin; v <= k.Max; v++ {
		k.layouts[v] = s.compile(v, k.Flexible(v), true)
	}
}
