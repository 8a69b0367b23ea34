package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	"github.com/tailrace/tailrace/bench/proc"
)

// Values of --fill-memory.
const (
	fillAuto = "auto"
	fillOn   = "on"
	fillOff  = "off"
)

func fillFlag(f *pflag.FlagSet, mode *string) {
	f.StringVar(mode, "fill-memory", fillAuto, "fill free memory with page cache before each round: auto (on a virtual machine, and where the first use of memory is dear), on, off")
}

// dearMemory is the cost of the first use of memory, in CPU s/GiB, from which a
// host behind it takes part in what is measured. Page cache in recycled pages costs
// 0.3 to 0.5.
const dearMemory = 1.0

// wantFill decides whether to fill: as told; or if there is a host that may take free
// memory back, since what it has not taken yet is cheap and shows nothing; or if the
// probe met dear memory.
func wantFill(mode string, virtual bool, cost float64) bool {
	return mode == fillOn || mode == fillAuto && (virtual || cost > dearMemory)
}

// prepareMemory makes the filler, if there is to be one, and fills for the first time.
// Where the choice is ours, a machine that cannot be filled is measured as it is.
func (b *bench) prepareMemory(ctx context.Context) (err error) {
	switch b.o.fill {
	case fillOn, fillAuto:
	case fillOff:
		return nil
	default:
		return fmt.Errorf("--fill-memory %q: %s, %s or %s", b.o.fill, fillAuto, fillOn, fillOff)
	}
	if b.filler, err = proc.NewFiller(os.TempDir()); err == nil {
		err = b.firstFill(ctx)
	}
	if err != nil && b.o.fill == fillAuto && ctx.Err() == nil {
		b.logf("free memory is left as it is: %v", err)
		return b.dropFiller()
	}
	return err
}

func (b *bench) firstFill(ctx context.Context) error {
	if err := b.filler.Probe(ctx); err != nil {
		return err
	}
	if !wantFill(b.o.fill, proc.Virtual(), b.filler.Dearest) {
		b.result.Machine.NewMemory = b.filler.Dearest
		return b.dropFiller()
	}
	if err := b.fillMemory(ctx); err != nil {
		return err
	}
	b.result.Machine.Filled = true
	return nil
}

// fillMemory fills what has become free since the last time.
func (b *bench) fillMemory(ctx context.Context) error {
	if b.filler == nil {
		return nil
	}
	start := time.Now()
	n, err := b.filler.Fill(ctx)
	if n >= 1<<30 {
		b.logf("%.1f GiB of free memory filled in %.1f s", float64(n)/(1<<30), time.Since(start).Seconds())
	}
	b.result.Machine.NewMemory = b.filler.Dearest
	return err
}

func (b *bench) dropFiller() error {
	f := b.filler
	if b.filler = nil; f == nil {
		return nil
	}
	return f.Close()
}
