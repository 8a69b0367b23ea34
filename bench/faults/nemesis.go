package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"
)

// nemesis is one kind of fault. A round does it, lets it last and takes it
// back; whatever a round leaves broken is healed after the last one.
type nemesis struct {
	about   string
	brokers int // at least so many
	disk    diskKind
	args    []string                 // more flags of the brokers
	reread  bool                     // readers start over when a broker does
	cuts    bool                     // it cuts links
	needs   func(c *campaign) string // why it cannot run here, "" if it can
	round   func(ctx context.Context, c *campaign, rng *rand.Rand) error
}

// unavailable says why the nemesis cannot run here; "" if it can.
func (n nemesis) unavailable(c *campaign) string {
	if _, fixed := c.net.(*loopbackNet); fixed && n.cuts {
		return errNoCuts.Error()
	}
	if n.needs == nil {
		return ""
	}
	return n.needs(c)
}

// nemeses by name.
var nemeses = map[string]nemesis{}

func init() {
	for name, n := range map[string]nemesis{
		"none":         {about: "no fault: the load alone", round: quietRound},
		"kill":         {about: "kill -9 of a random broker, started again", round: killOne},
		"killall":      {about: "kill -9 of all brokers at once", round: killAll},
		"pause":        {about: "SIGSTOP of a random broker past its lease, then SIGCONT", round: pauseOne},
		"killleader":   {about: "kill -9 of a leader; reports the time to the next acknowledged produce", round: killLeader},
		"clock":        {about: "wall clocks up to an hour apart, jumping at each restart", round: clockRound},
		"mix":          {about: "kills, pauses and cuts in turn, with quiet periods", cuts: true, round: mixRound},
		"partition":    {about: "cuts of all shapes in turn", brokers: 5, cuts: true, round: cutAny},
		"one":          {about: "one broker cut off from all others", cuts: true, round: cutRound(shapeOne)},
		"majority":     {about: "a minority of two cut off from three", brokers: 5, cuts: true, round: cutRound(shapeMajority)},
		"halves":       {about: "two halves of four", brokers: 4, cuts: true, round: cutRound(shapeHalves)},
		"ring":         {about: "every broker sees a majority, no two the same", brokers: 5, cuts: true, round: cutRound(shapeRing)},
		"bridge":       {about: "two halves that only one broker joins", brokers: 5, cuts: true, round: cutRound(shapeBridge)},
		"oneway":       {about: "one direction of some links cut", cuts: true, round: cutRound(shapeOneWay)},
		"powercut":     {about: "power cut of all brokers at one instant: what was not synced is lost", disk: crashDisk, needs: needsFuse, round: powerCut(false)},
		"torn":         {about: "as powercut, but a random part of what was not synced survives, sectors torn", disk: crashDisk, needs: needsFuse, round: powerCut(true)},
		"cutwipe":      {about: "power cut of all brokers with slow disks, and one of them comes back with an empty disk", disk: crashDisk, needs: needsFuse, round: cutWipe},
		"killcut":      {about: "kill -9 of all, and a power cut soon after they are back", disk: crashDisk, needs: needsFuse, round: killCut},
		"fsync":        {about: "fsync fails with EIO on one broker: it must stop, and nothing be lost", disk: crashDisk, needs: needsFuse, round: failSync},
		"slowdisk":     {about: "fsync takes up to 2 s longer on one broker", disk: crashDisk, needs: needsFuse, round: slowSync},
		"diskfull":     {about: "the disks of one, two or all brokers fill up, and get room again", disk: smallDisk, needs: needsRoot, round: diskFull},
		"wipe":         {about: "a broker comes back under its id with an empty disk", round: wipe},
		"leave":        {about: "graceful stops and returns, one broker after the other", round: leave},
		"flip":         {about: "bit flips in settled blocks of one replica of each partition while its broker, or all, are down; each is followed until it is repaired", args: []string{"--scrub-period", "1s"}, reread: true, round: flip},
		"flipleader":   {about: "as flip, but all brokers are down, and the damaged one is elected before anybody reads", args: []string{"--scrub-period", "1s"}, round: flipLeader},
		"losewal":      {about: "the newest write-ahead log of a broker's catalog vanishes while it, or all, are down: it must refuse to start", round: loseWAL},
		"laststanding": {about: "followers of a partition die one by one, and the last in-sync replica loses power: offline or no loss", brokers: 5, disk: crashDisk, needs: needsFuse, round: lastStanding},
		"flipcatalog":  {about: "bit flips in the catalog of one broker while it is down", round: flipCatalog},
		"pausekill":    {about: "pause one, kill another, resume the paused one first", brokers: 3, round: pauseKill},
	} {
		nemeses[name] = n
	}
}

func quietRound(ctx context.Context, _ *campaign, _ *rand.Rand) error {
	pause(ctx, time.Second)
	return nil
}

// between draws a duration.
func between(rng *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(rng.Int64N(int64(hi-lo)+1))
}

func (c *campaign) pick(rng *rand.Rand) *node { return c.nodes[rng.IntN(len(c.nodes))] }

// victim is mostly a broker that leads something.
func (c *campaign) victim(rng *rand.Rand) *node {
	k := c.keys[rng.IntN(len(c.keys))]
	if p, ok := c.topo.place(k); ok && p.leader > 0 && rng.IntN(3) > 0 {
		return c.nodes[p.leader-1]
	}
	return c.pick(rng)
}

func killOne(ctx context.Context, c *campaign, rng *rand.Rand) error {
	n := c.victim(rng)
	down := between(rng, 0, 3*time.Second)
	c.logf("kill broker %d, down for %.1f s", n.id(), down.Seconds())
	n.kill()
	c.count("kill -9")
	pause(ctx, down)
	return n.start()
}

func killAll(ctx context.Context, c *campaign, rng *rand.Rand) error {
	c.logf("kill all brokers")
	for _, n := range c.nodes { // all signals first: no broker sees another one die
		n.signal(syscall.SIGKILL)
	}
	for _, n := range c.nodes {
		n.kill()
		c.count("kill -9")
	}
	c.count("kill all")
	pause(ctx, between(rng, 0, time.Second))
	for _, i := range rng.Perm(len(c.nodes)) {
		if err := c.nodes[i].start(); err != nil {
			return err
		}
		pause(ctx, between(rng, 0, 500*time.Millisecond))
	}
	return c.awaitWrites(ctx)
}

// awaitWrites returns when every partition acknowledged a write that began
// after the call: the next fault hits a cluster that works.
func (c *campaign) awaitWrites(ctx context.Context) error {
	for k := range c.keys {
		w := c.write.watch(c.keyOf(c.keys[k]))
		select {
		case <-w:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(healPatience):
			c.anomaly("%s acknowledged no write within %s after a fault", c.keys[k], healPatience)
			return nil
		}
	}
	return nil
}

func pauseOne(ctx context.Context, c *campaign, rng *rand.Rand) error {
	n := c.victim(rng)
	d := between(rng, 500*time.Millisecond, 6*time.Second)
	c.logf("pause broker %d for %.1f s", n.id(), d.Seconds())
	n.signal(syscall.SIGSTOP)
	c.count("pause")
	pause(ctx, d)
	n.signal(syscall.SIGCONT)
	return nil
}

// pauseKill: the paused broker wakes up into a cluster that went on without
// it and has just lost one that knew.
func pauseKill(ctx context.Context, c *campaign, rng *rand.Rand) error {
	p := rng.Perm(len(c.nodes))
	sleeper, victim := c.nodes[p[0]], c.nodes[p[1]]
	asleep := between(rng, 3*time.Second, 8*time.Second)
	c.logf("pause broker %d for %.1f s, then kill broker %d, then resume", sleeper.id(), asleep.Seconds(), victim.id())
	sleeper.signal(syscall.SIGSTOP)
	c.count("pause")
	pause(ctx, asleep)
	victim.kill()
	c.count("kill -9")
	pause(ctx, between(rng, 0, 500*time.Millisecond))
	sleeper.signal(syscall.SIGCONT)
	pause(ctx, between(rng, 500*time.Millisecond, 3*time.Second))
	if err := victim.start(); err != nil {
		return err
	}
	return c.awaitWrites(ctx)
}

// Usage lists the nemeses with a line each.
func Usage() string {
	var b strings.Builder
	for _, name := range Names() {
		fmt.Fprintf(&b, "  %-12s %s\n", name, nemeses[name].about)
	}
	return b.String()
}
