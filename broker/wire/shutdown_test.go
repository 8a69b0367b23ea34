package wire

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// The last answers of a drained connection arrive although the client went on
// sending: no reset overtakes them.
func TestShutdownDoesNotReset(t *testing.T) {
	parked := make(chan *Request, 1)
	s, addr := serve(t, func(r *Request) { parked <- r }, Options{MaxInFlight: 1})
	c := dial(t, addr)
	write(t, c, frame(0, 3, 1, "", nil))
	r := <-parked
	for range 50 { // stay unread behind the first
		write(t, c, frame(0, 3, 2, "", make([]byte, 1000)))
	}
	down := make(chan error, 1)
	go func() { down <- shutdown(t, s, patience) }()
	eventually(t, "draining", s.isDraining)
	answer := bytes.Repeat([]byte("x"), 100<<10)
	r.Reply(Part{Bytes: answer})
	if err := <-down; err != nil {
		t.Fatal(err)
	}
	if corr, body := readResponse(t, c); corr != 1 || !bytes.Equal(body, answer) {
		t.Fatalf("got %d with %d bytes", corr, len(body))
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("got %v, want EOF", err)
	}
}

// A client that has just connected when the stop begins gets its first answer:
// without one it would report an error instead of trying elsewhere.
func TestShutdownAnswersFreshConnections(t *testing.T) {
	s, addr := serve(t, copyReply, Options{DrainGrace: patience})
	c := dial(t, addr)
	write(t, c, frame(apiVersionsKey, 0, 1, "", nil))
	readResponse(t, c)
	down := make(chan error, 1)
	go func() { down <- shutdown(t, s, patience) }()
	eventually(t, "draining", s.isDraining)
	write(t, c, frame(0, 3, 2, "", []byte("first")))
	if corr, body := readResponse(t, c); corr != 2 || string(body) != "first" {
		t.Fatalf("got %d %q", corr, body)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("got %v, want EOF after the first answer", err)
	}
	c.Close()
	if err := <-down; err != nil {
		t.Fatal(err)
	}
}

// Who says nothing does not hold up a stop for longer than the grace.
func TestShutdownLeavesSilentConnections(t *testing.T) {
	s, addr := serve(t, copyReply, Options{DrainGrace: 10 * time.Millisecond})
	c := dial(t, addr)
	eventually(t, "a connection", func() bool { return s.Connections() == 1 })
	if err := shutdown(t, s, patience); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("got %v, want EOF", err)
	}
}
