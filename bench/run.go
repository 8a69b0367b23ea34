package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/tailrace/tailrace/bench/cluster"
	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/bench/report"
	"github.com/tailrace/tailrace/bench/workload"
)

// options are what a run needs beside the workload's parameters.
type options struct {
	target    string // what stands in the first column
	bootstrap string
	pids      []int
	peers     []string
	cluster   cluster.Options
	fill      string // --fill-memory
	verbose   bool
	quiet     bool
	outputs   outputs
}

// outputs are the files a result is written to, beside the terminal.
type outputs struct{ json, md, html string }

func addWorkloads(root *cobra.Command) {
	for _, w := range workload.All() {
		root.AddCommand(workloadCommand(w))
	}
}

func workloadCommand(w workload.Workload) *cobra.Command {
	p := commonParams()
	if w.Defaults != nil {
		w.Defaults(&p)
	}
	var o options
	cmd := &cobra.Command{
		Use:   w.Name,
		Short: w.Short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.SlowSync > 0 && !cmd.Flags().Changed("sync-replicas") {
				p.SyncSet = 2
			}
			targets := append([]string{first(o.bootstrap, o.target)}, o.peers...)
			return measure(cmd.Context(), cmd.OutOrStdout(), w, p, o, targets)
		},
	}
	paramFlags(cmd.Flags(), &p)
	optionFlags(cmd.Flags(), &o)
	return cmd
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func commonParams() workload.Params {
	return workload.Params{Acks: "all", RecordSize: 1024, BatchBytes: 1 << 20, Linger: 5 * time.Millisecond, Compression: "none",
		Partitions: 6, Producers: 2, Replication: 3, MinInSync: 2,
		Duration: 10 * time.Second, Warmup: 2 * time.Second, First: 10 * time.Second, Rounds: 5}
}

func paramFlags(f *pflag.FlagSet, p *workload.Params) {
	f.StringVar(&p.Acks, "acks", p.Acks, "all, leader or none")
	f.IntVar(&p.RecordSize, "record-size", p.RecordSize, "bytes of a value, incompressible")
	f.IntVar(&p.BatchBytes, "batch", p.BatchBytes, "largest batch of a producer, bytes")
	f.DurationVar(&p.Linger, "linger", p.Linger, "how long a producer waits for a batch to fill")
	f.StringVar(&p.Compression, "compression", p.Compression, "none, gzip, snappy, lz4 or zstd")
	f.IntVar(&p.Keys, "keys", p.Keys, "distinct keys; 0: records without a key")
	f.IntVar(&p.Partitions, "partitions", p.Partitions, "partitions of the topic")
	f.IntVar(&p.Producers, "producers", p.Producers, "producer clients")
	f.IntVar(&p.Consumers, "consumers", p.Consumers, "consumer clients")
	f.Float64Var(&p.Rate, "rate", p.Rate, "records per second of all producers; 0: as fast as they can")
	f.IntVar(&p.Replication, "replication-factor", p.Replication, "copies of a partition")
	f.IntVar(&p.MinInSync, "min-insync", p.MinInSync, "min.insync.replicas of the topic")
	f.IntVar(&p.SyncSet, "sync-replicas", p.SyncSet, "sync.replicas of the topic (Tailrace only); 0: all")
	f.BoolVar(&p.Followers, "followers", p.Followers, "consumers read from replicas in their racks")
	f.DurationVar(&p.Duration, "duration", p.Duration, "measured window of a round")
	f.DurationVar(&p.Warmup, "warmup", p.Warmup, "load before the window, in every round")
	f.DurationVar(&p.First, "first-warmup", p.First, "load on each target before the first round; a JVM wants 60 s")
	f.IntVar(&p.Rounds, "rounds", p.Rounds, "measured rounds of each target")
	f.Int64Var(&p.Preload, "preload", p.Preload, "bytes written before: what consume reads, what restart recovers")
	f.StringVar(&p.Mode, "mode", p.Mode, "consume: tail, catch-up, followers, raw; restart: term, kill, one, fresh")
	f.IntVar(&p.Kills, "kills", p.Kills, "failover: kills of a leader in a round")
	f.IntSliceVar(&p.Counts, "counts", p.Counts, "partitions, connections: the counts to measure, one line each")
	f.DurationVar(&p.SlowSync, "slow-follower", p.SlowSync, "latency: also measure with syncs of one follower taking this much longer; sync.replicas is 2 unless said")
	f.StringVar(&p.HistoryFile, "history", p.HistoryFile, "failover: where to save the history; an invalid one is always saved")
}

func optionFlags(f *pflag.FlagSet, o *options) {
	f.Bool("spawn", true, "build and start our brokers; what happens without --bootstrap")
	f.StringVar(&o.target, "target", "tailrace", "what to measure: tailrace, or any name that --peer takes")
	f.StringVar(&o.bootstrap, "bootstrap", "", "measure a running cluster instead")
	f.IntSliceVar(&o.pids, "pids", nil, "processes of the running cluster, for CPU and memory")
	f.StringArrayVar(&o.peers, "peer", nil, "also measure, rounds alternating: kafka, kafka-fsync, nats, nats-sync, limit, null, sendfile, or a bootstrap address; may be repeated")
	f.StringVar(&o.cluster.Binary, "broker-binary", "", "start this broker instead of building one")
	f.IntVar(&o.cluster.Nodes, "brokers", 3, "processes of a started cluster")
	f.IntVar(&o.cluster.InSync, "limit-insync", 0, "limit: copies before the acknowledgement; 0: as many as ours")
	f.IntVar(&o.cluster.KafkaHeapMB, "kafka-heap", 512, "kafka: heap of each broker, MiB")
	fillFlag(f, &o.fill)
	f.BoolVar(&o.cluster.Keep, "keep", false, "leave the data directories")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show what the started processes print")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress")
	outputFlags(f, &o.outputs)
}

func outputFlags(f *pflag.FlagSet, o *outputs) {
	f.StringVar(&o.json, "json", "", "write the result to this file, for compare")
	f.StringVar(&o.md, "md", "", "write the result as Markdown to this file")
	f.StringVar(&o.html, "html", "", "write the result as a page with plots to this file")
}

// bench is one run: sessions on all targets.
type bench struct {
	w        workload.Workload
	p        workload.Params
	o        options
	logf     func(string, ...any)
	sessions []*workload.Session
	result   *report.Result
	filler   *proc.Filler // nil: free memory is left as it is
}

// measure runs the workload on all targets, rounds alternating, and writes
// the result.
func measure(ctx context.Context, out io.Writer, w workload.Workload, p workload.Params, o options, targets []string) (err error) {
	if err := p.Validate(); err != nil {
		return err
	}
	b := &bench{w: w, p: p, o: o, logf: func(string, ...any) {}}
	if !o.quiet {
		b.logf = func(f string, a ...any) { fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+f+"\n", a...) }
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.start(ctx, targets); err != nil {
		return err
	}
	if err := b.rounds(ctx); err != nil {
		return err
	}
	return write(out, b.result, o.outputs)
}

func (b *bench) start(ctx context.Context, targets []string) error {
	machine, err := report.ThisMachine(os.TempDir())
	if err != nil {
		return err
	}
	b.result = &report.Result{Format: report.Format, Workload: b.w.Name, Command: commandLine(), Time: time.Now().UTC().Format(time.RFC3339),
		Commit: commit(), Machine: machine, Params: b.p.List()}
	if err := b.prepareMemory(ctx); err != nil {
		return err
	}
	for i, name := range targets {
		if err := b.startTarget(ctx, name, i == 0); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) startTarget(ctx context.Context, name string, ours bool) error {
	b.logf("%s: starting", name)
	c, err := b.cluster(ctx, name, ours)
	if err != nil {
		return err
	}
	s, err := workload.NewSession(c, b.p, b.logf)
	if err != nil {
		return errors.Join(err, c.Stop())
	}
	b.sessions = append(b.sessions, s)
	b.result.Targets = append(b.result.Targets, report.Target{Name: c.Name, Info: c.Info})
	if b.w.Own && len(c.Nodes) == 0 {
		return fmt.Errorf("%s stops brokers and needs a cluster that it started: leave --bootstrap out", b.w.Name)
	}
	if err := b.w.Setup(ctx, s); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.ReadIdle()
	return b.warmUp(ctx, s)
}

func (b *bench) cluster(ctx context.Context, name string, ours bool) (*cluster.Cluster, error) {
	o := b.o.cluster
	o.MinInSync, o.SlowDisk = b.p.MinInSync, b.p.SlowSync > 0
	if o.InSync == 0 {
		o.InSync = b.p.SyncSet // 0: all
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o.Self = self
	if b.o.verbose {
		o.Log = os.Stderr
	}
	if ours && b.o.bootstrap != "" {
		return cluster.Join(ctx, name, b.o.pids, o)
	}
	return cluster.Start(ctx, name, o)
}

// warmUp puts load on a target before anything is measured, so that code is
// compiled and files are there. Workloads that stop brokers have none.
func (b *bench) warmUp(ctx context.Context, s *workload.Session) error {
	if b.w.Own || b.p.First == 0 || b.w.Name == "idle" {
		return nil
	}
	if err := b.fillMemory(ctx); err != nil {
		return err
	}
	b.logf("%s: warming up", s.C.Name)
	p := s.P
	s.P.Duration, s.P.Warmup = b.p.First, 0
	defer func() { s.P = p }()
	for start := time.Now(); time.Since(start) < b.p.First; { // some rounds end when their work is done
		if _, err := b.w.Round(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) rounds(ctx context.Context) error {
	for round := range b.p.Rounds {
		for i, s := range b.sessions {
			b.logf("%s: round %d of %d", s.C.Name, round+1, b.p.Rounds)
			proc.WriteBack()
			if err := b.fillMemory(ctx); err != nil {
				return err
			}
			lines, err := b.w.Round(ctx, s)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", s.C.Name, round+1, err)
			}
			for _, l := range lines {
				line := b.result.Targets[i].Line(l.Line)
				line.Samples = append(line.Samples, l.Sample)
			}
		}
	}
	return nil
}

func (b *bench) close() error {
	var errs []error
	for _, s := range b.sessions {
		s.Close()
		errs = append(errs, s.C.Stop())
	}
	return errors.Join(append(errs, b.dropFiller())...)
}

func commandLine() string {
	return strings.Join(append([]string{"go run ./bench"}, os.Args[1:]...), " ")
}

func commit() string {
	dir, err := cluster.ModuleDir()
	if err != nil {
		return "unknown"
	}
	return cluster.Commit(dir)
}

// write prints the result and writes the files that were asked for.
func write(out io.Writer, r *report.Result, o outputs) error {
	errs := []error{report.Text(out, r)}
	if o.json != "" {
		errs = append(errs, report.Save(o.json, r))
	}
	for path, render := range map[string]func(io.Writer, *report.Result) error{o.md: report.Markdown, o.html: report.HTML} {
		if path == "" {
			continue
		}
		f, err := os.Create(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, render(f, r), f.Close())
	}
	return errors.Join(errs...)
}

// waitForSignal is how the floor programs end.
func waitForSignal() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	<-ch
}
