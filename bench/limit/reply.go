package limit

import (
	"fmt"
	"io"
	"net"
	"os"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"
)

// reply is an answer: framed bytes, then perhaps a part of a file that the
// frame's length counts.
type reply struct {
	head  []byte
	file  *os.File
	at, n int64
	err   error // there is no answer: the connection ends
}

// send writes the reply; the file goes by sendfile.
func (r reply) send(c net.Conn) error {
	if r.err != nil {
		return r.err
	}
	if _, err := c.Write(r.head); err != nil || r.n == 0 {
		return err
	}
	return sendFile(c, r.file, r.at, r.n)
}

// maxSendfile bounds one call, so that connections share the processor.
const maxSendfile = 4 << 20

// sendFile copies [at, at+n) of f to a TCP connection inside the kernel. It
// leaves the file's own offset alone: connections share the file.
func sendFile(c net.Conn, f *os.File, at, n int64) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("limit: sendfile to %T", c)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	src := int(f.Fd())
	for n > 0 {
		var sent int
		var serr error
		err := raw.Write(func(fd uintptr) bool {
			sent, serr = unix.Sendfile(int(fd), src, &at, int(min(n, maxSendfile)))
			return serr != unix.EAGAIN && serr != unix.EINTR
		})
		switch {
		case err != nil:
			return err
		case serr != nil:
			return serr
		case sent == 0:
			return io.ErrUnexpectedEOF
		}
		n -= int64(sent)
	}
	return nil
}

// tailed serves consumers from a tail in memory.
type tailed struct{ t *tail }

func (b tailed) fetch(req *kmsg.FetchRequest, correlation int32) (reply, error) {
	return reply{head: encode(correlation, b.t.fetch(req))}, nil
}

func (b tailed) listOffsets(req *kmsg.ListOffsetsRequest) kmsg.Response { return b.t.listOffsets(req) }

func (b tailed) close()         { b.t.close() }
func (b tailed) release() error { return nil }
