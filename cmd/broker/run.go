package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tailrace/tailrace/broker"
	"github.com/tailrace/tailrace/broker/config"
	"github.com/tailrace/tailrace/broker/event"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
)

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "run", Short: "Run one broker of a cluster", Args: cobra.NoArgs,
		Long: "Run one broker. Settings come from flags, TAILRACE_… in the environment, or a YAML file\n(--config), the former over the latter. The same command line serves every restart.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(cmd.Flags())
			if err != nil {
				return usageError{err}
			}
			return runBroker(cmd.Context(), c)
		},
	}
	config.AddFlags(cmd.Flags())
	return cmd
}

func runBroker(ctx context.Context, c *config.Node) error {
	log, err := event.NewLogger(os.Stderr, c.LogFormat, c.LogLevel, c.ID)
	if err != nil {
		return usageError{err}
	}
	secret, err := c.Secret()
	if err != nil {
		return err
	}
	o := broker.Options{
		ID: model.BrokerID(c.ID), Dir: c.Dir, Kafka: c.Kafka, Internal: c.Internal, Gossip: c.Gossip,
		Advertise: c.Advertise, AdvertiseInternal: c.AdvertiseInternal, AdvertiseGossip: c.AdvertiseGossip, AdvertiseHTTP: c.AdvertiseHTTP,
		Rack: c.Rack, Join: c.Join, Expect: c.BootstrapExpect, Secret: secret, Insecure: c.Insecure,
		DiskReserve: c.DiskReserve, MaxRequestBytes: int32(c.MaxRequestBytes), RequestMemory: c.RequestMemory, MaxInFlight: c.MaxInFlight,
		MaxConnections: c.MaxConnections, MaxConnectionsPerIP: c.MaxConnectionsPerIP, IdleTimeout: c.IdleTimeout,
		CacheBytes: c.CacheBytes, ScrubBytes: c.ScrubBytes, ScrubPeriod: c.ScrubPeriod, Version: version(), Logger: log,
	}
	if o.Clock, err = skewedClock(os.Getenv(clockOffset)); err != nil {
		return usageError{err}
	}
	if c.ScrubBytes == 0 {
		o.ScrubBytes = -1
	}
	if c.HTTPOn() {
		o.HTTP = c.HTTP
	}
	b, err := broker.Start(ctx, o)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped while it waited for the others
		}
		return err
	}
	log.Info().Str("kafka", b.KafkaAddr()).Str("console", b.HTTPURL()).Msg("serving")
	select {
	case err := <-b.Fatal():
		b.Close()
		return fmt.Errorf("fatal: %w", err)
	case <-ctx.Done():
	}
	sctx, cancel := context.WithTimeout(context.Background(), c.ShutdownTimeout)
	defer cancel()
	b.Shutdown(sctx)
	log.Info().Msg("stopped")
	return nil
}

// clockOffset is a hook for tests: a duration that is added to this broker's
// wall clock. Nothing that safety rests on may depend on it.
const clockOffset = "TAILRACE_CLOCK_OFFSET"

func skewedClock(offset string) (clock.Clock, error) {
	c := clock.NewReal()
	if offset == "" {
		return c, nil
	}
	d, err := time.ParseDuration(offset)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clockOffset, err)
	}
	c.Offset = d
	return c, nil
}
