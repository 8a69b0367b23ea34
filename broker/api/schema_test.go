package api

import (
	"math/rand"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fill sets a request's fields to random values, with short arrays.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			switch {
			case f.Name == "Version" || !f.IsExported():
			case f.Type == reflect.TypeOf(kmsg.Tags{}):
				if r.Intn(4) == 0 {
					v.Field(i).Addr().Interface().(*kmsg.Tags).Set(100+uint32(r.Intn(1000)), []byte("unknown"))
				}
			default:
				fill(r, v.Field(i), depth+1)
			}
		}
	case reflect.Pointer:
		if r.Intn(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(r, v.Elem(), depth+1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.Intn(4), 4))
		for i := range v.Len() {
			fill(r, v.Index(i), depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(r.Intn(256)))
		}
	case reflect.String:
		v.SetString("some-name-that-is-long-enough-to-matter"[:r.Intn(39)])
	case reflect.Bool:
		v.SetBool(r.Intn(2) == 0)
	case reflect.Uint8:
		v.SetUint(uint64(r.Intn(256)))
	default:
		v.SetInt(int64(r.Intn(128)))
	}
}

func forEveryVersion(t *testing.T, fn func(t *testing.T, k *Key, version int16, req kmsg.Request)) {
	for _, k := range Keys() {
		for v := k.ServedMin; v <= k.Max; v++ {
			req := kmsg.RequestForKey(k.Key)
			req.SetVersion(v)
			fn(t, k, v, req)
		}
	}
}

// TestSchemas: each layout consumes exactly what kmsg encodes, whatever the
// field values, in every version.
func TestSchemas(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	forEveryVersion(t, func(t *testing.T, k *Key, version int16, req kmsg.Request) {
		for range 200 {
			fill(r, reflect.ValueOf(req).Elem(), 0)
			body := req.AppendTo(nil)
			g := guard{b: body, flexible: k.Flexible(version), budget: memoryBudget}
			if err := g.walk(k.layouts[version]); err != nil {
				t.Fatalf("%s %d: %v\n%+v", k.Name, version, err, req)
			}
			if len(g.b) != 0 {
				t.Fatalf("%s %d: %d of %d bytes left", k.Name, version, len(g.b), len(body))
			}
		}
	})
}

// TestTableAgreesWithKmsg: names, flexible versions and maxima.
func TestTableAgreesWithKmsg(t *testing.T) {
	last := int16(-1)
	for _, k := range Keys() {
		if k.Key <= last {
			t.Errorf("%s is out of order", k.Name)
		}
		last = k.Key
		if k.Auth.When == Unset {
			t.Errorf("%s has no authorization entry", k.Name)
		}
		if k.MaxBytes <= 0 || k.handle == nil {
			t.Errorf("%s has no size limit or handler", k.Name)
		}
	}
	forEveryVersion(t, func(t *testing.T, k *Key, version int16, req kmsg.Request) {
		if req.IsFlexible() != k.Flexible(version) {
			t.Errorf("%s %d: flexible is %v in kmsg", k.Name, version, req.IsFlexible())
		}
		if k.Max > req.MaxVersion() {
			t.Errorf("%s: kmsg knows versions to %d only", k.Name, req.MaxVersion())
		}
	})
}

// TestElementCost: the charge for an element covers its size in memory.
func TestElementCost(t *testing.T) {
	for _, k := range Keys() {
		checkElementSizes(t, k.Name, reflect.TypeOf(kmsg.RequestForKey(k.Key)).Elem())
	}
}

func checkElementSizes(t *testing.T, name string, typ reflect.Type) {
	for i := range typ.NumField() {
		f := typ.Field(i).Type
		if f.Kind() == reflect.Slice && f.Elem().Kind() != reflect.Uint8 {
			if size := f.Elem().Size(); size > elementCost {
				t.Errorf("%s: elements of %s take %d bytes, charged %d", name, typ.Field(i).Name, size, elementCost)
			}
			if f.Elem().Kind() == reflect.Struct {
				checkElementSizes(t, name, f.Elem())
			}
		}
	}
}

// TestVersionsAdvertised pins the coherent release that clients derive
// behaviour from.
func TestVersionsAdvertised(t *testing.T) {
	want := map[int16][2]int16{
		0: {0, 13}, 1: {4, 18}, 2: {1, 11}, 3: {0, 13}, 10: {0, 6}, 18: {0, 5}, 19: {2, 7}, 20: {1, 6}, 21: {0, 2},
		22: {0, 5}, 23: {2, 4}, 32: {1, 4}, 33: {0, 2}, 35: {1, 5}, 37: {0, 3}, 43: {0, 2}, 44: {0, 1}, 60: {0, 2}, 74: {0, 1}, 75: {0, 0},
	}
	if len(Keys()) != len(want) {
		t.Errorf("%d keys, want %d", len(Keys()), len(want))
	}
	for _, k := range Keys() {
		if want[k.Key] != [2]int16{k.Min, k.Max} {
			t.Errorf("%s: %d-%d, want %v", k.Name, k.Min, k.Max, want[k.Key])
		}
	}
	if Lookup(-1) != nil || Lookup(71) != nil || Lookup(32767) != nil || Lookup(8) != nil {
		t.Error("a key that is not served has a row")
	}
}
