package control

import (
	"fmt"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
)

// MaxMessage bounds an encoded command, result or heartbeat.
const MaxMessage = 8 << 20

// maxList bounds each list in a message, and with it what a short encoding can
// make of itself in memory.
const maxList = 1 << 18

const messageVersion uint8 = 1

// EncodeCommand returns the private wire form: version, kind, fields.
func EncodeCommand(cmd Command) []byte {
	c := &coder{buf: []byte{messageVersion, byte(cmd.kind())}}
	cmd.code(c)
	return c.buf
}

// DecodeCommand reads what EncodeCommand wrote. Errors wrap ErrCorrupt. The
// result shares no memory with b.
func DecodeCommand(b []byte) (Command, error) {
	if len(b) < 2 || len(b) > MaxMessage {
		return nil, fmt.Errorf("%w: command of %d bytes", ErrCorrupt, len(b))
	}
	if b[0] != messageVersion {
		return nil, fmt.Errorf("%w: command version %d", ErrCorrupt, b[0])
	}
	cmd := newCommand(commandKind(b[1]))
	if cmd == nil {
		return nil, fmt.Errorf("%w: command kind %d", ErrCorrupt, b[1])
	}
	c := &coder{buf: b[2:], reading: true, limit: maxList}
	cmd.code(c)
	return cmd, c.end()
}

// EncodeResult returns the private wire form of a result.
func EncodeResult(r *Result) []byte {
	c := &coder{buf: []byte{messageVersion}}
	r.code(c)
	return c.buf
}

// DecodeResult reads what EncodeResult wrote. Errors wrap ErrCorrupt.
func DecodeResult(b []byte) (*Result, error) {
	if len(b) < 1 || len(b) > MaxMessage || b[0] != messageVersion {
		return nil, fmt.Errorf("%w: result of %d bytes", ErrCorrupt, len(b))
	}
	c := &coder{buf: b[1:], reading: true, limit: maxList}
	r := &Result{}
	r.code(c)
	return r, c.end()
}

func newCommand(k commandKind) Command {
	switch k {
	case cmdRegisterBroker:
		return &RegisterBroker{}
	case cmdFenceBroker:
		return &FenceBroker{}
	case cmdUnfenceBroker:
		return &UnfenceBroker{}
	case cmdDrainBroker:
		return &DrainBroker{}
	case cmdUnregisterBroker:
		return &UnregisterBroker{}
	case cmdCreateTopics:
		return &CreateTopics{}
	case cmdDeleteTopics:
		return &DeleteTopics{}
	case cmdCreatePartitions:
		return &CreatePartitions{}
	case cmdAlterConfigs:
		return &AlterConfigs{}
	case cmdAlterPartitions:
		return &AlterPartitions{}
	case cmdElectLeaders:
		return &ElectLeaders{}
	case cmdAllocateProducerIDs:
		return &AllocateProducerIDs{}
	case cmdReportLogs:
		return &ReportLogs{}
	case cmdBalanceLeaders:
		return &BalanceLeaders{}
	case cmdResolveOffline:
		return &ResolveOffline{}
	case cmdFinalizeFeatures:
		return &FinalizeFeatures{}
	}
	return nil
}

func (c *coder) incarnation(v *model.Incarnation) { c.i64((*int64)(v)) }

func (r *RegisterBroker) code(c *coder) {
	c.broker(&r.Broker)
	c.storage(&r.Storage)
	c.u64(&r.RaftID)
	c.str(&r.Rack)
	c.str(&r.KafkaHost)
	c.i32(&r.KafkaPort)
	c.str(&r.Internal)
	c.str(&r.HTTP)
	c.str(&r.Version)
	c.str(&r.ClusterID)
	c.incarnation(&r.Previous)
	c.i32(&r.MaxFeature)
}

func (f *FenceBroker) code(c *coder) {
	c.broker(&f.Broker)
	c.incarnation(&f.Incarnation)
	codeByte(c, &f.Reason)
	c.str(&f.Detail)
}

func (u *UnfenceBroker) code(c *coder) {
	c.broker(&u.Broker)
	c.incarnation(&u.Incarnation)
}

func (d *DrainBroker) code(c *coder) {
	c.broker(&d.Broker)
	c.incarnation(&d.Incarnation)
}

func (u *UnregisterBroker) code(c *coder) { c.broker(&u.Broker) }

func (t *CreateTopics) code(c *coder) {
	codeSlice(c, &t.Topics, func(n *NewTopic) {
		c.str(&n.Name)
		c.i32(&n.Partitions)
		c.i16(&n.ReplicationFactor)
		codeSlice(c, &n.Assignment, c.brokers)
		c.strMap(&n.Config)
		c.bool(&n.Internal)
	})
	c.bool(&t.ValidateOnly)
}

func (t *DeleteTopics) code(c *coder) {
	codeSlice(c, &t.Topics, func(r *TopicRef) {
		c.id(&r.ID)
		c.str(&r.Name)
	})
}

func (p *CreatePartitions) code(c *coder) {
	codeSlice(c, &p.Topics, func(m *MorePartitions) {
		c.str(&m.Name)
		c.i32(&m.Count)
		codeSlice(c, &m.Assignment, c.brokers)
	})
	c.bool(&p.ValidateOnly)
}

func (a *AlterConfigs) code(c *coder) {
	codeSlice(c, &a.Resources, func(r *ConfigChange) {
		codeI8(c, &r.Type)
		c.str(&r.Name)
		c.bool(&r.Replace)
		codeSlice(c, &r.Ops, func(o *ConfigOp) {
			c.str(&o.Key)
			c.str(&o.Value)
			codeI8(c, &o.Op)
		})
	})
	c.bool(&a.ValidateOnly)
}

func (a *AlterPartitions) code(c *coder) {
	c.broker(&a.Broker)
	c.incarnation(&a.Incarnation)
	codeSlice(c, &a.Proposals, func(p *PartitionProposal) {
		c.tp(&p.TP)
		c.u64(&p.Proposal.ID)
		c.i32(&p.Proposal.LeaderEpoch)
		c.i32(&p.Proposal.PartitionEpoch)
		c.u64(&p.Proposal.BasedOn)
		codeSlice(c, &p.Proposal.ISR, func(m *isr.Member) {
			c.broker(&m.Broker)
			c.incarnation(&m.Incarnation)
		})
		c.brokers(&p.Proposal.ByPolicy)
	})
}

func (e *ElectLeaders) code(c *coder) {
	c.bool(&e.Unclean)
	c.bool(&e.All)
	codeSlice(c, &e.Partitions, c.tp)
	c.str(&e.Principal)
}

func (a *AllocateProducerIDs) code(c *coder) {
	c.broker(&a.Broker)
	c.incarnation(&a.Incarnation)
}

func (r *ReportLogs) code(c *coder) {
	c.broker(&r.Broker)
	c.incarnation(&r.Incarnation)
	c.i64((*int64)(&r.At))
	codeSlice(c, &r.Logs, func(l *LogReport) {
		c.tp(&l.TP)
		c.i32(&l.Epoch)
		c.i64(&l.End)
		codeByte(c, &l.Suspect)
	})
	c.bool(&r.Last)
}

func (b *BalanceLeaders) code(c *coder) { c.i32(&b.Max) }

func (*ResolveOffline) code(*coder) {}

func (f *FinalizeFeatures) code(c *coder) {
	c.i32(&f.Level)
	c.bool(&f.ValidateOnly)
}
