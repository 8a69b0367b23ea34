package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/tailrace/tailrace/bench/faults/crashfs"
)

// lastStanding kills the followers of a partition one by one, waiting each time
// until they have left the in-sync set, and then cuts the power of the last
// member. What comes back first is drawn: the followers alone, who may lead
// only with every acknowledged record, the last member, or all.
func lastStanding(ctx context.Context, c *campaign, rng *rand.Rand) error {
	if err := c.await(ctx, "every replica in sync", healPatience, c.topo.complete); err != nil {
		return err
	}
	for _, f := range c.disks.crash { // more is written than synced at any moment
		f.SetFaults(crashfs.Faults{SyncDelay: 30 * time.Millisecond})
	}
	k := c.keys[rng.IntN(len(c.keys))]
	p, _ := c.topo.place(k)
	var fallen []*node
	for _, i := range rng.Perm(len(p.replicas)) {
		if id := p.replicas[i]; id != p.leader {
			fallen = append(fallen, c.nodes[id-1])
		}
	}
	for _, n := range fallen {
		c.logf("kill broker %d, follower of %s", n.id(), k)
		n.kill()
		c.count("kill -9 of a follower")
		if err := c.awaitOut(ctx, k, n); err != nil {
			return err
		}
		pause(ctx, between(rng, 0, 1500*time.Millisecond)) // the load goes on
	}
	p, _ = c.topo.place(k)
	if len(p.isr) != 1 || p.leader != p.isr[0] {
		c.anomaly("with one replica of %s left its in-sync set is %v, its leader %d", k, p.isr, p.leader)
		return nil
	}
	last := c.nodes[p.leader-1]
	c.logf("power cut of broker %d, the last in-sync replica of %s", last.id(), k)
	last.expectEnd()
	crashfs.PowerCutAll(nil, c.disks.crash[last.ix])
	last.signal(syscall.SIGKILL)
	last.kill()
	c.count("power cut of the last in-sync replica")
	if err := c.disks.remountOne(last.ix); err != nil {
		return err
	}
	return c.returnLast(ctx, rng, k, last, fallen)
}

// awaitOut returns when a broker that died is in no in-sync set of k.
func (c *campaign) awaitOut(ctx context.Context, k tp, n *node) error {
	err := c.await(ctx, fmt.Sprintf("broker %d leaves the in-sync set of %s", n.id(), k), healPatience, func() bool {
		p, _ := c.topo.place(k)
		return p.leader > 0 && p.leader != n.id() && !slices.Contains(p.isr, n.id())
	})
	if err != nil && ctx.Err() == nil {
		c.anomaly("%v", err)
		return nil
	}
	return ctx.Err()
}

// returnLast starts the brokers in one of three orders.
func (c *campaign) returnLast(ctx context.Context, rng *rand.Rand, k tp, last *node, fallen []*node) error {
	all := append(slices.Clone(fallen), last)
	first, rest := all, []*node(nil)
	order := []string{"all", "the followers", "the last member"}[rng.IntN(3)]
	switch order {
	case "the followers":
		first, rest = fallen, []*node{last}
	case "the last member":
		first, rest = []*node{last}, fallen
	}
	c.logf("%s come back first", order)
	if err := startAll(first, rng); err != nil {
		return err
	}
	if len(rest) > 0 {
		pause(ctx, between(rng, 2*time.Second, 5*time.Second))
		state := "offline"
		if p, _ := c.topo.place(k); p.leader > 0 {
			state = "led by an eligible replica"
		}
		c.count(fmt.Sprintf("%s alone: partition %s", order, state))
	}
	if err := startAll(rest, rng); err != nil {
		return err
	}
	return c.awaitWrites(ctx)
}
