package transport

import (
	"bufio"
	"context"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/model"
)

// errSilent: the peer or the network is dead without saying so.
var errSilent = errors.New("no sign of life")

const (
	// silentIntervals is how many ping intervals without a byte mean death.
	silentIntervals = 3
	// slowSilence does the same for classes whose answers may take long.
	slowSilence = 40 * time.Second
	// bodyTimeout bounds the arrival of the rest of a response, and the taking
	// of a batch of requests by the peer, plus their size at minRate.
	bodyTimeout = 5 * time.Second
	minRate     = 1 << 20 // bytes per second
	maxGather   = 64      // requests per vectored write
	maxHello    = 4 << 10
)

// conn is one live connection of a link.
type conn struct {
	l    *link
	nc   net.Conn
	br   *bufio.Reader
	done chan struct{} // closed when reading ends
}

func newConn(l *link, nc net.Conn) *conn {
	return &conn{l: l, nc: nc, br: bufio.NewReaderSize(nc, 16<<10), done: make(chan struct{})}
}

// run reads answers on the calling goroutine and writes requests on another,
// until either fails.
func (c *conn) run() error {
	stop := context.AfterFunc(c.l.ctx, func() { _ = c.nc.Close() }) // its error adds nothing
	defer stop()
	written := make(chan error, 1)
	go func() {
		err := c.writeLoop()
		_ = c.nc.Close() // ends the reader
		written <- err
	}()
	err := c.readLoop()
	close(c.done)
	_ = c.nc.Close() // ends the writer; the reason is known
	if werr := <-written; werr != nil {
		return werr
	}
	return err
}

func (c *conn) readLoop() error {
	for {
		n, err := c.readLength()
		if err != nil {
			return err
		}
		if err := c.readAnswer(n); err != nil {
			return err
		}
	}
}

// readLength waits for a response. On a connection of a prompt class it pings
// after a silent interval; enough silence while anything is outstanding ends
// the connection.
func (c *conn) readLength() (int, error) {
	interval, limit := c.l.p.o.PingInterval, silentIntervals
	if !c.l.key.class.prompt() {
		interval, limit = slowSilence, 1
	}
	outstanding := false
	for silent := 0; ; silent++ {
		_ = c.nc.SetReadDeadline(time.Now().Add(interval)) // fails only on a closed connection: the read says so
		b, err := c.br.Peek(4)
		if err == nil {
			n := int32(binary.BigEndian.Uint32(b))
			if n < 4 || n > c.l.p.o.MaxResponseBytes {
				return 0, fmt.Errorf("response length %d is out of bounds", n)
			}
			_, err = c.br.Discard(4)
			return int(n), err
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		if outstanding && silent+1 >= limit {
			return 0, fmt.Errorf("%w for %v", errSilent, time.Duration(limit)*interval)
		}
		if outstanding = c.l.outstanding(); !outstanding {
			silent = -1
		}
		if c.l.key.class.prompt() {
			outstanding = c.ping() || outstanding
		}
	}
}

// ping queues a ping whose answer nobody waits for.
func (c *conn) ping() bool {
	corr, flexible, err := c.l.register(nil, KeyPing, 0)
	if err != nil {
		return false
	}
	if !c.l.enqueue(encodeRequest(KeyPing, 0, corr, flexible, nil)) {
		c.l.unregister(corr, nil)
		return false
	}
	return true
}

func (l *link) outstanding() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending) > 0
}

// readAnswer receives a response of n bytes and hands it to its call.
func (c *conn) readAnswer(n int) error {
	_ = c.nc.SetReadDeadline(time.Now().Add(transferTime(n))) // as above
	buf, b := wire.GetBuffer(n)
	if _, err := io.ReadFull(c.br, b); err != nil {
		buf.Free()
		return fmt.Errorf("response of %d bytes: %w", n, err)
	}
	corr := int32(binary.BigEndian.Uint32(b))
	c.l.mu.Lock()
	call, ok := c.l.pending[corr]
	delete(c.l.pending, corr)
	if !ok || call.ch == nil {
		c.l.mu.Unlock()
		buf.Free()
		return nil // given up, or one-way
	}
	a := answer{body: b[4:], buf: buf}
	if call.flexible {
		if n < 5 || b[4] != 0 {
			a.err = errors.New("response header has unknown tagged fields")
		} else {
			a.body = b[5:]
		}
	}
	call.ch <- a // has room; under the lock, so that unregister sees it or prevents it
	c.l.mu.Unlock()
	return nil
}

func transferTime(n int) time.Duration { return bodyTimeout + time.Duration(n)*time.Second/minRate }

// writeLoop sends queued requests, several in one vectored write.
func (c *conn) writeLoop() error {
	bufs := make(net.Buffers, 0, 2*maxGather)
	for {
		var first outgoing
		select {
		case first = <-c.l.queue:
		case <-c.done:
			return nil
		case <-c.l.ctx.Done():
			return ErrClosed
		}
		var size int64
		bufs, size = c.gather(bufs[:0], first)
		_ = c.nc.SetWriteDeadline(time.Now().Add(transferTime(int(size)))) // as above
		rest := bufs
		_, err := rest.WriteTo(c.nc)
		c.l.queuedBytes.Add(-size)
		if err != nil {
			return err
		}
		clear(bufs)
	}
}

func (c *conn) gather(bufs net.Buffers, r outgoing) (net.Buffers, int64) {
	var size int64
	for n := 1; ; n++ {
		bufs = append(append(bufs, r.header), r.body...)
		size += r.size
		if n == maxGather {
			return bufs, size
		}
		select {
		case r = <-c.l.queue:
		default:
			return bufs, size
		}
	}
}

// handshake proves both sides to each other before the connection carries
// anything else.
func (l *link) handshake(ctx context.Context, nc net.Conn) error {
	o := &l.p.o
	if err := o.permit(nc.RemoteAddr().String()); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := nc.SetDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) }) // its error: closed already
	defer stop()
	mine, theirs := newHello(o.Identity(), l.key.class), new(hello)
	b, err := exchange(nc, KeyHello, mine.encode(nil))
	if err != nil {
		return err
	}
	if err := theirs.decode(b); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	if _, err := checkCluster(mine.id.ClusterID, theirs.id.ClusterID); err != nil {
		return err
	}
	if want := l.key.to.ID; want != model.NoBroker && theirs.id.Broker != want {
		return fmt.Errorf("broker %d answers at the address of broker %d", theirs.id.Broker, want)
	}
	if b, err = exchange(nc, KeyProof, proof(o.Secret, dialerLabel, mine, theirs)); err != nil {
		return err
	}
	if !hmac.Equal(b, proof(o.Secret, acceptorLabel, mine, theirs)) {
		return errors.New("the peer does not know the cluster's secret")
	}
	return nc.SetDeadline(time.Time{})
}

// exchange sends one private request and reads its answer, without pipelining.
func exchange(nc net.Conn, key int16, body []byte) ([]byte, error) {
	r := encodeRequest(key, 0, 0, false, [][]byte{body})
	if _, err := nc.Write(append(r.header, body...)); err != nil {
		return nil, err
	}
	var h [8]byte
	if _, err := io.ReadFull(nc, h[:]); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	n := int32(binary.BigEndian.Uint32(h[:]))
	if n < 4 || n > maxHello {
		return nil, fmt.Errorf("handshake: response length %d is out of bounds", n)
	}
	b := make([]byte, n-4)
	if _, err := io.ReadFull(nc, b); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return splitAnswer(b)
}
