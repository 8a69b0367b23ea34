package control

import (
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
)

// Result answers a command. Codes are Kafka error codes, 0 for success. The
// slices have one element for each of the command's, in its order; a nil one
// means that the command failed as a whole with Code.
type Result struct {
	Code    int16
	Message string
	// Index is the metadata index that holds the effects; Node.WaitApplied
	// on it gives read-your-writes at any broker.
	Index uint64

	Topics     []TopicResult     // CreateTopics, DeleteTopics, CreatePartitions
	Partitions []PartitionResult // AlterPartitions, ElectLeaders
	Resources  []ResourceResult  // AlterConfigs

	Incarnation model.Incarnation // RegisterBroker
	ClusterID   string            // RegisterBroker

	FirstProducerID int64 // AllocateProducerIDs: the block's first id
	ProducerIDs     int32 // and its length
}

// TopicResult is the outcome for one topic. Partitions and ReplicationFactor
// are what was (or with ValidateOnly would be) created, for CreateTopics v5+.
type TopicResult struct {
	Code              int16
	Message           string
	ID                model.TopicID
	Name              string
	Partitions        int32
	ReplicationFactor int16
}

// PartitionResult is the outcome for one partition.
type PartitionResult struct {
	TP      model.TopicPartition
	Code    int16
	Message string
	// Outcome is for isr: a proposal that was refused will never commit, and
	// one decided by a controller that is behind has an unknown outcome.
	Outcome isr.Outcome
	// ID is the proposal's.
	ID uint64
}

// ResourceResult is the outcome for one configuration resource.
type ResourceResult struct {
	Type    ResourceType
	Name    string
	Code    int16
	Message string
}

func (r *Result) code(c *coder) {
	c.i16(&r.Code)
	c.str(&r.Message)
	c.u64(&r.Index)
	codeSlice(c, &r.Topics, func(t *TopicResult) {
		c.i16(&t.Code)
		c.str(&t.Message)
		c.id(&t.ID)
		c.str(&t.Name)
		c.i32(&t.Partitions)
		c.i16(&t.ReplicationFactor)
	})
	codeSlice(c, &r.Partitions, func(p *PartitionResult) {
		c.tp(&p.TP)
		c.i16(&p.Code)
		c.str(&p.Message)
		codeByte(c, &p.Outcome)
		c.u64(&p.ID)
	})
	codeSlice(c, &r.Resources, func(p *ResourceResult) {
		codeI8(c, &p.Type)
		c.str(&p.Name)
		c.i16(&p.Code)
		c.str(&p.Message)
	})
	c.i64((*int64)(&r.Incarnation))
	c.str(&r.ClusterID)
	c.i64(&r.FirstProducerID)
	c.i32(&r.ProducerIDs)
}
