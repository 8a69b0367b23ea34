package member

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/rs/zerolog"
)

// Kind is the kind of an Event.
type Kind uint8

// The kinds of events.
const (
	Join    Kind = iota // a node appeared
	Leave               // a node is gone; Event.Graceful tells how
	Suspect             // a node does not answer probes; it may be found alive again without an event
	Update              // a node's metadata changed
	Resync              // events were lost: read Members again
)

var kindNames = []string{"join", "leave", "suspect", "update", "resync"}

// String returns the kind's name.
func (k Kind) String() string { return kindNames[k] }

// Event is a hint about a node other than this one.
type Event struct {
	Kind     Kind
	Meta     Meta
	Addr     string // of its gossip
	Graceful bool   // Leave: it said so first
}

// Options configure Start.
type Options struct {
	Meta Meta // Start is set by the package
	// Bind is the address for gossip, UDP and TCP; port 0 takes a free one.
	Bind string
	// Advertise is the address that others use, if not Bind.
	Advertise string
	// Join are addresses of other nodes. They may be down, or this node
	// itself; they are retried for ever.
	Join []string
	// Secret, when not empty, encrypts and authenticates gossip.
	Secret []byte
	Logger zerolog.Logger
	// OnEvent is called on one goroutine, without locks. It may block; events
	// that pile up meanwhile are lost in favour of one Resync.
	OnEvent func(Event)
	// OnForeign is told the cluster that every address of Join leads to while
	// this node is in another one and sees no member of its own. It is called
	// at each attempt to join, without locks. May be nil.
	OnForeign func(cluster string)
}

// Members is this node's place in gossip. Safe for concurrent use.
type Members struct {
	o      Options
	list   *memberlist.Memberlist
	meta   atomic.Pointer[Meta]
	events chan Event
	lost   atomic.Bool
	hints  *memberlist.TransmitLimitedQueue
	tried  chan struct{}   // closed after the first attempt to join
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu sync.Mutex // a leaf: memberlist's lock may be held, nothing is called under it
	// alive are the nodes that memberlist believes alive or suspects, by
	// name, this one included. memberlist's own list is no use: it hands out
	// pointers that it goes on writing to.
	alive map[string]Member
	// others is what Members returns, nil after a change. Never changed in place.
	others []Member
}

// maxEvents bounds the events that wait for OnEvent.
const maxEvents = 4096

// Start binds, and joins in the background.
func Start(o Options) (*Members, error) {
	o.Meta.Start = uint64(time.Now().UnixNano())
	if _, err := o.Meta.encode(); err != nil {
		return nil, err
	}
	m := &Members{o: o, events: make(chan Event, maxEvents), tried: make(chan struct{}), alive: make(map[string]Member)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.meta.Store(&o.Meta)
	c, err := m.config()
	if err != nil {
		return nil, err
	}
	// memberlist calls back before Create returns; the queue must be there.
	m.hints = &memberlist.TransmitLimitedQueue{NumNodes: m.size, RetransmitMult: c.RetransmitMult}
	if m.list, err = memberlist.Create(c); err != nil {
		return nil, fmt.Errorf("gossip on %s: %w", o.Bind, err)
	}
	m.wg.Go(m.dispatch)
	m.wg.Go(m.keepJoined)
	return m, nil
}

// config tunes memberlist to suspect a dead node in about a second on a local
// network, and to declare it dead in about two.
func (m *Members) config() (*memberlist.Config, error) {
	host, port, err := resolve(m.ctx, m.o.Bind)
	if err != nil {
		return nil, err
	}
	c := memberlist.DefaultLANConfig()
	c.Name = m.o.Meta.name()
	c.Label = "tailrace" // keeps other users of memberlist out
	c.BindAddr, c.BindPort, c.AdvertisePort = host, port, port
	if m.o.Advertise != "" {
		if c.AdvertiseAddr, c.AdvertisePort, err = resolve(m.ctx, m.o.Advertise); err != nil {
			return nil, err
		}
	}
	c.ProbeInterval, c.ProbeTimeout = 300*time.Millisecond, 200*time.Millisecond
	c.GossipInterval, c.TCPTimeout = 200*time.Millisecond, time.Second
	c.AwarenessMaxMultiplier = 4
	c.PushPullInterval, c.GossipToTheDeadTime = 15*time.Second, 10*time.Second
	c.EnableCompression = false // messages are small; nothing hostile to inflate
	if len(m.o.Secret) > 0 {
		if c.SecretKey, err = hkdf.Key(sha256.New, m.o.Secret, nil, "tailrace gossip key 1", 32); err != nil {
			return nil, err
		}
	}
	d := &delegate{m}
	c.Delegate, c.Events, c.Alive, c.Merge = d, d, d, d
	c.Logger = log.New(&logWriter{m}, "", 0)
	return c, nil
}

func splitAddr(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("gossip address: %w", err)
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("gossip address %q: want host:port", addr)
	}
	return host, port, nil
}

// resolve turns host:port into an IP address and a port: memberlist takes a
// name for "all interfaces".
func resolve(ctx context.Context, addr string) (ip string, port int, err error) {
	host, port, err := splitAddr(addr)
	switch {
	case err != nil || host == "" || net.ParseIP(host) != nil:
		return host, port, err
	case host == "localhost":
		return "127.0.0.1", port, nil
	}
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", 0, fmt.Errorf("gossip address %q: %w", addr, err)
	}
	return ips[0], port, nil
}

// Addr returns the gossip address with the port that was taken.
func (m *Members) Addr() string {
	n := m.list.LocalNode()
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

// Member is a node that gossip believes alive.
type Member struct {
	Meta
	Addr string // of its gossip
}

// Members returns the other nodes believed alive, of this cluster or of none
// yet, by broker id; of several processes of one broker, the newest. The list is
// shared: it is not to be changed.
func (m *Members) Members() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.others == nil {
		m.others = m.listOthers()
	}
	return m.others
}

// listOthers makes the list of others. Holds mu.
func (m *Members) listOthers() []Member {
	mine := m.meta.Load()
	all := slices.Collect(maps.Values(m.alive))
	all = slices.DeleteFunc(all, func(o Member) bool { return sameNode(mine, &o.Meta) || !compatible(mine.Cluster, o.Cluster) })
	slices.SortFunc(all, func(a, b Member) int {
		if a.Broker != b.Broker {
			return int(a.Broker) - int(b.Broker)
		}
		if c := slices.Compare(a.Storage[:], b.Storage[:]); c != 0 {
			return c
		}
		if a.Start > b.Start {
			return -1
		}
		return 1
	})
	return slices.CompactFunc(all, func(a, b Member) bool { return sameNode(&a.Meta, &b.Meta) })
}

// snapshot copies the nodes believed alive, this one included, in no order.
func (m *Members) snapshot() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.alive))
}

func (m *Members) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(1, len(m.alive))
}

func sameNode(a, b *Meta) bool { return a.Broker == b.Broker && a.Storage == b.Storage }

func compatible(mine, theirs string) bool { return mine == "" || theirs == "" || mine == theirs }

// SetCluster gossips the cluster id, once the node has one.
func (m *Members) SetCluster(id string) error {
	return m.update(time.Second, func(meta *Meta) { meta.Cluster = id })
}

// Leave says that the node stops on purpose, and waits until that is out or
// the timeout is over, twice. Close must follow.
func (m *Members) Leave(timeout time.Duration) error {
	err := m.update(timeout, func(meta *Meta) { meta.Leaving = true })
	return errors.Join(err, m.list.Leave(timeout))
}

func (m *Members) update(timeout time.Duration, edit func(*Meta)) error {
	meta := *m.meta.Load()
	edit(&meta)
	if _, err := meta.encode(); err != nil {
		return err
	}
	m.mu.Lock()
	m.meta.Store(&meta)
	m.others = nil // it leaves out whom the own cluster is not for
	m.mu.Unlock()
	if err := m.list.UpdateNode(timeout); err != nil {
		// Not heard in time by anybody; the next push-pull carries it.
		m.o.Logger.Debug().Err(err).Msg("gossip update")
	}
	return nil
}

// Close stops gossip. Without Leave, others find a failure.
func (m *Members) Close() error {
	m.cancel()
	err := m.list.Shutdown()
	m.wg.Wait()
	return err
}

// keepJoined joins the configured addresses that are not members, for ever:
// after a partition heals, too, nobody else would.
func (m *Members) keepJoined() {
	backoff := 100 * time.Millisecond
	for first := true; ; first = false {
		members := m.snapshot()
		missing := m.missing(members)
		foreign := m.join(missing)
		if first {
			close(m.tried)
		}
		if foreign != "" && len(members) == 1 && m.o.OnForeign != nil {
			m.o.OnForeign(foreign)
		}
		if len(members) > 1 && len(missing) == 0 {
			backoff = time.Second
		}
		select {
		case <-time.After(backoff):
		case <-m.ctx.Done():
			return
		}
		backoff = min(2*backoff, 5*time.Second)
	}
}

// join tries each address. If all of them lead to another cluster than this
// node's, it returns that cluster.
func (m *Members) join(addrs []string) (foreign string) {
	refused := 0
	for _, addr := range addrs {
		_, err := m.list.Join([]string{addr})
		if err == nil {
			continue
		}
		m.o.Logger.Debug().Err(err).Str("addr", addr).Msg("gossip join")
		// memberlist passes on the text of errors only.
		if found := foreignText.FindStringSubmatch(err.Error()); found != nil {
			refused, foreign = refused+1, found[1]
		}
	}
	if refused < len(addrs) {
		return ""
	}
	return foreign
}

// Tried is closed when every address of Join has been tried once.
func (m *Members) Tried() <-chan struct{} { return m.tried }

func (m *Members) missing(members []Member) []string {
	var missing []string
	for _, addr := range m.o.Join {
		if !slices.ContainsFunc(members, func(n Member) bool { return n.Addr == addr }) {
			missing = append(missing, addr)
		}
	}
	return missing
}

// post queues an event. memberlist calls it under its lock.
func (m *Members) post(e Event) {
	select {
	case m.events <- e:
	default:
		m.lost.Store(true)
	}
}

func (m *Members) dispatch() {
	for {
		select {
		case e := <-m.events:
			if m.o.OnEvent != nil && !m.outdated(e) {
				m.o.OnEvent(e)
			}
			if m.lost.CompareAndSwap(true, false) && m.o.OnEvent != nil {
				m.o.OnEvent(Event{Kind: Resync})
			}
		case <-m.ctx.Done():
			return
		}
	}
}

// outdated reports bad news about a process of a node whose next process is
// known alive: a restart is no failure.
func (m *Members) outdated(e Event) bool {
	if e.Kind != Leave && e.Kind != Suspect {
		return false
	}
	return slices.ContainsFunc(m.Members(), func(o Member) bool {
		return sameNode(&o.Meta, &e.Meta) && o.Start > e.Meta.Start
	})
}
