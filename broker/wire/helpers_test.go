package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// closed collects reasons of closed connections.
type closed struct {
	mu      sync.Mutex
	reasons []error
}

func (c *closed) add(_ *Conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reasons = append(c.reasons, err)
}

func (c *closed) wait(t *testing.T) error {
	t.Helper()
	var err error
	eventually(t, "connection closed", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.reasons) > 0 {
			err = c.reasons[0]
		}
		return len(c.reasons) > 0
	})
	return err
}

// serve starts a server on loopback and closes it when the test ends.
func serve(t testing.TB, h HandlerFunc, o Options) (*Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(h, o)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// frame encodes a request with a non-flexible header.
func frame(key, version int16, corr int32, clientID string, body []byte) []byte {
	b := make([]byte, 4, 14+len(clientID)+len(body))
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(corr))
	b = binary.BigEndian.AppendUint16(b, uint16(len(clientID)))
	b = append(append(b, clientID...), body...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func write(t testing.TB, w io.Writer, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
}

// readResponse reads a response with a non-flexible header.
func readResponse(t testing.TB, r io.Reader) (corr int32, body []byte) {
	t.Helper()
	var h [8]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		t.Fatalf("response header: %v", err)
	}
	body = make([]byte, binary.BigEndian.Uint32(h[:])-4)
	if _, err := io.ReadFull(r, body); err != nil {
		t.Fatalf("response body: %v", err)
	}
	return int32(binary.BigEndian.Uint32(h[4:])), body
}

func copyReply(r *Request) { r.Reply(Part{Bytes: bytes.Clone(r.Body)}) }

// payload is a Payload that counts its releases.
type payload struct {
	b        []byte
	released atomic.Int32
}

func (p *payload) Len() int64 { return int64(len(p.b)) }
func (p *payload) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(p.b)
	return int64(n), err
}
func (p *payload) Release() { p.released.Add(1) }

// copyablePayload also offers AppendTo, as *segment.Range does.
type copyablePayload struct{ payload }

func (p *copyablePayload) AppendTo(dst []byte) ([]byte, error) { return append(dst, p.b...), nil }

func shutdown(t *testing.T, s *Server, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return s.Shutdown(ctx)
}
