package api

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A schema says how a request's bytes are laid out, so that counts and lengths
// can be checked before a decoder allocates. It is text, one word a field:
//
//	b h i l u   1, 2, 4, 8 and 16 bytes
//	s y         string and bytes, nullable or not
//	*i          array of plain values
//	[ … ]       array of structures
//	<n:s        tagged field n, a plain value; other tags are skipped by size
//	<n … >      tagged field n, a structure
//	( … )       nullable structure
//
// A suffix limits versions: s@3+, s@0-12 or s@7; for brackets it follows the
// closing one. A test checks every schema against kmsg's encoder, in every
// version.
type schema []field

type fieldKind uint8

const (
	fixedField fieldKind = iota
	stringField
	bytesField
	arrayField
	nullableField
)

type field struct {
	kind     fieldKind
	size     int   // bytes of a fixed field
	tag      int32 // -1: not tagged
	isStruct bool  // elements or tagged value end in a tag section of their own
	from, to int16 // versions, inclusive
	elems    schema
}

// layout is a schema for one version.
type layout struct {
	steps    []step
	tags     []step
	isStruct bool // ends in a tag section
	min      int  // least bytes of one
}

type step struct {
	kind fieldKind
	size int
	tag  int32
	elem *layout // of an array's elements, a tagged value or a structure
}

var fixedSizes = map[string]int{"b": 1, "h": 2, "i": 4, "l": 8, "u": 16}

// parseSchema reads the text form. It panics on a bad one: schemas are
// constants of this package.
func parseSchema(text string) schema {
	p := schemaParser{words: strings.Fields(text)}
	return p.fields("")
}

type schemaParser struct{ words []string }

// fields reads up to the closing word, which is consumed without its suffix
// being lost: it stays as p.words[0].
func (p *schemaParser) fields(end string) schema {
	var s schema
	for len(p.words) > 0 {
		word, versions, _ := strings.Cut(p.words[0], "@")
		if word == end {
			return s
		}
		p.words = p.words[1:]
		f := p.field(word)
		if f.isStruct {
			_, versions, _ = strings.Cut(p.words[0], "@")
			p.words = p.words[1:]
		}
		f.from, f.to = parseVersions(versions)
		s = append(s, f)
	}
	if end != "" {
		panic("api: schema: missing " + end)
	}
	return s
}

func (p *schemaParser) field(word string) field {
	switch {
	case word == "[":
		return field{kind: arrayField, tag: -1, isStruct: true, elems: p.fields("]")}
	case word == "(":
		return field{kind: nullableField, tag: -1, isStruct: true, elems: p.fields(")")}
	case word[0] == '*':
		return field{kind: arrayField, tag: -1, elems: schema{plain(word[1:])}}
	case word[0] == '<':
		number, value, isPlain := strings.Cut(word[1:], ":")
		tag, err := strconv.Atoi(number)
		if err != nil {
			panic("api: schema: bad tag " + word)
		}
		if isPlain {
			return field{tag: int32(tag), elems: schema{plain(value)}}
		}
		return field{tag: int32(tag), isStruct: true, elems: p.fields(">")}
	default:
		return plain(word)
	}
}

func plain(word string) field {
	f := field{tag: -1, to: math.MaxInt16}
	switch word {
	case "s":
		f.kind = stringField
	case "y":
		f.kind = bytesField
	default:
		if f.size = fixedSizes[word]; f.size == 0 {
			panic(fmt.Sprintf("api: schema: bad word %q", word))
		}
	}
	return f
}

func parseVersions(s string) (from, to int16) {
	lo, hi, isRange := strings.Cut(s, "-")
	lo, open := strings.CutSuffix(lo, "+")
	switch {
	case s == "":
		return 0, math.MaxInt16
	case isRange:
		return parseVersion(lo), parseVersion(hi)
	case open:
		return parseVersion(lo), math.MaxInt16
	default:
		return parseVersion(lo), parseVersion(lo)
	}
}

func parseVersion(s string) int16 {
	n, err := strconv.ParseInt(s, 10, 16)
	if err != nil {
		panic("api: schema: bad version " + s)
	}
	return int16(n)
}

// compile keeps what version has. isStruct says that a tag section follows in
// flexible versions.
func (s schema) compile(version int16, flexible, isStruct bool) *layout {
	l := &layout{isStruct: isStruct && flexible}
	for _, f := range s {
		if version < f.from || version > f.to {
			continue
		}
		st := step{kind: f.kind, size: f.size, tag: f.tag}
		if f.elems != nil {
			st.elem = f.elems.compile(version, flexible, f.isStruct)
		}
		if f.tag >= 0 {
			l.tags = append(l.tags, st)
			continue
		}
		l.min += st.minLen(flexible)
		l.steps = append(l.steps, st)
	}
	if l.isStruct {
		l.min++
	}
	return l
}

// minLen is the least number of bytes that the field takes.
func (st step) minLen(flexible bool) int {
	switch {
	case st.kind == fixedField:
		return st.size
	case st.kind == nullableField:
		return 1
	case flexible:
		return 1
	case st.kind == stringField:
		return 2
	default:
		return 4
	}
}
