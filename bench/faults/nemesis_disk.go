package faults

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tailrace/tailrace/bench/faults/crashfs"
)

func needsFuse(*campaign) string {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return "there is no /dev/fuse"
	}
	return needsRoot(nil)
}

func needsRoot(*campaign) string {
	if os.Geteuid() != 0 {
		return "mounting needs root"
	}
	return ""
}

// powerCut takes the power of all machines at one instant. The processes get
// SIGKILL while their disks are dead; then the disks come back with what was
// durable.
func powerCut(torn bool) func(context.Context, *campaign, *rand.Rand) error {
	return func(ctx context.Context, c *campaign, rng *rand.Rand) error {
		c.logf("power cut")
		var keep *rand.Rand
		if torn {
			keep = rng
		}
		c.cutPower(keep)
		if err := c.restore(rng); err != nil {
			return err
		}
		if err := c.awaitWrites(ctx); err != nil {
			return err
		}
		pause(ctx, between(rng, 0, 500*time.Millisecond))
		return ctx.Err()
	}
}

// cutPower kills every process on a disk that is dead by then.
func (c *campaign) cutPower(keep *rand.Rand) {
	for _, n := range c.nodes {
		n.expectEnd() // they see a dead disk before they die
	}
	crashfs.PowerCutAll(keep, c.disks.crash...)
	for _, n := range c.nodes {
		n.signal(syscall.SIGKILL)
	}
	for _, n := range c.nodes {
		n.kill()
	}
	c.count("power cut of all brokers")
}

// restore gives the disks back and starts all brokers, in random order.
func (c *campaign) restore(rng *rand.Rand) error {
	if err := c.disks.remount(); err != nil {
		return err
	}
	for _, i := range rng.Perm(len(c.nodes)) {
		if err := c.nodes[i].start(); err != nil {
			return err
		}
	}
	return nil
}

// killCut kills all processes, so that recovery finds their unsynced bytes, and
// cuts the power when it has made use of them: what a recovered log reports must
// have been made durable first.
func killCut(ctx context.Context, c *campaign, rng *rand.Rand) error {
	if err := killAll(ctx, c, rng); err != nil {
		return err
	}
	pause(ctx, between(rng, 0, 300*time.Millisecond))
	return powerCut(false)(ctx, c, rng)
}

// cutWipe cuts the power of all, and one machine does not survive it: every
// member of an in-sync set must hold what was acknowledged, not just one. Slow
// disks widen the time between writing and having written.
func cutWipe(ctx context.Context, c *campaign, rng *rand.Rand) error {
	for _, f := range c.disks.crash {
		f.SetFaults(crashfs.Faults{SyncDelay: 30 * time.Millisecond})
	}
	pause(ctx, between(rng, 500*time.Millisecond, 1500*time.Millisecond))
	n := c.victim(rng)
	c.logf("power cut; broker %d does not survive it", n.id())
	c.cutPower(nil)
	c.disks.crash[n.ix] = crashfs.New(crashDiskBytes)
	c.count("disk lost in a power cut")
	if err := c.restore(rng); err != nil {
		return err
	}
	return c.awaitBack(ctx, n)
}

// failSync lets every fsync of one broker fail until the process has ended,
// which it must soon; the disk then loses what was not synced.
func failSync(ctx context.Context, c *campaign, rng *rand.Rand) error {
	n := c.victim(rng)
	c.logf("fsync fails on broker %d", n.id())
	n.expectEnd()
	c.disks.crash[n.ix].SetFaults(crashfs.Faults{SyncError: syscall.EIO})
	c.count("fsync error")
	if err := c.await(ctx, fmt.Sprintf("broker %d stops after a failed fsync", n.id()), 30*time.Second, func() bool { return !n.running() }); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.anomaly("%v", err)
		n.kill()
	}
	c.disks.crash[n.ix].PowerCut(nil)
	if err := c.disks.remountOne(n.ix); err != nil {
		return err
	}
	if err := n.start(); err != nil {
		return err
	}
	return c.awaitWrites(ctx)
}

func slowSync(ctx context.Context, c *campaign, rng *rand.Rand) error {
	n := c.victim(rng)
	delay, d := between(rng, 50*time.Millisecond, 2*time.Second), between(rng, 2*time.Second, 8*time.Second)
	c.logf("fsync takes %.0f ms longer on broker %d for %.1f s", delay.Seconds()*1e3, n.id(), d.Seconds())
	c.disks.crash[n.ix].SetFaults(crashfs.Faults{SyncDelay: delay})
	c.count("slow fsync")
	pause(ctx, d)
	c.disks.crash[n.ix].SetFaults(crashfs.Faults{})
	return c.awaitWrites(ctx)
}

// diskFull fills the disks of some brokers to below their reserve for a while.
// They must stay up, refuse what they must, and resume by themselves.
func diskFull(ctx context.Context, c *campaign, rng *rand.Rand) error {
	order := rng.Perm(len(c.nodes))[:1+rng.IntN(len(c.nodes))]
	d := between(rng, 2*time.Second, 6*time.Second)
	leave := between(rng, 4, time.Duration(c.o.reserve()>>20)) << 20
	c.logf("disks of %d brokers fill up to %d MiB free for %.1f s", len(order), leave>>20, d.Seconds())
	for _, i := range order {
		if err := c.disks.fill(i, int64(leave)-(1<<20)); err != nil {
			return err
		}
	}
	c.count("disk full")
	pause(ctx, d)
	if err := c.disks.heal(); err != nil {
		return err
	}
	return c.awaitWrites(ctx)
}

// wipe replaces the disk of a broker by an empty one. It must be refilled from
// the others, and not be believed to hold anything before.
func wipe(ctx context.Context, c *campaign, rng *rand.Rand) error {
	n := c.victim(rng)
	c.logf("broker %d comes back with an empty disk", n.id())
	n.kill()
	if err := os.RemoveAll(n.dir); err != nil {
		return err
	}
	c.count("disk wiped")
	pause(ctx, between(rng, 0, 2*time.Second))
	if err := n.start(); err != nil {
		return err
	}
	return c.awaitBack(ctx, n)
}

// awaitBack returns when a broker is admitted again, and the cluster is whole:
// the next fault must not hit a second disk while the first is being refilled.
func (c *campaign) awaitBack(ctx context.Context, n *node) error {
	if err := c.await(ctx, fmt.Sprintf("broker %d is back in sync", n.id()), healPatience, func() bool { return n.ready() && c.topo.complete() }); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.anomaly("%v", err)
	}
	return c.awaitWrites(ctx)
}

// leave stops a broker in order, and lets it return.
func leave(ctx context.Context, c *campaign, rng *rand.Rand) error {
	n := c.victim(rng)
	c.logf("graceful stop of broker %d", n.id())
	if err := n.stop(60 * time.Second); err != nil {
		c.anomaly("graceful stop: %v", err)
	}
	c.count("graceful stop")
	pause(ctx, between(rng, 0, 3*time.Second))
	if err := n.start(); err != nil {
		return err
	}
	return c.awaitBack(ctx, n)
}

// files lists the files of a broker whose name ends so, largest part of the
// path first to last.
func (n *node) files(under, suffix string) []string {
	var out []string
	_ = filepath.WalkDir(filepath.Join(n.dir, under), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, suffix) { // files come and go
			out = append(out, path)
		}
		return nil
	})
	slices.Sort(out)
	return out
}

// flipCatalog damages files of the catalog of one broker while it is down.
// What must not happen is that it serves or leads with what it then misreads:
// it re-syncs, or refuses to start until its disk is replaced.
func flipCatalog(ctx context.Context, c *campaign, rng *rand.Rand) error {
	n := c.pick(rng)
	n.kill()
	paths := slices.DeleteFunc(n.files("catalog", ""), func(path string) bool {
		st, err := os.Stat(path)
		return err != nil || st.Size() == 0
	})
	if len(paths) == 0 {
		return n.start()
	}
	path := paths[rng.IntN(len(paths))]
	c.logf("bits flipped in %s of broker %d", filepath.Base(path), n.id())
	if err := flipBits(path, rng, 3, c.logf); err != nil {
		return err
	}
	c.count("catalog damaged")
	if err := n.start(); err != nil {
		return err
	}
	n.expectEnd()
	back := c.await(ctx, "", 30*time.Second, func() bool { return !n.running() || n.ready() })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if n.running() && back == nil {
		c.count("catalog damaged: the broker serves")
		return c.awaitBack(ctx, n)
	}
	c.count("catalog damaged: the broker refused, its disk was replaced")
	n.kill()
	if err := os.RemoveAll(n.dir); err != nil {
		return err
	}
	if err := n.start(); err != nil {
		return err
	}
	return c.awaitBack(ctx, n)
}

// flipBits flips n random bits of a file in place.
func flipBits(path string, rng *rand.Rand, n int, logf func(string, ...any)) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	for range n {
		var b [1]byte
		off := rng.Int64N(st.Size())
		if _, err := f.ReadAt(b[:], off); err != nil {
			return err
		}
		b[0] ^= 1 << rng.IntN(8)
		if _, err := f.WriteAt(b[:], off); err != nil {
			return err
		}
		logf("bit flipped at %d of %s", off, path)
	}
	return nil
}

// loseWAL takes the newest write-ahead log of a broker's catalog away while it
// is down. With what is left it would open as of the last flush, and not know
// what it has acknowledged or whom it has voted for; so it must refuse to start,
// until its disk is replaced.
func loseWAL(ctx context.Context, c *campaign, rng *rand.Rand) error {
	n := c.victim(rng)
	down := []*node{n}
	if rng.IntN(2) == 0 {
		down = c.nodes
	}
	for _, x := range down {
		x.kill()
		c.count("kill -9")
	}
	wals := n.files("catalog", ".log")
	if len(wals) == 0 {
		return fmt.Errorf("broker %d has no write-ahead log", n.id())
	}
	newest := wals[len(wals)-1]
	c.logf("%s of broker %d vanishes while %d brokers are down", filepath.Base(newest), n.id(), len(down))
	if err := os.Remove(newest); err != nil {
		return err
	}
	c.count("write-ahead log lost")
	if err := startAll(down, rng); err != nil {
		return err
	}
	n.expectEnd()
	if err := c.await(ctx, fmt.Sprintf("broker %d refuses to start", n.id()), healPatience, func() bool { return !n.running() || n.ready() }); err != nil {
		return err
	}
	if n.running() {
		c.anomaly("broker %d serves without %s", n.id(), newest)
		return nil
	}
	c.count("write-ahead log lost: the broker refused, its disk was replaced")
	if err := os.RemoveAll(n.dir); err != nil {
		return err
	}
	if err := n.start(); err != nil {
		return err
	}
	return c.awaitBack(ctx, n)
}
