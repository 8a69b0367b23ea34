package faults

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/tailrace/tailrace/internal/batch"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rawConn is a Kafka connection that makes one attempt and hides nothing: one
// request at a time, no retry, no reconnect. After an error it is done for.
type rawConn struct {
	c    net.Conn
	corr int32
	buf  []byte
}

// dialTimeout bounds a connection attempt of a raw client.
const dialTimeout = time.Second

// maxAnswer bounds the answer to a request of ours, in bytes.
const maxAnswer = 64 << 20

func dialRaw(addr string) (*rawConn, error) {
	c, err := net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return nil, err
	}
	return &rawConn{c: c}, nil
}

func (r *rawConn) close() { _ = r.c.Close() } // nothing of ours is buffered in it

// do sends req and decodes the answer. An error says nothing about whether the
// request took effect.
func (r *rawConn) do(req kmsg.Request, timeout time.Duration) (kmsg.Response, error) {
	if err := r.c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	r.corr++
	r.buf = kmsg.NewRequestFormatter(kmsg.FormatterClientID("faults")).AppendRequest(r.buf[:0], req, r.corr)
	if _, err := r.c.Write(r.buf); err != nil {
		return nil, err
	}
	body, err := r.read()
	if err != nil {
		return nil, err
	}
	resp := req.ResponseKind()
	if resp.IsFlexible() && req.Key() != 18 { // the tags of the response header: always empty
		if len(body) < 1 || body[0] != 0 {
			return nil, fmt.Errorf("answer to %s: unknown tags in its header", kmsg.NameForKey(req.Key()))
		}
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("answer to %s: %w", kmsg.NameForKey(req.Key()), err)
	}
	return resp, nil
}

// read returns the body of the next answer, which must be ours.
func (r *rawConn) read() ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r.c, head[:]); err != nil {
		return nil, err
	}
	size, corr := int(binary.BigEndian.Uint32(head[:])), int32(binary.BigEndian.Uint32(head[4:]))
	if size < 4 || size > maxAnswer || corr != r.corr {
		return nil, fmt.Errorf("answer of %d bytes to request %d, want one to %d", size, corr, r.corr)
	}
	body := make([]byte, size-4)
	_, err := io.ReadFull(r.c, body)
	return body, err
}

// tp is one topic partition.
type tp struct {
	topic     string
	partition int32
}

func (t tp) String() string { return fmt.Sprintf("%s/%d", t.topic, t.partition) }

// produceRequest is one record, to be acknowledged by the in-sync set.
func produceRequest(k tp, value []byte, timeout time.Duration) *kmsg.ProduceRequest {
	now := time.Now().UnixMilli()
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition = k.partition
	p.Records = batch.Plain(0, -1, batch.Record{Value: value, Timestamp: now})
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.Partitions = k.topic, []kmsg.ProduceRequestTopicPartition{p}
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis, req.Topics = 9, -1, int32(timeout.Milliseconds()), []kmsg.ProduceRequestTopic{t}
	return req
}

// fetchRequest reads one partition as a consumer.
func fetchRequest(k tp, offset int64, wait time.Duration, maxBytes int32) *kmsg.FetchRequest {
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = k.partition, offset, maxBytes, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.Partitions = k.topic, []kmsg.FetchRequestTopicPartition{p}
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 12, int32(wait.Milliseconds()), 1, maxBytes, -1
	req.Topics = []kmsg.FetchRequestTopic{t}
	return req
}

// latestRequest asks for the end offset.
func latestRequest(k tp) *kmsg.ListOffsetsRequest {
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp, p.CurrentLeaderEpoch = k.partition, -1, -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic, t.Partitions = k.topic, []kmsg.ListOffsetsRequestTopicPartition{p}
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID, req.Topics = 6, -1, []kmsg.ListOffsetsRequestTopic{t}
	return req
}

// metadataRequest asks for the given topics, all brokers.
func metadataRequest(topics []string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12                           // tells topic ids
	req.Topics = []kmsg.MetadataRequestTopic{} // not null, which means all
	for _, name := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &name
		req.Topics = append(req.Topics, t)
	}
	return req
}
