package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const (
	// maxCoalesce bounds the requests answered by one vectored write.
	maxCoalesce = 64
	// smallPayloadBytes: below, a copy into the vectored write is cheaper than
	// a system call of its own; sendfile pays from about 64 KiB.
	smallPayloadBytes = 64 << 10
	scratchBytes      = 64 << 10
	// lingerTime is how long a drained connection waits for its peer to close.
	lingerTime = 500 * time.Millisecond
	// minWriteRate is the slowest acceptable reader of a large payload, bytes
	// per second, on top of WriteTimeout.
	minWriteRate = 256 << 10
)

// appender is a Payload that can be copied, for small ones.
type appender interface {
	AppendTo(dst []byte) ([]byte, error)
}

// writer sends answers of one connection in order.
type writer struct {
	c       *Conn
	batch   []*Request
	bufs    net.Buffers // waiting for a vectored write
	backing net.Buffers // keeps the array of bufs, which WriteTo consumes
	scratch *buffer     // small payloads of the current batch; nil when idle
	used    int
}

// writeLoop sends answers until the connection is dead or drained.
func (c *Conn) writeLoop() {
	defer c.loopEnded()
	w := writer{c: c}
	for {
		w.batch = c.takeReady(w.batch[:0])
		if len(w.batch) == 0 {
			if c.finished() {
				break
			}
			select {
			case <-c.wakeWriter:
			case <-c.done:
			}
			continue
		}
		if err := w.write(); err != nil {
			c.kill(writeError(err))
		}
		c.retire(w.batch)
	}
	c.linger()
	c.kill(c.drainReason()) // no effect on a connection that is dead already
}

// finished reports that nothing is left to send: the connection is dead, or
// the reader ended and everything was answered.
func (c *Conn) finished() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead || (c.readDone && c.head == nil)
}

// linger ends a drained connection so that its last answers arrive: closing a
// socket with unread requests resets it, and a reset may overtake the answers.
// The reader has ended, so reading here is safe.
func (c *Conn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	select {
	case <-c.done:
		return
	default:
	}
	if !ok || half.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c.nc) // until the peer closes, or the deadline
}

func (c *Conn) drainReason() error {
	if err := c.finish.Load(); err != nil {
		return *err
	}
	return ErrServerClosed
}

// takeReady pops the answered requests at the head of the queue.
func (c *Conn) takeReady(batch []*Request) []*Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := c.head; r != nil && r.ready && len(batch) < maxCoalesce; r = c.head {
		batch = append(batch, r)
		if c.head = r.next; c.head == nil {
			c.tail = nil
		}
		r.next = nil
	}
	return batch
}

// retire gives back what sent requests held and lets the reader go on.
func (c *Conn) retire(batch []*Request) {
	var held, sent int64
	for i, r := range batch {
		held += r.bodyLen + r.size
		if !r.silent {
			sent += r.size + 4
		}
		r.drop(c.srv.o.Budget)
		batch[i] = nil
	}
	c.srv.bytesOut.Add(sent)
	c.mu.Lock()
	c.inFlight -= len(batch)
	c.held -= held
	c.mu.Unlock()
	wake(c.wakeReader)
}

// write sends the batch: small pieces in one vectored write, large payloads by
// themselves.
func (w *writer) write() error {
	defer w.reset()
	for _, r := range w.batch {
		if r.silent {
			continue
		}
		w.bufs = append(w.bufs, r.encodeHeader())
		for _, p := range r.parts {
			if err := w.add(p); err != nil {
				return err
			}
		}
	}
	return w.flush()
}

func (w *writer) add(p Part) error {
	if p.Payload == nil {
		if len(p.Bytes) > 0 {
			w.bufs = append(w.bufs, p.Bytes)
		}
		return nil
	}
	n := p.Payload.Len()
	if a, ok := p.Payload.(appender); ok && n <= smallPayloadBytes {
		return w.copyPayload(a, int(n))
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.c.setWriteDeadline(n)
	m, err := p.Payload.WriteTo(w.c.nc)
	if err == nil && m != n {
		err = fmt.Errorf("payload of %d bytes wrote %d", n, m)
	}
	return err
}

// copyPayload adds a small payload to the vectored write.
func (w *writer) copyPayload(a appender, n int) error {
	if w.scratch != nil && w.used+n > len(w.scratch.b) {
		if err := w.flush(); err != nil {
			return err
		}
		w.used = 0
	}
	if w.scratch == nil {
		w.scratch = newBuffer(scratchBytes)
	}
	dst := w.scratch.b[w.used:w.used:len(w.scratch.b)]
	got, err := a.AppendTo(dst)
	if err != nil {
		return err
	}
	if len(got) != n {
		return fmt.Errorf("payload of %d bytes gave %d", n, len(got))
	}
	w.used += n
	w.bufs = append(w.bufs, got)
	return nil
}

// flush writes what is queued by one vectored write where the system has it.
func (w *writer) flush() error {
	if len(w.bufs) == 0 {
		return nil
	}
	w.backing = w.bufs
	var total int64
	for _, b := range w.bufs {
		total += int64(len(b))
	}
	w.c.setWriteDeadline(total)
	var err error
	if _, vectored := w.c.nc.(*net.TCPConn); vectored || len(w.bufs) == 1 {
		_, err = w.bufs.WriteTo(w.c.nc)
	} else {
		err = writeJoined(w.c.nc, w.bufs, int(total))
	}
	clear(w.backing)
	w.bufs = w.backing[:0]
	return err
}

// writeJoined writes bufs by one call, for connections that have no vectored
// write (TLS would make a record of each piece).
func writeJoined(nc net.Conn, bufs net.Buffers, total int) error {
	joined := newBuffer(total)
	defer joined.free()
	b := joined.b[:0]
	for _, p := range bufs {
		b = append(b, p...)
	}
	_, err := nc.Write(b)
	return err
}

// reset ends a batch; an idle connection keeps no scratch and no large array.
func (w *writer) reset() {
	clear(w.bufs)
	w.bufs = w.bufs[:0]
	if cap(w.bufs) > 4*maxCoalesce {
		w.bufs, w.backing = nil, nil
	}
	if w.scratch != nil {
		w.scratch.free()
		w.scratch, w.used = nil, 0
	}
}

func (c *Conn) setWriteDeadline(n int64) {
	d := c.srv.o.WriteTimeout + time.Duration(n)*time.Second/minWriteRate
	_ = c.nc.SetWriteDeadline(time.Now().Add(d)) // fails only on a closed connection: the write says so
}

func writeError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the peer does not read its responses")
	}
	return fmt.Errorf("writing a response: %w", err)
}
