package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topology is what metadata says of one topic.
type topology struct {
	id         [16]byte
	partitions map[int32]placement
}

// placement is where one partition lives.
type placement struct {
	leader   int32 // -1 while there is none
	epoch    int32 // leader epoch, -1 if the cluster does not tell
	replicas []int32
	offline  []int32
}

// live are the replicas that metadata does not call offline.
func (p placement) live() []int32 {
	live := make([]int32, 0, len(p.replicas))
	for _, r := range p.replicas {
		if !slices.Contains(p.offline, r) {
			live = append(live, r)
		}
	}
	return live
}

// topologyOf asks any broker about one topic. An unknown topic is an error
// that matches ErrNotFound.
func topologyOf(ctx context.Context, core *kgo.Client, topic string) (topology, error) {
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, rt)
	resp, err := askAny(ctx, core, req)
	if err != nil {
		return topology{}, err
	}
	if len(resp.Topics) != 1 {
		return topology{}, fmt.Errorf("metadata answered %d topics for one: %w", len(resp.Topics), kerr.UnknownServerError)
	}
	t := resp.Topics[0]
	if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
		return topology{}, err
	}
	topo := topology{id: t.TopicID, partitions: make(map[int32]placement, len(t.Partitions))}
	for _, p := range t.Partitions {
		topo.partitions[p.Partition] = placement{leader: p.Leader, epoch: p.LeaderEpoch, replicas: p.Replicas, offline: p.OfflineReplicas}
	}
	return topo, nil
}

// askPatience is how long one broker may take to answer with metadata before
// another is asked: a broker that hangs must not use up the caller's time.
const askPatience = 1500 * time.Millisecond

// askAny asks one broker after the other until one answers or ctx ends.
func askAny(ctx context.Context, core *kgo.Client, req *kmsg.MetadataRequest) (*kmsg.MetadataResponse, error) {
	for {
		once, cancel := context.WithTimeout(ctx, askPatience)
		resp, err := req.RequestWith(once, core)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return resp, err
		}
	}
}

// retry calls f until it succeeds, fails for good, or ctx ends. The last error
// is kept: "no leader" says more than "deadline exceeded".
func retry(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if err == nil || !transient(err) {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-time.After(backoff(n)):
		}
	}
}

// transient says whether the same request may succeed later by itself.
func transient(err error) bool {
	if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
		return false
	}
	return kindOf(err) == ErrUnavailable && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// bounds are the ends of one partition as its leader gives them.
type bounds struct{ start, end int64 }

// boundsOf returns the first offset and the end (high watermark, or last stable
// offset when reading committed transactions only) of each partition.
func boundsOf(ctx context.Context, core *kgo.Client, topic string, partitions []int32, committed bool) (map[int32]bounds, error) {
	admin := kadm.NewClient(core)
	starts, err := offsetsOf(ctx, topic, partitions, admin.ListStartOffsets)
	if err != nil {
		return nil, err
	}
	list := admin.ListEndOffsets
	if committed {
		list = admin.ListCommittedOffsets
	}
	ends, err := offsetsOf(ctx, topic, partitions, list)
	if err != nil {
		return nil, err
	}
	out := make(map[int32]bounds, len(partitions))
	for _, p := range partitions {
		out[p] = bounds{start: starts[p], end: ends[p]}
	}
	return out, nil
}

// offsetsOf runs one ListOffsets until every partition asked for has an answer.
func offsetsOf(ctx context.Context, topic string, partitions []int32, list func(context.Context, ...string) (kadm.ListedOffsets, error)) (map[int32]int64, error) {
	var out map[int32]int64
	err := retry(ctx, func() error {
		out = make(map[int32]int64, len(partitions))
		listed, err := list(ctx, topic)
		err = shardCause(err)
		if err != nil && len(listed[topic]) == 0 {
			return err
		}
		for _, p := range partitions {
			o, ok := listed.Lookup(topic, p)
			switch {
			case !ok && err != nil:
				return err
			case !ok:
				return fmt.Errorf("partition %d of %s: %w", p, topic, kerr.UnknownTopicOrPartition)
			case o.Err != nil:
				return fmt.Errorf("partition %d of %s: %w", p, topic, o.Err)
			}
			out[p] = o.Offset
		}
		return nil
	})
	return out, err
}

// resolve turns a position into one offset for each partition.
func resolve(ctx context.Context, core *kgo.Client, topic string, partitions []int32, from Position, at map[int32]bounds) (map[int32]int64, error) {
	if from.kind == positionTime {
		admin := kadm.NewClient(core)
		return offsetsOf(ctx, topic, partitions, func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return admin.ListOffsetsAfterMilli(ctx, from.n, topics...)
		})
	}
	out := make(map[int32]int64, len(partitions))
	for _, p := range partitions {
		b := at[p]
		switch from.kind {
		case positionEarliest:
			out[p] = b.start
		case positionLatest:
			out[p] = b.end
		case positionLast:
			out[p] = max(b.start, b.end-from.n)
		case positionOffset: // at holds high watermarks here
			if from.n < b.start || from.n > b.end {
				return nil, &OffsetOutOfRangeError{Topic: topic, Partition: p, Offset: from.n, Start: b.start, End: b.end}
			}
			out[p] = from.n
		}
	}
	return out, nil
}

// choosePartitions checks the wanted partitions against the topic's, or takes all.
func choosePartitions(topic string, topo topology, want []int32) ([]int32, error) {
	all := slices.Sorted(maps.Keys(topo.partitions))
	if len(want) == 0 {
		return all, nil
	}
	for _, p := range want {
		if _, ok := topo.partitions[p]; !ok {
			return nil, fmt.Errorf("topic %s has %d partitions and no partition %d: %w", topic, len(all), p, kerr.UnknownTopicOrPartition)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(want))), nil
}
