package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tailrace/tailrace/client"
)

// format renders records by kcat's tokens.
type format []func(dst []byte, r *client.Record) []byte

// tokens are what a % and a letter stand for.
var tokens = map[byte]func([]byte, *client.Record) []byte{
	'k': func(b []byte, r *client.Record) []byte { return append(b, r.Key...) },
	'K': func(b []byte, r *client.Record) []byte { return appendLen(b, r.Key) },
	's': func(b []byte, r *client.Record) []byte { return append(b, r.Value...) },
	'v': func(b []byte, r *client.Record) []byte { return append(b, r.Value...) },
	'S': func(b []byte, r *client.Record) []byte { return appendLen(b, r.Value) },
	't': func(b []byte, r *client.Record) []byte { return append(b, r.Topic...) },
	'p': func(b []byte, r *client.Record) []byte { return strconv.AppendInt(b, int64(r.Partition), 10) },
	'o': func(b []byte, r *client.Record) []byte { return strconv.AppendInt(b, r.Offset, 10) },
	'T': func(b []byte, r *client.Record) []byte { return strconv.AppendInt(b, r.Timestamp.UnixMilli(), 10) },
	'h': appendHeaders,
	'%': func(b []byte, _ *client.Record) []byte { return append(b, '%') },
}

// appendLen appends the length in bytes, -1 for null.
func appendLen(b, v []byte) []byte {
	if v == nil {
		return append(b, "-1"...)
	}
	return strconv.AppendInt(b, int64(len(v)), 10)
}

// appendHeaders appends name=value pairs with commas between.
func appendHeaders(b []byte, r *client.Record) []byte {
	for i, h := range r.Headers {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, h.Key...)
		b = append(b, '=')
		b = append(b, h.Value...)
	}
	return b
}

// parseFormat reads a format; \n, \t, \r, \\ and \xHH are interpreted.
func parseFormat(s string) (format, error) {
	var f format
	var literal []byte
	flush := func() {
		if len(literal) > 0 {
			text := literal
			f = append(f, func(b []byte, _ *client.Record) []byte { return append(b, text...) })
			literal = nil
		}
	}
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '%':
			i++
			if i == len(s) {
				return nil, fmt.Errorf("format ends in a single %%: write %%%% for the sign itself")
			}
			token, ok := tokens[s[i]]
			if !ok {
				return nil, fmt.Errorf("bad token %%%c in format: use %%k %%s %%v %%p %%o %%T %%t %%h %%K %%S %%%%", s[i])
			}
			flush()
			f = append(f, token)
		case s[i] == '\\' && i+1 < len(s):
			c, width := unescape(s[i+1:])
			literal = append(literal, c...)
			i += width
		default:
			literal = append(literal, s[i])
		}
	}
	flush()
	return f, nil
}

// unescape reads what follows a backslash; unknown escapes stay as they are.
func unescape(s string) (out string, width int) {
	switch s[0] {
	case 'n':
		return "\n", 1
	case 't':
		return "\t", 1
	case 'r':
		return "\r", 1
	case '\\':
		return "\\", 1
	case 'x':
		if len(s) >= 3 {
			if n, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
				return string([]byte{byte(n)}), 3
			}
		}
	}
	return "\\" + s[:1], 1
}

func (f format) append(dst []byte, r *client.Record) []byte {
	for _, part := range f {
		dst = part(dst, r)
	}
	return dst
}

// interpret reads the same escapes in a delimiter.
func interpret(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			out, width := unescape(s[i+1:])
			b.WriteString(out)
			i += width
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
