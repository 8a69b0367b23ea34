package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/bench/faults"
)

// faultsCommand runs a campaign of faults against real broker processes.
func faultsCommand() *cobra.Command {
	var o faults.Options
	cmd := &cobra.Command{
		Use:   "faults NEMESIS",
		Short: "break a cluster of real processes under load and check that nothing acknowledged is lost",
		Long:  "Nemeses:\n" + faults.Usage(),
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Nemesis, o.Out = args[0], cmd.ErrOrStderr()
			r, err := faults.Run(cmd.Context(), o)
			if r != nil {
				r.Print(cmd.OutOrStdout())
			}
			if err == nil && r.SkipReason != "" {
				err = errors.New("left out: nothing was shown")
			}
			if err == nil && !r.Valid() {
				err = errors.New("the campaign found an anomaly")
			}
			if err != nil {
				return fmt.Errorf("faults %s: %w", strings.Join(args, " "), err)
			}
			return nil
		},
	}
	cmd.AddCommand(plantedCommand(&o))
	f := cmd.PersistentFlags()
	f.Uint64Var(&o.Seed, "seed", 0, "seed of the schedule; 0: from the clock")
	f.DurationVar(&o.Duration, "duration", 30*time.Second, "how long faults are done, where --rounds does not say")
	f.IntVar(&o.Rounds, "rounds", 0, "number of faults")
	f.IntVar(&o.Brokers, "brokers", 3, "broker processes; some nemeses want 5")
	f.IntVar(&o.Partitions, "partitions", 3, "partitions of each of the two topics")
	f.IntVar(&o.RawClients, "raw-clients", 2, "one-attempt clients per partition")
	f.IntVar(&o.FranzClients, "franz-clients", 2, "franz-go clients, idempotent")
	f.Float64Var(&o.Rate, "rate", 25, "records per second of one client")
	f.IntVar(&o.RecordSize, "record-size", 4096, "largest value, bytes")
	f.BoolVar(&o.Loopback, "loopback", false, "no network namespaces")
	f.StringVar(&o.Binary, "broker-binary", "", "start this broker instead of building one")
	f.StringVar(&o.Tags, "tags", "", "build tags of the broker")
	f.StringVar(&o.Dir, "dir", "", "parent of the working directory")
	f.BoolVar(&o.Keep, "keep", false, "keep the working directory of a valid run too")
	f.StringVar(&o.LogLevel, "log-level", "info", "what the brokers log")
	f.DurationVar(&o.Recovery, "recovery", 30*time.Second, "how soon everything must work after the last fault")
	return cmd
}
