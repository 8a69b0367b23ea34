package control

import (
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// Command asks the controller for a change. It is decided on the quorum's
// leader, serially, against the image it leads to (see Decide), and travels
// between brokers in the form that EncodeCommand writes.
type Command interface {
	kind() commandKind
	code(c *coder) // encodes or decodes the fields, in a fixed order
}

type commandKind uint8

// Numbers on the wire; never reused.
const (
	cmdRegisterBroker commandKind = iota + 1
	cmdFenceBroker
	cmdUnfenceBroker
	cmdDrainBroker
	cmdUnregisterBroker
	cmdCreateTopics
	cmdDeleteTopics
	cmdCreatePartitions
	cmdAlterConfigs
	cmdAlterPartitions
	cmdElectLeaders
	cmdAllocateProducerIDs
	cmdReportLogs
	cmdBalanceLeaders
	cmdResolveOffline
	cmdFinalizeFeatures
)

// RegisterBroker starts a new incarnation of a broker, which begins fenced.
// One batch takes it out of every in-sync set and bumps the epoch of every
// partition that it led (I12). Registering twice is harmless: each time is a
// new incarnation.
type RegisterBroker struct {
	Broker    model.BrokerID
	Storage   model.StorageID
	RaftID    uint64
	Rack      string
	KafkaHost string
	KafkaPort int32
	Internal  string
	HTTP      string
	Version   string
	ClusterID string // "" while the broker does not know it; a different one is refused
	// Previous is the incarnation that this storage persisted last, 0 if
	// none. One older than the controller's record means a restored copy of
	// the disk, which is treated as new storage (I13).
	Previous model.Incarnation
	// MaxFeature is the highest feature level that this binary understands.
	MaxFeature int32
}

// FenceReason says why a broker is fenced; it is recorded.
type FenceReason uint8

// The reasons to fence.
const (
	FenceSessionExpired FenceReason = iota + 1
	FenceRefused                    // its address refuses connections: the process is gone
	FenceSuspected                  // silence, confirmed by failed probes
	FenceStorageFailed              // it said itself that its disk failed
	FenceStopped                    // it said itself that it has stopped
	FenceByOperator
)

// FenceBroker takes a broker out of service: no leaderships, no in-sync
// memberships (I10), elections in the same batch.
type FenceBroker struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation // 0: whichever is registered
	Reason      FenceReason
	Detail      string // for the log
}

// UnfenceBroker admits a registered broker that has caught up with the
// metadata and reported its logs; offline partitions it can lead are elected
// in the same batch.
type UnfenceBroker struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation
}

// DrainBroker is a controlled shutdown: leaderships move away, the broker
// leaves the in-sync sets and is not eligible until it registers again.
type DrainBroker struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation
}

// UnregisterBroker removes a fenced broker that will not return. Its id keeps
// its place in assignments until they are changed.
type UnregisterBroker struct{ Broker model.BrokerID }

// CreateTopics creates topics; each succeeds or fails alone.
type CreateTopics struct {
	Topics       []NewTopic
	ValidateOnly bool
}

// NewTopic describes a topic to create.
type NewTopic struct {
	Name              string
	Partitions        int32              // -1: num.partitions, or the length of Assignment
	ReplicationFactor int16              // -1: default, min(3, live brokers)
	Assignment        [][]model.BrokerID // by partition; nil: placed by the controller
	Config            map[string]string
	Internal          bool
}

// DeleteTopics deletes topics by id, or by name where the id is zero.
type DeleteTopics struct{ Topics []TopicRef }

// TopicRef names a topic by id or by name.
type TopicRef struct {
	ID   model.TopicID
	Name string
}

// CreatePartitions raises the number of partitions of topics.
type CreatePartitions struct {
	Topics       []MorePartitions
	ValidateOnly bool
}

// MorePartitions asks for Count partitions in total.
type MorePartitions struct {
	Name       string
	Count      int32
	Assignment [][]model.BrokerID // of the new partitions only; nil: placed
}

// ResourceType has Kafka's numbers of ConfigResource types.
type ResourceType int8

// The resource types that carry configuration here.
const (
	ResourceTopic  ResourceType = 2
	ResourceBroker ResourceType = 4 // name "": the cluster-wide default
)

// OpType has Kafka's numbers of IncrementalAlterConfigs operations.
type OpType int8

// The operations on a configuration key.
const (
	OpSet      OpType = 0
	OpDelete   OpType = 1
	OpAppend   OpType = 2 // lists only
	OpSubtract OpType = 3
)

// AlterConfigs changes configurations; each resource succeeds or fails alone.
type AlterConfigs struct {
	Resources    []ConfigChange
	ValidateOnly bool
}

// ConfigChange changes one resource. Replace is the legacy AlterConfigs
// semantics: what Ops do not set returns to its default.
type ConfigChange struct {
	Type    ResourceType
	Name    string
	Replace bool
	Ops     []ConfigOp
}

// ConfigOp is one operation on a key.
type ConfigOp struct {
	Key, Value string
	Op         OpType
}

// AlterPartitions carries the in-sync proposals of one leader broker
// (KIP-497). Each is a compare-and-set with an outcome of its own.
type AlterPartitions struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation
	Proposals   []PartitionProposal
}

// PartitionProposal is a proposal of one partition.
type PartitionProposal struct {
	TP       model.TopicPartition
	Proposal isr.Proposal
}

// ElectLeaders moves leaderships to the preferred replicas, or, with Unclean
// (an explicit operator command only, I9), to any live replica of an offline
// partition, which may lose records.
type ElectLeaders struct {
	Unclean    bool
	All        bool // every partition that needs it; Partitions is ignored
	Partitions []model.TopicPartition
	Principal  string // who asked, for the audit
}

// AllocateProducerIDs hands a block of producer ids to a broker.
type AllocateProducerIDs struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation
}

// LogReport is where a replica's log stands after a start.
type LogReport struct {
	TP      model.TopicPartition
	Epoch   model.LeaderEpoch // of the last batch, NoEpoch if the log is empty
	End     int64             // durable log end
	Suspect segment.Suspicion
	at      time.Duration // of the report
}

// ReportLogs tells the controller the state of a broker's logs. Reports are
// volatile: a new controller asks again. Large ones come in several commands;
// Last closes the series.
type ReportLogs struct {
	Broker      model.BrokerID
	Incarnation model.Incarnation
	// At is when the broker looked, on its own monotonic clock. Of one
	// incarnation's reports about a log the latest counts, not the last to
	// arrive: one that was sent twice, or overtaken, must not bring back damage
	// that is repaired.
	At   time.Duration
	Logs []LogReport
	Last bool
}

// BalanceLeaders returns up to Max leaderships to their preferred replicas.
type BalanceLeaders struct{ Max int32 }

// ResolveOffline elects leaders of offline partitions where reports, or a
// grace period without them, allow it. The controller issues it to itself.
type ResolveOffline struct{}

// FinalizeFeatures raises the cluster's feature level; there is no way back.
type FinalizeFeatures struct {
	Level        int32
	ValidateOnly bool
}

func (*RegisterBroker) kind() commandKind      { return cmdRegisterBroker }
func (*FenceBroker) kind() commandKind         { return cmdFenceBroker }
func (*UnfenceBroker) kind() commandKind       { return cmdUnfenceBroker }
func (*DrainBroker) kind() commandKind         { return cmdDrainBroker }
func (*UnregisterBroker) kind() commandKind    { return cmdUnregisterBroker }
func (*CreateTopics) kind() commandKind        { return cmdCreateTopics }
func (*DeleteTopics) kind() commandKind        { return cmdDeleteTopics }
func (*CreatePartitions) kind() commandKind    { return cmdCreatePartitions }
func (*AlterConfigs) kind() commandKind        { return cmdAlterConfigs }
func (*AlterPartitions) kind() commandKind     { return cmdAlterPartitions }
func (*ElectLeaders) kind() commandKind        { return cmdElectLeaders }
func (*AllocateProducerIDs) kind() commandKind { return cmdAllocateProducerIDs }
func (*ReportLogs) kind() commandKind          { return cmdReportLogs }
func (*BalanceLeaders) kind() commandKind      { return cmdBalanceLeaders }
func (*ResolveOffline) kind() commandKind      { return cmdResolveOffline }
func (*FinalizeFeatures) kind() commandKind    { return cmdFinalizeFeatures }

// String returns the reason in words.
func (r FenceReason) String() string {
	switch r {
	case FenceSessionExpired:
		return "session expired"
	case FenceRefused:
		return "connection refused"
	case FenceSuspected:
		return "suspected, probes failed"
	case FenceStorageFailed:
		return "storage failed"
	case FenceStopped:
		return "stopped"
	case FenceByOperator:
		return "by operator"
	}
	return "unknown reason"
}
