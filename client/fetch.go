package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// request makes a fetch without a session, as a consumer sends it.
func (f *fetcher) request(cursors []*cursor) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID = -1
	req.SessionEpoch = -1
	req.MaxWaitMillis = int32(f.options.MaxWait / time.Millisecond)
	req.MinBytes = 1
	req.MaxBytes = f.options.MaxBytes
	if !f.options.ReadUncommitted {
		req.IsolationLevel = 1
	}
	if f.options.Replica.kind == policyNearest {
		req.Rack = f.options.Replica.rack
	}
	t := kmsg.NewFetchRequestTopic()
	t.Topic = f.options.Topic
	t.TopicID = f.topo.id
	for _, c := range cursors {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition = c.partition
		p.FetchOffset = c.at.offset
		p.CurrentLeaderEpoch = f.topo.partitions[c.partition].epoch
		p.PartitionMaxBytes = f.options.MaxPartitionBytes
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return req
}

// fetchResult is a decoded answer.
type fetchResult struct {
	broker     int32
	err        error // no answer, or one error for all of it
	partitions map[int32]fetchedPartition
}

type fetchedPartition struct {
	err       error
	records   []*Record
	next      int64
	preferred int32 // preferred read replica, -1
}

// fetch sends one request and decodes the answer; it runs in its own goroutine
// and touches nothing of the fetcher.
func fetch(ctx context.Context, core *kgo.Client, broker int32, req *kmsg.FetchRequest) fetchResult {
	res := fetchResult{broker: broker, partitions: make(map[int32]fetchedPartition)}
	kresp, err := core.Broker(int(broker)).Request(ctx, req)
	if err != nil {
		res.err = err
		return res
	}
	resp := kresp.(*kmsg.FetchResponse)
	if res.err = kerr.ErrorForCode(resp.ErrorCode); res.err != nil {
		return res
	}
	asked := req.Topics[0]
	offsets := make(map[int32]int64, len(asked.Partitions))
	for _, p := range asked.Partitions {
		offsets[p.Partition] = p.FetchOffset
	}
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			p := &resp.Topics[i].Partitions[j]
			if offset, ok := offsets[p.Partition]; ok {
				res.partitions[p.Partition] = decode(asked.Topic, offset, req.IsolationLevel, p)
			}
		}
	}
	return res
}

func decode(topic string, offset int64, isolation int8, p *kmsg.FetchResponseTopicPartition) fetchedPartition {
	level := kgo.ReadUncommitted()
	if isolation == 1 {
		level = kgo.ReadCommitted()
	}
	opts := kgo.ProcessFetchPartitionOpts{Topic: topic, Partition: p.Partition, Offset: offset, IsolationLevel: level}
	got, next := kgo.ProcessFetchPartition(opts, p, kgo.DefaultDecompressor(), nil)
	return fetchedPartition{err: got.Err, records: got.Records, next: max(next, offset), preferred: p.PreferredReadReplica}
}

// fetched applies an answer to the partitions that were asked for.
func (f *fetcher) fetched(ctx context.Context, res fetchResult, cursors []*cursor, took time.Duration) {
	delete(f.busy, res.broker)
	now := time.Now()
	progress := false
	for _, c := range cursors {
		c.busy = false
		p, ok := res.partitions[c.partition]
		switch {
		case res.err != nil:
			f.unreachable(c, res, now)
		case !ok:
			f.hold(c, now)
		default:
			progress = f.take(ctx, c, res.broker, p, now) || progress
		}
		if f.failure != nil {
			return
		}
	}
	if !progress && res.err == nil && took < idlePause {
		for _, c := range cursors {
			if c.notBefore.Before(now.Add(idlePause)) {
				c.notBefore = now.Add(idlePause)
			}
		}
	}
}

// unreachable handles a fetch with no usable answer from its broker.
func (f *fetcher) unreachable(c *cursor, res fetchResult, now time.Time) {
	if errors.Is(res.err, kgo.ErrClientClosed) {
		f.fail(res.err)
		return
	}
	if k := kindOf(res.err); k == ErrDenied || k == ErrUnsupported {
		f.fail(res.err)
		return
	}
	f.stale = true
	f.elsewhere(c, res.broker, now)
	if errors.Is(res.err, context.Canceled) {
		return // abandoned for another broker, which is asked at once
	}
	f.hold(c, now)
}

// elsewhere makes the next fetch of a partition go to another replica than the
// one that could not serve it: the leader, or for Any the next in turn.
func (f *fetcher) elsewhere(c *cursor, broker int32, now time.Time) {
	c.preferred = -1
	if broker != f.topo.partitions[c.partition].leader {
		c.detourUntil = now.Add(detour)
	}
	c.turn++
}

// take applies what one broker answered for one partition, and says whether
// the position moved.
func (f *fetcher) take(ctx context.Context, c *cursor, broker int32, p fetchedPartition, now time.Time) bool {
	moved := f.deliver(ctx, c, broker, p)
	if p.err != nil {
		f.refused(c, broker, p.err, now)
		return moved
	}
	c.tries = 0
	leader := f.topo.partitions[c.partition].leader
	switch {
	case p.preferred < 0 || p.preferred == broker:
	case broker == leader:
		if f.options.Replica.kind == policyNearest {
			c.preferred, c.preferredUntil = p.preferred, now.Add(preferredFor)
		}
	default:
		// A follower names the leader: it cannot serve this offset yet.
		c.preferred = -1
		c.detourUntil = now.Add(detour)
		if p.preferred != leader {
			f.stale = true
		}
	}
	return moved
}

// deliver hands records over and moves the position.
func (f *fetcher) deliver(ctx context.Context, c *cursor, broker int32, p fetchedPartition) bool {
	next := mark{offset: p.next, epoch: c.at.epoch}
	records := p.records
	if c.stop >= 0 && next.offset > c.stop {
		next.offset = c.stop
		for len(records) > 0 && records[len(records)-1].Offset >= c.stop {
			records = records[:len(records)-1]
		}
	}
	if next.offset <= c.at.offset {
		return false
	}
	if n := len(records); n > 0 {
		next.epoch = records[n-1].LeaderEpoch
	}
	select {
	case f.out <- delivery{partition: c.partition, broker: broker, records: records, next: next}:
		c.at = next
		return true
	case <-ctx.Done():
		f.failure = ctx.Err()
		return false
	}
}

// refused handles an error that a broker gave for one partition.
func (f *fetcher) refused(c *cursor, broker int32, err error, now time.Time) {
	leads := broker == f.topo.partitions[c.partition].leader
	var ke *kerr.Error
	coded := errors.As(err, &ke)
	switch {
	case errors.Is(err, kerr.OffsetOutOfRange) && leads:
		c.leaderEpoch = outOfRange
	case errors.Is(err, kerr.InconsistentTopicID):
		f.stale = true // metadata tells whether the topic was made again
	case coded && !ke.Retriable && !errors.Is(err, kerr.OffsetOutOfRange) && !errors.Is(err, kerr.UnknownTopicID) && (leads || kindOf(err) == ErrDenied):
		f.fail(fmt.Errorf("partition %d: %w", c.partition, err))
	case !coded && leads && c.tries >= 5:
		// The bytes do not decode, and not by a passing fault of one replica.
		f.fail(fmt.Errorf("partition %d at offset %d from broker %d: %w", c.partition, c.at.offset, broker, err))
	default:
		f.stale = true
	}
	f.elsewhere(c, broker, now)
	f.hold(c, now)
}
