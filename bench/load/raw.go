package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// Leaders as RawOptions.Broker reads each partition from its leader.
const Leaders int32 = -1

// RawOptions says what a raw fetcher reads.
type RawOptions struct {
	Bootstrap  []string
	Topic      string
	Partitions int
	Broker     int32 // read every partition from this broker, or Leaders
	MaxBytes   int32 // of one answer
}

// rawVersion of Fetch is the newest whose answer has a fixed shape.
const rawVersion = 11

// FetchRaw reads a topic from its start to the end that it has now, over and
// over until ctx ends, and throws the records away. It looks at batch headers
// only, to know the next offset, so that it costs as little as a consumer can
// and the server sets the pace. A connection has one request in flight for each
// partition; the next one leaves when the last batch of an answer begins. f is
// told what each whole batch held, from several goroutines.
func FetchRaw(ctx context.Context, o RawOptions, f func(records, bytes int64)) error {
	conns, err := o.plan(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for addr, parts := range conns {
		g.Go(func() error { return fetchFrom(ctx, addr, &rawConn{o: o, parts: parts, f: f}) })
	}
	return g.Wait()
}

// rawPart is the progress on one partition.
type rawPart struct {
	id               int32
	start, next, end int64
}

// plan finds out which partitions to read at which address.
func (o RawOptions) plan(ctx context.Context) (map[string][]*rawPart, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(o.Bootstrap...))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	md, err := adm.Metadata(ctx, o.Topic)
	if err != nil {
		return nil, err
	}
	addrs := map[int32]string{}
	for _, b := range md.Brokers {
		addrs[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	starts, err := adm.ListStartOffsets(ctx, o.Topic)
	if err = errors.Join(err, starts.Error()); err != nil {
		return nil, err
	}
	ends, err := adm.ListEndOffsets(ctx, o.Topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, err
	}
	conns := map[string][]*rawPart{}
	for _, p := range md.Topics[o.Topic].Partitions.Sorted() {
		broker := o.Broker
		if broker == Leaders {
			broker = p.Leader
		}
		if addrs[broker] == "" {
			return nil, fmt.Errorf("raw fetcher: partition %d: no broker %d", p.Partition, broker)
		}
		start, _ := starts.Lookup(o.Topic, p.Partition)
		end, _ := ends.Lookup(o.Topic, p.Partition)
		if end.Offset > start.Offset {
			conns[addrs[broker]] = append(conns[addrs[broker]], &rawPart{p.Partition, start.Offset, start.Offset, end.Offset})
		}
	}
	if len(conns) == 0 {
		return nil, fmt.Errorf("raw fetcher: topic %s is empty", o.Topic)
	}
	return conns, nil
}

func fetchFrom(ctx context.Context, addr string, r *rawConn) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer c.Close()
	r.c, r.br = c, bufio.NewReaderSize(c, rawBuffer)
	r.format = kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench-raw"))
	err = r.run()
	if ctx.Err() != nil {
		return nil // the connection was closed to end the run
	}
	return fmt.Errorf("raw fetcher of %s: %w", addr, err)
}

// rawBuffer is what one read takes from the socket at most.
const rawBuffer = 256 << 10

// rawConn is one connection to one broker. Answers come in the order of the
// requests; the correlation id is the index of the partition.
type rawConn struct {
	o      RawOptions
	c      net.Conn
	br     *bufio.Reader
	format *kmsg.RequestFormatter
	parts  []*rawPart
	f      func(records, bytes int64)
	buf    []byte
}

func (r *rawConn) run() error {
	for i := range r.parts {
		if err := r.ask(int32(i)); err != nil {
			return err
		}
	}
	for {
		if err := r.answer(); err != nil {
			return err
		}
	}
}

// ask sends the next request of a partition.
func (r *rawConn) ask(i int32) error {
	p := r.parts[i]
	if p.next >= p.end {
		p.next = p.start
	}
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.MinBytes, req.MaxWaitMillis = rawVersion, -1, 1, 500
	req.MaxBytes, req.SessionEpoch = r.o.MaxBytes, -1
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.CurrentLeaderEpoch, part.FetchOffset, part.PartitionMaxBytes = p.id, -1, p.next, r.o.MaxBytes
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.Partitions = r.o.Topic, append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	r.buf = r.format.AppendRequest(r.buf[:0], req, i)
	_, err := r.c.Write(r.buf)
	return err
}

// answer reads one answer and sends the partition's next request.
func (r *rawConn) answer() error {
	i, left, err := r.head()
	if err != nil {
		return err
	}
	p, asked := r.parts[i], false
	for left > 0 && !asked {
		left, asked, err = r.batch(p, i, left)
		if err != nil {
			return err
		}
	}
	if !asked {
		err = r.ask(i)
	}
	if err == nil && left > 0 {
		_, err = r.br.Discard(left)
	}
	return err
}

// batch reads one batch of the left bytes. asked says that it was the last one
// and that the next request has left; of that batch the rest is still to read.
func (r *rawConn) batch(p *rawPart, i int32, left int) (rest int, asked bool, err error) {
	if left < batch.HeaderLen {
		return left, true, r.ask(i) // a piece that was cut off: asked for again
	}
	b, err := r.br.Peek(batch.HeaderLen)
	if err != nil {
		return left, false, err
	}
	h, err := batch.Parse(b)
	if err != nil {
		return left, false, err
	}
	if h.Size() > left {
		return left, true, r.ask(i)
	}
	if next := h.NextOffset(); next > p.next { // the first may hold offsets before the one that was asked for
		r.f(next-max(p.next, h.BaseOffset), int64(h.Size()))
		p.next = next
	}
	if h.Size() == left {
		return left, true, r.ask(i)
	}
	_, err = r.br.Discard(h.Size())
	return left - h.Size(), false, err
}

// head reads what stands in front of the records: which partition it is, and
// the length of what follows.
func (r *rawConn) head() (i int32, records int, err error) {
	var size [4]byte
	if _, err := io.ReadFull(r.br, size[:]); err != nil {
		return 0, 0, err
	}
	total := int(int32(binary.BigEndian.Uint32(size[:])))
	// The records come last, with nothing behind them in this version.
	b, err := r.br.Peek(min(total, rawHeadLen(len(r.o.Topic))))
	if err != nil {
		return 0, 0, err
	}
	k := kbin.Reader{Src: b}
	i = k.Int32()
	k.Int32() // throttle
	code := k.Int16()
	k.Int32() // session
	topics := k.ArrayLen()
	k.Span(int(k.Int16())) // topic
	parts := k.ArrayLen()
	k.Int32() // partition
	partCode := k.Int16()
	k.Span(3 * 8) // high watermark, last stable offset, log start
	aborted := k.ArrayLen()
	if err := k.Complete(); err != nil || topics != 1 || parts != 1 || aborted > 0 || i < 0 || int(i) >= len(r.parts) {
		return 0, 0, fmt.Errorf("unexpected answer: correlation %d, error %d, %d topics, %d partitions, %d aborted transactions (%w)", i, code, topics, parts, aborted, errors.Join(err, kerr.ErrorForCode(code)))
	}
	if err := errors.Join(kerr.ErrorForCode(code), kerr.ErrorForCode(partCode)); err != nil {
		return 0, 0, fmt.Errorf("partition %d: %w", r.parts[i].id, err)
	}
	k.Int32() // preferred read replica
	records = max(0, int(k.Int32()))
	head := len(b) - len(k.Src)
	if err := k.Complete(); err != nil || head+records != total {
		return 0, 0, fmt.Errorf("answer of %d bytes with %d before %d of records (%w)", total, head, records, err)
	}
	_, err = r.br.Discard(head)
	return i, records, err
}

// rawHeadLen is the length of a head: correlation, throttle, error, session,
// topics, name, partitions, partition, error, three offsets, aborted, preferred
// replica, length of the records.
func rawHeadLen(topic int) int { return 4 + 4 + 2 + 4 + 4 + 2 + topic + 4 + 4 + 2 + 3*8 + 4 + 4 + 4 }
