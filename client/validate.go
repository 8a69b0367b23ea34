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

// outOfRange in cursor.leaderEpoch asks for a check of the position even
// though the leader epoch did not change: the leader called it out of range.
const outOfRange = int32(-2)

// mustValidate says whether a position has to be checked before more is read:
// after each change of leader, because the new one may have truncated what was
// read (KIP-320). A consumer that has read nothing has nothing to lose.
func (f *fetcher) mustValidate(c *cursor) bool {
	p, ok := f.topo.partitions[c.partition]
	if !ok || p.leader < 0 {
		return false
	}
	if c.leaderEpoch == outOfRange {
		return true
	}
	if p.epoch <= c.leaderEpoch {
		return false
	}
	if c.at.epoch < 0 {
		c.leaderEpoch = p.epoch
		return false
	}
	return true
}

// validate asks the leader, in the background, where the epoch that was read
// last ends, and reports loss if that is below the position.
func (f *fetcher) validate(ctx context.Context, c *cursor, start func(func() func())) {
	c.busy = true
	ranged := c.leaderEpoch == outOfRange
	at, place, topic, partition := c.at, f.topo.partitions[c.partition], f.options.Topic, c.partition
	start(func() func() {
		proven, err := checkEpoch(ctx, f.core, topic, partition, at, place)
		if err == nil && ranged {
			err = checkRange(ctx, f.core, topic, partition, at, proven)
		}
		return func() {
			c.busy = false
			f.validated(c, place.epoch, err)
		}
	})
}

func (f *fetcher) validated(c *cursor, epoch int32, err error) {
	var loss *DataLossError
	var oor *OffsetOutOfRangeError
	switch {
	case err == nil:
		c.leaderEpoch = epoch
		return
	case errors.As(err, &loss):
		f.failure = loss
		return
	case errors.As(err, &oor):
		f.failure = oor
		return
	case errors.Is(err, kerr.UnsupportedVersion):
		c.leaderEpoch = epoch // a cluster that does not keep epochs cannot be asked
		return
	case kindOf(err) == ErrDenied, errors.Is(err, kgo.ErrClientClosed):
		f.fail(err)
		return
	}
	f.stale = true
	f.hold(c, time.Now())
}

// checkEpoch returns a DataLossError if the log of the epoch that was read last
// ends below the position. It is proven that nothing is lost if the leader knows
// that epoch and its end is not below.
func checkEpoch(ctx context.Context, core *kgo.Client, topic string, partition int32, at mark, place placement) (proven bool, err error) {
	if at.epoch < 0 {
		return false, nil
	}
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	t := kmsg.NewOffsetForLeaderEpochRequestTopic()
	t.Topic = topic
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.Partition = partition
	p.CurrentLeaderEpoch = place.epoch
	p.LeaderEpoch = at.epoch
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	kresp, err := core.Broker(int(place.leader)).Request(ctx, req)
	if err != nil {
		return false, err
	}
	resp := kresp.(*kmsg.OffsetForLeaderEpochResponse)
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return false, fmt.Errorf("leader epoch of %s/%d: answer without the partition: %w", topic, partition, kerr.UnknownServerError)
	}
	answer := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return false, err
	}
	// -1 means that the leader knows no epoch this old: nothing is proven, and
	// the fetch that follows is refused if the offset is gone.
	if answer.EndOffset >= 0 && answer.EndOffset < at.offset {
		return false, &DataLossError{Topic: topic, Partition: partition, Offset: at.offset, Epoch: at.epoch, EndOffset: answer.EndOffset}
	}
	return answer.EndOffset >= 0, nil
}

// checkRange returns an OffsetOutOfRangeError if the position is outside of the
// leader's log. A position beyond the end after records were read is a loss,
// for nothing that was delivered lies above the high watermark; unless the leader
// has proven by epoch that its log goes that far, and only has to learn the
// high watermark after its election.
func checkRange(ctx context.Context, core *kgo.Client, topic string, partition int32, at mark, proven bool) error {
	b, err := boundsOf(ctx, core, topic, []int32{partition}, false)
	if err != nil {
		return err
	}
	r := b[partition]
	switch {
	case at.offset > r.end && proven:
		return kerr.OffsetNotAvailable
	case at.offset > r.end && at.epoch >= 0:
		return &DataLossError{Topic: topic, Partition: partition, Offset: at.offset, Epoch: at.epoch, EndOffset: r.end}
	case at.offset > r.end || at.offset < r.start:
		return &OffsetOutOfRangeError{Topic: topic, Partition: partition, Offset: at.offset, Start: r.start, End: r.end}
	}
	return nil
}
