package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/bench/limit"
	"github.com/tailrace/tailrace/bench/report"
	"github.com/tailrace/tailrace/bench/workload"
)

// limitCommand measures the two floor programs alone: what this machine and
// this client allow.
func limitCommand() *cobra.Command {
	p := commonParams()
	var o options
	var name string
	cmd := &cobra.Command{
		Use:   "limit",
		Short: "the machine's floor: a bare pipeline that writes, syncs, replicates and acknowledges, and a broker that does nothing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, w := range workload.All() {
				if w.Name == name && (name == "produce" || name == "latency") {
					return measure(cmd.Context(), cmd.OutOrStdout(), w, p, o, []string{"limit", "null"})
				}
			}
			return fmt.Errorf("the floor programs serve produce and latency, not %q", name)
		},
	}
	cmd.Flags().StringVar(&name, "workload", "produce", "produce or latency")
	paramFlags(cmd.Flags(), &p)
	cmd.Flags().IntVar(&o.cluster.InSync, "limit-insync", 0, "copies before the acknowledgement; 0: all")
	fillFlag(cmd.Flags(), &o.fill)
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "no progress")
	outputFlags(cmd.Flags(), &o.outputs)
	cmd.PreRun = func(cmd *cobra.Command, _ []string) { // the workload's own defaults, where no flag says otherwise
		if name == "latency" {
			for flag, v := range map[string]string{"rate": "5000", "linger": "0s", "producers": "1", "consumers": "1"} {
				if !cmd.Flags().Changed(flag) {
					_ = cmd.Flags().Set(flag, v)
				}
			}
		}
	}
	return cmd
}

// limitNodeCommand is one process of the limit program.
func limitNodeCommand() *cobra.Command {
	var cfg limit.NodeConfig
	var kafka, repl string
	cmd := &cobra.Command{
		Use:    "limit-node",
		Short:  "one process of the limit program (started by the others)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg.Kafka, cfg.Repl = strings.Split(kafka, ","), strings.Split(repl, ",")
			n, err := limit.StartNode(cfg)
			if err != nil {
				return err
			}
			waitForSignal()
			return n.Close()
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.ID, "id", 0, "which of the addresses is this node")
	f.StringVar(&kafka, "kafka", "", "client addresses of all nodes, comma separated")
	f.StringVar(&repl, "repl", "", "replication addresses of all nodes")
	f.IntVar(&cfg.InSync, "in-sync", 3, "copies before the acknowledgement")
	f.StringVar(&cfg.Dir, "dir", "", "directory for the node's files, removed at the end")
	return cmd
}

// nullNodeCommand is the null broker.
func nullNodeCommand() *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:    "null-node",
		Short:  "the null broker (started by the others)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := limit.StartNull(addr)
			if err != nil {
				return err
			}
			waitForSignal()
			return s.Close()
		},
	}
	cmd.Flags().StringVar(&addr, "kafka", "127.0.0.1:0", "client address")
	return cmd
}

// sendfileNodeCommand is one process of the sendfile program.
func sendfileNodeCommand() *cobra.Command {
	var cfg limit.StoreConfig
	var kafka string
	cmd := &cobra.Command{
		Use:    "sendfile-node",
		Short:  "one process of the sendfile program (started by the others)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg.Kafka = strings.Split(kafka, ",")
			s, err := limit.StartStore(cfg)
			if err != nil {
				return err
			}
			waitForSignal()
			return s.Close()
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.ID, "id", 0, "which of the addresses is this process")
	f.StringVar(&kafka, "kafka", "", "client addresses of all processes, comma separated")
	f.StringVar(&cfg.Dir, "dir", "", "the directory that all processes share")
	return cmd
}

// compareCommand compares two results.
func compareCommand() *cobra.Command {
	var fail bool
	cmd := &cobra.Command{
		Use:   "compare OLD NEW",
		Short: "how two results (--json files) differ, with significance",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			old, err := report.Load(args[0])
			if err != nil {
				return err
			}
			new, err := report.Load(args[1])
			if err != nil {
				return err
			}
			worse, err := report.Compare(cmd.OutOrStdout(), old, new)
			if err == nil && fail && worse > 0 {
				return fmt.Errorf("%d metrics are significantly worse", worse)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&fail, "fail", false, "exit with 1 if a metric is significantly worse")
	return cmd
}
