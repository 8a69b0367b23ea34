package api

import "github.com/tailrace/tailrace/broker/wire"

// AnswerParked has fetches that are parked on a connection answered at once,
// with whatever there is: a follower has partitions to add to its session and
// must not wait for the poll to end.
func (s *Server) AnswerParked(conn *wire.Conn) {
	s.fetches.mu.Lock()
	var found []*fetchCall
	for f := range s.fetches.set {
		if f.conn == conn {
			found = append(found, f)
		}
	}
	s.fetches.mu.Unlock()
	for _, f := range found {
		f.set.mu.Lock()
		f.hurry = true
		run := f.unparkLocked()
		f.set.mu.Unlock()
		if run {
			s.running.Go(f.run)
		}
	}
}
