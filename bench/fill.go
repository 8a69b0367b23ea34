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
	f.StringVar(mode, "fill-memory", fillAuto, "fill free memory with page cache before each round: auto (where the first use of memory is dear), on, off")
}

// dearMemory is the cost of the first use of memory, in CPU s/GiB, from which a
// host behind it takes part in what is measured. Clearing pages costs 0.1 to 0.5.
const dearMemory = 1.0

// wantFill decides whether to fill: as told, or if the probe says that new memory
// is dear, or if there is too little free memory for a probe to tell.
func wantFill(mode string, scarce bool, cost float64) (bool, error) {
	switch mode {
	case fillOn:
		return true, nil
	case fillOff:
		return false, nil
	case fillAuto:
		return scarce || cost > dearMemory, nil
	}
	return false, fmt.Errorf("--fill-memory %q: %s, %s or %s", mode, fillAuto, fillOn, fillOff)
}

// prepareMemory probes what new memory costs and makes the filler, if there is to
// be one. Where the choice is ours, a machine that cannot be filled is measured as it is.
func (b *bench) prepareMemory(ctx context.Context) error {
	if b.o.fill == fillOff {
		return nil
	}
	m, err := proc.ReadMemory()
	if err != nil {
		return err
	}
	if !m.Scarce() {
		if b.result.Machine.NewMemory, err = proc.ProbeNewMemory(); err != nil {
			return err
		}
	}
	on, err := wantFill(b.o.fill, m.Scarce(), b.result.Machine.NewMemory)
	if err != nil || !on {
		return err
	}
	if b.filler, err = proc.NewFiller(os.TempDir()); err == nil {
		err = b.fillMemory(ctx)
	}
	if err != nil && b.o.fill == fillAuto && ctx.Err() == nil {
		b.logf("free memory is left as it is: %v", err)
		return b.dropFiller()
	}
	b.result.Machine.Filled = err == nil
	return err
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
	return err
}

func (b *bench) dropFiller() error {
	f := b.filler
	if b.filler = nil; f == nil {
		return nil
	}
	return f.Close()
}
