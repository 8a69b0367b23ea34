package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tailrace/tailrace/bench/faults"
	"github.com/tailrace/tailrace/bench/faults/planted"
)

// plantedCommand shows that the harness can fail.
func plantedCommand(o *faults.Options) *cobra.Command {
	var p planted.Options
	var list, markdown bool
	cmd := &cobra.Command{
		Use:   "planted",
		Short: "build the broker with a planted bug and run the detector that must find it; fails if it does not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			switch {
			case list:
				return planted.List(out)
			case markdown:
				_, err := fmt.Fprint(out, planted.Markdown())
				return err
			}
			p.Faults, p.Out, p.Seed = *o, out, o.Seed
			p.Faults.Out = cmd.ErrOrStderr()
			if p.Some > 0 && p.Seed == 0 {
				p.Seed = uint64(time.Now().UnixNano()) % 1_000_000_007
			}
			if err := planted.Run(cmd.Context(), p); err != nil {
				return fmt.Errorf("faults planted: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.Bug, "bug", "", "only this one")
	f.StringVar((*string)(&p.Detector), "detector", "", "sim, sweep, process or all of them; without, the first that the table names for the bug")
	f.BoolVar(&p.Control, "control", false, "then run the same search without the bug: it must find nothing")
	f.IntVar(&p.Some, "some", 0, "so many of those that are found fast and without processes, drawn by --seed")
	f.DurationVar(&p.Patience, "patience", 10*time.Minute, "for each bug")
	f.BoolVar(&list, "list", false, "list the bugs and their detectors")
	f.BoolVar(&markdown, "markdown", false, "print the table of docs/reliability.md")
	return cmd
}
