// Command bench measures Tailrace, and other systems beside it on the same
// machine in the same invocation.
//
//	go run ./bench produce --peer kafka --peer limit --html out.html
//
// See docs/performance.md for the method.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/bench/proc"
)

func main() { os.Exit(run()) }

// run keeps the exit path in one place: whatever happens, no child survives.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { // a second signal does not wait
		stop()
		second := make(chan os.Signal, 1)
		signal.Notify(second, os.Interrupt, syscall.SIGTERM)
		<-second
		proc.KillAll()
		os.Exit(130)
	})
	defer proc.KillAll()
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		if errors.Is(err, context.Canceled) {
			return 130
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "bench",
		Short:         "Measure Tailrace and its peers on this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	addWorkloads(root)
	root.AddCommand(limitCommand(), compareCommand(), limitNodeCommand(), nullNodeCommand(), sendfileNodeCommand(), faultsCommand())
	return root
}
