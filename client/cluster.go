package client

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ClusterStatus is the cluster as metadata shows it.
type ClusterStatus struct {
	ClusterID  string         `json:"cluster_id"`
	Controller int32          `json:"controller"` // -1 while there is none
	Brokers    []BrokerStatus `json:"brokers"`
	Topics     int            `json:"topics"`
	Partitions int            `json:"partitions"`
	// Leaderless partitions can be neither written nor read.
	Leaderless int `json:"leaderless_partitions"`
	// UnderReplicated partitions have fewer in-sync replicas than replicas, as
	// Kafka counts it; with sync.replicas=N that is so by intent.
	UnderReplicated int `json:"under_replicated_partitions"`
}

// BrokerStatus is one live broker.
type BrokerStatus struct {
	ID         int32  `json:"id"`
	Host       string `json:"host"`
	Port       int32  `json:"port"`
	Rack       string `json:"rack"`
	Controller bool   `json:"controller"`
	Leaders    int    `json:"leaders"`  // partitions that it leads
	Replicas   int    `json:"replicas"` // partitions that it holds
}

// TopicStatus is one topic.
type TopicStatus struct {
	Topic      string            `json:"topic"`
	ID         string            `json:"id"` // 32 hex digits
	Internal   bool              `json:"internal"`
	Partitions []PartitionStatus `json:"partitions"`
}

// PartitionStatus is one partition.
type PartitionStatus struct {
	Topic       string  `json:"topic"`
	Partition   int32   `json:"partition"`
	Leader      int32   `json:"leader"` // -1 while there is none
	LeaderEpoch int32   `json:"leader_epoch"`
	ISR         []int32 `json:"isr"`
	// Start and HighWatermark bound what can be read; -1 if the leader does
	// not answer.
	Start         int64           `json:"start_offset"`
	HighWatermark int64           `json:"high_watermark"`
	Replicas      []ReplicaStatus `json:"replicas"`
	Error         string          `json:"error,omitempty"`
}

// ReplicaStatus is one replica of a partition.
type ReplicaStatus struct {
	Broker int32 `json:"broker"`
	// State is "leader", "in-sync", "async" (alive, outside of the in-sync set:
	// by the topic's sync.replicas, or because it lags) or "offline".
	State string `json:"state"`
	// Lag is how many offsets it is behind the log end, -1 if unknown
	// (DescribeLogDirs, KIP-113).
	Lag int64 `json:"lag"`
	// Bytes of its log on disk, -1 if unknown.
	Bytes int64 `json:"bytes"`
}

// metadata asks a broker afresh; kadm may answer from a cache. No names means
// all topics.
func (a *Admin) metadata(ctx context.Context, names ...string) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	for _, name := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	return askAny(ctx, a.client.core, req)
}

// controllerPoll is how often WaitController asks again.
const controllerPoll = 100 * time.Millisecond

// WaitController returns when some broker is in contact with the metadata
// quorum, so that what the cluster says of itself is not the memory of a broker
// that is cut off. It fails with ErrUnavailable when ctx ends before.
func (a *Admin) WaitController(ctx context.Context) error {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for {
		resp, err := askAny(ctx, a.client.core, req)
		if err != nil {
			return a.client.explain("controller", err)
		}
		if resp.ControllerID >= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: no controller: a majority of the brokers that carry the metadata must be up", ErrUnavailable)
		case <-time.After(controllerPoll):
		}
	}
}

// brokers returns the ids of the live brokers, in order.
func (a *Admin) brokers(ctx context.Context) ([]int32, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := askAny(ctx, a.client.core, req)
	if err != nil {
		return nil, err
	}
	ids := make([]int32, 0, len(resp.Brokers))
	for _, b := range resp.Brokers {
		ids = append(ids, b.NodeID)
	}
	slices.Sort(ids)
	return ids, nil
}

// Cluster returns the state of the cluster.
func (a *Admin) Cluster(ctx context.Context) (ClusterStatus, error) {
	meta, err := a.metadata(ctx)
	if err != nil {
		return ClusterStatus{}, a.client.explain("cluster status", err)
	}
	s := ClusterStatus{ClusterID: deref(meta.ClusterID), Controller: meta.ControllerID, Topics: len(meta.Topics), Brokers: []BrokerStatus{}}
	for _, b := range meta.Brokers {
		s.Brokers = append(s.Brokers, BrokerStatus{ID: b.NodeID, Host: b.Host, Port: b.Port, Rack: deref(b.Rack), Controller: b.NodeID == meta.ControllerID})
	}
	slices.SortFunc(s.Brokers, func(x, y BrokerStatus) int { return cmp.Compare(x.ID, y.ID) })
	for _, t := range meta.Topics {
		for _, p := range t.Partitions {
			s.count(p)
		}
	}
	return s, nil
}

// count adds one partition to the totals.
func (s *ClusterStatus) count(p kmsg.MetadataResponseTopicPartition) {
	s.Partitions++
	if p.Leader < 0 {
		s.Leaderless++
	}
	if len(p.ISR) < len(p.Replicas) {
		s.UnderReplicated++
	}
	for i := range s.Brokers {
		b := &s.Brokers[i]
		if b.ID == p.Leader {
			b.Leaders++
		}
		if slices.Contains(p.Replicas, b.ID) {
			b.Replicas++
		}
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Topics returns the named topics, or all with none named, by metadata alone:
// offsets and lags are -1. A named topic that does not exist is ErrNotFound.
func (a *Admin) Topics(ctx context.Context, names ...string) ([]TopicStatus, error) {
	meta, err := a.metadata(ctx, names...)
	if err != nil {
		return nil, a.client.explain("list topics", err)
	}
	out := make([]TopicStatus, 0, len(meta.Topics))
	for _, t := range meta.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil && len(t.Partitions) == 0 {
			if len(names) > 0 {
				return nil, wrap("topic "+deref(t.Topic), err)
			}
			continue // deleted between two looks
		}
		out = append(out, topicStatus(t))
	}
	slices.SortFunc(out, func(x, y TopicStatus) int { return cmp.Compare(x.Topic, y.Topic) })
	return out, nil
}

func topicStatus(t kmsg.MetadataResponseTopic) TopicStatus {
	s := TopicStatus{Topic: deref(t.Topic), ID: hex.EncodeToString(t.TopicID[:]), Internal: t.IsInternal, Partitions: []PartitionStatus{}}
	for _, p := range t.Partitions {
		ps := PartitionStatus{Topic: s.Topic, Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, ISR: p.ISR, Start: -1, HighWatermark: -1}
		if ps.ISR == nil {
			ps.ISR = []int32{}
		}
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			ps.Error = describe(err)
		}
		for _, r := range p.Replicas {
			ps.Replicas = append(ps.Replicas, ReplicaStatus{Broker: r, State: replicaState(p, r), Lag: -1, Bytes: -1})
		}
		s.Partitions = append(s.Partitions, ps)
	}
	slices.SortFunc(s.Partitions, func(x, y PartitionStatus) int { return cmp.Compare(x.Partition, y.Partition) })
	return s
}

func replicaState(p kmsg.MetadataResponseTopicPartition, broker int32) string {
	switch {
	case broker == p.Leader:
		return "leader"
	case slices.Contains(p.OfflineReplicas, broker):
		return "offline"
	case slices.Contains(p.ISR, broker):
		return "in-sync"
	}
	return "async"
}

// Partitions returns the partitions of the named topics, or of all, with the
// bounds of their logs and the lag of each replica. What a broker does not
// answer in time stays -1; only the metadata is required.
func (a *Admin) Partitions(ctx context.Context, topics ...string) ([]PartitionStatus, error) {
	all, err := a.Topics(ctx, topics...)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	names := make([]string, 0, len(all))
	for _, t := range all {
		names = append(names, t.Topic)
	}
	// Errors of single brokers leave gaps, on purpose.
	starts, _ := a.kadm.ListStartOffsets(ctx, names...)
	ends, _ := a.kadm.ListEndOffsets(ctx, names...)
	dirs, _ := a.kadm.DescribeAllLogDirs(ctx, nil)
	lags := make(map[string]kadm.DescribedLogDirPartition)
	dirs.Each(func(d kadm.DescribedLogDir) {
		d.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			lags[replicaKey(p.Topic, p.Partition, p.Broker)] = p
		})
	})
	var out []PartitionStatus
	for _, t := range all {
		for _, p := range t.Partitions {
			p.Start, p.HighWatermark = offsetOr(starts, p), offsetOr(ends, p)
			for i := range p.Replicas {
				r := &p.Replicas[i]
				if d, ok := lags[replicaKey(p.Topic, p.Partition, r.Broker)]; ok {
					r.Lag, r.Bytes = d.OffsetLag, d.Size
				}
			}
			out = append(out, p)
		}
	}
	return out, nil
}

func replicaKey(topic string, partition, broker int32) string {
	return fmt.Sprintf("%s/%d/%d", topic, partition, broker)
}

func offsetOr(l kadm.ListedOffsets, p PartitionStatus) int64 {
	o, ok := l.Lookup(p.Topic, p.Partition)
	if !ok || o.Err != nil {
		return -1
	}
	return o.Offset
}

// BrokerConfig returns one setting of a broker; ErrNotFound if there is none
// of that name.
func (a *Admin) BrokerConfig(ctx context.Context, id int32, name string) (Config, error) {
	all, err := a.BrokerConfigs(ctx, id)
	if err != nil {
		return Config{}, err
	}
	for _, c := range all {
		if c.Name == name {
			return c, nil
		}
	}
	return Config{}, &Error{Op: fmt.Sprintf("config %s of broker %d", name, id), Kind: ErrNotFound, Err: kerr.InvalidConfig}
}
