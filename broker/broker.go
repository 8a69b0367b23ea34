// Package broker composes one node: storage, metadata quorum, replication, the
// Kafka listener, the internal listener, gossip and the web server.
package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/tailrace/tailrace/broker/api"
	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/event"
	"github.com/tailrace/tailrace/broker/host"
	"github.com/tailrace/tailrace/broker/identity"
	"github.com/tailrace/tailrace/broker/replicate"
	"github.com/tailrace/tailrace/broker/transport"
	"github.com/tailrace/tailrace/broker/web"
	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

// Options of a broker. Addresses are host:port; port 0 takes a free one.
type Options struct {
	ID       model.BrokerID
	Dir      string
	Kafka    string // listener for clients
	Internal string // listener for brokers
	Gossip   string
	HTTP     string // "" for none
	// Advertise is the host:port that clients are told; default: the Kafka
	// listener's address.
	Advertise string
	// AdvertiseInternal, AdvertiseGossip and AdvertiseHTTP are what other
	// brokers, gossip and browsers are told; default: the listener's address.
	AdvertiseInternal, AdvertiseGossip, AdvertiseHTTP string
	Rack                                              string
	Join                                              []string // gossip addresses
	// OnGossip is told the gossip address once it is bound. May be nil.
	OnGossip func(addr string)
	Expect   int // --bootstrap-expect
	Secret   []byte
	Insecure bool
	// DiskReserve is the free space, in bytes, below which produces are
	// refused; 0 means max(1 GiB, 2 %).
	DiskReserve     int64
	MaxRequestBytes int32
	// MaxConnections and MaxConnectionsPerIP bound the Kafka listener.
	MaxConnections, MaxConnectionsPerIP int
	MaxInFlight                         int   // requests of one connection
	RequestMemory                       int64 // bytes of requests in flight
	IdleTimeout                         time.Duration
	CacheBytes                          int64 // of recent batches
	// ScrubBytes is how much of the segments is verified each second (default
	// 4 MiB, negative: none), and ScrubPeriod the least time between the
	// beginnings of two passes over all of them (default 1 h).
	ScrubBytes  int64
	ScrubPeriod time.Duration
	Version     string

	FS     segment.FS // default: the operating system's
	Clock  clock.Clock
	Logger zerolog.Logger
	// Events, when not nil, is told of every event beside the log.
	Events event.Listener
}

func (o *Options) defaults() {
	if o.Clock == nil {
		o.Clock = clock.NewReal()
	}
	if o.ScrubBytes == 0 {
		o.ScrubBytes = 4 << 20
	}
	if o.ScrubPeriod == 0 {
		o.ScrubPeriod = time.Hour
	}
	if o.Version == "" {
		o.Version = "dev"
	}
}

// Broker is a running node.
type Broker struct {
	o      Options
	events event.Listener

	ctx    context.Context // ends when the broker stops
	cancel context.CancelFunc
	wg     sync.WaitGroup
	fatal  chan error // the first error that the process must exit for

	kafkaListener, internalListener, httpListener net.Listener

	dir      *identity.Dir
	store    *segment.Store
	gossip   *gossip
	peers    *transport.Peers
	internal *transport.Server
	node     *control.Node
	up       atomic.Bool // everything below join is set: other brokers are served
	session  *control.Session
	host     *host.Host
	repl     *replicate.Manager
	syncer   *syncer
	applier  *applier
	api      *api.Server
	kafka    *wire.Server
	web      *web.Server
	tailer   *web.KafkaTailer
	metrics  *metrics

	producerIDs producerIDs
	suspects    suspects
	refusals    suspects
	diskLow     atomic.Bool
	controller  atomic.Int32 // last known; NoBroker at first
	repair      *repairer
	scrubber    scrubber
	contacts    partition.Contacts
	fetches     partition.Contacts
	identity    atomic.Pointer[transport.Identity]
	stopSession context.CancelFunc
	sessionDone chan struct{}
	closeOnce   sync.Once
}

// KafkaAddr is the address of the Kafka listener.
func (b *Broker) KafkaAddr() string { return b.kafkaListener.Addr().String() }

// HTTPURL is the address of the console, "" without one.
func (b *Broker) HTTPURL() string {
	if b.httpListener == nil {
		return ""
	}
	return b.httpURL()
}

// background runs f on a goroutine that Close waits for.
func (b *Broker) background(f func()) { b.wg.Go(f) }

// fail records the first error that the process must exit for.
func (b *Broker) fail(err error) {
	select {
	case b.fatal <- err:
		b.tell(event.Fatal{Err: err})
	default:
	}
}

// Fatal delivers the error for which the process must exit, at most one.
func (b *Broker) Fatal() <-chan error { return b.fatal }

// Start opens the data directory, binds the listeners and begins. It returns
// when the broker belongs to a cluster and accepts clients; a broker that waits
// for others to found a cluster keeps waiting until ctx ends. Errors are one
// line and say what to do.
func Start(ctx context.Context, o Options) (*Broker, error) {
	o.defaults()
	b := newBroker(o)
	began := o.Clock.Elapsed()
	err := CheckPorts(o)
	if err == nil {
		err = b.open()
	}
	if err == nil {
		err = b.bind()
	}
	if err == nil {
		err = b.join(ctx)
	}
	if err == nil {
		err = b.run()
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	b.started(o.Clock.Elapsed() - began)
	return b, nil
}

func newBroker(o Options) *Broker {
	b := &Broker{o: o, fatal: make(chan error, 1)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.metrics = newMetrics(b)
	b.events = event.Tee(event.NewLog(o.Logger, o.Clock), event.NewMetrics(b.metrics.registry))
	if o.Events != nil {
		b.events = event.Tee(b.events, o.Events)
	}
	b.repair = newRepairer(b)
	return b
}

func (b *Broker) started(took time.Duration) {
	b.tell(event.NodeStarted{
		Cluster: b.dir.Node().Cluster, Version: b.o.Version, Dir: b.o.Dir, Kafka: b.KafkaAddr(),
		Internal: b.internalListener.Addr().String(), Gossip: b.gossip.Addr(), HTTP: b.HTTPURL(), Took: took,
	})
}

// open takes the data directory.
func (b *Broker) open() error {
	dir, err := identity.Open(identity.Options{Dir: b.o.Dir, Broker: b.o.ID})
	if err != nil {
		return err
	}
	b.dir = dir
	store, err := segment.Open(segment.Options{
		Dir: b.o.Dir, FS: b.o.FS, CacheBytes: b.o.CacheBytes, Clock: b.o.Clock, MustExist: dir.Node().Initialised, OnEvent: b.storageEvent,
	})
	if err != nil {
		return &openError{dir: b.o.Dir, err: err}
	}
	b.store = store
	return dir.MarkInitialised()
}

// openError is why a data directory cannot be used.
type openError struct {
	dir string
	err error
}

// Error is one line and says what to do.
func (e *openError) Error() string {
	why := strings.Join(strings.FieldsFunc(e.err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	return fmt.Sprintf("data directory %s cannot be opened: %s: restore it, or move it away to start this broker as a new, empty one", e.dir, why)
}

// Unwrap returns the cause.
func (e *openError) Unwrap() error { return e.err }

// bind takes every port before anything is told to anybody.
func (b *Broker) bind() (err error) {
	for _, l := range []struct {
		setting, addr string
		to            *net.Listener
	}{{"kafka", b.o.Kafka, &b.kafkaListener}, {"internal", b.o.Internal, &b.internalListener}, {"http", b.o.HTTP, &b.httpListener}} {
		if l.addr == "" && l.setting == "http" {
			continue
		}
		if *l.to, err = net.Listen("tcp", l.addr); err != nil {
			return &PortError{Setting: l.setting, Addr: l.addr, Err: err}
		}
	}
	return nil
}

// setIdentity publishes who this broker is, for new connections.
func (b *Broker) setIdentity(inc model.Incarnation) {
	n := b.dir.Node()
	b.identity.Store(&transport.Identity{ClusterID: n.Cluster, Broker: b.o.ID, Storage: n.Storage, Incarnation: inc})
}

// join starts the internal listener and gossip, and founds or joins a cluster.
func (b *Broker) join(ctx context.Context) error {
	b.setIdentity(0)
	who := func() transport.Identity { return *b.identity.Load() }
	cred := transport.Credentials{Secret: b.o.Secret, Insecure: b.o.Insecure}
	b.peers = transport.NewPeers(transport.PeersOptions{
		Identity: who, Credentials: cred, OnRefused: b.refused,
		OnUp: b.peerUp, OnDown: b.peerDown,
	})
	b.internal = transport.NewServer(transport.ServerOptions{
		Identity: who, Credentials: cred,
		Wire: wire.Options{MaxInFlight: 1024, MaxConnections: 4096, Flexible: wire.KafkaFlexible,
			OnClose: b.closed, OnRefuse: b.refusedConn("internal")},
	})
	b.serveFounding(b.internal)
	b.serveInternal(b.internal)
	b.background(func() { b.internal.Serve(b.internalListener) })
	var err error
	if b.gossip, err = startGossip(b); err != nil {
		return fmt.Errorf("--gossip %s: %w", b.o.Gossip, err)
	}
	if b.o.OnGossip != nil {
		b.o.OnGossip(b.gossip.Addr())
	}
	if err := b.found(ctx); err != nil {
		return err
	}
	b.setIdentity(0)
	return b.gossip.SetCluster(b.dir.Node().Cluster)
}

// run starts everything that needs the cluster id.
func (b *Broker) run() error {
	b.repl = replicate.New(replicate.Options{
		Self: b.o.ID, Caller: caller{b}, Submitter: submitter{b}, Clock: b.o.Clock,
		Contacts: &b.contacts, Fetches: &b.fetches, OnError: b.replicationError,
	})
	b.host = host.New(host.Options{
		Self: b.o.ID, Store: b.store, Clock: b.o.Clock, Output: output{b},
		LeaseValid: b.LeaseValid, Contacts: &b.contacts, Fetches: &b.fetches, View: b.view,
	})
	b.syncer = newSyncer(b.host.Commit, b.fail)
	b.repl.Start(b.host)
	if err := b.startQuorum(); err != nil {
		return err
	}
	b.api = api.New(b, api.Options{})
	b.background(func() { b.syncer.run(b.ctx) })
	b.background(func() { b.applier.run(b.ctx) })
	b.background(func() { onDemand(b.ctx, tickEvery, b.host.Awake(), b.host.Tick) })
	b.background(func() { every(b.ctx, maintainEvery, b.maintain) })
	b.background(func() { every(b.ctx, scrubEvery, b.scrub) })
	b.background(func() { b.repair.run(b.ctx) })
	b.node.Start()
	b.up.Store(true)
	sctx, stop := context.WithCancel(b.ctx)
	b.stopSession, b.sessionDone = stop, make(chan struct{})
	b.background(func() {
		defer close(b.sessionDone)
		if err := b.session.Run(sctx); sctx.Err() == nil && !errors.Is(err, control.ErrStopped) {
			b.fail(fmt.Errorf("session with the controller: %w", err))
		}
	})
	b.kafka = wire.NewServer(b.api, wire.Options{
		Listener: "PLAINTEXT", MaxRequestBytes: b.o.MaxRequestBytes, MaxConnections: b.o.MaxConnections,
		MaxConnectionsPerIP: b.o.MaxConnectionsPerIP, MaxInFlight: b.o.MaxInFlight, IdleTimeout: b.o.IdleTimeout,
		Budget: budget(b.o.RequestMemory), OnClose: b.closed, OnRefuse: b.refusedConn("PLAINTEXT"),
	})
	b.background(func() { b.kafka.Serve(b.kafkaListener) })
	return b.startWeb()
}

// startQuorum opens the metadata, makes replicas of what is on disk, and
// prepares the session.
func (b *Broker) startQuorum() error {
	n := b.dir.Node()
	var voters []uint64
	for _, f := range n.Founders {
		voters = append(voters, control.RaftIDFor(f.Storage))
	}
	node, err := control.NewNode(control.Options{
		CoreOptions: control.CoreOptions{
			RaftID: control.RaftIDFor(n.Storage), KV: b.store.KV(), Prefix: []byte("raft/"), Voters: voters, ClusterID: n.Cluster,
		},
		Transport: quorumTransport{b}, Clock: b.o.Clock, Peers: b.gossip.raftIDs, Fatal: b.fail,
	})
	if err != nil {
		return fmt.Errorf("open metadata: %w", err)
	}
	b.node = node
	if err := b.host.Recover(node.Image()); err != nil {
		return err
	}
	b.applier = newApplier(node.Image().Index, b.host.ApplyUpdate, b.afterApply, b.fail)
	b.controller.Store(int32(model.NoBroker))
	node.Subscribe(b.applier.add)
	httpURL := ""
	if b.httpListener != nil {
		httpURL = b.httpURL()
	}
	kafkaHost, kafkaPort, err := splitHostPort(b.advertised())
	if err != nil {
		return fmt.Errorf("--advertise %s: %w", b.o.Advertise, err)
	}
	b.session = control.NewSession(control.SessionOptions{
		Node: node, Clock: b.o.Clock, Report: b.host.Reports, Applied: b.applier.applied,
		Register: control.RegisterBroker{
			Broker: b.o.ID, Storage: n.Storage, RaftID: control.RaftIDFor(n.Storage), Rack: b.o.Rack,
			KafkaHost: kafkaHost, KafkaPort: kafkaPort, Internal: b.internalAddr(),
			HTTP: httpURL, Version: b.o.Version, ClusterID: n.Cluster, MaxFeature: control.MaxFeatureLevel,
		},
		OnRegistered: func(i model.Incarnation) {
			b.setIdentity(i)
			b.host.Register(i)
			b.tell(event.Registered{Incarnation: i})
		},
		OnRefused: func(err error) { b.trouble("register", err, true) },
	})
	return nil
}

// afterApply reports what changed, and asks for admission as soon as this
// broker caught up.
func (b *Broker) afterApply(u control.Update) {
	b.metadataEvents(u)
	b.retrust(u)
	if s := b.session.State(); s.Incarnation != 0 && s.Fenced {
		b.session.Kick()
	}
}

// Done is closed when the broker stops.
func (b *Broker) Done() <-chan struct{} { return b.ctx.Done() }

// Ready returns nil when this broker serves clients, and otherwise why not.
func (b *Broker) Ready() error {
	switch s := b.session.State(); {
	case b.store.Poisoned() != nil:
		return b.store.Poisoned()
	case s.Incarnation == 0:
		return errors.New("not registered with the controller")
	case s.Fenced:
		return errors.New("fenced: not yet admitted by the controller")
	case !b.LeaseValid():
		return errors.New("no contact with the metadata quorum")
	}
	return nil
}

// Close stops at once. What is not durable yet is lost as in a crash, which
// costs nothing that was acknowledged.
func (b *Broker) Close() { b.closeOnce.Do(b.close) }

func (b *Broker) close() {
	b.cancel()
	for _, l := range []net.Listener{b.kafkaListener, b.internalListener, b.httpListener} {
		if l != nil {
			l.Close()
		}
	}
	b.closeWeb()
	if b.kafka != nil {
		b.kafka.Close()
	}
	if b.internal != nil {
		b.internal.Close()
	}
	if b.api != nil {
		b.api.Close()
	}
	if b.repl != nil {
		b.repl.Close()
	}
	if b.peers != nil {
		b.peers.Close()
	}
	if b.gossip != nil {
		b.gossip.close()
	}
	if b.node != nil && b.up.Load() {
		b.node.Close()
	}
	b.wg.Wait()
	if b.host != nil {
		b.host.Close()
	}
	if b.store != nil {
		if err := b.store.Close(); err != nil {
			b.trouble("close the data directory", err, true)
		}
	}
	if b.dir != nil {
		b.dir.Close()
	}
}
