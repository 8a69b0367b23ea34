// Command broker runs Tailrace: one broker of a cluster (run), or a whole
// cluster in one process to try it out (dev).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run(os.Args[1:])) }

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// usageError marks what the command line got wrong.
type usageError struct{ error }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "broker", Short: "Tailrace: a replicated message log that speaks Kafka's protocol",
		SilenceUsage: true, SilenceErrors: true, Version: version(),
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(devCommand(), runCommand())
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(os.Stderr, "broker: %s (see broker %s--help)\n", oneLine(err), command(args))
		return exitUsage
	}
	fmt.Fprintf(os.Stderr, "broker: %s\n", oneLine(err))
	return exitFailure
}

// oneLine joins what errors.Join put on lines.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// command is the subcommand of a command line, with a space, or "".
func command(args []string) string {
	if len(args) > 0 && (args[0] == "dev" || args[0] == "run") {
		return args[0] + " "
	}
	return ""
}

// version is the module's version or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return info.Main.Version
}
