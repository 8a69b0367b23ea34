package client

import (
	"context"
	"errors"
	"iter"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ConsumerOptions say what to read and from where.
type ConsumerOptions struct {
	// Topic is required.
	Topic string
	// Partitions to read; none means all, and unless StopAtEnd is set also those
	// that are added to the topic later, from their start.
	Partitions []int32
	// From is where to start in each partition. Default Earliest.
	From Position
	// Offsets overrides From for single partitions, to resume.
	Offsets map[int32]int64
	// Replica chooses what to read from. Default Leader.
	Replica ReplicaPolicy
	// StopAtEnd ends the iteration at the end that each partition had when the
	// consumer was made. Otherwise it follows the log for ever.
	StopAtEnd bool
	// ReadUncommitted also delivers records of open and aborted transactions.
	// It never shows records above the high watermark: no reader sees those.
	ReadUncommitted bool
	// MaxWait is how long a broker holds a fetch with nothing to give. Default 500 ms.
	MaxWait time.Duration
	// MaxBytes bounds one fetch, MaxPartitionBytes one partition of it. A single
	// larger batch is still delivered whole. Defaults 16 MiB and 1 MiB.
	MaxBytes, MaxPartitionBytes int32
}

func (o *ConsumerOptions) ensureDefaults(rack string) {
	if o.MaxWait <= 0 {
		o.MaxWait = 500 * time.Millisecond
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 16 << 20
	}
	if o.MaxPartitionBytes <= 0 {
		o.MaxPartitionBytes = 1 << 20
	}
	if o.Replica.kind == policyNearest && o.Replica.rack == "" {
		o.Replica.rack = rack
	}
}

// Consumer reads records of assigned partitions. It commits nothing anywhere:
// Positions is its whole state.
type Consumer struct {
	client  *Client
	core    *kgo.Client
	options ConsumerOptions
	topo    topology // as of the making; a reader has its own, newer one

	reading atomic.Bool // one iteration at a time

	mu struct {
		sync.Mutex
		positions map[int32]mark
		served    map[int32]int64
		closed    bool
	}
	ends map[int32]int64 // fixed when the consumer was made
}

// mark is a position in one partition with the leader epoch that led to it.
type mark struct {
	offset int64
	epoch  int32 // of the last record read, -1 before the first
}

// Consumer makes a consumer and looks up where it starts, which ctx bounds.
func (c *Client) Consumer(ctx context.Context, o ConsumerOptions) (*Consumer, error) {
	op := "consume " + o.Topic
	if o.Topic == "" {
		return nil, &Error{Op: "consume", Kind: ErrInvalid, Err: errors.New("no topic given")}
	}
	o.ensureDefaults(c.options.Rack)
	core, err := c.newCore()
	if err != nil {
		return nil, err
	}
	con := &Consumer{client: c, core: core, options: o}
	if err := con.open(ctx); err != nil {
		core.Close()
		var oor *OffsetOutOfRangeError
		if errors.As(err, &oor) {
			return nil, oor
		}
		return nil, c.explain(op, err)
	}
	return con, nil
}

func (c *Consumer) open(ctx context.Context) error {
	o := c.options
	err := retry(ctx, func() (err error) {
		c.topo, err = topologyOf(ctx, c.core, o.Topic)
		return err
	})
	if err != nil {
		return err
	}
	partitions, err := choosePartitions(o.Topic, c.topo, o.Partitions)
	if err != nil {
		return err
	}
	at, err := boundsOf(ctx, c.core, o.Topic, partitions, !o.ReadUncommitted)
	if err != nil {
		return err
	}
	within := at
	if o.From.kind == positionOffset && !o.ReadUncommitted {
		// Behind an open transaction the last stable offset is not the end.
		if within, err = boundsOf(ctx, c.core, o.Topic, partitions, false); err != nil {
			return err
		}
	}
	starts, err := resolve(ctx, c.core, o.Topic, partitions, o.From, within)
	if err != nil {
		return err
	}
	c.ends = make(map[int32]int64, len(partitions))
	c.mu.positions = make(map[int32]mark, len(partitions))
	c.mu.served = make(map[int32]int64)
	for _, p := range partitions {
		if offset, ok := o.Offsets[p]; ok {
			starts[p] = offset
		}
		c.ends[p] = at[p].end
		c.mu.positions[p] = mark{offset: starts[p], epoch: -1}
	}
	return nil
}

// Records iterates over the records in the order of each partition's offsets,
// partitions interleaved. An error ends the iteration: ctx's own when it ends,
// a DataLossError, an OffsetOutOfRangeError or an *Error otherwise. What can
// heal (a leader that moves, a broker that is away) is retried, not reported.
// The position is kept, so another call goes on after the last record yielded.
//
// A record's bytes are its own and may be kept.
func (c *Consumer) Records(ctx context.Context) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		for d, err := range c.deliveries(ctx) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, r := range d.records {
				c.advance(d.partition, d.broker, mark{r.Offset + 1, r.LeaderEpoch}, 1)
				if !yield(r, nil) {
					return
				}
			}
			c.advance(d.partition, d.broker, d.next, 0)
		}
	}
}

// Batches is Records in slices: each holds consecutive records of one
// partition, as one fetch brought them. The position is behind a slice as soon
// as it is yielded.
func (c *Consumer) Batches(ctx context.Context) iter.Seq2[[]*Record, error] {
	return func(yield func([]*Record, error) bool) {
		for d, err := range c.deliveries(ctx) {
			if err != nil {
				yield(nil, err)
				return
			}
			c.advance(d.partition, d.broker, d.next, len(d.records))
			if len(d.records) > 0 && !yield(d.records, nil) {
				return
			}
		}
	}
}

// deliveries runs a fetcher for as long as the caller iterates.
func (c *Consumer) deliveries(ctx context.Context) iter.Seq2[delivery, error] {
	return func(yield func(delivery, error) bool) {
		f, err := c.begin()
		if err != nil {
			yield(delivery{}, err)
			return
		}
		defer c.reading.Store(false)
		ctx, cancel := context.WithCancel(ctx)
		var stopped sync.WaitGroup
		defer stopped.Wait()
		defer cancel()
		stopped.Go(func() { f.run(ctx) })
		for d := range f.out {
			if !yield(d, nil) {
				return
			}
		}
		if err := f.failure; err != nil {
			yield(delivery{}, err)
		}
	}
}

// begin makes a fetcher at the current positions, unless one runs already.
func (c *Consumer) begin() (*fetcher, error) {
	op := "consume " + c.options.Topic
	if !c.reading.CompareAndSwap(false, true) {
		return nil, &Error{Op: op, Kind: ErrInvalid, Err: errors.New("this consumer is being read by another loop: make one consumer for each")}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		c.reading.Store(false)
		return nil, &Error{Op: op, Kind: ErrClosed, Err: errors.New("the consumer is closed")}
	}
	return newFetcher(c, maps.Clone(c.mu.positions)), nil
}

func (c *Consumer) advance(partition, broker int32, to mark, records int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.positions[partition] = to
	c.mu.served[broker] += int64(records)
}

// Positions returns the next offset to read in each partition.
func (c *Consumer) Positions() map[int32]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[int32]int64, len(c.mu.positions))
	for p, m := range c.mu.positions {
		out[p] = m.offset
	}
	return out
}

// Ends returns the end of each partition when the consumer was made.
func (c *Consumer) Ends() map[int32]int64 { return maps.Clone(c.ends) }

// Served counts the records delivered so far by the broker that served them.
func (c *Consumer) Served() map[int32]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := maps.Clone(c.mu.served)
	maps.DeleteFunc(out, func(_ int32, n int64) bool { return n == 0 })
	return out
}

// Seek sets the next offset of one partition, for the next call of Records. It
// also forgets the leader epoch read so far, so it accepts a loss that was
// reported.
func (c *Consumer) Seek(partition int32, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.positions[partition] = mark{offset: offset, epoch: -1}
}

// Close ends the consumer's connections, and with them a running iteration.
func (c *Consumer) Close() {
	c.mu.Lock()
	c.mu.closed = true
	c.mu.Unlock()
	c.core.Close()
}
