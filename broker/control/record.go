package control

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tailrace/tailrace/internal/model"
)

// Record is one change of the metadata, as committed in the log. A command
// yields records; only applying records changes an image.
type Record interface {
	recordKind() recordKind
	code(c *coder)
}

// ErrUnknownRecord is wrapped by the error for a record of a type or version
// that this binary does not know: the broker must stop, since going on would
// give it another image than its peers have.
var ErrUnknownRecord = errors.New("control: unknown metadata record: this binary is older than the cluster's feature level")

type recordKind uint8

// Numbers in the log; never reused.
const (
	recBrokerRegistered recordKind = iota + 1
	recBrokerChanged
	recBrokerRemoved
	recTopicCreated
	recPartitionCreated
	recPartitionChanged
	recTopicDeleted
	recTopicConfig
	recConfig
	recProducerIDs
	recFeatureLevel
)

// recordVersion is the version of every record kind so far. A kind that
// changes gets a number of its own, gated by the feature level.
const recordVersion uint8 = 0

// BrokerRegistered replaces a broker's registration. Its incarnation is the
// index of the entry that holds the record.
type BrokerRegistered struct{ Broker Broker }

// BrokerChanged sets a broker's state.
type BrokerChanged struct {
	Broker           model.BrokerID
	Fenced, Draining bool
	Reason           FenceReason // 0 unless fenced
	Detail           string
}

// BrokerRemoved ends a registration for good.
type BrokerRemoved struct{ Broker model.BrokerID }

// TopicCreated creates a topic; its partitions follow, in order from 0.
type TopicCreated struct {
	ID       model.TopicID
	Name     string
	Internal bool
	Config   map[string]string
}

// PartitionCreated appends a partition to a topic, with every live replica in
// sync.
type PartitionCreated struct {
	TP                model.TopicPartition
	Replicas          []model.BrokerID
	Directories       []model.StorageID
	ISR               []model.BrokerID
	Leader            model.BrokerID
	LeaderIncarnation model.Incarnation
}

// PartitionChanged is a partition's next committed state. Directories is nil
// unless a replica's disk was replaced.
type PartitionChanged struct {
	TP                model.TopicPartition
	Leader            model.BrokerID
	LeaderEpoch       model.LeaderEpoch
	LeaderIncarnation model.Incarnation
	PartitionEpoch    model.PartitionEpoch
	ISR, ELR          []model.BrokerID
	Directories       []model.StorageID
	Unclean           string // who forced the election; "" if it was clean
}

// TopicDeleted deletes a topic and leaves a tombstone (I37).
type TopicDeleted struct{ ID model.TopicID }

// TopicConfig changes a topic's configuration.
type TopicConfig struct {
	ID     model.TopicID
	Set    map[string]string
	Delete []string
}

// Config changes the configuration of one broker, or with NoBroker the
// cluster-wide default.
type Config struct {
	Broker model.BrokerID
	Set    map[string]string
	Delete []string
}

// ProducerIDs moves the first producer id that is not handed out.
type ProducerIDs struct{ Next int64 }

// FeatureLevel finalises a feature level.
type FeatureLevel struct{ Level int32 }

func (*BrokerRegistered) recordKind() recordKind { return recBrokerRegistered }
func (*BrokerChanged) recordKind() recordKind    { return recBrokerChanged }
func (*BrokerRemoved) recordKind() recordKind    { return recBrokerRemoved }
func (*TopicCreated) recordKind() recordKind     { return recTopicCreated }
func (*PartitionCreated) recordKind() recordKind { return recPartitionCreated }
func (*PartitionChanged) recordKind() recordKind { return recPartitionChanged }
func (*TopicDeleted) recordKind() recordKind     { return recTopicDeleted }
func (*TopicConfig) recordKind() recordKind      { return recTopicConfig }
func (*Config) recordKind() recordKind           { return recConfig }
func (*ProducerIDs) recordKind() recordKind      { return recProducerIDs }
func (*FeatureLevel) recordKind() recordKind     { return recFeatureLevel }

func newRecord(k recordKind) Record {
	switch k {
	case recBrokerRegistered:
		return &BrokerRegistered{}
	case recBrokerChanged:
		return &BrokerChanged{}
	case recBrokerRemoved:
		return &BrokerRemoved{}
	case recTopicCreated:
		return &TopicCreated{}
	case recPartitionCreated:
		return &PartitionCreated{}
	case recPartitionChanged:
		return &PartitionChanged{}
	case recTopicDeleted:
		return &TopicDeleted{}
	case recTopicConfig:
		return &TopicConfig{}
	case recConfig:
		return &Config{}
	case recProducerIDs:
		return &ProducerIDs{}
	case recFeatureLevel:
		return &FeatureLevel{}
	}
	return nil
}

func (b *Broker) code(c *coder) {
	c.broker(&b.ID)
	c.incarnation(&b.Incarnation)
	c.incarnation(&b.Confirmed)
	c.storage(&b.StorageID)
	c.u64(&b.RaftID)
	c.str(&b.Rack)
	c.str(&b.KafkaHost)
	c.i32(&b.KafkaPort)
	c.str(&b.Internal)
	c.str(&b.HTTP)
	c.str(&b.Version)
	c.i32(&b.MaxFeature)
	c.bool(&b.Fenced)
	c.bool(&b.Draining)
}

func (r *BrokerRegistered) code(c *coder) { r.Broker.code(c) }

func (r *BrokerChanged) code(c *coder) {
	c.broker(&r.Broker)
	c.bool(&r.Fenced)
	c.bool(&r.Draining)
	codeByte(c, &r.Reason)
	c.str(&r.Detail)
}

func (r *BrokerRemoved) code(c *coder) { c.broker(&r.Broker) }

func (r *TopicCreated) code(c *coder) {
	c.id(&r.ID)
	c.str(&r.Name)
	c.bool(&r.Internal)
	c.strMap(&r.Config)
}

func (r *PartitionCreated) code(c *coder) {
	c.tp(&r.TP)
	c.brokers(&r.Replicas)
	codeSlice(c, &r.Directories, c.storage)
	c.brokers(&r.ISR)
	c.broker(&r.Leader)
	c.incarnation(&r.LeaderIncarnation)
}

func (r *PartitionChanged) code(c *coder) {
	c.tp(&r.TP)
	c.broker(&r.Leader)
	c.i32(&r.LeaderEpoch)
	c.incarnation(&r.LeaderIncarnation)
	c.i32(&r.PartitionEpoch)
	c.brokers(&r.ISR)
	c.brokers(&r.ELR)
	codeSlice(c, &r.Directories, c.storage)
	c.str(&r.Unclean)
}

func (r *TopicDeleted) code(c *coder) { c.id(&r.ID) }

func (r *TopicConfig) code(c *coder) {
	c.id(&r.ID)
	c.strMap(&r.Set)
	codeSlice(c, &r.Delete, c.str)
}

func (r *Config) code(c *coder) {
	c.broker(&r.Broker)
	c.strMap(&r.Set)
	codeSlice(c, &r.Delete, c.str)
}

func (r *ProducerIDs) code(c *coder)  { c.i64(&r.Next) }
func (r *FeatureLevel) code(c *coder) { c.i32(&r.Level) }

// A batch is the payload of one log entry: format version, the index for
// which it was decided, the number of records, the records (kind, version,
// fields). A batch that lands at another index than it was decided for has no
// effect: see core.apply.
const batchVersion uint8 = 1

func encodeBatch(index uint64, records []Record) []byte {
	c := &coder{buf: make([]byte, 0, 16+48*len(records))}
	c.buf = append(c.buf, batchVersion)
	c.u64(&index)
	c.buf = binary.AppendUvarint(c.buf, uint64(len(records)))
	for _, r := range records {
		c.buf = append(c.buf, byte(r.recordKind()), recordVersion)
		r.code(c)
	}
	return c.buf
}

func decodeBatch(b []byte) (index uint64, records []Record, err error) {
	if len(b) == 0 || b[0] != batchVersion {
		return 0, nil, fmt.Errorf("%w: batch format", ErrUnknownRecord)
	}
	c := &coder{buf: b[1:], reading: true}
	c.u64(&index)
	n := c.length(0)
	records = make([]Record, 0, min(n, len(b)/8+1))
	for i := 0; i < n && c.err == nil; i++ {
		var kind, version uint8
		codeByte(c, &kind)
		codeByte(c, &version)
		r := newRecord(recordKind(kind))
		if c.err == nil && (r == nil || version != recordVersion) {
			return 0, nil, fmt.Errorf("%w: kind %d version %d", ErrUnknownRecord, kind, version)
		}
		if r != nil {
			r.code(c)
			records = append(records, r)
		}
	}
	return index, records, c.end()
}
