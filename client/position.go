package client

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

type positionKind int8

const (
	positionEarliest positionKind = iota
	positionLatest
	positionLast
	positionOffset
	positionTime
)

// Position says where in a partition to start reading. The zero Position is
// Earliest.
type Position struct {
	kind positionKind
	n    int64 // Last: how many records; At: the offset; Since: epoch milliseconds
}

// Earliest is the first record that the log still holds.
func Earliest() Position { return Position{kind: positionEarliest} }

// Latest is the end of the log: only records that come after are read.
func Latest() Position { return Position{kind: positionLatest} }

// Last is n offsets before the end, or the start of the log if it holds fewer.
// It is per partition.
func Last(n int64) Position { return Position{kind: positionLast, n: max(n, 0)} }

// At is the given offset. An offset outside the log gives an
// OffsetOutOfRangeError, never a silent jump.
func At(offset int64) Position { return Position{kind: positionOffset, n: offset} }

// Since is the first record with a timestamp at or after t, or the end.
func Since(t time.Time) Position { return Position{kind: positionTime, n: t.UnixMilli()} }

// ParsePosition reads the notation of the command line and the HTTP API:
// "earliest", "latest", "-N" (the last N of each partition), "N" (an offset),
// "@time" where time is RFC 3339 or epoch milliseconds, and an RFC 3339 time
// without the @.
func ParsePosition(s string) (Position, error) {
	switch s {
	case "earliest":
		return Earliest(), nil
	case "latest":
		return Latest(), nil
	}
	bad := fmt.Errorf("bad position %q: use earliest, latest, -N, an offset, or @time (RFC 3339 or epoch milliseconds)", s)
	stamp, isTime := strings.CutPrefix(s, "@")
	if t, err := time.Parse(time.RFC3339Nano, stamp); err == nil {
		return Since(t), nil
	}
	n, err := strconv.ParseInt(stamp, 10, 64)
	switch {
	case err != nil || strings.HasPrefix(stamp, "+"):
		return Position{}, bad
	case isTime && n >= 0:
		return Position{kind: positionTime, n: n}, nil
	case isTime:
		return Position{}, bad
	case n < 0 || stamp == "-0":
		return Last(-n), nil
	}
	return At(n), nil
}

// String is the notation that ParsePosition reads.
func (p Position) String() string {
	switch p.kind {
	case positionLatest:
		return "latest"
	case positionLast:
		return "-" + strconv.FormatInt(p.n, 10)
	case positionOffset:
		return strconv.FormatInt(p.n, 10)
	case positionTime:
		return "@" + strconv.FormatInt(p.n, 10)
	}
	return "earliest"
}
