package segment

// Catalog is the ordered, transactional store that says what exists in a data
// directory. Applies are durable in the order in which they were made: when a
// synced Apply has returned, so is everything applied before it.
type Catalog interface {
	KV
	// Metrics returns counters for the monitoring of the catalog.
	Metrics() CatalogMetrics
	Close() error
}

// CatalogMetrics are the figures of a catalog that operators watch.
type CatalogMetrics struct {
	DiskBytes     int64 // tables and write-ahead log
	MemTableBytes int64
	Flushes       int64
	Compactions   int64
	CacheHits     int64
	CacheMisses   int64
}

// prefixKV is a view of the keys below a prefix.
type prefixKV struct {
	kv     KV
	prefix []byte
}

func (p prefixKV) key(k []byte) []byte { return append(p.prefix[:len(p.prefix):len(p.prefix)], k...) }

func (p prefixKV) Get(key []byte) ([]byte, error) { return p.kv.Get(p.key(key)) }

// end maps an upper bound; nil is the end of the keyspace.
func (p prefixKV) end(hi []byte) []byte {
	if hi == nil {
		return prefixEnd(p.prefix)
	}
	return p.key(hi)
}

func (p prefixKV) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	return p.kv.Scan(p.key(lo), p.end(hi), func(k, v []byte) bool { return fn(k[len(p.prefix):], v) })
}

func (p prefixKV) Apply(b *KVBatch, sync bool) error {
	out := KVBatch{Ops: make([]KVOp, len(b.Ops))}
	for i, op := range b.Ops {
		op.Key = p.key(op.Key)
		if op.End != nil {
			op.End = p.key(op.End)
		}
		out.Ops[i] = op
	}
	return p.kv.Apply(&out, sync)
}

// prefixEnd is the least key above every key with the prefix.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
