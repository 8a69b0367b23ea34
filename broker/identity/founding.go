package identity

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/tailrace/tailrace/internal/model"
)

// Candidate is a node that gossip shows.
type Candidate struct {
	Founder
	Cluster  string // "" while it has none
	Internal string // address of its internal listener
}

// Vote is what a node has durably agreed to.
type Vote struct {
	Founders []Founder `json:"founders,omitempty"`
	Cluster  string    `json:"cluster,omitempty"`
	// Expect is the node's --bootstrap-expect; all must say the same.
	Expect int `json:"expect"`
}

// View is everything that a node knows when it decides about founding.
type View struct {
	Self   Node
	Expect int // --bootstrap-expect; 0: only ever join
	// Candidates are the other nodes that gossip shows alive.
	Candidates []Candidate
	// Votes are the last answers of other nodes, by storage id.
	Votes map[model.StorageID]Vote
}

// Action is what to do next.
type Action uint8

// The actions, in the order in which a founding node takes them.
const (
	Wait    Action = iota // nothing to do until the view changes
	Accept                // durably accept Decision.Founders
	Join                  // durably become a member of Decision.Cluster
	Refused               // an operator must act; Reason says how
)

// Decision is the outcome of Decide.
type Decision struct {
	Action   Action
	Founders []Founder
	Cluster  string
	Reason   string // one line, for Wait and Refused
}

// Decide is founding's only rule set; pure, so that a crash at any step leaves
// nothing but the durable Node to go on from.
//
// Phase 1: a node that sees exactly Expect candidates, itself included, none
// with a cluster id, durably accepts that set, and no other ever. Phase 2: once
// every member is known to have accepted the identical set, the cluster exists:
// its id derives from the set, so each member computes the same. A member that
// did not hear all votes learns the id from one that did.
func Decide(v View) Decision {
	if v.Self.Cluster != "" {
		return Decision{Action: Wait, Reason: "member of cluster " + v.Self.Cluster}
	}
	known := clusters(v)
	switch {
	case len(known) > 1:
		return refused("gossip shows several clusters (%s): correct --join", strings.Join(known, ", "))
	case len(known) == 1:
		return adopt(v, known[0])
	case v.Expect <= 0:
		return Decision{Action: Wait, Reason: "waiting for a member of the cluster to join"}
	case v.Self.Founders == nil:
		return propose(v)
	}
	return confirm(v)
}

// clusters returns the ids of clusters that others say they are in.
func clusters(v View) []string {
	var ids []string
	for _, c := range v.Candidates {
		ids = append(ids, c.Cluster)
	}
	for _, vote := range v.Votes {
		ids = append(ids, vote.Cluster)
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return id == "" })
	slices.Sort(ids)
	return slices.Compact(ids)
}

// adopt joins a cluster that exists. A node that has accepted a founding set
// may be counted on as a member of that set's cluster, so it joins no other.
func adopt(v View, cluster string) Decision {
	if f := v.Self.Founders; f != nil && ClusterID(f) != cluster {
		return refused("this broker agreed to found a cluster with %s, but gossip shows cluster %q: move its data directory away to join that one", describe(f), cluster)
	}
	return Decision{Action: Join, Cluster: cluster}
}

// propose accepts the candidates as founding set if they are the right ones:
// every node that founds too, each heard directly.
func propose(v View) Decision {
	set := []Founder{v.Self.founder()}
	var unheard []Founder
	for _, c := range v.Candidates {
		if c.Founder == v.Self.founder() {
			continue
		}
		vote, heard := v.Votes[c.Storage]
		switch {
		case !heard:
			unheard = append(unheard, c.Founder)
		case vote.Expect == 0:
			continue // it only ever joins
		case vote.Expect != v.Expect:
			return refused("broker %d was started with --bootstrap-expect %d, this broker with %d: they must agree", c.Broker, vote.Expect, v.Expect)
		}
		set = append(set, c.Founder)
	}
	set = slices.Compact(canonical(set))
	if d, ok := duplicate(set); ok {
		return refused("two nodes say that they are broker %d: give every broker its own --id", d)
	}
	switch {
	case len(set) > v.Expect:
		return refused("%d brokers want to found a cluster of %d (%s): start the others after it has formed", len(set), v.Expect, describe(set))
	case len(unheard) > 0:
		return Decision{Action: Wait, Reason: "waiting to hear from " + describe(unheard)}
	case len(set) < v.Expect:
		return Decision{Action: Wait, Reason: fmt.Sprintf("waiting for %d more of %d founding brokers; seen: %s", v.Expect-len(set), v.Expect, describe(set))}
	}
	return Decision{Action: Accept, Founders: set}
}

// confirm waits until every founder has accepted the set.
func confirm(v View) Decision {
	set := v.Self.Founders
	if len(set) != v.Expect {
		return refused("this broker agreed to found a cluster with %s, --bootstrap-expect now says %d: restore the old value", describe(set), v.Expect)
	}
	var missing []Founder
	for _, f := range set {
		if f == v.Self.founder() {
			continue
		}
		vote, heard := v.Votes[f.Storage]
		switch {
		case !heard || vote.Founders == nil:
			missing = append(missing, f)
		case !sameSet(vote.Founders, set):
			return refused("broker %d agreed to found a cluster with %s, this broker with %s: move the data directories of both away and start again", f.Broker, describe(vote.Founders), describe(set))
		}
	}
	if len(missing) > 0 {
		return Decision{Action: Wait, Reason: "waiting for agreement of " + describe(missing)}
	}
	return Decision{Action: Join, Cluster: ClusterID(set), Founders: set}
}

// ClusterID derives the id of the cluster that a set founds: 22 characters, as
// Kafka's.
func ClusterID(set []Founder) string {
	h := sha256.New()
	h.Write([]byte("tailrace cluster 1")) // a hash's Write does not fail
	for _, f := range canonical(set) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(f.Broker)))
		h.Write(f.Storage[:])
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

// canonical returns the set in order of broker and storage id.
func canonical(set []Founder) []Founder {
	s := slices.Clone(set)
	slices.SortFunc(s, func(a, b Founder) int {
		if a.Broker != b.Broker {
			return int(a.Broker) - int(b.Broker)
		}
		return slices.Compare(a.Storage[:], b.Storage[:])
	})
	return s
}

func sameSet(a, b []Founder) bool { return slices.Equal(canonical(a), canonical(b)) }

func duplicate(set []Founder) (model.BrokerID, bool) {
	for i := 1; i < len(set); i++ {
		if set[i].Broker == set[i-1].Broker {
			return set[i].Broker, true
		}
	}
	return 0, false
}

func describe(set []Founder) string {
	parts := make([]string, len(set))
	for i, f := range set {
		parts[i] = fmt.Sprintf("broker %d (storage %.8s)", f.Broker, f.Storage)
	}
	return strings.Join(parts, ", ")
}

func refused(format string, args ...any) Decision {
	return Decision{Action: Refused, Reason: fmt.Sprintf(format, args...)}
}
