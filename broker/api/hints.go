package api

import (
	"maps"
	"slices"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
)

// leaderHints collects where clients find the leaders that they did not hit
// (KIP-951). They save the client a round of metadata.
type leaderHints struct {
	nodes []endpoint // each broker once
}

type endpoint struct {
	id   int32
	host string
	port int32
	rack *string

	fenced bool
}

// wantsHint reports whether code says that the client asked the wrong broker.
func wantsHint(code int16) bool {
	return code == kerr.NotLeaderForPartition.Code || code == kerr.FencedLeaderEpoch.Code
}

// add returns the leader and epoch to name for p, or (-1, -1) if there is
// nothing better to say than what the client knows.
func (h *leaderHints) add(c *call, img *control.Image, p *control.Partition) (leader int32, epoch int32) {
	if p == nil || p.Leader == model.NoBroker {
		return -1, -1
	}
	for _, n := range h.nodes {
		if n.id == int32(p.Leader) {
			return n.id, p.LeaderEpoch
		}
	}
	host, port, ok := c.s.b.Endpoint(c.peer.Listener, p.Leader)
	if !ok {
		return -1, -1
	}
	h.nodes = append(h.nodes, endpoint{id: int32(p.Leader), host: host, port: port, rack: rackOf(img, p.Leader)})
	return int32(p.Leader), p.LeaderEpoch
}

// rackOf returns a broker's rack, nil if it has none.
func rackOf(img *control.Image, id model.BrokerID) *string {
	if b := img.Brokers[id]; b != nil && b.Rack != "" {
		return &b.Rack
	}
	return nil
}

// reachableBrokers lists the brokers that clients of this listener can reach,
// by id.
func reachableBrokers(c *call, img *control.Image, fenced bool) []endpoint {
	out := make([]endpoint, 0, len(img.Brokers))
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		b := img.Brokers[id]
		host, port, ok := c.s.b.Endpoint(c.peer.Listener, id)
		if ok && (fenced || !b.Fenced) {
			out = append(out, endpoint{id: int32(id), host: host, port: port, rack: rackOf(img, id), fenced: b.Fenced})
		}
	}
	return out
}
