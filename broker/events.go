package broker

import (
	"errors"
	"net"
	"slices"

	"github.com/tailrace/tailrace/broker/api"
	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/event"
	"github.com/tailrace/tailrace/broker/transport"
	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// tell reports an event to the node's listeners.
func (b *Broker) tell(e event.Event) { b.events.On(e) }

// trouble reports a failure that is repeated or costs nothing.
func (b *Broker) trouble(operation string, err error, severe bool) {
	b.tell(event.Trouble{Operation: operation, Broker: model.NoBroker, Err: err, Severe: severe})
}

// topicName names a topic as far as the metadata knows it.
func (b *Broker) topicName(id model.TopicID) string {
	if b.up.Load() {
		if t := b.Image().Topics[id]; t != nil {
			return t.Name
		}
	}
	return id.String()
}

// metadataEvents reports what an applied update changed. Every broker reports
// the same, except for what happened before it registered: that is old news,
// replayed at its start.
func (b *Broker) metadataEvents(u control.Update) {
	if inc := b.host.Incarnation(); inc == 0 || u.Next.Index < uint64(inc) {
		return
	}
	for _, id := range u.Topics {
		if prev, next := u.Prev.Topics[id], u.Next.Topics[id]; prev != nil && next != nil && prev != next {
			b.partitionEvents(prev, next)
		}
	}
	for _, e := range u.Events {
		b.metadataEvent(u, e)
	}
}

func (b *Broker) partitionEvents(prev, next *control.Topic) {
	for i, p := range next.Partitions {
		if i >= len(prev.Partitions) || prev.Partitions[i] == p {
			continue
		}
		was, n := prev.Partitions[i], int32(i)
		if was.LeaderEpoch != p.LeaderEpoch {
			b.tell(event.LeaderElected{Topic: next.Name, Partition: n, Leader: p.Leader, Previous: was.Leader, LeaderEpoch: p.LeaderEpoch})
		}
		if gone := minus(was.ISR, p.ISR); len(gone) > 0 {
			b.tell(event.ISRShrunk{Topic: next.Name, Partition: n, Removed: gone, ISR: p.ISR})
		}
		if added := minus(p.ISR, was.ISR); len(added) > 0 {
			b.tell(event.ISRExpanded{Topic: next.Name, Partition: n, Added: added, ISR: p.ISR})
		}
	}
}

// minus is a without the members of b.
func minus(a, b []model.BrokerID) []model.BrokerID {
	var out []model.BrokerID
	for _, id := range a {
		if !slices.Contains(b, id) {
			out = append(out, id)
		}
	}
	return out
}

func (b *Broker) metadataEvent(u control.Update, e control.Event) {
	name := func() string {
		for _, img := range []*control.Image{u.Next, u.Prev} {
			if t := img.Topics[e.TP.Topic]; t != nil {
				return t.Name
			}
		}
		return e.TP.Topic.String()
	}
	switch e.Kind {
	case control.EventBrokerFenced:
		b.tell(event.Fenced{Broker: e.Broker, Incarnation: e.Incarnation, Reason: e.Detail})
	case control.EventBrokerUnfenced:
		b.tell(event.Unfenced{Broker: e.Broker, Incarnation: e.Incarnation})
	case control.EventUncleanElection:
		b.tell(event.UncleanElection{Topic: name(), Partition: e.TP.Partition, Leader: e.Broker, Principal: e.Detail})
	case control.EventTopicCreated:
		b.tell(event.TopicChanged{Topic: name(), Change: "created"})
	case control.EventTopicDeleted:
		b.tell(event.TopicChanged{Topic: name(), Change: "deleted"})
	case control.EventBrokerRegistered:
		b.tell(event.BrokerChanged{Broker: e.Broker, Change: "registered"})
	case control.EventBrokerDraining:
		b.tell(event.BrokerChanged{Broker: e.Broker, Change: "draining"})
	case control.EventBrokerUnregistered:
		b.tell(event.BrokerChanged{Broker: e.Broker, Change: "unregistered"})
	case control.EventStorageChanged:
		b.tell(event.BrokerChanged{Broker: e.Broker, Change: "storage changed", Detail: e.Detail})
	case control.EventFeatureFinalized:
		b.tell(event.BrokerChanged{Broker: model.NoBroker, Change: "feature level finalised", Detail: e.Detail})
	case control.EventPartitionOffline: // told as the election of no leader
	}
}

// watchController reports a change of the quorum's leader.
func (b *Broker) watchController() {
	id := b.node.ControllerBroker()
	if model.BrokerID(b.controller.Swap(int32(id))) != id {
		b.tell(event.ControllerChanged{Controller: id, Term: b.node.Status().Term})
	}
}

// storageEvent reports what happened in the data directory, and has damage
// repaired.
func (b *Broker) storageEvent(e segment.Event) {
	topic, p, off := b.topicName(e.TP.Topic), e.TP.Partition, e.Offsets
	switch e.Kind {
	case segment.EventPoisoned:
		b.tell(event.Poisoned{Dir: b.o.Dir, Err: e.Err})
	case segment.EventDamaged:
		b.tell(event.CorruptionFound{Topic: topic, Partition: p, From: off.From, To: off.To, File: e.File, Position: e.Pos, Err: e.Err})
		b.repair.found(e.TP)
	case segment.EventMissing:
		b.tell(event.SegmentMissing{Topic: topic, Partition: p, From: off.From, To: off.To, File: e.File, Err: e.Err})
		b.repair.found(e.TP)
	case segment.EventRepaired: // told by who fetched the records
	case segment.EventTornTail:
		b.tell(event.TornTail{Topic: topic, Partition: p, End: off.To})
	case segment.EventQuarantined:
		b.tell(event.Quarantined{File: e.File, Reason: "the catalog does not list it"})
	default:
		b.tell(event.StorageNotice{Kind: e.Kind.String(), File: e.File, Err: e.Err, Severe: e.Kind == segment.EventIOError || e.Kind == segment.EventJournal})
	}
}

// Event implements api.Backend.
func (b *Broker) Event(e api.Event) {
	b.tell(event.RequestFailed{Kind: e.Kind.String(), Key: e.Key, Version: e.Version, RemoteAddr: e.Remote, ClientID: e.Client,
		Err: e.Err, Stack: string(e.Stack)})
}

// closed reports why a connection ended.
func (b *Broker) closed(c *wire.Conn, reason error) {
	var network net.Error
	ordinary := reason == nil || errors.Is(reason, wire.ErrPeerClosed) || errors.Is(reason, wire.ErrIdle) ||
		errors.Is(reason, wire.ErrServerClosed) || errors.Is(reason, errStarting) || errors.As(reason, &network)
	e := event.ConnectionClosed{Listener: c.Listener, RemoteAddr: c.RemoteAddr, Principal: c.Principal, Reason: reason, Ordinary: ordinary}
	e.Software, e.SoftwareVersion = c.Software()
	b.tell(e)
}

// refusedConn reports connections of one listener that were turned away.
func (b *Broker) refusedConn(listener string) func(remote string, reason error) {
	return func(remote string, reason error) {
		b.tell(event.ConnectionRefused{Listener: listener, RemoteAddr: remote, Reason: reason})
	}
}

func (b *Broker) peerUp(to transport.To, class transport.Class) {
	b.tell(event.PeerUp{Broker: to.ID, Addr: to.Addr, Class: class.String()})
}

func (b *Broker) peerDown(to transport.To, class transport.Class, reason error) {
	if b.ctx.Err() == nil {
		b.tell(event.PeerDown{Broker: to.ID, Addr: to.Addr, Class: class.String(), Reason: reason})
	}
	b.suspect(to.ID)
}

// replicationError reports a failed call to another broker; the loops repeat
// it.
func (b *Broker) replicationError(peer model.BrokerID, what string, err error) {
	b.tell(event.Trouble{Operation: what, Broker: peer, Err: err})
}
