package faults

import (
	"context"
	"math/rand/v2"
	"time"
)

// link is one direction between two brokers, by index.
type link struct{ from, to int }

// shape draws the links to cut among n brokers.
type shape func(rng *rand.Rand, n int) []link

// both cuts the two directions between every pair across two groups.
func both(a, b []int) []link {
	var ls []link
	for _, x := range a {
		for _, y := range b {
			ls = append(ls, link{x, y}, link{y, x})
		}
	}
	return ls
}

func shapeOne(rng *rand.Rand, n int) []link {
	p := rng.Perm(n)
	return both(p[:1], p[1:])
}

func shapeMajority(rng *rand.Rand, n int) []link {
	p := rng.Perm(n)
	return both(p[:(n-1)/2], p[(n-1)/2:])
}

func shapeHalves(rng *rand.Rand, n int) []link {
	p := rng.Perm(n)
	return both(p[:n/2], p[n/2:])
}

// shapeRing leaves each broker its neighbours on a random ring: with five, each
// sees three of five, itself included, and no two see the same.
func shapeRing(rng *rand.Rand, n int) []link {
	p := rng.Perm(n)
	var ls []link
	for i := range n {
		for j := range n {
			if d := (i - j + n) % n; d != 0 && d != 1 && d != n-1 {
				ls = append(ls, link{p[i], p[j]})
			}
		}
	}
	return ls
}

// shapeBridge cuts two halves apart but for one broker, which sees both.
func shapeBridge(rng *rand.Rand, n int) []link {
	p := rng.Perm(n)
	rest := p[1:]
	return both(rest[:len(rest)/2], rest[len(rest)/2:])
}

// shapeOneWay cuts one direction: a broker that cannot be heard, or cannot
// hear, or a random set of links.
func shapeOneWay(rng *rand.Rand, n int) []link {
	p := rng.Perm(n)
	var ls []link
	kind := rng.IntN(3)
	for _, y := range p[1:] {
		switch kind {
		case 0:
			ls = append(ls, link{p[0], y})
		case 1:
			ls = append(ls, link{y, p[0]})
		}
	}
	if kind == 2 {
		for x := range n {
			for y := range n {
				if x != y && rng.IntN(3) == 0 {
					ls = append(ls, link{x, y})
				}
			}
		}
	}
	return ls
}

var shapes = []struct {
	name string
	draw shape
}{{"one", shapeOne}, {"majority", shapeMajority}, {"halves", shapeHalves}, {"ring", shapeRing}, {"bridge", shapeBridge}, {"oneway", shapeOneWay}}

func cutRound(s shape) func(context.Context, *campaign, *rand.Rand) error {
	return func(ctx context.Context, c *campaign, rng *rand.Rand) error { return c.cut(ctx, rng, "", s) }
}

// cutAny draws a shape.
func cutAny(ctx context.Context, c *campaign, rng *rand.Rand) error {
	s := shapes[rng.IntN(len(shapes))]
	return c.cut(ctx, rng, s.name, s.draw)
}

// cut cuts the links for a while, long enough for leases and sessions to
// expire more often than not.
func (c *campaign) cut(ctx context.Context, rng *rand.Rand, name string, s shape) error {
	links := s(rng, len(c.nodes))
	d := between(rng, time.Second, 9*time.Second)
	c.logf("cut %s %v for %.1f s", name, links, d.Seconds())
	for _, l := range links {
		if err := c.net.cut(l.from, l.to); err != nil {
			return err
		}
	}
	c.count("cut")
	if name != "" {
		c.count("cut: " + name)
	}
	pause(ctx, d)
	if err := c.net.heal(); err != nil {
		return err
	}
	if rng.IntN(3) > 0 {
		return c.awaitWrites(ctx)
	}
	return nil
}
