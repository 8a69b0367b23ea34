// Package event holds what a node tells about itself: one struct for each kind
// of event, and listeners that log and count them.
//
// Packages report through a Listener; they neither log nor know metrics.
package event

import (
	"time"

	"github.com/rs/zerolog"

	"github.com/tailrace/tailrace/internal/model"
)

// Event is one of the structs of this package. Its exported fields are logged
// under their names in snake case.
type Event interface{ Info() Info }

// Info says what kind of event it is.
type Info struct {
	Name    string // snake case; label of tailrace_events_total
	Level   zerolog.Level
	Message string // for people
}

// Listener is told of events. It must not block, and may be called from many
// goroutines.
type Listener interface{ On(Event) }

// Func is a function as a Listener.
type Func func(Event)

// On implements Listener.
func (f Func) On(e Event) { f(e) }

// Tee tells several listeners, in order.
func Tee(listeners ...Listener) Listener {
	return Func(func(e Event) {
		for _, l := range listeners {
			l.On(e)
		}
	})
}

// Discard ignores events.
var Discard Listener = Func(func(Event) {})

func debug(name, message string) Info { return Info{name, zerolog.DebugLevel, message} }
func info(name, message string) Info  { return Info{name, zerolog.InfoLevel, message} }
func warn(name, message string) Info  { return Info{name, zerolog.WarnLevel, message} }
func fault(name, message string) Info { return Info{name, zerolog.ErrorLevel, message} }

// The node.
type (
	// NodeStarted: all listeners are open.
	NodeStarted struct {
		Cluster, Version, Dir         string
		Kafka, Internal, Gossip, HTTP string
		Took                          time.Duration
	}
	// NodeStopping: a graceful stop began.
	NodeStopping struct{ Reason string }
	// NodeStopped: everything is closed.
	NodeStopped struct{ Took time.Duration }
	// Founding: what founding or joining a cluster waits for.
	Founding struct {
		Reason  string
		Refused bool // only an operator can help
	}
	// ClusterJoined: the data directory belongs to a cluster from now on.
	ClusterJoined struct{ Cluster string }
	// Registered: the controller gave this process its incarnation.
	Registered struct{ Incarnation model.Incarnation }
)

func (NodeStarted) Info() Info  { return info("node_started", "started") }
func (NodeStopping) Info() Info { return info("node_stopping", "stopping") }
func (NodeStopped) Info() Info  { return info("node_stopped", "stopped") }
func (e Founding) Info() Info {
	if e.Refused {
		return fault("founding", "cannot found or join a cluster")
	}
	return info("founding", "waiting for a cluster")
}
func (ClusterJoined) Info() Info { return info("cluster_joined", "member of a cluster") }
func (Registered) Info() Info    { return info("registered", "registered with the controller") }

// Fatal: this broker cannot go on; its process exits.
type Fatal struct{ Err error }

// Info implements Event.
func (Fatal) Info() Info { return fault("fatal", "this broker cannot go on") }

// Trouble: an operation failed that is repeated, or whose failure costs nothing.
type Trouble struct {
	Operation string
	Broker    model.BrokerID // the other side; NoBroker for none
	Err       error
	Severe    bool // somebody should look
}

// Info implements Event.
func (e Trouble) Info() Info {
	if e.Severe {
		return warn("trouble", "operation failed")
	}
	return debug("trouble", "operation failed")
}

// Metadata and replication.
type (
	// ControllerChanged: another broker leads the metadata quorum; NoBroker
	// if none does.
	ControllerChanged struct {
		Controller model.BrokerID
		Term       uint64
	}
	// LeaderElected: a partition has a new leader, or none (NoBroker).
	LeaderElected struct {
		Topic       string
		Partition   int32
		Leader      model.BrokerID
		Previous    model.BrokerID
		LeaderEpoch model.LeaderEpoch
	}
	// UncleanElection: a leader was elected that may lack acknowledged
	// records, on an operator's command.
	UncleanElection struct {
		Topic     string
		Partition int32
		Leader    model.BrokerID
		Principal string
	}
	// ISRShrunk: members left a partition's in-sync set.
	ISRShrunk struct {
		Topic     string
		Partition int32
		Removed   []model.BrokerID
		ISR       []model.BrokerID
	}
	// ISRExpanded: members joined a partition's in-sync set.
	ISRExpanded struct {
		Topic     string
		Partition int32
		Added     []model.BrokerID
		ISR       []model.BrokerID
	}
	// Fenced: a broker is not live any more; it leads nothing.
	Fenced struct {
		Broker      model.BrokerID
		Incarnation model.Incarnation
		Reason      string
	}
	// Unfenced: a broker is live.
	Unfenced struct {
		Broker      model.BrokerID
		Incarnation model.Incarnation
	}
	// BrokerChanged: a broker's registration changed in another way.
	BrokerChanged struct {
		Broker         model.BrokerID
		Change, Detail string
	}
	// TopicChanged: a topic was created or deleted.
	TopicChanged struct{ Topic, Change string }
	// ReplicaFailed: an error of its log took a replica offline; a restart
	// opens it again.
	ReplicaFailed struct {
		Topic     string
		Partition int32
		Err       error
	}
	// SteppedDown: a leader found its own log damaged and had another in-sync
	// member elected.
	SteppedDown struct {
		Topic       string
		Partition   int32
		LeaderEpoch model.LeaderEpoch // of the leadership given up
	}
	// Truncated: a follower dropped records that its leader does not have.
	Truncated struct {
		Topic       string
		Partition   int32
		From, To    int64 // log end before and after
		LeaderEpoch model.LeaderEpoch
	}
)

func (ControllerChanged) Info() Info { return info("controller_changed", "controller changed") }
func (LeaderElected) Info() Info     { return debug("leader_elected", "leader elected") }
func (UncleanElection) Info() Info {
	return warn("unclean_election", "unclean leader election: acknowledged records may be lost")
}
func (ISRShrunk) Info() Info     { return info("isr_shrunk", "in-sync set shrank") }
func (ISRExpanded) Info() Info   { return info("isr_expanded", "in-sync set grew") }
func (Fenced) Info() Info        { return warn("broker_fenced", "broker fenced") }
func (Unfenced) Info() Info      { return info("broker_unfenced", "broker live") }
func (BrokerChanged) Info() Info { return info("broker_changed", "registration changed") }
func (TopicChanged) Info() Info  { return info("topic_changed", "topic created or deleted") }
func (ReplicaFailed) Info() Info { return fault("replica_failed", "replica is offline") }
func (SteppedDown) Info() Info {
	return warn("stepped_down", "leader with damaged records gave its leadership up")
}
func (Truncated) Info() Info { return warn("log_truncated", "diverging records dropped") }

// Storage.
type (
	// Poisoned: a write or sync failed. The process ends: nothing more can be
	// acknowledged.
	Poisoned struct {
		Dir string
		Err error
	}
	// CorruptionFound: stored bytes do not match their checksum. The range is
	// not served until it is repaired.
	CorruptionFound struct {
		Topic     string
		Partition int32
		From, To  int64 // offsets, [From, To)
		File      string
		Position  int64 // in the file
		Err       error
	}
	// Repaired: a damaged range was replaced from another replica.
	Repaired struct {
		Topic     string
		Partition int32
		From, To  int64
		Source    model.BrokerID
	}
	// RepairFailed: a damaged range could not be replaced yet; it is tried
	// again.
	RepairFailed struct {
		Topic     string
		Partition int32
		From, To  int64
		Source    model.BrokerID // NoBroker: none can give it
		Err       error
	}
	// SegmentMissing: a file that the catalog lists is gone. Its records are
	// taken from another replica.
	SegmentMissing struct {
		Topic     string
		Partition int32
		From, To  int64
		File      string
		Err       error
	}
	// Trusted: a replica whose log was suspect holds everything committed
	// again.
	Trusted struct {
		Topic     string
		Partition int32
		Was       string
	}
	// StorageNotice: a failure or message of the storage that has no
	// consequence for records.
	StorageNotice struct {
		Kind, File string
		Err        error
		Severe     bool
	}
	// TornTail: recovery cut an incomplete write past the durable mark.
	TornTail struct {
		Topic     string
		Partition int32
		End       int64
		Bytes     int64
	}
	// Quarantined: a file that the catalog does not list was set aside.
	Quarantined struct{ File, Reason string }
	// DiskLow: free space is below the reserve; produces are refused.
	DiskLow struct{ Free, Reserve int64 }
	// DiskRecovered: free space is above the reserve again.
	DiskRecovered struct{ Free, Reserve int64 }
)

func (Poisoned) Info() Info {
	return fault("poisoned", "data directory failed: this broker stops")
}
func (CorruptionFound) Info() Info { return fault("corruption_found", "stored records are damaged") }
func (Repaired) Info() Info        { return info("repaired", "damaged records were replaced") }
func (RepairFailed) Info() Info    { return warn("repair_failed", "damaged records not replaced yet") }
func (SegmentMissing) Info() Info  { return fault("segment_missing", "segment file is missing") }
func (Trusted) Info() Info         { return info("trusted", "log is trusted again") }
func (e StorageNotice) Info() Info {
	if e.Severe {
		return warn("storage_notice", "storage operation failed")
	}
	return debug("storage_notice", "storage")
}
func (TornTail) Info() Info      { return warn("torn_tail", "incomplete write cut at recovery") }
func (Quarantined) Info() Info   { return warn("quarantined", "unknown file set aside") }
func (DiskLow) Info() Info       { return fault("disk_low", "disk nearly full: produce is refused") }
func (DiskRecovered) Info() Info { return info("disk_recovered", "disk has room again") }

// Connections.
type (
	// ConnectionClosed: a client's connection ended. Ordinary is false where
	// the client broke a rule or the network failed.
	ConnectionClosed struct {
		Listener, RemoteAddr, Principal     string
		ClientID, Software, SoftwareVersion string
		Reason                              error
		Ordinary                            bool
	}
	// ConnectionRefused: a limit was reached, or accepting failed.
	ConnectionRefused struct {
		Listener, RemoteAddr string
		Reason               error
	}
	// PeerUp: a connection to another broker is open.
	PeerUp struct {
		Broker      model.BrokerID
		Addr, Class string
	}
	// PeerDown: a connection to another broker broke.
	PeerDown struct {
		Broker      model.BrokerID
		Addr, Class string
		Reason      error
	}
	// PeerRefused: the host of another broker refuses connections.
	PeerRefused struct {
		Broker      model.BrokerID
		Addr, Class string
	}
	// MemberChanged: what gossip believes of another broker.
	MemberChanged struct {
		Broker     model.BrokerID
		Addr, Kind string
		Graceful   bool
	}
)

func (e ConnectionClosed) Info() Info {
	if e.Ordinary {
		return debug("connection_closed", "connection closed")
	}
	return warn("connection_closed", "connection closed")
}
func (ConnectionRefused) Info() Info { return warn("connection_refused", "connection refused") }
func (PeerUp) Info() Info            { return debug("peer_up", "connected to broker") }
func (PeerDown) Info() Info          { return info("peer_down", "connection to broker lost") }
func (PeerRefused) Info() Info       { return info("peer_refused", "broker refuses connections") }
func (MemberChanged) Info() Info     { return debug("member_changed", "gossip") }

// RequestFailed: a client's request was not served.
type RequestFailed struct {
	Kind         string // "panic", "malformed" or "refused"
	Key, Version int16
	RemoteAddr   string
	ClientID     string
	Err          error
	Stack        string // of a panic
}

// Info implements Event.
func (e RequestFailed) Info() Info {
	if e.Kind == "panic" {
		return fault("request_failed", "a request met a bug; its connection was closed")
	}
	return warn("request_failed", "request not served")
}

// Audit: an administrative or denied operation, who did it and what came out.
type Audit struct {
	Principal, RemoteAddr, Operation, Resource, Result string
	Denied                                             bool
}

// Info implements Event.
func (e Audit) Info() Info {
	if e.Denied {
		return warn("audit", "denied")
	}
	return info("audit", "administrative operation")
}
