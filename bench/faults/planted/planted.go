// Package planted shows that the harness can fail: it builds the broker's code
// with one bug in it at a time, and runs the detector that must find that bug.
package planted

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tailrace/tailrace/bench/faults"
)

// Options say which bugs are looked for, and how.
type Options struct {
	Bug      string        // one of them; empty: all
	Detector Detector      // empty: the first of each bug; All: each
	Some     int           // so many of them, drawn by Seed among those that are found fast
	Seed     uint64        // of the draw, the simulator and the campaigns; 0: 1
	Control  bool          // show too that the same search finds nothing without the bug
	Patience time.Duration // for one bug; 10 min
	Faults   faults.Options
	Out      io.Writer // a line for each bug
}

// All asks for every detector that finds a bug.
const All Detector = "all"

// Found is what a search ended with.
type Found struct {
	By     string        // the invariant, test or anomaly; empty: nothing was found
	Detail string        // where and when
	After  time.Duration // since the search began, building included
}

// errLeftOut is why a search cannot be done on this machine.
type errLeftOut struct{ reason string }

func (e errLeftOut) Error() string { return "left out: " + e.reason }

// search is the search for one bug in one way.
type search struct {
	o   *Options
	bug Bug
	way Way

	// What it took to find the bug, for the control; 0 before.
	seeds uint64 // clusters in the simulator, or campaigns
}

// Run looks for each bug that the options name. The error names those that were
// not found, or were found where they are not.
func Run(ctx context.Context, o Options) error {
	if o.Patience == 0 {
		o.Patience = 10 * time.Minute
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	list, err := o.choose()
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range list {
		if ctx.Err() != nil {
			return errors.Join(append(errs, ctx.Err())...)
		}
		errs = append(errs, s.run(ctx))
	}
	return errors.Join(errs...)
}

// choose lists the searches.
func (o *Options) choose() ([]*search, error) {
	bugs := Bugs
	if o.Bug != "" {
		b, err := find(o.Bug)
		if err != nil {
			return nil, err
		}
		bugs = []Bug{b}
	}
	var list []*search
	for _, b := range bugs {
		if o.Detector == All {
			for _, w := range b.Ways {
				list = append(list, &search{o: o, bug: b, way: w})
			}
		} else if w, ok := b.way(o.Detector); ok {
			list = append(list, &search{o: o, bug: b, way: w})
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("planted bug %q is not looked for by %q", o.Bug, o.Detector)
	}
	return o.draw(list), nil
}

// draw keeps some of the searches that are fast and need no processes.
func (o *Options) draw(list []*search) []*search {
	if o.Some == 0 {
		return list
	}
	list = slices.DeleteFunc(list, func(s *search) bool { return s.bug.Slow || s.way.Detector == Process })
	rand.New(rand.NewPCG(o.Seed, 1)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(o.Some, len(list))]
}

// run searches, tells the outcome, and says as an error what is wrong with it.
func (s *search) run(ctx context.Context) error {
	name := fmt.Sprintf("bug_%s (%s)", s.bug.Name, s.bug.About)
	ctx, cancel := context.WithTimeout(ctx, s.o.Patience)
	defer cancel()
	f, err := s.find(ctx, "bug_"+s.bug.Name)
	var out errLeftOut
	switch {
	case errors.As(err, &out):
		_, err = fmt.Fprintf(s.o.Out, "%s: LEFT OUT: %s: %s\n", name, s.way, out.reason)
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: NOT FOUND by %s within %s", name, s.way, s.o.Patience)
	case err == nil && f.By == "":
		return fmt.Errorf("%s: NOT FOUND by %s: %s", name, s.way, f.Detail)
	case err != nil:
		return fmt.Errorf("%s: %s: %w", name, s.way, err)
	}
	if _, err := fmt.Fprintf(s.o.Out, "%s: FOUND by %s after %.0f s: %s; %s\n", name, s.way, f.After.Seconds(), f.By, f.Detail); err != nil {
		return err
	}
	if !s.o.Control {
		return nil
	}
	return s.control(ctx, name)
}

// control repeats the search on code without the bug.
func (s *search) control(ctx context.Context, name string) error {
	f, err := s.find(ctx, "")
	if err == nil && f.By != "" {
		err = fmt.Errorf("found by %s; %s", f.By, f.Detail)
	}
	if err != nil {
		return fmt.Errorf("%s: the same search without the bug by %s: %w", name, s.way, err)
	}
	_, err = fmt.Fprintf(s.o.Out, "%s: nothing found by %s without the bug; %s\n", strings.Repeat(" ", len(s.bug.Name)+4), s.way, f.Detail)
	return err
}

// find runs the detector on code built with a tag; without one, as often as it
// took to find the bug.
func (s *search) find(ctx context.Context, tag string) (Found, error) {
	begun := time.Now()
	var f Found
	var err error
	switch s.way.Detector {
	case Sim:
		f, err = s.hunt(ctx, tag)
	case Sweep:
		f, err = s.sweep(ctx, tag)
	case Process:
		f, err = s.campaign(ctx, tag)
	default:
		err = fmt.Errorf("no detector %q", s.way.Detector)
	}
	f.After = time.Since(begun)
	return f, err
}
