package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/event"
	"github.com/tailrace/tailrace/broker/replicate"
	"github.com/tailrace/tailrace/broker/transport"
	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/bugs"
	"github.com/tailrace/tailrace/internal/model"
)

// quorumVersion is the version of the private requests that carry the metadata
// quorum's own messages, which have versions of their own.
const quorumVersion = 0

var errNoAddress = errors.New("broker: no address known for this member of the quorum")

// quorumTransport carries the quorum's traffic between brokers
// (control.Transport).
type quorumTransport struct{ b *Broker }

// Send implements control.Transport.
func (q quorumTransport) Send(to uint64, messages [][]byte) {
	peer, ok := q.b.peerByRaftID(to)
	if !ok {
		return
	}
	for _, m := range messages {
		if !q.b.peers.Send(peer, transport.Raft, transport.KeyRaft, quorumVersion, m) {
			return // raft repeats what matters
		}
	}
}

// Call implements control.Transport. Heartbeats and evidence have a connection
// of their own, so that they never wait behind commands.
func (q quorumTransport) Call(ctx context.Context, to uint64, request []byte) ([]byte, error) {
	peer, ok := q.b.peerByRaftID(to)
	if !ok {
		return nil, errNoAddress
	}
	class := transport.Control
	if control.Prompt(request) {
		class = transport.Heartbeat
	}
	resp, release, err := q.b.peers.Call(ctx, peer, class, transport.KeyCommand, quorumVersion, request)
	if err != nil {
		return nil, err
	}
	defer release()
	return append([]byte(nil), resp...), nil
}

// peerByRaftID finds a member's address. Gossip knows where its process listens
// now; the image knows where it did when it registered last. Whoever answers at
// the address must prove to be that broker.
func (b *Broker) peerByRaftID(id uint64) (transport.To, bool) {
	if to, ok := b.gossip.byRaftID(id); ok {
		return to, true
	}
	for _, br := range b.node.Image().Brokers {
		if br.RaftID == id {
			return transport.To{ID: br.ID, Addr: br.Internal}, true
		}
	}
	return transport.To{}, false
}

// peerByID finds a registered broker's internal address.
func (b *Broker) peerByID(id model.BrokerID) (transport.To, bool) {
	br := b.node.Image().Brokers[id]
	if br == nil {
		return transport.To{}, false
	}
	if to, ok := b.gossip.byRaftID(br.RaftID); ok && to.ID == id {
		return to, true
	}
	return transport.To{ID: id, Addr: br.Internal}, true
}

// caller implements replicate.Caller.
type caller struct{ b *Broker }

// Call implements replicate.Caller.
func (c caller) Call(ctx context.Context, to model.BrokerID, class transport.Class, key, version int16, body []byte) ([]byte, func(), error) {
	peer, ok := c.b.peerByID(to)
	if !ok {
		return nil, nil, errNoAddress
	}
	return c.b.peers.Call(ctx, peer, class, key, version, body)
}

// errStarting is why a request of another broker is turned away before this one
// has opened its metadata; the other one tries again.
var errStarting = errors.New("broker: still starting")

// serveInternal registers what other brokers may ask. The listener is up before
// the metadata is, since founding needs it.
func (b *Broker) serveInternal(s *transport.Server) {
	handle := func(key, minVersion, maxVersion int16, f wire.HandlerFunc) {
		s.Handle(key, minVersion, maxVersion, func(r *wire.Request) {
			if !b.up.Load() {
				r.Close(errStarting)
				return
			}
			f(r)
		})
	}
	handle(transport.KeyRaft, quorumVersion, quorumVersion, func(r *wire.Request) {
		b.node.Receive([][]byte{append([]byte(nil), r.Body...)})
		r.NoReply()
	})
	handle(transport.KeyCommand, quorumVersion, quorumVersion, b.serveCommand)
	handle(transport.KeyDurable, replicate.DurableVersion, replicate.DurableVersion, b.serveDurable)
	handle(transport.KeyKick, 0, 0, func(r *wire.Request) {
		b.api.AnswerParked(r.Conn)
		transport.Reply(r)
	})
	handle(fetchKey, fetchVersion, fetchVersion, func(r *wire.Request) {
		peer, _ := transport.PeerOf(r.Conn)
		b.repl.HeardFrom(peer.Broker)
		b.api.Serve(r)
	})
}

// serveCommand has the quorum's member here decide or answer. It may wait for
// a commit; the connection's limit of requests in flight bounds how many do.
func (b *Broker) serveCommand(r *wire.Request) {
	body := append([]byte(nil), r.Body...)
	b.background(func() {
		ctx, cancel := context.WithTimeout(b.ctx, control.DefaultSubmitTimeout)
		defer cancel()
		transport.Reply(r, wire.Part{Bytes: b.node.Serve(ctx, body)})
	})
}

// serveDurable takes a follower's durable ends.
func (b *Broker) serveDurable(r *wire.Request) {
	peer, _ := transport.PeerOf(r.Conn)
	resp, err := b.repl.HandleDurable(peer.Broker, r.Body)
	if err != nil {
		r.Close(err)
		return
	}
	transport.Reply(r, wire.Part{Bytes: resp})
}

// Timing of probes after gossip lost sight of a broker or a connection broke.
const (
	probeTimeout = 300 * time.Millisecond
	probes       = 3
)

// suspects deduplicates probes.
type suspects struct {
	mu  sync.Mutex
	now map[model.BrokerID]bool
}

func (s *suspects) begin(id model.BrokerID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now[id] {
		return false
	}
	if s.now == nil {
		s.now = map[model.BrokerID]bool{}
	}
	s.now[id] = true
	return true
}

func (s *suspects) end(id model.BrokerID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.now, id)
}

// suspect probes a broker that gossip or a broken connection made doubtful. Only
// the outcome of the probe is evidence (I17).
func (b *Broker) suspect(id model.BrokerID) {
	if !b.up.Load() || id == b.o.ID || !b.suspects.begin(id) {
		return
	}
	b.background(func() {
		defer b.suspects.end(id)
		for range probes {
			if bugs.TrustGossip {
				break
			}
			to, ok := b.peerByID(id)
			if !ok {
				return
			}
			ctx, cancel := context.WithTimeout(b.ctx, probeTimeout)
			err := b.peers.Ping(ctx, to, transport.Probe)
			cancel()
			if err == nil {
				return
			}
			if b.ctx.Err() != nil {
				return
			}
		}
		b.evidence(id, control.EvidenceSilence)
	})
}

// refused is told by the transport that a host refused a connection: the
// process behind it is gone.
func (b *Broker) refused(to transport.To, class transport.Class) {
	b.tell(event.PeerRefused{Broker: to.ID, Addr: to.Addr, Class: class.String()})
	if !b.up.Load() || to.ID == model.NoBroker || !b.refusals.begin(to.ID) {
		return
	}
	b.background(func() {
		defer b.refusals.end(to.ID)
		if cur, ok := b.peerByID(to.ID); ok && cur.Addr == to.Addr {
			b.evidence(to.ID, control.EvidenceRefused)
		}
	})
}

// evidence tells the quorum what this broker saw of another one.
func (b *Broker) evidence(id model.BrokerID, e control.Evidence) {
	br := b.node.Image().Brokers[id]
	if br == nil {
		return
	}
	if e == control.EvidenceRefused {
		b.node.PeerDown(br.RaftID) // an election of the quorum need not wait for silence
	}
	if br.Fenced {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, control.DefaultSubmitTimeout)
	defer cancel()
	if err := b.node.Suspect(ctx, control.Suspicion{Broker: id, Incarnation: br.Incarnation, Evidence: e}); err != nil && b.ctx.Err() == nil {
		b.tell(event.Trouble{Operation: "deliver evidence", Broker: id, Err: err})
	}
}
