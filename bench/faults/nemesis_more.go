package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tailrace/tailrace/internal/history"
)

// killLeader kills the leader of a partition and measures, on that partition,
// the time to the next acknowledgement of a record that was sent after the
// process was gone. It waits until everything is back in sync: the next kill
// hits a whole cluster.
func killLeader(ctx context.Context, c *campaign, rng *rand.Rand) error {
	k := history.Key(rng.IntN(len(c.keys)))
	p, ok := c.topo.place(c.keys[k])
	if !ok || p.leader < 1 {
		pause(ctx, 100*time.Millisecond)
		return nil
	}
	n := c.nodes[p.leader-1]
	begun := c.rec.Now()
	n.kill()
	c.count("kill -9 of a leader")
	acked := c.write.watch(k)
	select {
	case at := <-acked:
		c.result.NextAck = append(c.result.NextAck, float64(at-begun)/1e9)
		c.logf("killed broker %d, leader of %s: next acknowledgement after %.0f ms", n.id(), c.keys[k], float64(at-begun)/1e6)
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(healPatience):
		c.anomaly("%s acknowledged no write within %s after its leader was killed", c.keys[k], healPatience)
	}
	if err := n.start(); err != nil {
		return err
	}
	if err := c.await(ctx, "every replica back in sync", healPatience, func() bool { return c.topo.complete() }); err != nil {
		c.anomaly("%v", err)
	}
	return ctx.Err()
}

// maxSkew is how far wall clocks are apart.
const maxSkew = time.Hour

// clockRound restarts a broker with another wall clock.
func clockRound(ctx context.Context, c *campaign, rng *rand.Rand) error {
	n := c.pick(rng)
	skew := between(rng, -maxSkew, maxSkew).Round(time.Second)
	c.logf("restart broker %d with its clock off by %s", n.id(), skew)
	n.kill()
	n.mu.Lock()
	n.env = []string{"TAILRACE_CLOCK_OFFSET=" + skew.String()}
	n.mu.Unlock()
	c.count("clock jump")
	if err := n.start(); err != nil {
		return err
	}
	return c.awaitWrites(ctx)
}

// mixRound draws one of the nemeses that fit together.
func mixRound(ctx context.Context, c *campaign, rng *rand.Rand) error {
	parts := []struct {
		name  string
		round func(context.Context, *campaign, *rand.Rand) error
	}{{"quiet", quietRound}, {"kill", killOne}, {"killall", killAll}, {"pause", pauseOne}, {"pausekill", pauseKill}, {"clock", clockRound}, {"partition", cutAny}, {"both", cutAndKill}}
	p := parts[rng.IntN(len(parts))]
	if err := p.round(ctx, c, rng); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// cutAndKill kills a broker while links are cut.
func cutAndKill(ctx context.Context, c *campaign, rng *rand.Rand) error {
	s := shapes[rng.IntN(len(shapes))]
	links := s.draw(rng, len(c.nodes))
	n := c.victim(rng)
	c.logf("cut %s %v and kill broker %d", s.name, links, n.id())
	for _, l := range links {
		if err := c.net.cut(l.from, l.to); err != nil {
			return err
		}
	}
	c.count("cut")
	pause(ctx, between(rng, 0, 4*time.Second))
	n.kill()
	c.count("kill -9")
	pause(ctx, between(rng, 0, 2*time.Second))
	if err := n.start(); err != nil {
		return err
	}
	pause(ctx, between(rng, 0, 2*time.Second))
	if err := c.net.heal(); err != nil {
		return err
	}
	return c.awaitWrites(ctx)
}

// complete reports whether every partition has a leader, every broker is live
// and every in-sync set is as large as it can be.
func (t *topology) complete() bool {
	t.mu.Lock()
	live := len(t.live)
	t.mu.Unlock()
	return live == len(t.c.nodes) && t.full()
}
