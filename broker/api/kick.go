package api

import "github.com/tailrace/tailrace/broker/wire"

// AnswerParked has fetches that are parked on a connection answered at once,
// with whatever there is: a follower has partitions to add to its session and
// must not wait for the poll to end.
func (s *Server) AnswerParked(conn *wire.Conn) {
	s.answerParked(func(f *fetchCall) bool { return f.conn == conn })
}

// AnswerAllParked does the same for every connection of clients: the broker
// stops, and they should not have to wait for it.
func (s *Server) AnswerAllParked() {
	s.answerParked(func(f *fetchCall) bool { return !f.peer.Internal })
}

func (s *Server) answerParked(match func(*fetchCall) bool) {
	s.fetches.mu.Lock()
	var found []*fetchCall
	for f := range s.fetches.set {
		if match(f) {
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
