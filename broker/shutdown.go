package broker

import (
	"context"
	"time"

	"github.com/tailrace/tailrace/broker/event"
)

// Bounds of a graceful stop.
const (
	// drainTimeout is how long it waits for leaderships to move away.
	drainTimeout = 10 * time.Second
	// giveUp is how long there may be no quorum to move them.
	giveUp = 3 * time.Second
	// finishTimeout is how long requests in flight may take.
	finishTimeout = 2 * time.Second
	leaveTimeout  = 2 * time.Second
)

// Shutdown stops without harm to clients: leaderships move away first, requests
// in flight are answered, the controller and gossip hear of the stop, and only
// then everything closes. ctx bounds the waiting, not the stop.
func (b *Broker) Shutdown(ctx context.Context) {
	began := b.o.Clock.Elapsed()
	b.tell(event.NodeStopping{Reason: "asked to"})
	if err := b.drain(ctx); err != nil {
		b.trouble("move leaderships away", err, true)
	}
	b.finishRequests(ctx)
	b.leave(ctx)
	b.Close()
	b.tell(event.NodeStopped{Took: b.o.Clock.Elapsed() - began})
}

// drain moves leaderships away. Without a quorum nobody can take them, and
// there is no use in waiting long for one: it may be stopping as well.
func (b *Broker) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	b.background(func() {
		lost := b.o.Clock.Elapsed()
		every(ctx, 100*time.Millisecond, func() {
			if now := b.o.Clock.Elapsed(); b.LeaseValid() {
				lost = now
			} else if now-lost > giveUp {
				cancel()
			}
		})
	})
	return b.session.Drain(ctx)
}

// finishRequests stops reading from clients and waits until what was read is
// answered. Long polls are answered at once.
func (b *Broker) finishRequests(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, finishTimeout)
	defer cancel()
	b.background(func() { every(ctx, 20*time.Millisecond, b.api.AnswerAllParked) })
	if err := b.kafka.Shutdown(ctx); err != nil {
		b.trouble("answer requests in flight", err, false)
	}
}

// leave ends the session with the controller, and membership.
func (b *Broker) leave(ctx context.Context) {
	b.stopSession() // no heartbeat may follow the last one
	<-b.sessionDone
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if err := b.session.Leave(ctx); err != nil {
		b.trouble("tell the controller of the stop", err, false)
	}
	b.gossip.leave()
}
