package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
)

// Record is one record of a topic, as franz-go defines it: Topic, Partition,
// Offset, LeaderEpoch, Timestamp, Key, Value, Headers. A nil Value is a
// tombstone.
type Record = kgo.Record

// Header is one header of a record.
type Header = kgo.RecordHeader

// Options say how to reach a cluster.
type Options struct {
	// Seeds are host:port addresses of some brokers; the rest is discovered.
	Seeds []string
	// ClientID is what brokers log and account this client by. Default "tailrace".
	ClientID string
	// Rack is where this client runs, for the Nearest policy.
	Rack string
	// DialTimeout bounds one connection attempt. Default 3 s.
	DialTimeout time.Duration
	// TLS, if set, is used for every connection.
	TLS *tls.Config
	// SASL, if set, authenticates every connection.
	SASL sasl.Mechanism
	// Dialer replaces the network, for tests. It overrides TLS and DialTimeout.
	Dialer func(ctx context.Context, network, host string) (net.Conn, error)
	// Extra options go to every kgo.Client that this package makes.
	Extra []kgo.Opt
}

// Client is a handle on a cluster. It makes producers, consumers and an admin,
// each with connections of its own, so that a long poll of one never delays
// another.
type Client struct {
	options Options
	core    *kgo.Client // metadata, admin, offset lookups
	dials   *dialWatch
}

// New makes a client. It opens no connection: a cluster that is not there
// shows on the first call, which ctx of that call bounds. ctx only serves to
// refuse an ended context; use Ping to check reachability.
func New(ctx context.Context, o Options) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, wrap("connect", err)
	}
	if len(o.Seeds) == 0 {
		return nil, &Error{Op: "connect", Kind: ErrInvalid, Err: errors.New("no seed broker given: set Options.Seeds to host:port of one or more brokers")}
	}
	if o.ClientID == "" {
		o.ClientID = "tailrace"
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = 3 * time.Second
	}
	c := &Client{options: o, dials: &dialWatch{}}
	core, err := c.newCore()
	if err != nil {
		return nil, err
	}
	c.core = core
	return c, nil
}

// newCore makes a kgo client with the common options and then extra ones.
func (c *Client) newCore(extra ...kgo.Opt) (*kgo.Client, error) {
	o := c.options
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.Seeds...),
		kgo.ClientID(o.ClientID),
		kgo.WithHooks(c.dials),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.RetryBackoffFn(backoff),
		kgo.DisableClientMetrics(),
	}
	if o.Dialer != nil {
		opts = append(opts, kgo.Dialer(o.Dialer))
	} else {
		opts = append(opts, kgo.DialTimeout(o.DialTimeout))
		if o.TLS != nil {
			opts = append(opts, kgo.DialTLSConfig(o.TLS))
		}
	}
	if o.SASL != nil {
		opts = append(opts, kgo.SASL(o.SASL))
	}
	core, err := kgo.NewClient(append(append(opts, o.Extra...), extra...)...)
	if err != nil {
		return nil, &Error{Op: "connect", Kind: ErrInvalid, Err: err}
	}
	return core, nil
}

// backoff is the pause before try n (from 1): short at first, because a
// failover takes a fraction of a second, then up to 1 s.
func backoff(n int) time.Duration {
	d := 20 * time.Millisecond << min(n, 6)
	return min(d, time.Second)
}

// Ping returns nil as soon as one broker answers.
func (c *Client) Ping(ctx context.Context) error {
	return c.explain("ping", c.core.Ping(ctx))
}

// Close ends the client's own connections. Producers and consumers made from
// it have their own Close.
func (c *Client) Close() { c.core.Close() }

// explain wraps err; where time ran out and no broker could be reached, it
// says so with the last failure to connect, which is the useful part.
func (c *Client) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	if d := c.dials.failure.Load(); d != nil && kindOf(err) == ErrUnavailable {
		return &Error{Op: op, Kind: ErrUnavailable, Err: &dialError{addr: d.addr, cause: d.cause, err: err}}
	}
	return wrap(op, err)
}

// dialWatch remembers the last failure to connect since the last success.
type dialWatch struct{ failure atomic.Pointer[dialError] }

var _ kgo.HookBrokerConnect = (*dialWatch)(nil)

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (w *dialWatch) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err == nil {
		w.failure.Store(nil)
		return
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return // our own doing
	}
	w.failure.Store(&dialError{addr: net.JoinHostPort(meta.Host, fmt.Sprint(meta.Port)), cause: err})
}

// dialError names the broker that could not be reached.
type dialError struct {
	addr  string
	cause error // of the failed connection
	err   error // what the operation failed with
}

func (e *dialError) Error() string {
	cause := e.cause
	var op *net.OpError
	if errors.As(cause, &op) {
		cause = op.Err
	}
	var sys *os.SyscallError
	if errors.As(cause, &sys) {
		cause = sys.Err
	}
	return fmt.Sprintf("cannot reach %s: %v", e.addr, cause)
}

func (e *dialError) Unwrap() []error { return []error{e.cause, e.err} }
