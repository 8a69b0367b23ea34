package control

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

func (d *decision) registerBroker(cmd *RegisterBroker) error {
	old := d.img.Brokers[cmd.Broker]
	if e, why := d.admissible(cmd, old); e != nil {
		return d.refuse(e, "%s", why)
	}
	b := Broker{ID: cmd.Broker, StorageID: cmd.Storage, RaftID: cmd.RaftID, Rack: cmd.Rack, KafkaHost: cmd.KafkaHost,
		KafkaPort: cmd.KafkaPort, Internal: cmd.Internal, HTTP: cmd.HTTP, Version: cmd.Version, MaxFeature: cmd.MaxFeature, Fenced: true}
	intact := true
	if old != nil {
		// A storage that does not remember a life in which it served is a
		// restored copy: what it acknowledged since is gone (I13).
		intact = cmd.Storage == old.StorageID && cmd.Previous >= old.Confirmed
		if intact {
			b.Confirmed = old.Confirmed
		}
	}
	if err := d.emit(&BrokerRegistered{Broker: b}); err != nil {
		return err
	}
	d.result.Incarnation = model.Incarnation(d.in.Index)
	d.result.ClusterID = d.img.ClusterID
	return d.hosted(cmd.Broker, func(x *transition, replica int) {
		same := x.p.Directories[replica] == cmd.Storage
		if !same {
			x.dirs = slices.Clone(x.p.Directories)
			x.dirs[replica] = cmd.Storage
		}
		x.remove(cmd.Broker, intact && same)
	})
}

func (d *decision) admissible(cmd *RegisterBroker, old *Broker) (*kerr.Error, string) {
	switch {
	case cmd.Broker < 0 || cmd.Storage.IsZero() || cmd.RaftID != RaftIDFor(cmd.Storage):
		return kerr.InvalidRequest, "broker id, storage id and raft id do not make a registration"
	case cmd.ClusterID != "" && cmd.ClusterID != d.img.ClusterID:
		return kerr.InconsistentClusterID, "the data directory belongs to cluster " + cmd.ClusterID + ", this is " + d.img.ClusterID
	case cmd.MaxFeature < d.img.FeatureLevel:
		return kerr.UnsupportedVersion, "the cluster's feature level is higher than this binary understands"
	case old != nil && old.StorageID != cmd.Storage && !old.Fenced:
		return kerr.DuplicateBrokerRegistration, "a live broker with another disk has this id"
	}
	for _, b := range d.img.Brokers {
		if b.ID != cmd.Broker && b.StorageID == cmd.Storage {
			return kerr.DuplicateBrokerRegistration, "another broker id is registered with this data directory"
		}
	}
	return nil, ""
}

// current returns the registration that a command is about, or answers that
// it is about another life.
func (d *decision) current(id model.BrokerID, inc model.Incarnation) *Broker {
	b := d.img.Brokers[id]
	switch {
	case b == nil:
		_ = d.refuse(kerr.BrokerIDNotRegistered, "broker %d is not registered", id)
		return nil
	case inc != 0 && b.Incarnation != inc:
		_ = d.refuse(kerr.StaleBrokerEpoch, "broker %d is registered with incarnation %d, not %d", id, b.Incarnation, inc)
		return nil
	}
	return b
}

func (d *decision) fenceBroker(cmd *FenceBroker) error {
	b := d.current(cmd.Broker, cmd.Incarnation)
	if b == nil || b.Fenced {
		return nil
	}
	err := d.emit(&BrokerChanged{Broker: b.ID, Fenced: true, Draining: b.Draining, Reason: cmd.Reason, Detail: cmd.Detail})
	if err != nil {
		return err
	}
	return d.hosted(b.ID, func(x *transition, _ int) {
		// A failed disk may come back with what it had made durable: where no
		// one else is left, its report decides then.
		alone := len(x.isr)+len(x.elr) == 1
		x.remove(b.ID, alone || cmd.Reason != FenceStorageFailed)
	})
}

func (d *decision) drainBroker(cmd *DrainBroker) error {
	b := d.current(cmd.Broker, cmd.Incarnation)
	if b == nil || b.Draining {
		return nil
	}
	if err := d.emit(&BrokerChanged{Broker: b.ID, Fenced: b.Fenced, Draining: true}); err != nil {
		return err
	}
	return d.hosted(b.ID, func(x *transition, _ int) { x.remove(b.ID, true) })
}

func (d *decision) unfenceBroker(cmd *UnfenceBroker) error {
	b := d.current(cmd.Broker, cmd.Incarnation)
	if b == nil || !b.Fenced {
		return nil
	}
	if b.Draining {
		return d.refuse(kerr.InvalidRequest, "broker %d is stopping", b.ID)
	}
	if err := d.emit(&BrokerChanged{Broker: b.ID}); err != nil {
		return err
	}
	return d.resolveOffline(&cmd.Broker)
}

func (d *decision) unregisterBroker(cmd *UnregisterBroker) error {
	b := d.current(cmd.Broker, 0)
	if b == nil {
		return nil
	}
	if !b.Fenced {
		return d.refuse(kerr.InvalidRequest, "broker %d is live; stop it first", b.ID)
	}
	if err := d.emit(&BrokerRemoved{Broker: b.ID}); err != nil {
		return err
	}
	return d.hosted(b.ID, func(x *transition, _ int) { x.remove(b.ID, true) })
}

// reportLogs elects where the report was awaited. The report itself is in v
// already. A broker in service that reports damage leaves the in-sync set of
// that partition, and does not lead it, while there is another member or a
// trusted eligible leader (I39). The new epoch voids what it reported as durable,
// so that it rejoins only after it reports again, which it does when it is
// repaired.
func (d *decision) reportLogs(cmd *ReportLogs) error {
	b := d.current(cmd.Broker, cmd.Incarnation)
	if b == nil {
		return nil
	}
	for _, l := range cmd.Logs {
		p := d.img.Partition(l.TP)
		if l.Suspect <= segment.TornTail || d.v.overtaken(cmd, l.TP) || p == nil || !slices.Contains(p.ISR, b.ID) {
			continue
		}
		x := newTransition(l.TP, p, minInsync(d.img, d.img.Topics[l.TP.Topic]))
		x.remove(b.ID, false)
		x.bump = true
		if len(x.isr) == 0 && !d.succeed(x) {
			continue
		}
		if err := d.settle(x); err != nil {
			return err
		}
	}
	if !cmd.Last {
		return nil
	}
	return d.resolveOffline(&cmd.Broker)
}

// succeed has an eligible leader take over from a damaged one that was alone in
// sync. It must be live and trusted: then it holds every committed record,
// because the high watermark has stood still since it left the set, and what the
// damaged one has beyond it was never acknowledged. This is what a restart of the
// damaged one would lead to, without waiting for other reports.
func (d *decision) succeed(x *transition) bool {
	trusted, suspect, _, _ := d.candidates(x)
	best := bestOf(liveOnly(trusted))
	if best == nil {
		return false
	}
	x.install(best.id, suspect)
	return true
}

// resolveOffline elects leaders of offline partitions: all, or those that a
// broker is eligible for.
func (d *decision) resolveOffline(only *model.BrokerID) error {
	return d.partitions(func(tp model.TopicPartition, t *Topic, p *Partition) error {
		if p.Leader != model.NoBroker || only != nil && !slices.Contains(p.ELR, *only) && !slices.Contains(p.ISR, *only) {
			return nil
		}
		return d.settle(newTransition(tp, p, minInsync(d.img, t)))
	})
}

// awaited reports whether a broker's report may decide who leads: of a partition
// that is offline, or whose leader said that its log is damaged.
func (v *Volatile) awaited(img *Image, id model.BrokerID) bool {
	for _, t := range img.Topics {
		for i, p := range t.Partitions {
			tp := model.TopicPartition{Topic: t.ID, Partition: int32(i)}
			if slices.Contains(p.ELR, id) && (p.Leader == model.NoBroker || v.damaged(img.Brokers[p.Leader], tp)) {
				return true
			}
		}
	}
	return false
}
