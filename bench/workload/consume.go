package workload

import (
	"context"
	"sync"
	"time"

	"github.com/tailrace/tailrace/bench/load"
)

func (f *flow) startConsumers(ctx context.Context, wg *sync.WaitGroup) error {
	for i, rack := range f.tail {
		c, err := f.s.Client.Consumer(ctx, load.ConsumerOptions{Topic: f.s.Topic.Name, Partitions: f.s.Topic.Partitions, From: load.FromEnd, Rack: rack})
		if err != nil {
			return err
		}
		wg.Add(1)
		go func() { defer wg.Done(); f.consumeTail(ctx, c, i) }()
	}
	for range f.back {
		wg.Add(1)
		go func() { defer wg.Done(); f.readBack(ctx) }()
	}
	return nil
}

// consumeTail counts and times what one consumer gets.
func (f *flow) consumeTail(ctx context.Context, c load.Consumer, i int) {
	defer c.Close()
	for ctx.Err() == nil {
		err := c.Poll(ctx, func(r load.Record) {
			now := f.now()
			measured := f.inWindow(now)
			if measured {
				f.consumed.Add(1)
				f.consumedBytes.Add(int64(len(r.Value)))
			}
			due, ok := readStamp(r.Value, f.run)
			if !ok {
				return
			}
			f.seen[i].Add(1)
			if f.inWindow(int64(due)) {
				f.end2end.Record(time.Duration(now) - due)
			}
		})
		if err != nil && ctx.Err() == nil {
			f.fail(err)
		}
	}
}

// readBack reads the topic from its start again and again: the load of a
// consumer that is far behind.
func (f *flow) readBack(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := f.s.Client.Consumer(ctx, load.ConsumerOptions{Topic: f.s.Topic.Name, Partitions: f.s.Topic.Partitions, From: load.FromStart})
		if err != nil {
			f.fail(err)
			return
		}
		pass, cancel := context.WithTimeout(ctx, readBackPass)
		for pass.Err() == nil {
			_ = c.Poll(pass, func(r load.Record) { // errors of this background load are the tail's to report
				if f.inWindow(f.now()) {
					f.consumed.Add(1)
					f.consumedBytes.Add(int64(len(r.Value)))
				}
			})
		}
		cancel()
		c.Close()
	}
}

// readBackPass is after how long a reader of old data starts again.
const readBackPass = 5 * time.Second

// awaitConsumers waits until every tail consumer has all acknowledged records
// of the round, and returns how many are missing at the end of its patience.
func (f *flow) awaitConsumers(ctx context.Context) (missing int64) {
	if len(f.tail) == 0 {
		return 0
	}
	idle := time.Now()
	for last := int64(-1); ; {
		missing = 0
		for i := range f.seen {
			missing += max(0, f.acked.Load()-f.seen[i].Load())
		}
		if missing != last {
			last, idle = missing, time.Now()
		}
		if missing == 0 || time.Since(idle) > consumeIdle || sleep(ctx, 5*time.Millisecond) != nil {
			return missing
		}
	}
}

// consumeIdle is how long consumers may stand still before the rest counts as
// missing.
const consumeIdle = 10 * time.Second
