// Package dev runs a whole cluster in one process on loopback, for trying it
// out and for tests.
package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/tailrace/tailrace/broker"
	"github.com/tailrace/tailrace/internal/model"
)

// Options of a cluster. Ports of 0 are free ones.
type Options struct {
	Brokers   int    // ids 1…Brokers
	Dir       string // one directory a broker below it
	KafkaPort int    // of broker 1; the n-th takes KafkaPort+n-1
	HTTPPort  int    // of broker 1; the others take free ones
	Version   string
	Logger    zerolog.Logger
	// Tune changes the options of a broker, by id. May be nil.
	Tune func(id int, o *broker.Options)
}

// Cluster is a running cluster.
type Cluster struct {
	Brokers []*broker.Broker // by id-1
}

// Start starts the brokers and returns when all serve clients.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if err := o.checkPorts(); err != nil {
		return nil, err
	}
	c := &Cluster{Brokers: make([]*broker.Broker, o.Brokers)}
	first := make(chan string, 1) // gossip address of broker 1
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, o.Brokers)
	for i := range o.Brokers {
		wg.Go(func() {
			bo := o.broker(i + 1)
			if i == 0 {
				bo.OnGossip = func(addr string) { first <- addr }
			} else {
				select {
				case addr := <-first:
					first <- addr
					bo.Join = []string{addr}
				case <-ctx.Done():
					errs[i] = ctx.Err()
					return
				}
			}
			if o.Tune != nil {
				o.Tune(i+1, &bo)
			}
			if c.Brokers[i], errs[i] = broker.Start(ctx, bo); errs[i] != nil {
				cancel() // the others would wait for it for ever
			}
		})
	}
	wg.Wait()
	err := firstReal(errs)
	if err == nil {
		err = c.ready(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// ready returns when every broker was admitted by the controller.
func (c *Cluster) ready(ctx context.Context) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for _, b := range c.Brokers {
		for err := b.Ready(); err != nil; err = b.Ready() {
			select {
			case <-ctx.Done():
				return fmt.Errorf("a broker is not ready: %w", err)
			case <-t.C:
			}
		}
	}
	return nil
}

// checkPorts names the flags of dev, before any broker makes a directory.
func (o *Options) checkPorts() error {
	for id := range o.Brokers {
		err := broker.CheckPorts(o.broker(id + 1))
		taken := new(broker.PortError)
		if !errors.As(err, &taken) {
			continue
		}
		flag, port := "--kafka-port", o.KafkaPort
		if taken.Setting == "http" {
			flag, port = "--http-port", o.HTTPPort
		}
		return fmt.Errorf("%s: %w; is another one running? stop it, or choose another port than %s %d", taken.Addr, taken.Cause(), flag, port)
	}
	return nil
}

// firstReal prefers an error that is not the echo of another one's.
func firstReal(errs []error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

func (o *Options) broker(id int) broker.Options {
	port := func(base, add int) string {
		if base == 0 {
			return "127.0.0.1:0"
		}
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(base+add))
	}
	http := "127.0.0.1:0"
	if id == 1 {
		http = port(o.HTTPPort, 0)
	}
	return broker.Options{
		ID: model.BrokerID(id), Dir: filepath.Join(o.Dir, fmt.Sprintf("broker-%d", id)), Expect: o.Brokers,
		Kafka: port(o.KafkaPort, id-1), Internal: "127.0.0.1:0", Gossip: "127.0.0.1:0", HTTP: http,
		Rack: fmt.Sprintf("rack-%d", id), Version: o.Version,
		Logger: o.Logger.With().Int("broker", id).Logger(),
	}
}

// Kafka lists the Kafka addresses.
func (c *Cluster) Kafka() []string {
	var out []string
	for _, b := range c.Brokers {
		out = append(out, b.KafkaAddr())
	}
	return out
}

// Fatal delivers the first error for which the process must exit.
func (c *Cluster) Fatal() <-chan error {
	out := make(chan error, len(c.Brokers))
	for _, b := range c.Brokers {
		go func() {
			select {
			case err := <-b.Fatal():
				out <- err
			case <-b.Done():
			}
		}()
	}
	return out
}

// Close stops all brokers at once: there is nobody to move leaderships to, and
// what was acknowledged is durable.
func (c *Cluster) Close() {
	var wg sync.WaitGroup
	for _, b := range c.Brokers {
		if b != nil {
			wg.Go(b.Close)
		}
	}
	wg.Wait()
}
