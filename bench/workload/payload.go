package workload

import (
	"encoding/binary"
	"math/rand/v2"
	"strconv"
	"time"
)

// headerSize is what a value carries in front of its random bytes: the run it
// belongs to and the due time of its sending.
const headerSize = 16

// poolSize is the amount of random bytes that values are cut from: enough that
// no compressor finds a value again within a batch.
const poolSize = 4 << 20

// slabSize is how much is allocated at once for values that are written to.
const slabSize = 256 << 10

// payload makes incompressible values. Not safe for concurrent use.
type payload struct {
	size int
	run  uint64
	base time.Time // times count from here, monotonic
	rng  *rand.Rand
	pool []byte
	slab []byte
	keys [][]byte
}

// newPool draws the random bytes that all payloads of a run share.
func newPool(seed uint64, size int) []byte {
	pool := make([]byte, poolSize+size)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= len(pool); i += 8 {
		binary.LittleEndian.PutUint64(pool[i:], rng.Uint64())
	}
	return pool
}

func newPayload(pool []byte, seed, run uint64, base time.Time, size, keys int) *payload {
	p := &payload{size: size, run: run, base: base, rng: rand.New(rand.NewPCG(seed, 2)), pool: pool}
	for i := range keys {
		p.keys = append(p.keys, strconv.AppendInt([]byte("key-"), int64(i), 10))
	}
	return p
}

// plain returns a value that nobody will look at.
func (p *payload) plain() []byte {
	i := p.rng.IntN(poolSize)
	return p.pool[i : i+p.size : i+p.size]
}

// stamped returns a value that carries its due time.
func (p *payload) stamped(due time.Time) []byte {
	if len(p.slab) < p.size {
		p.slab = make([]byte, max(slabSize, p.size))
	}
	v := p.slab[:p.size:p.size]
	p.slab = p.slab[p.size:]
	binary.BigEndian.PutUint64(v, p.run)
	binary.BigEndian.PutUint64(v[8:], uint64(due.Sub(p.base)))
	copy(v[headerSize:], p.plain())
	return v
}

// key returns a random key, or nil where records have none.
func (p *payload) key() []byte {
	if len(p.keys) == 0 {
		return nil
	}
	return p.keys[p.rng.IntN(len(p.keys))]
}

// readStamp returns the time since base at which a value was due; ok is false
// for values of other runs.
func readStamp(v []byte, run uint64) (due time.Duration, ok bool) {
	if len(v) < headerSize || binary.BigEndian.Uint64(v) != run {
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint64(v[8:])), true
}
