package load

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// topicReady is how long a new topic may take to be served everywhere.
	topicReady = 60 * time.Second
	// tryTopic bounds one attempt at a target that is starting.
	tryTopic = 2 * time.Second
	// pollTopic is how often it is asked for.
	pollTopic = 20 * time.Millisecond
)

// CreateTopic returns when every partition is served by its leader: one that
// metadata names may not know of it yet.
func (k *kafka) CreateTopic(ctx context.Context, t Topic) error {
	if err := k.create(ctx, k.admin, t); err != nil {
		return err
	}
	_, err := k.endOffsets(ctx, t.Name, t.Partitions)
	return err
}

// TryCreateTopic asks once, on a connection of its own.
func (k *kafka) TryCreateTopic(ctx context.Context, t Topic) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.o.Bootstrap...), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, tryTopic)
	defer cancel()
	return k.create(ctx, cl, t)
}

// create asks for the topic; one that exists will do.
func (k *kafka) create(ctx context.Context, cl *kgo.Client, t Topic) error {
	ctx, cancel := context.WithTimeout(ctx, topicReady)
	defer cancel()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics, req.TimeoutMillis = append(req.Topics, createRequest(t)), int32(topicReady/time.Millisecond)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return fmt.Errorf("create topic %s: %w", t.Name, err)
	}
	for _, r := range resp.Topics {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w %s", t.Name, err, deref(r.ErrorMessage))
		}
	}
	return nil
}

func createRequest(t Topic) kmsg.CreateTopicsRequestTopic {
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Name, int32(t.Partitions), int16(t.Replication)
	for i, replicas := range t.Assignment {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = int32(i), replicas
		rt.ReplicaAssignment = append(rt.ReplicaAssignment, a)
		rt.NumPartitions, rt.ReplicationFactor = -1, -1
	}
	set := func(name string, v int) {
		if v > 0 {
			c := kmsg.NewCreateTopicsRequestTopicConfig()
			c.Name, c.Value = name, kmsg.StringPtr(strconv.Itoa(v))
			rt.Configs = append(rt.Configs, c)
		}
	}
	set("min.insync.replicas", t.MinInSync)
	set("sync.replicas", t.SyncSet)
	return rt
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// endOffsets returns the end offset of each of n partitions, from the leaders. It asks
// again while leaders are elected or do not know that they are, for topicReady at most.
func (k *kafka) endOffsets(ctx context.Context, topic string, n int) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, topicReady)
	defer cancel()
	for {
		ends, err := k.askEnds(ctx, topic, n)
		if err == nil {
			return ends, nil
		}
		var answer *kerr.Error
		if errors.As(err, &answer) && !answer.Retriable {
			return nil, fmt.Errorf("end offsets of %s: %w", topic, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("end offsets of %s: %w, last: %w", topic, ctx.Err(), err)
		case <-time.After(pollTopic):
		}
	}
}

func (k *kafka) askEnds(ctx context.Context, topic string, n int) (map[int32]int64, error) {
	listed, err := kadm.NewClient(k.admin).ListEndOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, err
	}
	ends := map[int32]int64{}
	listed.Each(func(l kadm.ListedOffset) { ends[l.Partition] = l.Offset })
	if len(ends) < n {
		return nil, fmt.Errorf("%d of %d partitions are known", len(ends), n)
	}
	return ends, nil
}

func (k *kafka) DeleteTopic(ctx context.Context, t Topic) error {
	_, err := kadm.NewClient(k.admin).DeleteTopic(ctx, t.Name)
	return err
}
