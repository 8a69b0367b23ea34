package sim

import "slices"

// Shrink looks for a shorter schedule that breaks the same invariant, in at most
// that many runs: it leaves out faults, in ever smaller pieces. It returns the
// smallest failing run, which is res itself if nothing could be left out.
func Shrink(res Result, runs int) Result {
	if res.Violation == nil {
		return res
	}
	best := res
	try := func(faults []Fault) bool {
		runs--
		cfg := best.Config
		cfg.Faults = faults
		r := Run(cfg)
		if r.Violation == nil || r.Violation.Invariant != res.Violation.Invariant {
			return false
		}
		best = r
		return true
	}
	// What comes after the violation had no part in it.
	early := slices.DeleteFunc(slices.Clone(best.Config.Faults), func(f Fault) bool { return f.At > res.Violation.At })
	if len(early) < len(best.Config.Faults) {
		try(early)
	}
	for size := max(1, len(best.Config.Faults)/2); runs > 0; size /= 2 {
		for at := 0; at < len(best.Config.Faults) && runs > 0; {
			rest := slices.Delete(slices.Clone(best.Config.Faults), at, min(at+size, len(best.Config.Faults)))
			if len(rest) == 0 || !try(rest) {
				at += size
			}
		}
		if size <= 1 {
			break
		}
	}
	return best
}
