package client

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
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
	// UnderReplicated partitions have fewer in-sync replicas than replicas.
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
	// State is "leader", "in-sync", "lagging" (alive, outside of the in-sync
	// set) or "offline".
	State string `json:"state"`
	// Lag is how many offsets it is behind the log end, -1 if unknown
	// (DescribeLogDirs, KIP-113).
	Lag int64 `json:"lag"`
	// Bytes of its log on disk, -1 if unknown.
	Bytes int64 `json:"bytes"`
}

// Cluster returns the state of the cluster.
func (a *Admin) Cluster(ctx context.Context) (ClusterStatus, error) {
	meta, err := a.kadm.Metadata(ctx)
	if err != nil {
		return ClusterStatus{}, a.client.explain("cluster status", err)
	}
	s := ClusterStatus{ClusterID: meta.Cluster, Controller: meta.Controller, Topics: len(meta.Topics)}
	at := make(map[int32]int, len(meta.Brokers))
	for _, b := range meta.Brokers {
		at[b.NodeID] = len(s.Brokers)
		s.Brokers = append(s.Brokers, BrokerStatus{ID: b.NodeID, Host: b.Host, Port: b.Port, Rack: deref(b.Rack), Controller: b.NodeID == meta.Controller})
	}
	meta.Topics.EachPartition(func(p kadm.PartitionDetail) {
		s.Partitions++
		if p.Leader < 0 {
			s.Leaderless++
		} else if i, ok := at[p.Leader]; ok {
			s.Brokers[i].Leaders++
		}
		if len(p.ISR) < len(p.Replicas) {
			s.UnderReplicated++
		}
		for _, r := range p.Replicas {
			if i, ok := at[r]; ok {
				s.Brokers[i].Replicas++
			}
		}
	})
	slices.SortFunc(s.Brokers, func(x, y BrokerStatus) int { return cmp.Compare(x.ID, y.ID) })
	return s, nil
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
	meta, err := a.kadm.Metadata(ctx, names...)
	if err != nil {
		return nil, a.client.explain("list topics", err)
	}
	out := make([]TopicStatus, 0, len(meta.Topics))
	for _, t := range meta.Topics.Sorted() {
		if t.Err != nil {
			if len(names) > 0 {
				return nil, wrap("topic "+t.Topic, t.Err)
			}
			continue // deleted between two looks
		}
		out = append(out, topicStatus(t))
	}
	return out, nil
}

func topicStatus(t kadm.TopicDetail) TopicStatus {
	s := TopicStatus{Topic: t.Topic, ID: hex.EncodeToString(t.ID[:]), Internal: t.IsInternal}
	for _, p := range t.Partitions.Sorted() {
		ps := PartitionStatus{Topic: t.Topic, Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, ISR: p.ISR, Start: -1, HighWatermark: -1}
		if ps.ISR == nil {
			ps.ISR = []int32{}
		}
		if p.Err != nil {
			ps.Error = describe(p.Err)
		}
		for _, r := range p.Replicas {
			ps.Replicas = append(ps.Replicas, ReplicaStatus{Broker: r, State: replicaState(p, r), Lag: -1, Bytes: -1})
		}
		s.Partitions = append(s.Partitions, ps)
	}
	return s
}

func replicaState(p kadm.PartitionDetail, broker int32) string {
	switch {
	case broker == p.Leader:
		return "leader"
	case slices.Contains(p.OfflineReplicas, broker):
		return "offline"
	case slices.Contains(p.ISR, broker):
		return "in-sync"
	}
	return "lagging"
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
