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

	"github.com/tailrace/tailrace/client"
)

// Exit codes; scripts rely on them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnavailable = 4
)

// app is one invocation.
type app struct {
	brokers []string
	timeout time.Duration
	output  string

	in          io.Reader
	out, errOut io.Writer
}

// run carries out one command line and returns its exit code. It is main
// without the process, for tests.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// A closed pipe then is an error of the write, not the end of the process.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{in: stdin, out: stdout, errOut: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	code := exitCode(ctx, err)
	switch {
	case code == exitOK:
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "logctl: interrupted")
	default:
		fmt.Fprintln(stderr, "logctl:", advice(err, code))
	}
	return code
}

// exitCode maps an error. A reader that closed its pipe has what it wanted.
func exitCode(ctx context.Context, err error) int {
	var usage *usageError
	switch {
	case err == nil, errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		return exitOK
	case ctx.Err() != nil:
		return exitFailure
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		return exitUsage
	case errors.Is(err, client.ErrNotFound):
		return exitNotFound
	case errors.Is(err, client.ErrUnavailable), errors.Is(err, client.ErrNotEnoughReplicas), errors.Is(err, context.DeadlineExceeded):
		return exitUnavailable
	}
	return exitFailure
}

// advice is the error in one line, with what to do about it.
func advice(err error, code int) string {
	message := strings.Join(strings.Fields(err.Error()), " ")
	switch {
	case code == exitUsage && !strings.Contains(message, "--help"):
		return message + " (see logctl --help)"
	case errors.Is(err, client.ErrNotEnoughReplicas):
		return message + " (start more brokers, or lower the topic's min.insync.replicas)"
	case code == exitUnavailable && strings.Contains(message, "cannot reach"):
		return message + " (is a broker running there? choose another with -b host:port)"
	case code == exitUnavailable:
		return message + " (see logctl cluster status; --timeout allows more time)"
	case code == exitNotFound && strings.Contains(message, "topic"):
		return message + " (see logctl topic list)"
	}
	return message
}

// usageError is a wrong command line.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "logctl",
		Short:         "Manage, write and read a Tailrace cluster",
		SilenceErrors: true,
		SilenceUsage:  true,
		Example: `  logctl topic create orders --partitions 3 --replicas 3
  echo hello | logctl produce orders
  logctl consume orders --from earliest
  logctl -b 10.0.0.7:9092 cluster status -o json`,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFlags() },
	}
	f := root.PersistentFlags()
	f.StringSliceVarP(&a.brokers, "brokers", "b", seedsFromEnv(), "host:port of one or more brokers (environment TAILRACE_BROKERS)")
	f.DurationVar(&a.timeout, "timeout", 4500*time.Millisecond, "how long to wait for the cluster")
	f.StringVarP(&a.output, "output", "o", "table", "table, json or yaml")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%v", err) })
	root.AddCommand(a.topicCommand(), a.produceCommand(), a.consumeCommand(), a.tailCommand(),
		a.clusterCommand(), a.brokerCommand(), a.partitionCommand(), a.configCommand())
	_ = root.RegisterFlagCompletionFunc("output", fixed("table", "json", "yaml"))
	return root
}

func seedsFromEnv() []string {
	if s := os.Getenv("TAILRACE_BROKERS"); s != "" {
		return strings.Split(s, ",")
	}
	return []string{"127.0.0.1:9092"}
}

func (a *app) checkFlags() error {
	switch a.output {
	case "table", "json", "yaml":
	default:
		return usagef("bad --output %q: use table, json or yaml", a.output)
	}
	if a.timeout <= 0 {
		return usagef("bad --timeout %v: use a positive duration such as 5s", a.timeout)
	}
	for _, b := range a.brokers {
		if !strings.Contains(b, ":") {
			return usagef("bad broker %q: use host:port", b)
		}
	}
	return nil
}

// noun makes a command that only groups verbs.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s needs a verb: %s", c.CommandPath(), verbNames(c))
		}
		return usagef("unknown verb %q for %s: use %s", args[0], c.CommandPath(), verbNames(c))
	}
	c.AddCommand(verbs...)
	return c
}

func verbNames(c *cobra.Command) string {
	var names []string
	for _, v := range c.Commands() {
		if v.IsAvailableCommand() {
			names = append(names, v.Name())
		}
	}
	return strings.Join(names, ", ")
}

// exactArgs names the arguments in its error.
func exactArgs(names ...string) cobra.PositionalArgs {
	return rangeArgs(len(names), len(names), names...)
}

// rangeArgs takes from low to high arguments; high -1 is no limit.
func rangeArgs(low, high int, names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < low || high >= 0 && len(args) > high {
			return usagef("%s takes %s, got %d arguments", c.CommandPath(), strings.Join(names, " "), len(args))
		}
		return nil
	}
}

// fixed completes from a list.
func fixed(values ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeTopics completes names of topics from the cluster.
func (a *app) completeTopics(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	a.timeout = min(a.timeout, 2*time.Second)
	err := a.withAdmin(c.Context(), func(ctx context.Context, admin *client.Admin) error {
		topics, err := admin.Topics(ctx)
		for _, t := range topics {
			names = append(names, t.Topic)
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// connect makes a client; nothing is sent yet.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	return client.New(ctx, client.Options{Seeds: a.brokers, ClientID: "logctl", DialTimeout: min(a.timeout, 3*time.Second)})
}

// withAdmin runs f within the time limit.
func (a *app) withAdmin(ctx context.Context, f func(context.Context, *client.Admin) error) error {
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if err := cl.Admin().WaitController(ctx); err != nil {
		return err
	}
	return f(ctx, cl.Admin())
}
