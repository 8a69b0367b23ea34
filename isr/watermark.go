package isr

import "github.com/tailrace/tailrace/internal/bugs"

// advance raises the high watermark to the least durable end of the maximal
// in-sync set, if the committed set is large enough.
func (s *State) advance(eff *Effects) {
	if s.role != Leader || s.short() {
		return
	}
	least := s.durable
	for i := range s.peers {
		if p := &s.peers[i]; p.counts() {
			least = min(least, p.durable)
		}
	}
	if least > s.hw {
		s.hw = least
		eff.HWMoved = true
	}
}

// counts reports whether the peer is in the maximal in-sync set.
func (p *peer) counts() bool { return p.inSync || p.pending || p.doubtful }

// short reports whether the committed set is below its minimum. Pending members
// do not help: an election would not consider them.
func (s *State) short() bool {
	n := len(s.meta.ISR)
	for i := range s.peers {
		if bugs.PendingFloor && s.peers[i].counts() && !s.peers[i].inSync {
			n++
		}
	}
	return n < s.meta.MinISR
}
