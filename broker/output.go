package broker

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/replicate"
	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	fetchKey     = int16(kmsg.Fetch)
	fetchVersion = replicate.FetchVersion
)

// output routes what replicas ask for (host.Output).
type output struct{ b *Broker }

// Dirty implements host.Output.
func (o output) Dirty() { o.b.syncer.Dirty() }

// Propose implements host.Output.
func (o output) Propose(tp model.TopicPartition, p isr.Proposal) { o.b.repl.Propose(tp, p) }

// Following implements host.Output.
func (o output) Following(r *partition.Replica, from, to model.BrokerID) {
	o.b.repl.Following(r, from, to)
}

// Report implements host.Output.
func (o output) Report(r *partition.Replica, leader model.BrokerID) { o.b.repl.Report(r, leader) }

// Failed implements host.Output.
func (o output) Failed(tp model.TopicPartition, err error) {
	o.b.log.Error().Err(err).Str("event", "replica_failed").Stringer("partition", tp).Msg("replica is offline")
}

// submitter carries proposals to the controller (replicate.Submitter).
type submitter struct{ b *Broker }

// Submit implements replicate.Submitter.
func (s submitter) Submit(ctx context.Context, cmd control.Command) (control.Result, error) {
	return s.b.node.Submit(ctx, cmd)
}

// maintain does the storage's background work and watches the disk.
func (b *Broker) maintain() {
	if err := b.store.Maintain(b.o.Clock.Now()); err != nil {
		b.fail(err)
		return
	}
	free, total, err := b.store.FreeSpace()
	if err != nil {
		b.log.Warn().Err(err).Msg("free disk space is unknown")
		return
	}
	reserve := b.o.DiskReserve
	if reserve == 0 {
		reserve = max(1<<30, total/50)
	}
	if low := free < reserve; b.diskLow.Swap(low) != low {
		b.log.Warn().Str("event", "disk_low").Bool("low", low).Int64("free", free).Int64("reserve", reserve).
			Msg("produces are refused below the disk reserve")
	}
}

// storageEvent logs what the data directory reports.
func (b *Broker) storageEvent(e segment.Event) {
	ev := b.log.Warn()
	switch e.Kind {
	case segment.EventPoisoned, segment.EventDamaged, segment.EventMissing:
		ev = b.log.Error()
	case segment.EventCatalog, segment.EventRepaired:
		ev = b.log.Debug()
	}
	b.metrics.storage(e)
	ev.Str("event", "storage_"+e.Kind.String()).Stringer("partition", e.TP).Str("file", e.File).Int64("position", e.Pos).
		Int64("from", e.Offsets.From).Int64("to", e.Offsets.To).Err(e.Err).Send()
}

// replicationError logs a failed call to another broker. Loops repeat what
// failed, so this is news only at debug level.
func (b *Broker) replicationError(peer model.BrokerID, what string, err error) {
	b.log.Debug().Err(err).Int32("peer", int32(peer)).Msg(what)
}

// closed logs why a connection ended unless that is ordinary.
func (b *Broker) closed(c *wire.Conn, reason error) {
	switch reason {
	case wire.ErrPeerClosed, wire.ErrIdle, wire.ErrServerClosed, nil:
		return
	}
	if _, ok := reason.(net.Error); ok {
		return
	}
	b.log.Info().Str("event", "connection_closed").Str("listener", c.Listener).Str("remote", c.RemoteAddr).Err(reason).Send()
}

func (b *Broker) refusedConn(remote string, reason error) {
	b.log.Warn().Str("event", "connection_refused").Str("remote", remote).Err(reason).Send()
}

// advertised is the host:port that clients are told.
func (b *Broker) advertised() string {
	if b.o.Advertise != "" {
		return b.o.Advertise
	}
	return b.kafkaListener.Addr().String()
}

// internalAddr is the address that other brokers are told.
func (b *Broker) internalAddr() string {
	if b.o.AdvertiseInternal != "" {
		return b.o.AdvertiseInternal
	}
	return b.internalListener.Addr().String()
}

// httpURL is the console's address as browsers are told it.
func (b *Broker) httpURL() string {
	if b.o.AdvertiseHTTP != "" {
		return "http://" + b.o.AdvertiseHTTP
	}
	return "http://" + b.httpListener.Addr().String()
}

// budget bounds requests in flight; 0 leaves it to the server's default.
func budget(size int64) *wire.Budget {
	if size <= 0 {
		return nil
	}
	return wire.NewBudget(size)
}

func splitHostPort(addr string) (string, int32, error) {
	h, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	return h, int32(n), err
}

// shutdownWeb bounds how long open tails may take to hear of the stop.
const shutdownWeb = time.Second
