package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tailrace/tailrace/internal/history"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// healPatience bounds the waits after the last fault. It is longer than
	// what B9 allows, so that a slow recovery is told from none.
	healPatience = 90 * time.Second
	// steady is how long the load goes on after everything is writable.
	steady = 2 * time.Second
)

// recover ends every fault, and waits until every partition acknowledges a
// write that began after it (B9) and every replica is back in sync.
func (c *campaign) recover(ctx context.Context) error {
	if err := c.healAll(); err != nil {
		return err
	}
	at := c.rec.Now()
	c.lastFault.Store(at)
	var waits []<-chan int64
	for k := range c.keys {
		waits = append(waits, c.write.watch(history.Key(k)))
	}
	deadline := time.After(healPatience)
	for k, w := range waits {
		select {
		case acked := <-w:
			c.result.Writable = max(c.result.Writable, time.Duration(acked-at))
		case <-deadline:
			c.anomaly("%s acknowledged no write within %s after the last fault", c.keys[k], healPatience)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.logf("all partitions writable %.2f s after the last fault", c.result.Writable.Seconds())
	if err := c.await(ctx, "every replica back in sync", healPatience, c.topo.full); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.anomaly("%v", err)
	}
	c.logf("all replicas in sync %.2f s after the last fault", float64(c.rec.Now()-at)/1e9)
	pause(ctx, steady)
	return ctx.Err()
}

// healAll restores links, disks and processes.
func (c *campaign) healAll() error {
	errs := []error{c.net.heal(), c.disks.heal()}
	for _, n := range c.nodes {
		n.signal(syscall.SIGCONT)
		errs = append(errs, n.start())
	}
	return errors.Join(errs...)
}

// judge reads every replica and checks the history.
func (c *campaign) judge(ctx context.Context) error {
	o := history.Options{LastFault: time.Duration(c.lastFault.Load()), Recovery: c.o.Recovery, Observations: c.read.obs}
	for _, n := range c.nodes {
		who := fmt.Sprintf("reader of broker %d", n.id())
		if c.carries(n) {
			o.Progress = append(o.Progress, history.Progress{Name: who, At: time.Duration(c.read.moved[who]), Never: c.read.moved[who] == 0})
		}
	}
	finals, dumps, err := c.readReplicas(ctx)
	if err != nil {
		return err
	}
	o.FinalReads, o.Dumps = finals, dumps
	c.stopAll()
	if err := c.verifyFlips(); err != nil {
		return err
	}
	c.result.Report = history.Check(c.rec.History(), o)
	c.gather()
	if !c.result.Valid() {
		return history.SaveFile(filepath.Join(c.dir, "history.jsonl"), c.rec.History())
	}
	return nil
}

// carries reports whether a broker has replicas of ours.
func (c *campaign) carries(n *node) bool {
	for _, p := range c.topo.all() {
		if contains(p.replicas, n.id()) {
			return true
		}
	}
	return false
}

// stopAll is a graceful stop of every broker, which must succeed.
func (c *campaign) stopAll() {
	errs := make(chan error)
	for _, n := range c.nodes {
		go func() { errs <- n.stop(60 * time.Second) }()
	}
	for range c.nodes {
		if err := <-errs; err != nil {
			c.anomaly("graceful stop: %v", err)
		}
	}
}

// gather moves the counts into the result.
func (c *campaign) gather() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topo.mu.Lock()
	m := c.topo.moves
	c.topo.mu.Unlock()
	for what, n := range map[string]int{"leader epochs passed": c.topo.elections(), "in-sync sets shrunk": m.shrinks, "in-sync sets grown": m.expands,
		"partitions without a leader": m.leaderless} {
		c.acted[what] = n
	}
	for what, n := range c.disks.stats() {
		c.acted[what] = n
	}
	for what, n := range c.logged() {
		c.acted[what] = n
	}
	c.result.Acted, c.result.Anomalies = c.acted, c.anomalies
}

// readReplicas reads each partition from its start to the confirmed end, from
// each replica.
func (c *campaign) readReplicas(ctx context.Context) ([]history.FinalRead, []history.Dump, error) {
	var finals []history.FinalRead
	var dumps []history.Dump
	for ix, k := range c.keys {
		key := history.Key(ix)
		end, err := c.confirmedEnd(ctx, k)
		if err != nil {
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			c.anomaly("%v", err)
			continue
		}
		p, _ := c.topo.place(k)
		for _, id := range p.replicas {
			f, d := c.readReplica(ctx, key, c.nodes[id-1], end)
			finals, dumps = append(finals, f), append(dumps, d)
		}
	}
	return finals, dumps, ctx.Err()
}

// confirmedEnd asks the leader for the end offset until it answers.
func (c *campaign) confirmedEnd(ctx context.Context, k tp) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.readPatience())
	defer cancel()
	last := errors.New("no leader")
	for {
		if p, ok := c.topo.place(k); ok && p.leader > 0 {
			var end int64
			if end, last = c.askEnd(c.nodes[p.leader-1], k); last == nil {
				return end, nil
			}
		}
		if !pause(ctx, 20*time.Millisecond) {
			return 0, fmt.Errorf("no end offset of %s within %s: %w", k, healPatience, last)
		}
	}
}

// readPatience bounds the final read of one replica. Where something was found
// already, what still stands is read quickly.
func (c *campaign) readPatience() time.Duration {
	if c.found() {
		return 5 * time.Second
	}
	return healPatience
}

// found reports whether an anomaly beside the history was noted.
func (c *campaign) found() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.anomalies) > 0
}

func (c *campaign) askEnd(n *node, k tp) (int64, error) {
	conn, err := dialRaw(n.kafka())
	if err != nil {
		return 0, err
	}
	defer conn.close()
	resp, err := conn.do(latestRequest(k), readTimeout)
	if err != nil {
		return 0, err
	}
	return latestOf(resp.(*kmsg.ListOffsetsResponse))
}

// readReplica reads one replica by plain fetches until it has served
// everything below end.
func (c *campaign) readReplica(ctx context.Context, key history.Key, n *node, end int64) (history.FinalRead, history.Dump) {
	name := fmt.Sprintf("broker %d", n.id())
	dump := history.Dump{Key: key, Replica: name, HighWatermark: end}
	ctx, cancel := context.WithTimeout(ctx, c.readPatience())
	defer cancel()
	pending := c.rec.Begin(history.Op{Process: c.rec.NewProcess(), F: history.FPoll, Final: true, Replica: name})
	var reads []history.Read
	var at int64
	var last error
	for at < end {
		from := at
		var got fetched
		if got, last = c.fetchOnce(n, key, at); last == nil {
			reads, dump.Batches, at = append(reads, got.reads...), append(dump.Batches, got.batches...), got.next
		}
		if at == from && !pause(ctx, 20*time.Millisecond) {
			c.anomaly("%s of %s was read to offset %d of %d only: %v", name, c.keys[key], at, end, last)
			break
		}
	}
	pending.End(history.OK, func(o *history.Op) { o.Mops = []history.Mop{history.PollMop(reads...)} })
	return history.FinalRead{Key: key, Replica: name, Position: at, End: end}, dump
}

func (c *campaign) fetchOnce(n *node, key history.Key, at int64) (fetched, error) {
	conn, err := dialRaw(n.kafka())
	if err != nil {
		return fetched{}, err
	}
	defer conn.close()
	resp, err := conn.do(fetchRequest(c.keys[key], at, readWait, 4<<20), readTimeout)
	if err != nil {
		return fetched{}, err
	}
	p, err := onlyPartition(resp.(*kmsg.FetchResponse))
	if err != nil {
		if err == kerr.OffsetOutOfRange {
			c.anomaly("broker %d answers OFFSET_OUT_OF_RANGE at offset %d of %s, below the confirmed end", n.id(), at, c.keys[key])
		}
		return fetched{}, err
	}
	got, err := decodeFetched(key, at, p.RecordBatches)
	if err != nil {
		c.anomaly("broker %d served damaged bytes of %s: %v", n.id(), c.keys[key], err)
	}
	return got, err
}

// isDataLoss reports whether a client believes that the log was cut below what
// it had read.
func isDataLoss(err error) bool {
	var loss *kgo.ErrDataLoss
	return errors.As(err, &loss)
}

// close ends the processes and removes what the campaign made. The directory
// stays where something was found or failed.
func (c *campaign) close(failed error) error {
	var errs []error
	if failed != nil && !errors.Is(failed, context.Canceled) {
		for _, n := range c.nodes {
			n.dumpStacks()
		}
	}
	for _, n := range c.nodes {
		n.kill()
		errs = append(errs, n.log.Close())
	}
	keep := c.o.Keep || failed != nil || !c.result.Valid()
	if c.disks != nil {
		errs = append(errs, c.disks.close(keep))
	}
	if c.net != nil {
		errs = append(errs, c.net.close())
	}
	switch {
	case c.dir == "":
	case keep:
		c.result.Kept = c.dir
	default:
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}
