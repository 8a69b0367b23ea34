package control

import "fmt"

// Limits of one batch of decisions.
const (
	maxBatchCommands = 1024
	maxBatchBytes    = 1 << 20
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
	b := newBuilder(c.img, f.index)
	var records []Record
	barrier := false
	size := 0
	n := 0
	for ; n < len(c.queue) && n < maxBatchCommands && size < maxBatchBytes; n++ {
		w := c.queue[n]
		recs, err := c.decideOne(b, &w)
		if err != nil {
			c.err = err
			return false
		}
		records = append(records, recs...)
		size += 48 * len(recs)
		if len(recs) == 0 && !needsBarrier(w.cmd) {
			w.result.Index = c.img.Index
			w.done(w.result, nil)
			continue
		}
		barrier = true
		f.waiters = append(f.waiters, w)
	}
	c.queue = append([]waiter(nil), c.queue[n:]...)
	if !barrier {
		return len(c.queue) > 0
	}
	o.flight = f
	f.data = encodeBatch(f.index, records)
	if err := c.rn.Propose(f.data); err != nil {
		o.flight = nil
		for _, w := range f.waiters {
			w.done(Result{}, ErrNotController)
		}
		return false
	}
	return true
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
