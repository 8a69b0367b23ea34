// Package control is the cluster's metadata: pure decisions (Decide, Apply)
// over an immutable image, carried by an etcd-io/raft group whose log lives in
// the catalog.
package control

import (
	"github.com/tailrace/tailrace/internal/model"
)

// Image is the metadata at one log index. It is immutable: readers share it,
// Apply builds the next one from it and shares what did not change.
type Image struct {
	Index          uint64 // last applied metadata log index
	ClusterID      string
	FeatureLevel   int32
	Brokers        map[model.BrokerID]*Broker
	TopicsByName   map[string]*Topic
	Topics         map[model.TopicID]*Topic
	Deleted        map[model.TopicID]struct{} // tombstones: a log without metadata is deleted only if it is here (I37)
	NextProducerID int64
	ClusterConfig  map[string]string                    // cluster-wide dynamic configuration
	ConfigIndex    uint64                               // metadata index of the last change of ClusterConfig
	BrokerConfig   map[model.BrokerID]map[string]string // per broker
	Voters         []uint64                             // raft ids
	Learners       []uint64
	Retired        []uint64 // raft ids of replaced disks and removed brokers
}

// Broker is a registration.
type Broker struct {
	ID          model.BrokerID
	Incarnation model.Incarnation // metadata index of the registration (I12)
	// Confirmed is the last incarnation under which it was unfenced, and which
	// its storage has therefore persisted (I13).
	Confirmed  model.Incarnation
	StorageID  model.StorageID
	RaftID     uint64 // derives from StorageID
	Rack       string
	KafkaHost  string // advertised to clients
	KafkaPort  int32
	Internal   string // host:port of the internal listener
	HTTP       string // advertised URL of the console, "" if off
	Version    string
	MaxFeature int32 // highest feature level that its binary understands
	Fenced     bool  // not live: no leader, no in-sync member (I10)
	Draining   bool  // stopping: leaderships move away, not eligible
}

// Live reports whether the broker may lead and be in sync.
func (b *Broker) Live() bool { return b != nil && !b.Fenced && !b.Draining }

// Topic is a topic and its partitions.
type Topic struct {
	ID          model.TopicID
	Name        string
	Internal    bool
	Config      map[string]string // what was set; defaults are not stored
	ConfigIndex uint64            // metadata index of the last change of Config
	Partitions  []*Partition      // by partition number

	// leastFactor is the least replication factor of a partition, which decisions
	// and settings ask for once a partition. Derived; 0 where it is not kept.
	leastFactor int
}

// Partition is a partition's committed state. ISR and ELR are disjoint subsets
// of Replicas (I8); |ISR| ≥ min.insync.replicas implies that ELR is empty.
type Partition struct {
	Replicas          []model.BrokerID
	Directories       []model.StorageID // of each replica, in the order of Replicas
	ISR               []model.BrokerID
	ELR               []model.BrokerID
	Leader            model.BrokerID // NoBroker: offline
	LeaderEpoch       model.LeaderEpoch
	LeaderIncarnation model.Incarnation
	PartitionEpoch    model.PartitionEpoch
}

// Update is delivered in log order to every subscriber, once per applied batch.
type Update struct {
	Prev, Next *Image
	// Topics changed, created or deleted, including those whose replicas'
	// brokers changed liveness or incarnation.
	Topics  []model.TopicID
	Brokers []model.BrokerID
	Config  bool // cluster or broker configuration changed
	Events  []Event
}

// Event is something that an operator wants to see. It derives from the
// applied records, so every broker reports the same ones in the same order.
type Event struct {
	Kind        EventKind
	Broker      model.BrokerID
	Incarnation model.Incarnation
	TP          model.TopicPartition
	Detail      string
}

// EventKind tells events apart.
type EventKind uint8

// The events of the metadata log.
const (
	EventBrokerRegistered EventKind = iota + 1
	EventBrokerFenced               // Detail says why
	EventBrokerUnfenced
	EventBrokerDraining
	EventBrokerUnregistered
	EventStorageChanged // the broker id came back with another disk
	EventTopicCreated
	EventTopicDeleted
	EventPartitionOffline
	EventUncleanElection // records may be lost; Detail names who asked (I9)
	EventFeatureFinalized
)
