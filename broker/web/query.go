package web

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tailrace/tailrace/client"
)

// tailQuery is a parsed query of a tail.
type tailQuery struct {
	from       client.Position
	partitions []int32
	filter     filter
}

// filter chooses records; the zero filter takes all.
type filter struct {
	key     *string
	headers []headerMatch
}

type headerMatch struct {
	name  string
	value *string
}

// Bounds of a query, so that it cannot be made to cost much.
const (
	maxQueryPartitions = 10_000
	maxQueryHeaders    = 32
)

func parseTailQuery(raw string) (tailQuery, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return tailQuery{}, fmt.Errorf("malformed query: %w", err)
	}
	q := tailQuery{from: client.Latest()}
	for name, vs := range values {
		var err error
		switch name {
		case "from":
			q.from, err = parseFrom(vs)
		case "partition":
			q.partitions, err = parsePartitions(vs)
		case "key":
			q.filter.key, err = single(name, vs)
		case "header":
			q.filter.headers, err = parseHeaders(vs)
		default:
			err = fmt.Errorf("unknown parameter %q: use from, partition, key, header", name)
		}
		if err != nil {
			return tailQuery{}, err
		}
	}
	return q, nil
}

func parseFrom(vs []string) (client.Position, error) {
	s, err := single("from", vs)
	if err != nil {
		return client.Position{}, err
	}
	return client.ParsePosition(*s)
}

func single(name string, vs []string) (*string, error) {
	if len(vs) != 1 {
		return nil, fmt.Errorf("parameter %q given %d times: give it once", name, len(vs))
	}
	return &vs[0], nil
}

func parsePartitions(vs []string) ([]int32, error) {
	var out []int32
	for _, v := range vs {
		for s := range strings.SplitSeq(v, ",") {
			n, err := strconv.ParseInt(s, 10, 32)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("bad partition %q: use numbers from 0", s)
			}
			if len(out) == maxQueryPartitions {
				return nil, fmt.Errorf("more than %d partitions asked for: leave the parameter out for all", maxQueryPartitions)
			}
			out = append(out, int32(n))
		}
	}
	return out, nil
}

func parseHeaders(vs []string) ([]headerMatch, error) {
	if len(vs) > maxQueryHeaders {
		return nil, fmt.Errorf("more than %d headers asked for", maxQueryHeaders)
	}
	out := make([]headerMatch, 0, len(vs))
	for _, v := range vs {
		name, value, hasValue := strings.Cut(v, "=")
		if name == "" {
			return nil, fmt.Errorf("bad header %q: use NAME or NAME=VALUE", v)
		}
		m := headerMatch{name: name}
		if hasValue {
			m.value = &value
		}
		out = append(out, m)
	}
	return out, nil
}

// match says whether a record passes.
func (f filter) match(r *client.Record) bool {
	if f.key != nil && (r.Key == nil || string(r.Key) != *f.key) {
		return false
	}
	for _, m := range f.headers {
		if !slices.ContainsFunc(r.Headers, m.match) {
			return false
		}
	}
	return true
}

func (m headerMatch) match(h client.Header) bool {
	return h.Key == m.name && (m.value == nil || string(h.Value) == *m.value)
}
