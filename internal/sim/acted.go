package sim

import (
	"fmt"
	"reflect"
	"strings"
)

type pair struct{ a, b *int64 }

func (a *Acted) fields(b *Acted) []pair {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	out := make([]pair, va.NumField())
	for i := range out {
		out[i] = pair{va.Field(i).Addr().Interface().(*int64), vb.Field(i).Addr().Interface().(*int64)}
	}
	return out
}

// String lists what acted, and says so where nothing was ever truncated: such
// a run proves nothing about truncation.
func (a *Acted) String() string {
	var b strings.Builder
	v := reflect.ValueOf(a).Elem()
	for i := range v.NumField() {
		if n := v.Field(i).Int(); n != 0 {
			fmt.Fprintf(&b, "%s=%d ", v.Type().Field(i).Name, n)
		}
	}
	if a.Truncations == 0 {
		b.WriteString("(no truncation acted: this run proves nothing about truncation)")
	}
	return strings.TrimSpace(b.String())
}
