package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tailrace/tailrace/internal/model"
)

// ErrCorrupt is wrapped by every decoding error of this package.
var ErrCorrupt = errors.New("control: malformed encoding")

// coder writes or reads a fixed sequence of fields: one description of a type
// serves both directions, so they cannot differ. Integers are varints
// (zig-zag when signed), strings and lists have a length in front. A reader
// keeps the first error and then leaves every field alone; no length is
// believed beyond the bytes that are there.
type coder struct {
	buf     []byte // written so far, or left to read
	reading bool
	limit   int // longest list to accept; 0: as many as there are bytes
	err     error
}

func (c *coder) fail(what string) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	c.buf = nil
}

func (c *coder) u64(v *uint64) {
	if !c.reading {
		c.buf = binary.AppendUvarint(c.buf, *v)
		return
	}
	x, n := binary.Uvarint(c.buf)
	if n <= 0 {
		c.fail("varint")
		return
	}
	*v, c.buf = x, c.buf[n:]
}

func (c *coder) i64(v *int64) {
	if !c.reading {
		c.buf = binary.AppendVarint(c.buf, *v)
		return
	}
	x, n := binary.Varint(c.buf)
	if n <= 0 {
		c.fail("varint")
		return
	}
	*v, c.buf = x, c.buf[n:]
}

// codeSigned codes any signed integer type, refusing values outside [lo, hi].
// Like every method it only reads *v when it writes the encoding: images are
// shared.
func codeSigned[T ~int8 | ~int16 | ~int32](c *coder, v *T, lo, hi int64) {
	x := int64(*v)
	c.i64(&x)
	if !c.reading {
		return
	}
	if x < lo || x > hi {
		c.fail("integer out of range")
		return
	}
	*v = T(x)
}

func (c *coder) i32(v *int32) { codeSigned(c, v, math.MinInt32, math.MaxInt32) }
func (c *coder) i16(v *int16) { codeSigned(c, v, math.MinInt16, math.MaxInt16) }

func (c *coder) broker(v *model.BrokerID) { c.i32((*int32)(v)) }

func codeI8[T ~int8](c *coder, v *T) {
	codeSigned(c, v, math.MinInt8, math.MaxInt8)
}

func codeByte[T ~uint8](c *coder, v *T) {
	if !c.reading {
		c.buf = append(c.buf, byte(*v))
		return
	}
	if len(c.buf) == 0 {
		c.fail("byte")
		return
	}
	*v, c.buf = T(c.buf[0]), c.buf[1:]
}

func (c *coder) bool(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	codeByte(c, &b)
	if c.reading {
		*v = b != 0
	}
}

func (c *coder) raw(b []byte) {
	if !c.reading {
		c.buf = append(c.buf, b...)
		return
	}
	if len(c.buf) < len(b) {
		c.fail("fixed bytes")
		return
	}
	copy(b, c.buf)
	c.buf = c.buf[len(b):]
}

func (c *coder) id(v *model.TopicID)        { c.raw(v[:]) }
func (c *coder) storage(v *model.StorageID) { c.raw(v[:]) }

func (c *coder) tp(v *model.TopicPartition) {
	c.id(&v.Topic)
	c.i32(&v.Partition)
}

// length codes a count that can be at most the number of bytes left.
func (c *coder) length(n int) int {
	v := uint64(n)
	c.u64(&v)
	if c.reading && v > uint64(len(c.buf)) {
		c.fail("length exceeds the input")
		return 0
	}
	return int(v)
}

func (c *coder) str(v *string) {
	n := c.length(len(*v))
	if !c.reading {
		c.buf = append(c.buf, *v...)
		return
	}
	*v, c.buf = string(c.buf[:n]), c.buf[n:]
}

// codeSlice codes a list; an empty one reads as nil. Memory grows with what is
// really there, not with the announced length.
func codeSlice[T any](c *coder, s *[]T, elem func(*T)) {
	n := c.length(len(*s))
	if c.reading && c.limit > 0 && n > c.limit {
		c.fail("list too long")
		return
	}
	if !c.reading {
		for i := range *s {
			elem(&(*s)[i])
		}
		return
	}
	var out []T
	if n > 0 {
		out = make([]T, 0, min(n, 16))
	}
	for i := 0; i < n && c.err == nil; i++ {
		var e T
		elem(&e)
		out = append(out, e)
	}
	*s = out
}

func (c *coder) brokers(v *[]model.BrokerID) { codeSlice(c, v, c.broker) }

// strMap codes a map in key order, so that equal maps have equal encodings.
func (c *coder) strMap(m *map[string]string) {
	if !c.reading {
		keys := sortedKeys(*m)
		c.length(len(keys))
		for _, k := range keys {
			v := (*m)[k]
			c.str(&k)
			c.str(&v)
		}
		return
	}
	n := c.length(0)
	if n == 0 {
		*m = nil
		return
	}
	out := map[string]string{}
	for i := 0; i < n && c.err == nil; i++ {
		var k, v string
		c.str(&k)
		c.str(&v)
		out[k] = v
	}
	*m = out
}

// end reports the first error, or trailing bytes.
func (c *coder) end() error {
	if c.err == nil && c.reading && len(c.buf) > 0 {
		c.fail("trailing bytes")
	}
	return c.err
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
