package broker

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/event"
	"github.com/tailrace/tailrace/broker/replicate"
	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
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
func (o output) Report(leader model.BrokerID, rs []*partition.Replica) { o.b.repl.Report(leader, rs) }

// Failed implements host.Output.
func (o output) Failed(tp model.TopicPartition, err error) {
	o.b.tell(event.ReplicaFailed{Topic: o.b.topicName(tp.Topic), Partition: tp.Partition, Err: err})
}

// submitter carries proposals to the controller (replicate.Submitter).
type submitter struct{ b *Broker }

// Submit implements replicate.Submitter.
func (s submitter) Submit(ctx context.Context, cmd control.Command) (control.Result, error) {
	return s.b.node.Submit(ctx, cmd)
}

// maintain does the storage's background work and watches the disk.
func (b *Broker) maintain() {
	b.watchController()
	if err := b.store.Maintain(b.o.Clock.Now()); err != nil {
		b.fail(err)
		return
	}
	free, total, err := b.store.FreeSpace()
	if err != nil {
		b.trouble("look for free disk space", err, true)
		return
	}
	reserve := b.o.DiskReserve
	if reserve == 0 {
		reserve = max(1<<30, total/50)
	}
	low := free < reserve
	switch changed := b.diskLow.Swap(low) != low; {
	case changed && low:
		b.tell(event.DiskLow{Free: free, Reserve: reserve})
	case changed:
		b.tell(event.DiskRecovered{Free: free, Reserve: reserve})
	}
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
