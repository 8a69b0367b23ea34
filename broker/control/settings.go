package control

import (
	"strconv"
	"strings"
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// ConfigValue is a key's effective value.
type ConfigValue struct {
	Def    *ConfigDef
	Value  string
	Source ConfigSource
	// Synonyms are the values by precedence, the effective one first.
	Synonyms []ConfigSynonym
}

// ConfigSynonym is one layer of a value.
type ConfigSynonym struct {
	Name, Value string
	Source      ConfigSource
}

// TopicSettings is a topic's effective configuration, the part that brokers
// act on.
type TopicSettings struct {
	MinInsync       int
	SyncReplicas    int  // 0: all
	HonourAcks1     bool // acks.floor=client
	ReadMaxLag      time.Duration
	Stall           time.Duration
	LagMax          time.Duration
	MaxMessageBytes int
	LogAppendTime   bool
	TimestampBefore int64 // milliseconds
	TimestampAfter  int64
	Compact, Delete bool
	Log             segment.LogConfig
	ConfigIndex     uint64 // of the last change that may have an effect here
}

// topicValue returns the effective value of a topic key and where it comes
// from: the topic, the cluster-wide default, the built-in default.
func topicValue(img *Image, config map[string]string, rf int, d *ConfigDef) (string, ConfigSource) {
	if v, ok := config[d.Name]; ok {
		return v, SourceTopic
	}
	v, source := d.Default, SourceDefault
	if d.Synonym != "" {
		if cv, ok := img.ClusterConfig[d.Synonym]; ok {
			v, source = cv, SourceClusterWide
		}
	}
	return fitSize(img, config, rf, d.Name, v), source
}

// fitSize fits a size that the topic does not set to what it does set.
func fitSize(img *Image, config map[string]string, rf int, key, v string) string {
	if key != keyMinInsync && key != keySyncReplicas || rf <= 0 {
		return v
	}
	lo, hi := sizes(img, config, rf)
	switch {
	case key == keyMinInsync:
		return strconv.Itoa(lo)
	case hi != 0:
		return strconv.Itoa(hi)
	}
	return v
}

// ReplicationFactor returns the topic's factor, that of its first partition.
func (t *Topic) ReplicationFactor() int {
	if len(t.Partitions) == 0 {
		return 0
	}
	return len(t.Partitions[0].Replicas)
}

// minReplicationFactor is the least factor over the partitions, which bounds
// the sizes.
func (t *Topic) minReplicationFactor() int {
	if t.leastFactor > 0 {
		return t.leastFactor
	}
	rf := t.ReplicationFactor()
	for _, p := range t.Partitions {
		rf = min(rf, len(p.Replicas))
	}
	return rf
}

// EffectiveTopicConfig returns what t's configuration amounts to under img's
// cluster-wide defaults.
func EffectiveTopicConfig(img *Image, t *Topic) TopicSettings {
	return effective(img, t.Config, t.minReplicationFactor(), t.ConfigIndex)
}

func effective(img *Image, config map[string]string, rf int, configIndex uint64) TopicSettings {
	get := func(key string) string {
		v, _ := topicValue(img, config, rf, topicIndex[key])
		return v
	}
	num := func(key string) int64 {
		v, _ := strconv.ParseInt(get(key), 10, 64) // checked when it was set
		return v
	}
	ms := func(key string) time.Duration { return time.Duration(num(key)) * time.Millisecond }
	lo, hi := sizes(img, config, rf)
	s := TopicSettings{
		MinInsync:       lo,
		SyncReplicas:    hi,
		HonourAcks1:     get("acks.floor") == "client",
		ReadMaxLag:      ms("replica.read.max.lag.ms"),
		Stall:           ms("sync.stall.ms"),
		MaxMessageBytes: int(num("max.message.bytes")),
		LogAppendTime:   get("message.timestamp.type") == "LogAppendTime",
		TimestampBefore: num("message.timestamp.before.max.ms"),
		TimestampAfter:  num("message.timestamp.after.max.ms"),
		ConfigIndex:     max(configIndex, img.ConfigIndex),
	}
	lag, _ := strconv.ParseInt(ClusterValue(img, "replica.lag.time.max.ms"), 10, 64)
	s.LagMax = time.Duration(lag) * time.Millisecond
	policy := splitList(get("cleanup.policy"))
	for _, p := range policy {
		s.Compact = s.Compact || p == "compact"
		s.Delete = s.Delete || p == "delete"
	}
	s.Log = segment.LogConfig{SegmentBytes: num("segment.bytes"), SegmentMs: num("segment.ms"),
		RetentionMs: -1, RetentionBytes: -1, Compact: s.Compact}
	if s.Delete {
		s.Log.RetentionMs, s.Log.RetentionBytes = num("retention.ms"), num("retention.bytes")
	}
	return s
}

// ClusterValue returns the cluster-wide value of a broker key.
func ClusterValue(img *Image, key string) string {
	if v, ok := img.ClusterConfig[key]; ok {
		return v
	}
	if d := brokerIndex[key]; d != nil {
		return d.Default
	}
	return ""
}

// DescribeTopicConfig returns every topic key with its effective value.
func DescribeTopicConfig(img *Image, t *Topic) []ConfigValue {
	rf := t.minReplicationFactor()
	out := make([]ConfigValue, 0, len(topicConfigs))
	for _, d := range topicConfigs {
		cv := ConfigValue{Def: d}
		cv.Value, cv.Source = topicValue(img, t.Config, rf, d)
		if v, ok := t.Config[d.Name]; ok {
			cv.Synonyms = append(cv.Synonyms, ConfigSynonym{d.Name, v, SourceTopic})
		}
		if d.Synonym != "" {
			if v, ok := img.ClusterConfig[d.Synonym]; ok {
				cv.Synonyms = append(cv.Synonyms, ConfigSynonym{d.Synonym, v, SourceClusterWide})
			}
		}
		name := d.Name
		if d.Synonym != "" {
			name = d.Synonym
		}
		cv.Synonyms = append(cv.Synonyms, ConfigSynonym{name, d.Default, SourceDefault})
		out = append(out, cv)
	}
	return out
}

// DescribeBrokerConfig returns every broker key with its effective value.
// static are the node's own settings, which only the node itself knows; id is
// NoBroker for the cluster-wide defaults.
func DescribeBrokerConfig(img *Image, id model.BrokerID, static map[string]string) []ConfigValue {
	out := make([]ConfigValue, 0, len(brokerConfigs))
	for _, d := range brokerConfigs {
		cv := ConfigValue{Def: d}
		add := func(v string, ok bool, s ConfigSource) {
			if ok {
				cv.Synonyms = append(cv.Synonyms, ConfigSynonym{d.Name, v, s})
			}
		}
		v, ok := img.BrokerConfig[id][d.Name]
		add(v, ok, SourceBroker)
		v, ok = img.ClusterConfig[d.Name]
		add(v, ok, SourceClusterWide)
		v, ok = static[d.Name]
		add(v, ok, SourceStatic)
		add(d.Default, true, SourceDefault)
		cv.Value, cv.Source = cv.Synonyms[0].Value, cv.Synonyms[0].Source
		out = append(out, cv)
	}
	return out
}

// Partition returns a partition, or nil.
func (img *Image) Partition(tp model.TopicPartition) *Partition {
	t := img.Topics[tp.Topic]
	if t == nil || tp.Partition < 0 || int(tp.Partition) >= len(t.Partitions) {
		return nil
	}
	return t.Partitions[tp.Partition]
}

// MetaFor returns what the replication state machine of a partition needs
// from this image, and false if the partition does not exist.
func MetaFor(img *Image, tp model.TopicPartition) (isr.Meta, bool) {
	p := img.Partition(tp)
	if p == nil {
		return isr.Meta{}, false
	}
	return MetaWith(img, p, EffectiveTopicConfig(img, img.Topics[tp.Topic])), true
}

// MetaWith is MetaFor with the topic's settings at hand, for callers with many
// partitions of one topic.
func MetaWith(img *Image, p *Partition, s TopicSettings) isr.Meta {
	m := isr.Meta{Index: img.Index, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch,
		LeaderIncarnation: p.LeaderIncarnation, PartitionEpoch: p.PartitionEpoch,
		ISR: p.ISR, ELR: p.ELR, MinISR: s.MinInsync, SyncTarget: s.SyncReplicas,
		ConfigIndex: s.ConfigIndex, LagMax: s.LagMax, StallMax: s.Stall,
		Replicas: make([]isr.ReplicaMeta, len(p.Replicas))}
	for i, id := range p.Replicas {
		m.Replicas[i] = isr.ReplicaMeta{Broker: id}
		if b := img.Brokers[id]; b != nil {
			m.Replicas[i].Incarnation, m.Replicas[i].Eligible, m.Replicas[i].Rack = b.Incarnation, b.Live(), b.Rack
		}
	}
	return m
}

// NormalizeName returns the form of a topic name under which collisions count:
// metric names cannot tell '.' from '_'.
func NormalizeName(name string) string { return strings.ReplaceAll(name, ".", "_") }
