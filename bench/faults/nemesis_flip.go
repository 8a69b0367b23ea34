package faults

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// flipsPerPartition is how many blocks of one replica of a partition a round
// damages.
const flipsPerPartition = 2

// flip damages stored records while their brokers are down, at places where
// nothing but a checksum can tell: in settled segments, which recovery neither
// reads nor rewrites, one bit for each index block. Half of the rounds stop one
// broker, the others all. In each round one replica of a partition suffers: a
// good copy of everything remains. The round ends when every flip was found and
// repaired, so the next one hits whole replicas.
//
// Bits are flipped while the broker is down, since a flip through the page
// cache of a running process is not what a medium does: blocks that it wrote or
// checked lately are trusted there.
func flip(ctx context.Context, c *campaign, rng *rand.Rand) error {
	down := []*node{c.pick(rng)}
	if rng.IntN(2) == 0 {
		down = c.nodes
	}
	return c.flipRound(ctx, rng, down, down, func() error { return startAll(down, rng) })
}

// flipLeader stops all brokers and damages all replicas of one, which comes
// back with only one other beside it, so that it is elected for about half of
// the partitions before anybody reads what is damaged.
func flipLeader(ctx context.Context, c *campaign, rng *rand.Rand) error {
	order := rng.Perm(len(c.nodes))
	victim := c.nodes[order[0]]
	return c.flipRound(ctx, rng, c.nodes, []*node{victim}, func() error {
		for i, ix := range order {
			if i == 2 {
				pause(ctx, 2*time.Second)
			}
			if err := c.nodes[ix].start(); err != nil {
				return err
			}
		}
		return nil
	})
}

func startAll(nodes []*node, rng *rand.Rand) error {
	for _, i := range rng.Perm(len(nodes)) {
		if err := nodes[i].start(); err != nil {
			return err
		}
	}
	return nil
}

// flipRound stops brokers, flips bits on the victims among them, lets restart
// bring all back and follows the flips to their end.
func (c *campaign) flipRound(ctx context.Context, rng *rand.Rand, down, victims []*node, restart func() error) error {
	if err := c.await(ctx, "every replica in sync", healPatience, c.topo.complete); err != nil {
		return err
	}
	for _, n := range down {
		n.kill()
		c.count("kill -9")
	}
	flips, err := c.flipBlocks(rng, victims)
	if err != nil {
		return err
	}
	c.logf("%d bits flipped while %d brokers are down", len(flips), len(down))
	if err := restart(); err != nil {
		return err
	}
	if err := c.followFlips(ctx, flips); err != nil {
		return err
	}
	return c.awaitWrites(ctx)
}

// bitFlip is one flipped bit and what became of it.
type bitFlip struct {
	Broker     int32
	TP         model.TopicPartition
	Ordinal    uint64 // of the segment
	File       string
	Pos        int64 // of the byte in File
	Bit        int
	Block      segment.BlockInfo // that holds it
	Good       [sha256.Size]byte // of the block's bytes before
	At         int64             // on the history's clock
	epoch      int32             // leader epoch then
	logFrom    int64             // where the broker's log ended then
	Found      int64             // on the history's clock; 0: it was not
	Led        bool              // its broker was elected with it, before it was found
	Repaired   int64
	RightBytes bool // in the end, on every replica
}

func (f *bitFlip) String() string {
	return fmt.Sprintf("bit %d of byte %d of %s of broker %d (block [%d, %d), offsets [%d, %d))",
		f.Bit, f.Pos, f.File, f.Broker, f.Block.Pos, f.Block.End, f.Block.Base, f.Block.Next)
}

// flipBlocks draws for each partition one of the brokers, which are down, and
// flips a bit in some of its settled blocks.
func (c *campaign) flipBlocks(rng *rand.Rand, down []*node) ([]*bitFlip, error) {
	type replica struct {
		n      *node
		blocks []*bitFlip // candidates: one for each settled block
	}
	byTP := map[model.TopicPartition][]*replica{}
	var order []model.TopicPartition
	for _, n := range down {
		segs, err := segment.Inspect(n.dir)
		if err != nil {
			return nil, err
		}
		for _, seg := range segs {
			if !seg.Settled {
				continue
			}
			rs := byTP[seg.TP]
			if rs == nil {
				order = append(order, seg.TP)
			}
			if len(rs) == 0 || rs[len(rs)-1].n != n {
				rs = append(rs, &replica{n: n})
				byTP[seg.TP] = rs
			}
			last := rs[len(rs)-1]
			for _, b := range seg.Blocks {
				last.blocks = append(last.blocks, &bitFlip{Broker: n.id(), TP: seg.TP, Ordinal: seg.Ordinal, File: seg.File, Block: b})
			}
		}
	}
	var out []*bitFlip
	for _, tp := range order {
		victim := byTP[tp][rng.IntN(len(byTP[tp]))]
		for _, i := range rng.Perm(len(victim.blocks))[:min(flipsPerPartition, len(victim.blocks))] {
			f := victim.blocks[i]
			if err := c.flipBit(rng, victim.n, f); err != nil {
				return nil, err
			}
			out = append(out, f)
		}
	}
	c.flips = append(c.flips, out...)
	return out, nil
}

// partition is the name of a partition.
func (c *campaign) partition(p model.TopicPartition) tp { return tp{c.topo.name(p.Topic), p.Partition} }

// flipBit flips a random bit of the block, in place.
func (c *campaign) flipBit(rng *rand.Rand, n *node, f *bitFlip) error {
	file, err := os.OpenFile(f.File, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	b := make([]byte, f.Block.End-f.Block.Pos)
	if _, err := file.ReadAt(b, f.Block.Pos); err != nil {
		return err
	}
	log, err := n.log.Stat()
	if err != nil {
		return err
	}
	i := rng.IntN(len(b))
	p, _ := c.topo.place(c.partition(f.TP))
	f.epoch = p.epoch
	f.Good, f.At, f.logFrom = sha256.Sum256(b), c.rec.Now(), log.Size()
	f.Pos, f.Bit = f.Block.Pos+int64(i), rng.IntN(8)
	if _, err := file.WriteAt([]byte{b[i] ^ 1<<f.Bit}, f.Pos); err != nil {
		return err
	}
	c.count("flip: bits flipped")
	c.logf("flipped %s", f)
	return nil
}
