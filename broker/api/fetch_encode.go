package api

import (
	"encoding/binary"

	"github.com/tailrace/tailrace/broker/wire"
	"github.com/twmb/franz-go/pkg/kbin"
)

// fetchResponse is a fetch answer before encoding. The encoder is written by
// hand because kmsg's copies records: here they stay ranges of segment files,
// which the connection sends without touching them. A test compares every byte
// with kmsg's.
type fetchResponse struct {
	code          int16
	sessionID     int32
	readCommitted bool
	hints         leaderHints
	groups        []fetchGroup
	ranges        int // entries with records
}

// fetchGroup is the partitions of one topic, linked in order.
type fetchGroup struct {
	topic       *fetchTopic
	first, last *fetchEntry
	n           int
}

// add appends an entry to its topic's group.
func (r *fetchResponse) add(e *fetchEntry) {
	t := e.topic
	if t.mark != r {
		t.mark, t.group = r, len(r.groups)
		r.groups = append(r.groups, fetchGroup{topic: t, first: e})
	} else {
		r.groups[t.group].last.nextInGroup = e
	}
	e.nextInGroup = nil
	g := &r.groups[t.group]
	g.last = e
	g.n++
	if e.bytes() > 0 {
		r.ranges++
	}
}

// fetchEncoder appends to one buffer and remembers where payloads go between
// its bytes.
type fetchEncoder struct {
	buf      []byte
	flexible bool
	version  int16
	cuts     []cut
}

type cut struct {
	at      int
	payload wire.Payload
}

// encodeFetch encodes r for a version of 4 and above. Ranges of the entries
// move into the parts.
func encodeFetch(version int16, r *fetchResponse) []wire.Part {
	e := fetchEncoder{version: version, flexible: version >= 12, buf: make([]byte, 0, r.sizeHint()), cuts: make([]cut, 0, r.ranges)}
	e.i32(0) // throttle time
	if version >= 7 {
		e.i16(r.code)
		e.i32(r.sessionID)
	}
	e.arrayLen(len(r.groups))
	for i := range r.groups {
		e.group(&r.groups[i], r)
	}
	if e.flexible {
		e.brokers(r.hints.nodes)
	}
	return e.parts()
}

func (r *fetchResponse) sizeHint() int {
	n := 32
	for i := range r.groups {
		n += 32 + len(r.groups[i].topic.name) + 80*r.groups[i].n
	}
	return n
}

func (e *fetchEncoder) group(g *fetchGroup, r *fetchResponse) {
	if e.version >= 13 {
		e.buf = append(e.buf, g.topic.id[:]...)
	} else {
		e.str(g.topic.name)
	}
	e.arrayLen(g.n)
	for p := g.first; p != nil; p = p.nextInGroup {
		e.entry(p, r.readCommitted)
	}
	e.noTags()
}

func (e *fetchEncoder) entry(p *fetchEntry, readCommitted bool) {
	res := &p.res
	e.i32(p.partition)
	e.i16(res.Err)
	if res.Err != 0 {
		e.i64(-1)
		e.i64(-1)
	} else {
		e.i64(res.HighWatermark)
		e.i64(res.LastStable)
	}
	if e.version >= 5 {
		if res.Err != 0 {
			e.i64(-1)
		} else {
			e.i64(res.LogStart)
		}
	}
	if readCommitted && res.Err == 0 {
		e.arrayLen(0) // aborted transactions
	} else {
		e.nullArray()
	}
	if e.version >= 11 {
		e.i32(int32(res.PreferredReplica))
	}
	e.records(p)
	if e.flexible {
		e.entryTags(p)
	}
}

func (e *fetchEncoder) records(p *fetchEntry) {
	n := p.bytes()
	if e.flexible {
		e.uvarint(uint32(n) + 1)
	} else {
		e.i32(int32(n))
	}
	if n > 0 {
		e.cuts = append(e.cuts, cut{len(e.buf), p.res.Range})
		p.res.Range = nil
	}
}

// entryTags writes the diverging epoch (tag 0, KIP-595) and the leader (tag 1,
// KIP-951). Both have a fixed size.
func (e *fetchEncoder) entryTags(p *fetchEntry) {
	diverging, hint := p.res.Diverging, p.leaderID != -1 || p.leaderEpoch != -1
	n := uint32(0)
	if diverging != nil {
		n++
	}
	if hint {
		n++
	}
	e.uvarint(n)
	if diverging != nil {
		e.uvarint(0)
		e.uvarint(4 + 8 + 1)
		e.i32(diverging.Epoch)
		e.i64(diverging.End)
		e.noTags()
	}
	if hint {
		e.uvarint(1)
		e.uvarint(4 + 4 + 1)
		e.i32(p.leaderID)
		e.i32(p.leaderEpoch)
		e.noTags()
	}
}

// brokers writes the response's tags: where the hinted leaders are.
func (e *fetchEncoder) brokers(nodes []endpoint) {
	if len(nodes) == 0 || e.version < 16 {
		e.uvarint(0)
		return
	}
	body := fetchEncoder{version: e.version, flexible: true}
	body.arrayLen(len(nodes))
	for _, n := range nodes {
		body.i32(n.id)
		body.str(n.host)
		body.i32(n.port)
		if n.rack == nil {
			body.uvarint(0)
		} else {
			body.str(*n.rack)
		}
		body.noTags()
	}
	e.uvarint(1)
	e.uvarint(0)
	e.uvarint(uint32(len(body.buf)))
	e.buf = append(e.buf, body.buf...)
}

// parts cuts the buffer where the payloads go.
func (e *fetchEncoder) parts() []wire.Part {
	parts := make([]wire.Part, 0, 2*len(e.cuts)+1)
	from := 0
	for _, c := range e.cuts {
		parts = append(parts, wire.Part{Bytes: e.buf[from:c.at:c.at]}, wire.Part{Payload: c.payload})
		from = c.at
	}
	return append(parts, wire.Part{Bytes: e.buf[from:]})
}

func (e *fetchEncoder) i16(v int16)      { e.buf = binary.BigEndian.AppendUint16(e.buf, uint16(v)) }
func (e *fetchEncoder) i32(v int32)      { e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(v)) }
func (e *fetchEncoder) i64(v int64)      { e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(v)) }
func (e *fetchEncoder) uvarint(v uint32) { e.buf = kbin.AppendUvarint(e.buf, v) }

func (e *fetchEncoder) noTags() {
	if e.flexible {
		e.buf = append(e.buf, 0)
	}
}

func (e *fetchEncoder) arrayLen(n int) {
	if e.flexible {
		e.uvarint(uint32(n) + 1)
	} else {
		e.i32(int32(n))
	}
}

func (e *fetchEncoder) nullArray() {
	if e.flexible {
		e.uvarint(0)
	} else {
		e.i32(-1)
	}
}

func (e *fetchEncoder) str(s string) {
	if e.flexible {
		e.uvarint(uint32(len(s)) + 1)
	} else {
		e.i16(int16(len(s)))
	}
	e.buf = append(e.buf, s...)
}
