package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tailrace/tailrace/broker/dev"
	"github.com/tailrace/tailrace/broker/event"
)

func devCommand() *cobra.Command {
	var o dev.Options
	var level string
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a replicated cluster in this process, on loopback, to try it out", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Brokers < 1 || o.Brokers > 9 {
				return usageError{fmt.Errorf("--brokers %d: want 1 to 9", o.Brokers)}
			}
			log, err := event.NewLogger(os.Stderr, "auto", level, 0)
			if err != nil {
				return usageError{err}
			}
			o.Logger, o.Version = log, version()
			return runDev(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Brokers, "brokers", 3, "number of brokers, with ids from 1")
	f.StringVar(&o.Dir, "dir", "tailrace-dev", "directory for the data; a restart keeps it")
	f.IntVar(&o.KafkaPort, "kafka-port", 9092, "Kafka port of broker 1; the n-th takes the n-1 following one")
	f.IntVar(&o.HTTPPort, "http-port", 8080, "port of the console")
	f.StringVar(&level, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

func runDev(ctx context.Context, o dev.Options, out io.Writer) error {
	c, err := dev.Start(ctx, o)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer c.Close()
	greet(out, c, o)
	select {
	case err := <-c.Fatal():
		return fmt.Errorf("fatal: %w", err)
	case <-ctx.Done():
		fmt.Fprintln(out, "\nstopping; the data stays in", o.Dir)
		return nil
	}
}

// greet says what runs and what to try next.
func greet(out io.Writer, c *dev.Cluster, o dev.Options) {
	kafka := c.Kafka()
	_, port, _ := net.SplitHostPort(kafka[0])
	b := "127.0.0.1:" + port
	fmt.Fprintf(out, `Tailrace: %d brokers in one process, data in %s

  Kafka    %s
  console  %s

Try, in another terminal:

  go run ./cmd/logctl -b %s topic create hello --partitions 3
  echo 'first record' | go run ./cmd/logctl -b %s produce hello
  go run ./cmd/logctl -b %s consume hello --from earliest

or any Kafka client with bootstrap servers %s. Ctrl-C stops; a restart keeps the data.
`, len(kafka), o.Dir, strings.Join(kafka, "  "), c.Brokers[0].HTTPURL(), b, b, b, b)
}
