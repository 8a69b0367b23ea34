package client

import (
	"fmt"
	"strconv"
)

type policyKind int8

const (
	policyLeader policyKind = iota
	policyNearest
	policyAny
	policyBroker
)

// ReplicaPolicy says which replica of a partition a consumer reads from. With
// every policy only committed records are seen, offsets rise and none is
// skipped: what the chosen replica cannot serve yet is fetched from the leader.
// The zero policy is Leader.
type ReplicaPolicy struct {
	kind   policyKind
	rack   string
	broker int32
}

// Leader reads from the partition's leader.
func Leader() ReplicaPolicy { return ReplicaPolicy{kind: policyLeader} }

// Nearest asks the leader for the best replica in the given rack (KIP-392) and
// reads from it; the empty rack is Options.Rack.
func Nearest(rack string) ReplicaPolicy { return ReplicaPolicy{kind: policyNearest, rack: rack} }

// Any spreads partitions evenly over all their live replicas.
func Any() ReplicaPolicy { return ReplicaPolicy{kind: policyAny} }

// Broker reads from one broker where it has a replica that can serve, and from
// the leader where not.
func Broker(id int32) ReplicaPolicy { return ReplicaPolicy{kind: policyBroker, broker: id} }

// ParseReplicaPolicy reads "leader", "nearest", "any" or a broker id.
func ParseReplicaPolicy(s, rack string) (ReplicaPolicy, error) {
	switch s {
	case "leader":
		return Leader(), nil
	case "nearest":
		return Nearest(rack), nil
	case "any":
		return Any(), nil
	}
	id, err := strconv.ParseInt(s, 10, 32)
	if err != nil || id < 0 {
		return ReplicaPolicy{}, fmt.Errorf("bad replica %q: use leader, nearest, any or a broker id", s)
	}
	return Broker(int32(id)), nil
}

// String is the notation that ParseReplicaPolicy reads.
func (p ReplicaPolicy) String() string {
	switch p.kind {
	case policyNearest:
		return "nearest"
	case policyAny:
		return "any"
	case policyBroker:
		return strconv.Itoa(int(p.broker))
	}
	return "leader"
}
