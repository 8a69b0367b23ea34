package api

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestGuardRefuses: hostile counts are refused whatever they claim. That the
// work stays small follows from the walk never passing the bytes there are.
func TestGuardRefuses(t *testing.T) {
	uv := func(vs ...uint64) (b []byte) {
		for _, v := range vs {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	i32 := func(v int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
	for _, tc := range []struct {
		name         string
		key, version int16
		body         []byte
		want         error
	}{
		{"tag bomb in ApiVersions", 18, 3, cat(uv(2), []byte("x"), uv(2), []byte("1"), uv(math.MaxUint32)), ErrMalformed},
		{"many empty tags", 18, 3, cat(uv(1), uv(1), uv(1000), make([]byte, 4000)), ErrMalformed},
		{"tag longer than the rest", 18, 3, cat(uv(1), uv(1), uv(1, 0, 1<<20)), ErrMalformed},
		{"varint of more than 32 bits", 18, 3, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, ErrMalformed},
		{"endless varint", 18, 3, bytes.Repeat([]byte{0xff}, 12), ErrMalformed},
		{"array of 2^31-1", 3, 1, i32(math.MaxInt32), ErrMalformed},
		{"array of -2", 3, 1, i32(-2), ErrMalformed},
		{"compact array of 2^32-2", 3, 9, uv(math.MaxUint32), ErrMalformed},
		{"more elements than bytes can hold", 3, 10, cat(uv(11), make([]byte, 100)), ErrMalformed},
		{"string of -2", 19, 2, cat(i32(1), []byte{0xff, 0xfe}, make([]byte, 40)), ErrMalformed},
		{"string beyond the end", 19, 2, cat(i32(1), []byte{0x7f, 0xff}, make([]byte, 40)), ErrMalformed},
		{"tag bomb inside a known tag", 1, 15, cat(make([]byte, 4+4+4+1+4+4), uv(1, 1, 1), uv(1), uv(1, 17), make([]byte, 12), uv(math.MaxUint32)), ErrMalformed},
		{"amplification", 3, 9, cat(uv(300_000+1), bytes.Repeat([]byte{1, 0}, 300_000), make([]byte, 8)), ErrBudget},
		{"amplification in nested arrays", 37, 0, nestedArrays(300_000), ErrBudget},
		{"empty", 0, 3, nil, ErrMalformed},
	} {
		k := Lookup(tc.key)
		if err := checkShape(tc.body, k.layouts[tc.version], k.Flexible(tc.version)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// nestedArrays is a CreatePartitions request of one topic with n assignments.
func nestedArrays(n int) []byte {
	b := binary.BigEndian.AppendUint32(nil, 1)
	b = append(b, 0, 1, 't', 0, 0, 0, 9)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return append(b, make([]byte, 4*n+5)...)
}

// TestGuardAcceptsTrailingBytes: Kafka's parser does not look behind the
// request, and some clients leave bytes there.
func TestGuardAcceptsTrailingBytes(t *testing.T) {
	forEveryVersion(t, func(t *testing.T, k *Key, version int16, req kmsg.Request) {
		body := append(req.AppendTo(nil), "trailing"...)
		if err := checkShape(body, k.layouts[version], k.Flexible(version)); err != nil {
			t.Errorf("%s %d: %v", k.Name, version, err)
		}
	})
}

// TestGuardCoversDecoder: what the guard lets through, the decoder takes: a cut
// anywhere is refused by the guard already.
func TestGuardCoversDecoder(t *testing.T) {
	r := rand.New(rand.NewSource(2))
	forEveryVersion(t, func(t *testing.T, k *Key, version int16, req kmsg.Request) {
		fill(r, reflect.ValueOf(req).Elem(), 0)
		body := req.AppendTo(nil)
		for cut := range body {
			if checkShape(body[:cut], k.layouts[version], k.Flexible(version)) != nil {
				continue
			}
			again := kmsg.RequestForKey(k.Key)
			again.SetVersion(version)
			if err := again.ReadFrom(body[:cut]); err != nil {
				t.Fatalf("%s %d cut at %d of %d: passed the guard, decoder says %v", k.Name, version, cut, len(body), err)
			}
		}
	})
}

// FuzzDecode feeds any bytes to every key and version: guard first, decoder
// after, as the server does. Neither may panic, and what decodes must pass the
// guard again when it is encoded.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewSource(3))
	for _, k := range Keys() {
		for _, v := range []int16{k.ServedMin, k.Max} {
			req := kmsg.RequestForKey(k.Key)
			req.SetVersion(v)
			f.Add(k.Key, v, req.AppendTo(nil))
			fill(r, reflect.ValueOf(req).Elem(), 0)
			f.Add(k.Key, v, req.AppendTo(nil))
		}
	}
	f.Add(int16(18), int16(3), []byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		k := Lookup(key)
		if k == nil || version < k.ServedMin || version > k.Max || len(body) > k.MaxBytes {
			return
		}
		if err := checkShape(body, k.layouts[version], k.Flexible(version)); err != nil {
			return
		}
		req := kmsg.RequestForKey(key)
		req.SetVersion(version)
		if err := req.ReadFrom(body); err != nil {
			return // the decoder knows more: some fields must not be null
		}
		if err := checkShape(req.AppendTo(nil), k.layouts[version], k.Flexible(version)); err != nil {
			t.Errorf("%s %d: the guard refuses what the encoder made of it: %v", k.Name, version, err)
		}
	})
}

// TestServerSurvivesMutations sends mutated requests of every key and version
// through the whole server: each gets exactly one answer, and none panics.
func TestServerSurvivesMutations(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	r := rand.New(rand.NewSource(4))
	forEveryVersion(t, func(t *testing.T, k *Key, version int16, req kmsg.Request) {
		for range 30 {
			fill(r, reflect.ValueOf(req).Elem(), 0)
			body := req.AppendTo(nil)
			for range r.Intn(4) {
				if len(body) > 0 {
					body[r.Intn(len(body))] ^= byte(1 << r.Intn(8))
				}
			}
			conn := newFakeConn(t)
			close(conn.done) // a fetch that would wait gives up
			c.send(conn, k.Key, version, body)
			conn.wait()
		}
	})
	for _, kind := range b.eventKinds() {
		if kind == EventPanic {
			t.Fatalf("a handler panicked: %+v", b.events)
		}
	}
}
