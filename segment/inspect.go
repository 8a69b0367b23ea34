package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tailrace/tailrace/internal/model"
)

// SegmentInfo is one segment as the catalog of a closed directory lists it.
type SegmentInfo struct {
	TP      model.TopicPartition
	File    string
	Ordinal uint64 // its place in the log; a repair keeps it and changes the file
	// Settled is set for a sealed segment that lies wholly below the log's
	// durable mark: recovery neither replays, rewrites nor cuts anything in it.
	Settled bool
	Blocks  []BlockInfo // index blocks in order; of an unsealed segment up to the mark
}

// BlockInfo is an index block: bytes [Pos, End) of the file, which hold the
// records with offsets [Base, Next).
type BlockInfo struct{ Pos, End, Base, Next int64 }

// Inspect lists the segments of a data directory, sorted by partition and
// place in the log. It changes nothing, not even after a crash, and fails
// while a store has the directory open.
func Inspect(dir string) (_ []SegmentInfo, err error) {
	db, err := pebble.Open(path.Join(dir, catalogDir), &pebble.Options{ReadOnly: true, Logger: &pebbleCatalog{}})
	if err != nil {
		return nil, fmt.Errorf("inspect catalog of %s: %w", dir, err)
	}
	c := &pebbleCatalog{db: db}
	defer func() { err = errors.Join(err, db.Close()) }()
	in := inspection{s: Store{dir: dir}, marks: map[model.TopicPartition]mark{}}
	if err := in.scan(c, spaceLog, in.entry); err != nil {
		return nil, err
	}
	for i := range in.segs {
		if err := in.complete(c, i); err != nil {
			return nil, err
		}
	}
	return in.segs, nil
}

type inspection struct {
	s     Store // for the names of files
	segs  []SegmentInfo
	recs  []segmentRecord // of segs
	marks map[model.TopicPartition]mark
}

func (in *inspection) scan(c KV, space byte, fn func(k, v []byte) error) error {
	var bad error
	err := c.Scan([]byte{space}, []byte{space + 1}, func(k, v []byte) bool {
		bad = fn(k, v)
		return bad == nil
	})
	return errors.Join(err, bad)
}

func (in *inspection) entry(k, v []byte) error {
	if len(k) < 1+tpLen+1 {
		return fmt.Errorf("catalog: key %x is too short", k)
	}
	tp := readTP(k[1:])
	switch k[1+tpLen] {
	case kindSegment:
		rec, err := readSegmentRecord(k, v)
		if err != nil {
			return err
		}
		ordinal := binary.BigEndian.Uint64(k[1+tpLen+1:])
		in.segs = append(in.segs, SegmentInfo{TP: tp, File: in.s.segmentPath(tp, rec.id), Ordinal: ordinal})
		in.recs = append(in.recs, rec)
	case kindMark:
		m, err := readMark(k, v)
		if err != nil {
			return err
		}
		in.marks[tp] = m
	}
	return nil
}

// complete reads a segment's index.
func (in *inspection) complete(c KV, i int) error {
	seg, rec := &in.segs[i], &in.recs[i]
	m, marked := in.marks[seg.TP]
	seg.Settled = rec.sealed && marked && (seg.Ordinal < m.ordinal || seg.Ordinal == m.ordinal && m.pos >= rec.size)
	open := marked && !rec.sealed && seg.Ordinal == m.ordinal
	limit := rec.size
	if open {
		limit = m.open.pos // what the catalog has beyond may be in no file
	}
	lo := spaceKey(spaceBlock, seg.TP, seg.Ordinal)
	var bad error
	err := c.Scan(lo, prefixEnd(lo), func(k, v []byte) bool {
		var b block
		if b, bad = readBlock(k, v); bad == nil && b.end <= limit {
			seg.Blocks = append(seg.Blocks, BlockInfo{Pos: b.pos, End: b.end, Base: b.base, Next: b.next})
		}
		return bad == nil
	})
	if o := m.open; open && o.pos < m.pos {
		seg.Blocks = append(seg.Blocks, BlockInfo{Pos: o.pos, End: m.pos, Base: o.base, Next: m.next})
	}
	return errors.Join(err, bad)
}
