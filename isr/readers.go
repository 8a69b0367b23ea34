package isr

import (
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

const (
	redirectSlots = 64
	// A consumer that comes back for the same offset within bounceMax of
	// being sent to a follower was bounced; the pair is held down then.
	bounceMax = 2 * time.Second
	holdDown  = 10 * time.Second
)

// redirects remembers recently redirected consumers, in a ring.
type redirects struct {
	slots [redirectSlots]redirect
	next  int
}

type redirect struct {
	client uint64
	broker model.BrokerID
	offset int64
	at     time.Duration
	until  time.Duration // held down until
}

func (r *redirects) find(client uint64, b model.BrokerID) *redirect {
	for i := range r.slots {
		if r.slots[i].client == client && r.slots[i].broker == b {
			return &r.slots[i]
		}
	}
	return nil
}

// PreferredReplica chooses a follower for a consumer that reads at offset: one
// in the consumer's rack, whose log matches and whose known high watermark
// and reported durable end cover the offset, so that it has something to give
// and will not send the consumer back. NoBroker means: stay with the leader, also when the leader is
// in that rack itself. client identifies the consumer for the hold-down after a
// bounce; 0 is anonymous.
func (s *State) PreferredReplica(client uint64, rack string, offset int64, now time.Duration) model.BrokerID {
	if s.role != Leader || rack == "" || s.ownRack() == rack {
		return model.NoBroker
	}
	for i := range s.peers {
		p := &s.peers[i]
		if p.rack != rack || !p.eligible || !p.fetched || p.durable < offset || p.knownHW < offset || now-p.heardAt > HeardMax {
			continue
		}
		if s.redirect == nil {
			s.redirect = new(redirects)
		}
		if s.redirect.allow(client, p.broker, offset, now) {
			return p.broker
		}
	}
	return model.NoBroker
}

func (s *State) ownRack() string {
	for i := range s.meta.Replicas {
		if s.meta.Replicas[i].Broker == s.self {
			return s.meta.Replicas[i].Rack
		}
	}
	return ""
}

// allow records a redirect unless the pair is held down or has just bounced.
func (r *redirects) allow(client uint64, b model.BrokerID, offset int64, now time.Duration) bool {
	if client == 0 {
		return true
	}
	e := r.find(client, b)
	if e == nil {
		e = &r.slots[r.next]
		r.next = (r.next + 1) % redirectSlots
		*e = redirect{client: client, broker: b, offset: offset, at: now}
		return true
	}
	if now < e.until {
		return false
	}
	if e.offset == offset && now-e.at <= bounceMax {
		e.until = now + holdDown
		return false
	}
	e.offset, e.at = offset, now
	return true
}
