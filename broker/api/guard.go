package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrMalformed is wrapped by every refusal of bytes that do not have the shape
// of their key and version. The connection is closed, as Kafka does.
var ErrMalformed = errors.New("malformed request")

// ErrBudget: the request would take more memory than it may when decoded.
var ErrBudget = errors.New("request decodes to too much memory")

const (
	// elementCost is charged for each array element, in bytes. It is at least
	// the size of every request element in kmsg, tag map included.
	elementCost = 128
	// memoryBudget bounds what one request may decode to beyond its own bytes.
	memoryBudget = 32 << 20
	// maxTags bounds the tagged fields of one structure. Kafka defines four
	// at most; unknown ones are kept in a map by the decoder.
	maxTags = 256
	tagCost = 64
)

// guard walks a request's bytes by their layout before the decoder sees them.
// Every count is compared with the bytes that remain, so work is linear in the
// length of the request and memory in the budget, whatever the counts say.
type guard struct {
	b        []byte
	flexible bool
	budget   int
}

// check returns nil if body is a request of layout l. Trailing bytes are
// allowed, as in Kafka.
func checkShape(body []byte, l *layout, flexible bool) error {
	g := guard{b: body, flexible: flexible, budget: memoryBudget}
	return g.walk(l)
}

func (g *guard) walk(l *layout) error {
	for i := range l.steps {
		if err := g.step(&l.steps[i]); err != nil {
			return err
		}
	}
	if l.isStruct {
		return g.tagSection(l.tags)
	}
	return nil
}

func (g *guard) step(st *step) error {
	switch st.kind {
	case fixedField:
		return g.skip(uint64(st.size))
	case arrayField:
		return g.array(st.elem)
	case nullableField:
		return g.nullable(st.elem)
	case stringField:
		return g.lengthAndSkip(2)
	default:
		return g.lengthAndSkip(4)
	}
}

// nullable walks a structure behind a byte that is negative for null.
func (g *guard) nullable(elem *layout) error {
	if len(g.b) == 0 {
		return fmt.Errorf("%w: cut short", ErrMalformed)
	}
	present := int8(g.b[0]) >= 0
	g.b = g.b[1:]
	if !present {
		return nil
	}
	return g.walk(elem)
}

func (g *guard) array(elem *layout) error {
	n, err := g.length(4)
	if err != nil {
		return err
	}
	if elem.min > 0 && n > uint64(len(g.b)/elem.min) {
		return fmt.Errorf("%w: array of %d elements in %d bytes", ErrMalformed, n, len(g.b))
	}
	if n*elementCost > uint64(g.budget) {
		return fmt.Errorf("%w: array of %d elements", ErrBudget, n)
	}
	g.budget -= int(n) * elementCost
	for range n {
		if err := g.walk(elem); err != nil {
			return err
		}
	}
	return nil
}

func (g *guard) tagSection(known []step) error {
	n, err := g.uvarint()
	if err != nil {
		return err
	}
	if n > maxTags || n > uint64(len(g.b)/2) {
		return fmt.Errorf("%w: %d tagged fields in %d bytes", ErrMalformed, n, len(g.b))
	}
	if g.budget -= int(n) * tagCost; g.budget < 0 {
		return fmt.Errorf("%w: tagged fields", ErrBudget)
	}
	for range n {
		if err := g.taggedField(known); err != nil {
			return err
		}
	}
	return nil
}

func (g *guard) taggedField(known []step) error {
	tag, err := g.uvarint()
	if err != nil {
		return err
	}
	size, err := g.uvarint()
	if err != nil {
		return err
	}
	if size > uint64(len(g.b)) {
		return fmt.Errorf("%w: tagged field of %d bytes in %d", ErrMalformed, size, len(g.b))
	}
	for i := range known {
		if uint64(known[i].tag) != tag {
			continue
		}
		inner := guard{b: g.b[:size], flexible: g.flexible, budget: g.budget}
		if err := inner.walk(known[i].elem); err != nil {
			return err
		}
		g.budget = inner.budget
	}
	return g.skip(size)
}

// length reads the length of an array, a string (prefix 2) or bytes; null is 0.
func (g *guard) length(prefix int) (uint64, error) {
	if g.flexible {
		n, err := g.uvarint()
		if n > 0 {
			n--
		}
		return n, err
	}
	if len(g.b) < prefix {
		return 0, fmt.Errorf("%w: cut short", ErrMalformed)
	}
	var n int64
	if prefix == 2 {
		n = int64(int16(binary.BigEndian.Uint16(g.b)))
	} else {
		n = int64(int32(binary.BigEndian.Uint32(g.b)))
	}
	g.b = g.b[prefix:]
	if n < -1 {
		return 0, fmt.Errorf("%w: length %d", ErrMalformed, n)
	}
	return uint64(max(n, 0)), nil
}

func (g *guard) lengthAndSkip(prefix int) error {
	n, err := g.length(prefix)
	if err != nil {
		return err
	}
	return g.skip(n)
}

func (g *guard) skip(n uint64) error {
	if n > uint64(len(g.b)) {
		return fmt.Errorf("%w: field of %d bytes, %d left", ErrMalformed, n, len(g.b))
	}
	g.b = g.b[n:]
	return nil
}

// uvarint reads an unsigned varint of at most 32 bits, as Kafka's lengths are.
func (g *guard) uvarint() (uint64, error) {
	v, n := binary.Uvarint(g.b)
	if n <= 0 || n > binary.MaxVarintLen32 || v > math.MaxUint32 {
		return 0, fmt.Errorf("%w: bad varint", ErrMalformed)
	}
	g.b = g.b[n:]
	return v, nil
}
