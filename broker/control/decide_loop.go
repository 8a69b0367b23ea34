package control

import (
	"fmt"
	"slices"
)

// Limits of one batch of decisions.
const (
	maxBatchCommands = 1024
	maxBatchBytes    = 1 << 20
	recordBytes      = 48 // about
)

// decide takes queued commands, decides each against the image that the
// earlier ones lead to, and proposes the records as one entry. It reports
// whether raft has new work. Nothing is decided while a batch is in flight:
// a decision never rests on an uncommitted one.
func (c *Core) decide() bool {
	o := c.office
	if o == nil {
		if !c.isLeader() {
			c.refuse(ErrNotController)
		}
		return false
	}
	if o.flight != nil || len(c.queue) == 0 {
		return false
	}
	last, _ := c.log.LastIndex()
	if c.img.Index != last {
		return false // a configuration change is in flight: its index is taken
	}
	f := &flight{index: last + 1}
	records := c.collect(f)
	if c.err != nil {
		return false
	}
	if len(f.waiters) == 0 {
		return len(c.queue) > 0
	}
	o.flight, f.data = f, encodeBatch(f.index, records)
	if err := c.rn.Propose(f.data); err != nil {
		o.flight = nil
		for _, w := range f.waiters {
			w.done(Result{}, ErrNotController)
		}
		return false
	}
	return true
}

// collect decides queued commands up to the size of a batch. Those with
// records, or whose answer needs a majority behind it, wait in f; the others
// are answered.
func (c *Core) collect(f *flight) []Record {
	b := newBuilder(c.img, f.index)
	var records []Record
	n := 0
	for ; n < len(c.queue) && n < maxBatchCommands && recordBytes*len(records) < maxBatchBytes; n++ {
		w := c.queue[n]
		recs, err := c.decideOne(b, &w)
		if err != nil {
			c.err = err
			c.queue = append(f.waiters, c.queue[n:]...) // abandoned with the rest
			return nil
		}
		records = append(records, recs...)
		if len(recs) > 0 || needsBarrier(w.cmd) {
			f.waiters = append(f.waiters, w)
			continue
		}
		w.result.Index = c.img.Index
		w.done(w.result, nil)
	}
	c.queue = slices.Clone(c.queue[n:])
	return records
}

// decideOne decides one command on the working image and lets the image
// follow. An error is a defect of the decision code.
func (c *Core) decideOne(b *builder, w *waiter) ([]Record, error) {
	in := Input{Index: b.index, Now: c.now}
	c.opt.Rand(in.Seed[:])
	if r, ok := w.cmd.(*ReportLogs); ok && incarnationOf(b.img, r.Broker) == r.Incarnation {
		c.office.vol.Add(r, c.now)
	}
	records, result, err := decideOn(b, c.office.vol, w.cmd, in)
	if err != nil {
		return nil, fmt.Errorf("control: deciding %T: %w", w.cmd, err)
	}
	w.result = result
	return records, nil
}

// needsBarrier reports whether an answer without records must still be
// confirmed by a majority: what a deposed controller refuses is not refused.
func needsBarrier(cmd Command) bool {
	switch cmd.(type) {
	case *ReportLogs, *ResolveOffline, *BalanceLeaders:
		return false
	}
	return true
}
