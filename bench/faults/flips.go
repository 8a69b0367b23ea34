package faults

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// followPatience is how long damage may stay unseen, or seen and not repaired,
// by a scrubber that is set to begin a pass each second.
const followPatience = 90 * time.Second

// followFlips returns when each flip was found and repaired. One that was not
// is an anomaly.
func (c *campaign) followFlips(ctx context.Context, flips []*bitFlip) error {
	begun, end := c.rec.Now(), time.Now().Add(followPatience)
	for {
		settled, err := c.follow(flips)
		if err != nil {
			return err
		}
		if settled || time.Now().After(end) {
			break
		}
		if !pause(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	for _, f := range flips {
		c.tally(f)
	}
	c.logf("%d flips followed for %.2f s", len(flips), float64(c.rec.Now()-begun)/1e9)
	return nil
}

// damageLine is what a broker logs of damage.
type damageLine struct {
	Event     string `json:"event"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
	File      string `json:"file"`
	Position  int64  `json:"position"`
}

func (l *damageLine) covers(b segment.BlockInfo) bool { return l.From <= b.Base && b.Next <= l.To }

// follow looks for news of the flips in their brokers' logs. It is true when
// each was found and repaired.
func (c *campaign) follow(flips []*bitFlip) (bool, error) {
	settled := true
	for _, f := range flips {
		lines, err := damageLines(c.nodes[f.Broker-1].log.Name(), f.logFrom)
		if err != nil {
			return false, err
		}
		k := c.partition(f.TP)
		f.Led = f.Led || f.Found == 0 && c.topo.ledAfter(k, f.Broker, f.epoch)
		f.note(lines, k.topic, c.rec.Now())
		settled = settled && f.Found > 0 && f.Repaired > 0
	}
	return settled, nil
}

// note takes from the lines, which a broker logged since the flip, what they
// say about it. A broker that has no metadata yet names the topic by its id.
func (f *bitFlip) note(lines []damageLine, topic string, now int64) {
	found := false
	for i := range lines {
		l := &lines[i]
		switch {
		case !found && l.Event == "corruption_found" && l.File == f.File && l.Position == f.Block.Pos && l.covers(f.Block):
			found = true
			if f.Found == 0 {
				f.Found = now
			}
		case !found || l.Topic != topic && l.Topic != f.TP.Topic.String() || l.Partition != f.TP.Partition:
		case l.Event == "repaired" && l.covers(f.Block) && f.Repaired == 0:
			f.Repaired = now
		}
	}
}

// damageLines reads what a log says about damage from a position on.
func damageLines(name string, from int64) ([]damageLine, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Seek(from, io.SeekStart); err != nil {
		return nil, err
	}
	var out []damageLine
	sc := bufio.NewScanner(file)
	sc.Buffer(make([]byte, 1<<16), 16<<20)
	for sc.Scan() {
		var l damageLine
		if json.Unmarshal(sc.Bytes(), &l) != nil {
			continue // a line of the harness, or one that is being written
		}
		switch l.Event {
		case "corruption_found", "repaired":
			out = append(out, l)
		}
	}
	return out, sc.Err()
}

// tally counts what became of a flip.
func (c *campaign) tally(f *bitFlip) {
	switch {
	case f.Found == 0:
		c.anomaly("not found within %s: %s", followPatience, f)
		return
	case f.Led:
		c.count("flip: found on a broker that had been elected leader with it")
	}
	c.count("flip: found")
	if f.Repaired == 0 {
		c.anomaly("found but not repaired within %s: %s", followPatience, f)
		return
	}
	c.count("flip: repaired")
}

// verifyFlips compares, when the brokers have stopped, the records of each
// block that was damaged with what was there before, on every replica.
func (c *campaign) verifyFlips() error {
	if len(c.flips) == 0 {
		return nil
	}
	stored := make([]*storedLogs, len(c.nodes))
	for i, n := range c.nodes {
		var err error
		if stored[i], err = openStored(n.dir); err != nil {
			return err
		}
	}
	for _, f := range c.flips {
		c.verifyFlip(f, stored)
	}
	return nil
}

func (c *campaign) verifyFlip(f *bitFlip, stored []*storedLogs) {
	copies := 0
	for i, s := range stored {
		if !s.has(f.TP) {
			continue
		}
		copies++
		raw, err := s.records(f.TP, f.Block.Base, f.Block.Next)
		if err == nil && sha256.Sum256(raw) != f.Good {
			err = fmt.Errorf("%d bytes, which are not what was there before", len(raw))
		}
		if err != nil {
			c.anomaly("in the end broker %d has wrong bytes at offsets [%d, %d): %v; %s", i+1, f.Block.Base, f.Block.Next, err, f)
			return
		}
	}
	if copies < 2 {
		c.anomaly("in the end there are %d copies of offsets [%d, %d); %s", copies, f.Block.Base, f.Block.Next, f)
		return
	}
	f.RightBytes = true
	c.count("flip: right bytes on every replica in the end")
}

// storedLogs reads records from the files of a broker that has stopped.
type storedLogs struct{ segs []segment.SegmentInfo }

func openStored(dir string) (*storedLogs, error) {
	segs, err := segment.Inspect(dir)
	return &storedLogs{segs}, err
}

func (s *storedLogs) has(tp model.TopicPartition) bool {
	return slices.ContainsFunc(s.segs, func(i segment.SegmentInfo) bool { return i.TP == tp })
}

// records returns the batches with offsets in [base, next), which must be
// there without a gap.
func (s *storedLogs) records(tp model.TopicPartition, base, next int64) ([]byte, error) {
	var out []byte
	at := base
	for i := range s.segs {
		seg := &s.segs[i]
		for _, b := range seg.Blocks {
			if seg.TP != tp || b.Next <= base || next <= b.Base {
				continue
			}
			raw, err := readBlock(seg.File, b)
			for err == nil && len(raw) > 0 {
				var h batch.Header
				var one []byte
				if h, one, err = batch.Next(raw); err != nil {
					break
				}
				raw = raw[len(one):]
				if h.BaseOffset >= base && h.NextOffset() <= next {
					if h.BaseOffset != at {
						return nil, fmt.Errorf("offset %d where %d belongs", h.BaseOffset, at)
					}
					out, at = append(out, one...), h.NextOffset()
				}
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", seg.File, err)
			}
		}
	}
	if at != next {
		return nil, fmt.Errorf("the records end at offset %d", at)
	}
	return out, nil
}

func readBlock(name string, b segment.BlockInfo) (raw []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	raw = make([]byte, b.End-b.Pos)
	_, err = f.ReadAt(raw, b.Pos)
	return raw, err
}
