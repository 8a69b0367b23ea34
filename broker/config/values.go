package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is a pflag.Value over a field.
type value[T any] struct {
	p      *T
	kind   string
	parse  func(string) (T, error)
	format func(T) string
}

func (v *value[T]) Set(s string) error {
	x, err := v.parse(s)
	if err == nil {
		*v.p = x
	}
	return err
}

func (v *value[T]) String() string {
	if v.p == nil { // pflag asks a zero value
		return ""
	}
	return v.format(*v.p)
}

func (v *value[T]) Type() string { return v.kind }

func newString(p *string, def string) *value[string] {
	*p = def
	return &value[string]{p, "string", func(s string) (string, error) { return s, nil }, func(s string) string { return s }}
}

func newChoice(p *string, def string, choices ...string) *value[string] {
	v := newString(p, def)
	v.parse = func(s string) (string, error) {
		if !slices.Contains(choices, s) {
			return "", fmt.Errorf("want one of %s", strings.Join(choices, ", "))
		}
		return s, nil
	}
	return v
}

func newBool(p *bool, def bool) *value[bool] {
	*p = def
	return &value[bool]{p, "bool", strconv.ParseBool, strconv.FormatBool}
}

func newInt[T int | int32](p *T, def T) *value[T] {
	*p = def
	parse := func(s string) (T, error) {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("want a whole number, 32 bits")
		}
		return T(n), nil
	}
	return &value[T]{p, "int", parse, func(n T) string { return strconv.Itoa(int(n)) }}
}

func newDuration(p *time.Duration, def time.Duration) *value[time.Duration] {
	*p = def
	parse := func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("want a duration such as 500ms, 30s or 10m")
		}
		return d, nil
	}
	return &value[time.Duration]{p, "duration", parse, time.Duration.String}
}

func newBytes(p *int64, def int64) *value[int64] {
	*p = def
	return &value[int64]{p, "bytes", parseBytes, formatBytes}
}

var units = []struct {
	name string
	size int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}}

// parseBytes reads a number of bytes with an optional unit.
func parseBytes(s string) (int64, error) {
	unit := int64(1)
	number := strings.TrimSpace(s)
	for _, u := range units {
		if n, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSpace(n), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("want bytes such as 1048576, 64KiB or 10GB")
	}
	return n * unit, nil
}

func formatBytes(n int64) string {
	for i := 3; i >= 0; i-- {
		if u := units[i]; n > 0 && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// list is a comma-separated list. The first Set replaces the default, further
// ones append, so that a flag may be repeated.
type list struct {
	p   *[]string
	set bool
}

func newList(p *[]string) *list { *p = nil; return &list{p: p} }

func (l *list) Set(s string) error {
	var items []string
	for _, item := range strings.Split(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	if !l.set {
		*l.p = nil
	}
	*l.p, l.set = append(*l.p, items...), true
	return nil
}

func (l *list) String() string {
	if l.p == nil { // pflag asks a zero value
		return ""
	}
	return strings.Join(*l.p, ",")
}

func (l *list) Type() string { return "list" }
