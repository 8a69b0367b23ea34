package control

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Decide is the controller's judgement: the records that a command leads to
// on img, and the answer. It is pure. Records of one command are committed
// together or not at all. An error is a defect; what is wrong with a command
// is in the result.
func Decide(img *Image, v *Volatile, cmd Command, in Input) ([]Record, Result, error) {
	return decideOn(newBuilder(img, in.Index), v, cmd, in)
}

// decideOn is Decide on an image in the making, which follows the records.
func decideOn(b *builder, v *Volatile, cmd Command, in Input) ([]Record, Result, error) {
	d := &decision{builder: b, v: v, in: in}
	var err error
	switch cmd := cmd.(type) {
	case *RegisterBroker:
		err = d.registerBroker(cmd)
	case *FenceBroker:
		err = d.fenceBroker(cmd)
	case *UnfenceBroker:
		err = d.unfenceBroker(cmd)
	case *DrainBroker:
		err = d.drainBroker(cmd)
	case *UnregisterBroker:
		err = d.unregisterBroker(cmd)
	case *CreateTopics:
		err = d.createTopics(cmd)
	case *DeleteTopics:
		err = d.deleteTopics(cmd)
	case *CreatePartitions:
		err = d.createPartitions(cmd)
	case *AlterConfigs:
		err = d.alterConfigs(cmd)
	case *AlterPartitions:
		err = d.alterPartitions(cmd)
	case *ElectLeaders:
		err = d.electLeaders(cmd)
	case *AllocateProducerIDs:
		err = d.allocateProducerIDs(cmd)
	case *ReportLogs:
		err = d.reportLogs(cmd)
	case *BalanceLeaders:
		err = d.balanceLeaders(cmd)
	case *ResolveOffline:
		err = d.resolveOffline(nil)
	case *FinalizeFeatures:
		err = d.finalizeFeatures(cmd)
	default:
		err = fmt.Errorf("unknown command %T", cmd)
	}
	return d.records, d.result, err
}

// decision collects records and lets a private image follow each, so that the
// parts of a command see each other.
type decision struct {
	*builder
	v       *Volatile
	in      Input
	records []Record
	result  Result
}

func (d *decision) emit(r Record) error {
	d.records = append(d.records, r)
	return d.apply(r)
}

// refuse answers the command as a whole with an error.
func (d *decision) refuse(e *kerr.Error, format string, args ...any) error {
	d.result.Code, d.result.Message = e.Code, fmt.Sprintf(format, args...)
	return nil
}

// MaxFeatureLevel is the highest feature level that this binary understands.
const MaxFeatureLevel = 1

const (
	producerIDBlock   = 1000
	firstFeatureLevel = 1
)

func (d *decision) allocateProducerIDs(cmd *AllocateProducerIDs) error {
	if b := d.img.Brokers[cmd.Broker]; b == nil || b.Incarnation != cmd.Incarnation {
		return d.refuse(kerr.StaleBrokerEpoch, "broker %d is not registered with incarnation %d", cmd.Broker, cmd.Incarnation)
	}
	d.result.FirstProducerID, d.result.ProducerIDs = d.img.NextProducerID, producerIDBlock
	return d.emit(&ProducerIDs{Next: d.img.NextProducerID + producerIDBlock})
}

func (d *decision) finalizeFeatures(cmd *FinalizeFeatures) error {
	if cmd.Level < firstFeatureLevel || cmd.Level > MaxFeatureLevel {
		return d.refuse(kerr.InvalidUpdateVersion, "feature level %d is not in [%d, %d]", cmd.Level, firstFeatureLevel, MaxFeatureLevel)
	}
	if cmd.Level < d.img.FeatureLevel {
		return d.refuse(kerr.InvalidUpdateVersion, "the cluster is at feature level %d; there is no way back", d.img.FeatureLevel)
	}
	for _, b := range d.img.SortedBrokers() {
		if b.MaxFeature < cmd.Level {
			return d.refuse(kerr.FeatureUpdateFailed, "broker %d understands feature levels up to %d", b.ID, b.MaxFeature)
		}
	}
	if cmd.ValidateOnly || cmd.Level == d.img.FeatureLevel {
		return nil
	}
	return d.emit(&FeatureLevel{Level: cmd.Level})
}
