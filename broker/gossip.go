package broker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/event"
	"github.com/tailrace/tailrace/broker/identity"
	"github.com/tailrace/tailrace/broker/member"
	"github.com/tailrace/tailrace/broker/transport"
	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/model"
)

// gossip is this broker's membership: an address book and a source of hints.
type gossip struct{ *member.Members }

func startGossip(b *Broker) (*gossip, error) {
	n := b.dir.Node()
	httpURL := ""
	if b.httpListener != nil {
		httpURL = b.httpURL()
	}
	m, err := member.Start(member.Options{
		Meta: member.Meta{Broker: b.o.ID, Storage: n.Storage, Cluster: n.Cluster,
			Internal: b.internalAddr(), HTTP: httpURL, Version: b.o.Version},
		Bind: b.o.Gossip, Advertise: b.o.AdvertiseGossip, Join: b.o.Join, Secret: b.o.Secret, Logger: b.o.Logger,
		OnEvent: b.gossipEvent, OnForeign: b.foreign,
	})
	if err != nil {
		return nil, err
	}
	return &gossip{m}, nil
}

// gossipEvent turns a hint into a probe; the hint itself decides nothing (I17).
func (b *Broker) gossipEvent(e member.Event) {
	b.tell(event.MemberChanged{Broker: e.Meta.Broker, Addr: e.Addr, Kind: e.Kind.String(), Graceful: e.Graceful})
	if e.Kind == member.Suspect || e.Kind == member.Leave && !e.Graceful {
		b.suspect(e.Meta.Broker)
	}
}

// foreign ends a broker whose --join leads to nobody but another cluster, unless
// it has found its own once: then it is the peers that changed.
func (b *Broker) foreign(cluster string) {
	n := b.dir.Node()
	err := fmt.Errorf("data directory %s belongs to cluster %q, but --join leads to cluster %q: correct --dir or --join", b.o.Dir, n.Cluster, cluster)
	if b.identity.Load().Incarnation != 0 {
		b.tell(event.Trouble{Operation: "gossip", Broker: model.NoBroker, Err: err, Severe: true})
		return
	}
	b.fail(err)
}

// byRaftID finds a node that gossip shows.
func (g *gossip) byRaftID(id uint64) (transport.To, bool) {
	for _, m := range g.Members.Members() {
		if control.RaftIDFor(m.Storage) == id {
			return transport.To{ID: m.Broker, Addr: m.Internal}, true
		}
	}
	return transport.To{}, false
}

// raftIDs lists the nodes that gossip shows, to ask for the controller.
func (g *gossip) raftIDs() []uint64 {
	var out []uint64
	for _, m := range g.Members.Members() {
		out = append(out, control.RaftIDFor(m.Storage))
	}
	slices.Sort(out)
	return out
}

// leave tells the others that this stop is on purpose.
func (g *gossip) leave() { g.Leave(500 * time.Millisecond) }

func (g *gossip) close() { g.Close() }

const foundVersion = 0

// serveFounding answers what this node has agreed to.
func (b *Broker) serveFounding(s *transport.Server) {
	s.Handle(transport.KeyFound, foundVersion, foundVersion, func(r *wire.Request) {
		body, err := identity.Answer(b.dir, b.o.Expect)
		if err != nil {
			r.Close(err)
			return
		}
		transport.Reply(r, wire.Part{Bytes: body})
	})
}

// found returns when this node durably belongs to a cluster.
func (b *Broker) found(ctx context.Context) error {
	if b.dir.Node().Cluster != "" {
		return nil
	}
	if b.o.Expect == 1 {
		// Nobody else has a say, so look first whether there is a cluster.
		select {
		case <-b.gossip.Tried():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	_, err := identity.Found(ctx, identity.FounderOptions{
		Dir: b.dir, Expect: b.o.Expect, Interval: 50 * time.Millisecond,
		Candidates: func() []identity.Candidate {
			var out []identity.Candidate
			for _, m := range b.gossip.Members.Members() {
				out = append(out, identity.Candidate{
					Founder: identity.Founder{Broker: m.Broker, Storage: m.Storage}, Cluster: m.Cluster, Internal: m.Internal,
				})
			}
			return out
		},
		Ask: func(ctx context.Context, c identity.Candidate) ([]byte, error) {
			resp, release, err := b.peers.Call(ctx, transport.To{ID: c.Broker, Addr: c.Internal}, transport.Probe, transport.KeyFound, foundVersion)
			if err != nil {
				return nil, err
			}
			defer release()
			return slices.Clone(resp), nil
		},
		Report: func(d identity.Decision) {
			b.tell(event.Founding{Reason: d.Reason, Refused: d.Action == identity.Refused})
		},
	})
	if err != nil {
		return fmt.Errorf("join a cluster: %w", err)
	}
	b.tell(event.ClusterJoined{Cluster: b.dir.Node().Cluster})
	// Connections of the founding have no cluster id on one side.
	for _, m := range b.gossip.Members.Members() {
		b.peers.Forget(m.Broker)
	}
	return nil
}
