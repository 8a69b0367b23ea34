package sim

// Prey is the outcome of a hunt.
type Prey struct {
	Seed      uint64 // of the run that broke an invariant, or of the last one
	Seeds     uint64 // clusters that were run
	Events    int64  // in all of them
	Invariant string // its name; empty: all held
	Detail    string // what broke it, when
}

// Hunt runs seeds from the given one on until an invariant breaks or so many
// were run; 0: without end.
func Hunt(from, seeds uint64) (p Prey) {
	for p.Invariant == "" && (seeds == 0 || p.Seeds < seeds) {
		p.Seed = from + p.Seeds
		p.Seeds++
		r := Run(Config{Seed: p.Seed})
		p.Events += r.Events
		if r.Violation != nil {
			p.Invariant, p.Detail = r.Violation.Invariant, r.Violation.Error()
		}
	}
	return p
}
