package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/internal/batch"
)

// rawConn is a TCP connection on which a test writes what it likes.
type rawConn struct {
	t testing.TB
	net.Conn
}

func dialRaw(t testing.TB, addr string) *rawConn {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return &rawConn{t, nc}
}

// send writes; the peer may have closed already, which refused tells.
func (c *rawConn) send(b []byte) { _, _ = c.Write(b) }

// refused asserts that the broker closes the connection without an answer.
func (c *rawConn) refused() {
	c.t.Helper()
	n, err := io.Copy(io.Discard, c)
	var timeout net.Error
	if n != 0 || (errors.As(err, &timeout) && timeout.Timeout()) {
		c.t.Fatalf("the broker sent %d bytes and did not close: %v", n, err)
	}
}

// frame encodes a request with its header and length.
func frame(req kmsg.Request, correlation int32) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("input")).AppendRequest(nil, req, correlation)
}

// header is a frame of any key, version and body, with a non-flexible header.
func header(key, version int16, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(10+len(body)))
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, 0xffff) // no client id
	return append(b, body...)
}

// answer reads one response frame and returns what follows its correlation id.
func (c *rawConn) answer(correlation int32) []byte {
	c.t.Helper()
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	if got := int32(binary.BigEndian.Uint32(head[4:])); got != correlation {
		c.t.Fatalf("answer to request %d, want %d", got, correlation)
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:])-4)
	if _, err := io.ReadFull(c, body); err != nil {
		c.t.Fatalf("answer cut short: %v", err)
	}
	return body
}

// do sends a request and decodes its answer.
func (c *rawConn) do(req kmsg.Request) kmsg.Response {
	c.t.Helper()
	c.send(frame(req, 7))
	body := c.answer(7)
	resp := req.ResponseKind()
	if resp.IsFlexible() && req.Key() != 18 {
		body = body[1:] // an empty tag section
	}
	if err := resp.ReadFrom(body); err != nil {
		c.t.Fatalf("undecodable answer: %v", err)
	}
	return resp
}

// ask sends one request to one broker on a new connection.
func ask[R kmsg.Response](t testing.TB, addr string, version int16, req kmsg.Request) R {
	t.Helper()
	req.SetVersion(version)
	return dialRaw(t, addr).do(req).(R)
}

func wantCode(t testing.TB, what string, code int16, want *kerr.Error) {
	t.Helper()
	if code != want.Code {
		t.Errorf("%s: error %v, want %s", what, kerr.ErrorForCode(code), want.Message)
	}
}

// metadataOf asks for topics by name at version 12.
func metadataOf(names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(12)
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, n := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &n
		req.Topics = append(req.Topics, t)
	}
	return req
}

// produceOf is a request of one batch at version 12.
func produceOf(topic string, partition int32, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(12)
	req.Acks, req.TimeoutMillis = -1, int32(patience.Milliseconds())
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, records
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func goodBatch(value string) []byte {
	return batch.Plain(0, 0, batch.Record{Timestamp: time.Now().UnixMilli(), Value: []byte(value)})
}

// produceCode sends a batch to the partition's leader and returns the answer's
// code, asking again while leadership moves.
func produceCode(c *cluster, req *kmsg.ProduceRequest) (code int16) {
	c.t.Helper()
	topic, partition := req.Topics[0].Topic, req.Topics[0].Partitions[0].Partition
	eventually(c.t, "an answer of the leader of "+topic, func(context.Context) error {
		leader := c.nodes[c.leader(topic, partition)-1]
		resp := ask[*kmsg.ProduceResponse](c.t, leader.kafka, req.GetVersion(), req)
		code = resp.Topics[0].Partitions[0].ErrorCode
		if code == kerr.NotLeaderForPartition.Code || code == kerr.NotEnoughReplicas.Code {
			return kerr.ErrorForCode(code)
		}
		return nil
	})
	return code
}

// memory returns a process's resident set and address space, in bytes.
func memory(t testing.TB, n *node) (resident, virtual int64) {
	t.Helper()
	n.mu.Lock()
	pid := n.cmd.Process.Pid
	n.mu.Unlock()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	figure := func(name string) int64 {
		_, rest, ok := strings.Cut(string(text), name+":")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			t.Fatalf("no %s in the status of process %d", name, pid)
		}
		kib, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return kib << 10
	}
	return figure("VmRSS"), figure("VmSize")
}

// bystander watches over the shared cluster while a test feeds it bad input.
type bystander struct {
	c        *cluster
	conns    []*rawConn // opened before, one to each broker
	resident []int64
	virtual  []int64
}

// Growth that a hostile peer may cause. Far above what the limits allow, far
// below what the announced lengths would take.
const (
	maxResidentGrowth = 400 << 20
	maxVirtualGrowth  = 3 << 30
)

func watchOver(t *testing.T) *bystander {
	c := sharedCluster(t)
	c.createTopic("bystander", 1, 3, nil)
	w := &bystander{c: c}
	for _, n := range c.nodes {
		w.conns = append(w.conns, dialRaw(t, n.kafka))
		r, v := memory(t, n)
		w.resident, w.virtual = append(w.resident, r), append(w.virtual, v)
	}
	return w
}

// unharmed asserts that every broker runs, serves old and new connections,
// stores records, and has not taken much memory.
func (w *bystander) unharmed(t testing.TB) {
	t.Helper()
	for i, n := range w.c.nodes {
		if !n.running() {
			t.Fatalf("broker %d ended:\n%s", n.id, tail(n.output(), 40))
		}
		for _, conn := range []*rawConn{w.conns[i], dialRaw(t, n.kafka)} {
			conn.t = t
			conn.SetDeadline(time.Now().Add(patience))
			resp := conn.do(metadataOf("bystander")).(*kmsg.MetadataResponse)
			if len(resp.Topics) != 1 || resp.Topics[0].ErrorCode != 0 {
				t.Fatalf("broker %d answers %+v", n.id, resp.Topics)
			}
		}
		if strings.Contains(n.output(), "panic") {
			t.Fatalf("broker %d panicked:\n%s", n.id, n.output())
		}
		r, v := memory(t, n)
		if r-w.resident[i] > maxResidentGrowth || v-w.virtual[i] > maxVirtualGrowth {
			t.Fatalf("broker %d grew from %d to %d MiB resident, %d to %d MiB of address space", n.id, w.resident[i]>>20, r>>20, w.virtual[i]>>20, v>>20)
		}
	}
	if code := produceCode(w.c, produceOf("bystander", 0, goodBatch("still here"))); code != 0 {
		t.Fatalf("produce: %v", kerr.ErrorForCode(code))
	}
}

// uvarints encodes unsigned varints.
func uvarints(vs ...uint64) (b []byte) {
	for _, v := range vs {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func length(n int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// flexible is a body behind a flexible request header.
func flexible(headerTags, body []byte) []byte { return append(bytes.Clone(headerTags), body...) }

// TestBadFrames: bytes that are no Kafka request, or one that lies about its
// size, close their connection, say nothing, cost nothing and harm nobody.
func TestBadFrames(t *testing.T) {
	w := watchOver(t)
	noTags := uvarints(0)
	for _, in := range []struct {
		name  string
		bytes []byte
	}{
		{"length 2^31-1", append(length(1<<31-1), "abcdef"...)},
		{"length of one more than the limit", length(100<<20 + 1)},
		{"negative length", length(-1)},
		{"most negative length", length(-1 << 31)},
		{"length 0", length(0)},
		{"length below a header", append(length(9), make([]byte, 9)...)},
		{"HTTP", []byte("GET /metrics HTTP/1.1\r\nHost: broker\r\n\r\n")},
		{"HTTP/2", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")},
		{"TLS", []byte("\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03 and so on")},
		{"SSH", []byte("SSH-2.0-OpenSSH_9.6\r\n")},
		{"binary noise", bytes.Repeat([]byte{0xde, 0xad, 0xbe, 0xef}, 4096)},
		{"client id longer than the frame", append(length(12), 0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 'a', 'b')},
		{"client id of length -2", append(length(10), 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xfe)},
		{"unknown key", header(999, 0, nil)},
		{"negative key", header(-1, 0, nil)},
		{"a key of consumer groups", header(11, 5, make([]byte, 64))},
		{"a key between brokers", header(4, 0, make([]byte, 64))},
		{"unknown version", header(3, 99, make([]byte, 64))},
		{"negative version", header(3, -1, make([]byte, 64))},
		{"Produce 0", header(0, 0, []byte{0xff, 0xff, 0, 0, 0, 100, 0, 0, 0, 0})},
		{"Produce 1", header(0, 1, []byte{0xff, 0xff, 0, 0, 0, 100, 0, 0, 0, 0})},
		{"Produce 2", header(0, 2, []byte{0xff, 0xff, 0, 0, 0, 100, 0, 0, 0, 0})},
		{"body cut short", header(3, 1, []byte{0, 0, 0, 1, 0, 5, 'a'})},
		{"string of length -2", header(3, 1, []byte{0, 0, 0, 1, 0xff, 0xfe})},
		{"array of 2^31-1 elements", header(3, 1, length(1<<31-1))},
		{"array of -2 elements", header(3, 1, length(-2))},
		{"compact array of 2^32-1 elements", header(3, 12, flexible(noTags, uvarints(1<<32-1)))},
		{"varint without end", header(3, 12, flexible(noTags, bytes.Repeat([]byte{0xff}, 20)))},
		{"2^31-1 tags in the header", header(3, 12, uvarints(1<<31-1))},
		{"tag of 2^32-1 bytes in the header", header(3, 12, uvarints(1, 0, 1<<32-1))},
		{"2^31-1 tags in the body", header(3, 12, flexible(noTags, append(uvarints(0), append([]byte{0, 0}, uvarints(1<<31-1)...)...)))},
		{"half a million tags in the body", header(3, 12, flexible(noTags, append(uvarints(0), append([]byte{0, 0}, tagBomb(500_000)...)...)))},
		{"a million topics without partitions", header(0, 3, amplified(1_000_000))},
		{"replica fetch on the client listener", fetchAsReplica()},
	} {
		t.Run(in.name, func(t *testing.T) {
			conn := dialRaw(t, w.c.nodes[0].kafka)
			conn.send(in.bytes)
			if tcp, ok := conn.Conn.(*net.TCPConn); ok && in.name == "SSH" {
				tcp.CloseWrite() // "SSH-" is a length as well, of more than the limit
			}
			conn.refused()
			w.unharmed(t)
		})
	}
}

// tagBomb is n empty tagged fields.
func tagBomb(n int) []byte {
	b := uvarints(uint64(n))
	for i := range n {
		b = append(b, uvarints(uint64(i), 0)...)
	}
	return b
}

// amplified is a Produce 3 body of n topics that take 6 bytes each, and many
// times that when decoded.
func amplified(n int) []byte {
	b := []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0x10, 0}
	return append(append(b, length(int32(n))...), make([]byte, 6*n)...)
}

func fetchAsReplica() []byte {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(12)
	req.ReplicaID = 2
	return frame(req, 1)
}

// TestBadFramesAreExplained: the log says why a connection was closed.
func TestBadFramesAreExplained(t *testing.T) {
	w := watchOver(t)
	n := w.c.nodes[1]
	for bad, want := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":               "HTTP",
		"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4": "TLS",
		string(length(1<<31 - 1)):              "2147483647",
		string(header(999, 0, nil)):            "999",
	} {
		eventually(t, "the log names "+want, func(context.Context) error {
			conn := dialRaw(t, n.kafka)
			conn.send([]byte(bad))
			conn.refused()
			if !strings.Contains(n.output(), want) {
				return errors.New("not in the log")
			}
			return nil
		})
	}
	w.unharmed(t)
}

// TestSilentPeers: many connections that send half a frame and fall silent hold
// up nobody and take no memory for what they only announced; one that goes on
// later is served.
func TestSilentPeers(t *testing.T) {
	w := watchOver(t)
	whole := frame(metadataOf("bystander"), 9)
	var half []*rawConn
	for i := range 100 {
		conn := dialRaw(t, w.c.nodes[i%3].kafka)
		switch i % 4 {
		case 0:
			conn.send(whole[:2]) // half a length
		case 1:
			conn.send(whole[:len(whole)/2])
		case 2:
			conn.send(length(100 << 20)) // the largest that is allowed
		case 3:
			conn.send(append(length(100<<20), make([]byte, 20_000)...))
		}
		half = append(half, conn)
	}
	w.unharmed(t)
	for i, conn := range half[:2] {
		conn.send(whole[2+i*(len(whole)/2-2):])
		if body := conn.answer(9); len(body) == 0 {
			t.Error("empty answer")
		}
	}
	w.unharmed(t)
}

// TestManyTagsInAHeader: unknown tags are skipped, however many (KIP-482).
func TestManyTagsInAHeader(t *testing.T) {
	w := watchOver(t)
	body := append(uvarints(1), 0, 0, 0) // no topics, two flags, no tags
	conn := dialRaw(t, w.c.nodes[0].kafka)
	conn.send(header(3, 12, flexible(tagBomb(10_000), body)))
	if len(conn.answer(1)) == 0 {
		t.Error("empty answer")
	}
	w.unharmed(t)
}

// TestApiVersionsUnknownVersion: KIP-511's answer has the shape of version 0
// and only this key's range, and the connection goes on.
func TestApiVersionsUnknownVersion(t *testing.T) {
	w := watchOver(t)
	conn := dialRaw(t, w.c.nodes[2].kafka)
	for _, version := range []int16{6, 99, 32767} {
		conn.send(header(18, version, []byte("\x00whatever"))) // behind no tags
		body := conn.answer(1)
		want := []byte{0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 5}
		if !bytes.Equal(body, want) {
			t.Errorf("version %d: answer % x, want % x", version, body, want)
		}
	}
	req := kmsg.NewPtrApiVersionsRequest()
	req.SetVersion(3)
	req.ClientSoftwareName, req.ClientSoftwareVersion = "input", "1"
	if resp := conn.do(req).(*kmsg.ApiVersionsResponse); resp.ErrorCode != 0 || len(resp.ApiKeys) < 15 {
		t.Errorf("after that: error %d, %d keys", resp.ErrorCode, len(resp.ApiKeys))
	}
	req.ClientSoftwareName = "not a name!"
	wantCode(t, "bad software name", conn.do(req).(*kmsg.ApiVersionsResponse).ErrorCode, kerr.InvalidRequest)
	w.unharmed(t)
}

// TestBadBatches: what a producer may not append is refused by name, and leaves
// the log as it was.
func TestBadBatches(t *testing.T) {
	w := watchOver(t)
	c := w.c
	c.createTopic("bad-batches", 1, 3, nil)
	c.createTopic("bad-batches-compacted", 1, 3, map[string]*string{"cleanup.policy": ptr("compact")})
	edit := func(f func(b []byte)) []byte {
		b := goodBatch("a value to be damaged")
		f(b)
		return b
	}
	signed := func(f func(b []byte)) []byte {
		return edit(func(b []byte) {
			f(b)
			binary.BigEndian.PutUint32(b[17:], batch.Checksum(b))
		})
	}
	for _, in := range []struct {
		name    string
		records []byte
		want    *kerr.Error
	}{
		{"flipped bit", edit(func(b []byte) { b[len(b)-3] ^= 4 }), kerr.CorruptMessage},
		{"wrong CRC", edit(func(b []byte) { b[17] ^= 1 }), kerr.CorruptMessage},
		{"magic 0", edit(func(b []byte) { b[16] = 0 }), kerr.UnsupportedForMessageFormat},
		{"magic 1", edit(func(b []byte) { b[16] = 1 }), kerr.UnsupportedForMessageFormat},
		{"magic 3", edit(func(b []byte) { b[16] = 3 }), kerr.UnsupportedForMessageFormat},
		{"null", nil, kerr.InvalidRecord},
		{"empty", []byte{}, kerr.InvalidRecord},
		{"cut short", goodBatch("x")[:40], kerr.InvalidRecord},
		{"length beyond the end", edit(func(b []byte) { b[8] = 0x7f }), kerr.CorruptMessage},
		{"negative length", edit(func(b []byte) { b[8] = 0xff }), kerr.CorruptMessage},
		{"two batches", append(goodBatch("x"), goodBatch("y")...), kerr.InvalidRecord},
		{"trailing bytes", append(goodBatch("x"), 1, 2, 3), kerr.InvalidRecord},
		{"oversize", goodBatch(strings.Repeat("x", 1_048_588)), kerr.MessageTooLarge},
		{"control batch", signed(func(b []byte) { b[22] |= 0x20 }), kerr.InvalidRecord},
		{"transactional batch", signed(func(b []byte) { b[22] |= 0x10 }), kerr.InvalidTxnState},
		{"unknown compression", signed(func(b []byte) { b[22] |= 7 }), kerr.InvalidRecord},
		{"no records", signed(func(b []byte) { binary.BigEndian.PutUint32(b[57:], 0) }), kerr.InvalidRecord},
		{"a billion records", signed(func(b []byte) { binary.BigEndian.PutUint32(b[57:], 1e9) }), kerr.InvalidRecord},
	} {
		t.Run(in.name, func(t *testing.T) {
			c.t = t
			wantCode(t, in.name, produceCode(c, produceOf("bad-batches", 0, in.records)), in.want)
		})
	}
	c.t = t
	wantCode(t, "no key on a compacted topic", produceCode(c, produceOf("bad-batches-compacted", 0, goodBatch("x"))), kerr.InvalidRecord)

	acks := produceOf("bad-batches", 0, goodBatch("x"))
	acks.Acks = 2
	wantCode(t, "acks=2", produceCode(c, acks), kerr.InvalidRequiredAcks)
	txn := produceOf("bad-batches", 0, goodBatch("x"))
	txn.TransactionID = ptr("t")
	wantCode(t, "a transaction", produceCode(c, txn), kerr.TransactionalIDAuthorizationFailed)

	if ends := c.ends("bad-batches"); ends[0] != 0 {
		t.Errorf("refused batches took %d offsets", ends[0])
	}
	if code := produceCode(c, produceOf("bad-batches", 0, goodBatch("fine"))); code != 0 {
		t.Errorf("a good batch afterwards: %v", kerr.ErrorForCode(code))
	}
	w.unharmed(t)
}

// badNames are no names of topics.
var badNames = []string{"", ".", "..", "a b", "a/b", "../../etc", "a\x00b", "größe", "a:b", strings.Repeat("n", 250)}

// TestUnknownAndBadNames asserts the code of every request for what does not
// exist, by name and by id, on every broker.
func TestUnknownAndBadNames(t *testing.T) {
	w := watchOver(t)
	for _, n := range w.c.nodes {
		for _, version := range []int16{0, 1, 8, 12} {
			req := metadataOf("no-such-topic")
			resp := ask[*kmsg.MetadataResponse](t, n.kafka, version, req)
			wantCode(t, fmt.Sprint("Metadata ", version), resp.Topics[0].ErrorCode, kerr.UnknownTopicOrPartition)
		}
		byID := metadataOf()
		byID.Topics = append(byID.Topics, kmsg.MetadataRequestTopic{TopicID: [16]byte{1, 2, 3}})
		wantCode(t, "Metadata by id", ask[*kmsg.MetadataResponse](t, n.kafka, 12, byID).Topics[0].ErrorCode, kerr.UnknownTopicID)
		unknownData(t, n.kafka)
		for _, name := range badNames {
			what := fmt.Sprintf(" %.20q", name)
			wantCode(t, "Metadata"+what, ask[*kmsg.MetadataResponse](t, n.kafka, 12, metadataOf(name)).Topics[0].ErrorCode, kerr.InvalidTopicException)
			wantCode(t, "Produce"+what, ask[*kmsg.ProduceResponse](t, n.kafka, 12, produceOf(name, 0, goodBatch("x"))).Topics[0].Partitions[0].ErrorCode, kerr.InvalidTopicException)
			wantCode(t, "CreateTopics"+what, createCode(t, n.kafka, newTopicOf(name, 1, 1)), kerr.InvalidTopicException)
		}
	}
	w.unharmed(t)
}

// unknownData asks for data of topics and partitions that do not exist.
func unknownData(t *testing.T, addr string) {
	t.Helper()
	for _, at := range []struct {
		topic     string
		partition int32
	}{{"no-such-topic", 0}, {"bystander", 1}, {"bystander", -1}, {"bystander", 1<<31 - 1}} {
		what := fmt.Sprintf(" of %s/%d", at.topic, at.partition)
		wantCode(t, "Produce"+what, ask[*kmsg.ProduceResponse](t, addr, 12, produceOf(at.topic, at.partition, goodBatch("x"))).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)

		wantCode(t, "Fetch"+what, ask[*kmsg.FetchResponse](t, addr, 12, fetchOf(at.topic, [16]byte{}, at.partition)).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)

		list := kmsg.NewPtrListOffsetsRequest()
		list.ReplicaID = -1
		lt := kmsg.NewListOffsetsRequestTopic()
		lp := kmsg.NewListOffsetsRequestTopicPartition()
		lt.Topic, lp.Partition, lp.Timestamp = at.topic, at.partition, -1
		lt.Partitions = append(lt.Partitions, lp)
		list.Topics = append(list.Topics, lt)
		wantCode(t, "ListOffsets"+what, ask[*kmsg.ListOffsetsResponse](t, addr, 7, list).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)
	}
	byID := produceOf("", 0, goodBatch("x"))
	byID.Topics[0].TopicID = [16]byte{1, 2, 3}
	wantCode(t, "Produce by id", ask[*kmsg.ProduceResponse](t, addr, 13, byID).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicID)
	wantCode(t, "Fetch by id", ask[*kmsg.FetchResponse](t, addr, 13, fetchOf("", [16]byte{1, 2, 3}, 0)).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicID)
}

func fetchOf(topic string, id [16]byte, partition int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 100, 1, 1<<20, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.PartitionMaxBytes = partition, 1<<20
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, id
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// newTopicOf is one topic of a CreateTopics request, settings in pairs.
func newTopicOf(name string, partitions int32, replicas int16, settings ...string) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, replicas
	for i := 0; i < len(settings); i += 2 {
		kv := kmsg.NewCreateTopicsRequestTopicConfig()
		kv.Name, kv.Value = settings[i], &settings[i+1]
		t.Configs = append(t.Configs, kv)
	}
	return t
}

func createCode(t testing.TB, addr string, topics ...kmsg.CreateTopicsRequestTopic) int16 {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 60_000
	req.Topics = topics
	return ask[*kmsg.CreateTopicsResponse](t, addr, 7, req).Topics[0].ErrorCode
}

// TestBadTopics: what cannot be created is refused by name, whichever broker is
// asked, and nothing half made is left.
func TestBadTopics(t *testing.T) {
	w := watchOver(t)
	assigned := newTopicOf("half-made", -1, -1)
	assigned.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 0, Replicas: []int32{1, 9}}}
	gap := newTopicOf("half-made", -1, -1)
	gap.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 1, Replicas: []int32{1, 2}}}
	both := newTopicOf("half-made", 1, 1)
	both.ReplicaAssignment = gap.ReplicaAssignment
	for _, in := range []struct {
		name  string
		topic kmsg.CreateTopicsRequestTopic
		want  *kerr.Error
	}{
		{"more replicas than brokers", newTopicOf("half-made", 1, 4), kerr.InvalidReplicationFactor},
		{"no replicas", newTopicOf("half-made", 1, 0), kerr.InvalidReplicationFactor},
		{"-2 replicas", newTopicOf("half-made", 1, -2), kerr.InvalidReplicationFactor},
		{"no partitions", newTopicOf("half-made", 0, 3), kerr.InvalidPartitions},
		{"-2 partitions", newTopicOf("half-made", -2, 3), kerr.InvalidPartitions},
		{"2^31-1 partitions", newTopicOf("half-made", 1<<31-1, 3), kerr.InvalidPartitions},
		{"unknown broker", assigned, kerr.InvalidReplicaAssignment},
		{"gap in the assignment", gap, kerr.InvalidReplicaAssignment},
		{"assignment and counts", both, kerr.InvalidRequest},
		{"exists", newTopicOf("bystander", 1, 3), kerr.TopicAlreadyExists},
		{"unknown setting", newTopicOf("half-made", 1, 3, "no.such.setting", "1"), kerr.InvalidConfig},
		{"not a number", newTopicOf("half-made", 1, 3, "retention.ms", "soon"), kerr.InvalidConfig},
		{"out of range", newTopicOf("half-made", 1, 3, "max.message.bytes", "-5"), kerr.InvalidConfig},
		{"overflow", newTopicOf("half-made", 1, 3, "segment.bytes", "99999999999999999999"), kerr.InvalidConfig},
		{"bad choice", newTopicOf("half-made", 1, 3, "cleanup.policy", "shred"), kerr.InvalidConfig},
		{"minimum above the replicas", newTopicOf("half-made", 1, 3, "min.insync.replicas", "4"), kerr.InvalidConfig},
		{"synchronous above the replicas", newTopicOf("half-made", 1, 3, "sync.replicas", "4"), kerr.InvalidConfig},
		{"minimum above synchronous", newTopicOf("half-made", 1, 3, "min.insync.replicas", "3", "sync.replicas", "2"), kerr.InvalidConfig},
		{"not boolean", newTopicOf("half-made", 1, 3, "unclean.leader.election.enable", "perhaps"), kerr.InvalidConfig},
	} {
		t.Run(in.name, func(t *testing.T) {
			for _, n := range w.c.nodes {
				wantCode(t, fmt.Sprintf("broker %d", n.id), createCode(t, n.kafka, in.topic), in.want)
				if code := ask[*kmsg.MetadataResponse](t, n.kafka, 12, metadataOf("half-made")).Topics[0].ErrorCode; code != kerr.UnknownTopicOrPartition.Code {
					t.Fatalf("broker %d has a topic that was refused (%d)", n.id, code)
				}
			}
		})
	}
	twice := newTopicOf("half-made", 1, 1)
	wantCode(t, "named twice", createCode(t, w.c.nodes[0].kafka, twice, twice), kerr.InvalidRequest)
	w.unharmed(t)
}

// TestBadConfigs changes settings to what they cannot be.
func TestBadConfigs(t *testing.T) {
	w := watchOver(t)
	alter := func(addr string, kind kmsg.ConfigResourceType, name, key string, value *string) int16 {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		kv := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		kv.Name, kv.Value = key, value
		r := kmsg.NewIncrementalAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName = kind, name
		r.Configs = append(r.Configs, kv)
		req.Resources = append(req.Resources, r)
		return ask[*kmsg.IncrementalAlterConfigsResponse](t, addr, 1, req).Resources[0].ErrorCode
	}
	topic := kmsg.ConfigResourceTypeTopic
	for _, n := range w.c.nodes {
		wantCode(t, "unknown setting", alter(n.kafka, topic, "bystander", "no.such.setting", ptr("1")), kerr.InvalidConfig)
		wantCode(t, "not a number", alter(n.kafka, topic, "bystander", "retention.ms", ptr("soon")), kerr.InvalidConfig)
		wantCode(t, "minimum above the replicas", alter(n.kafka, topic, "bystander", "min.insync.replicas", ptr("4")), kerr.InvalidConfig)
		wantCode(t, "no value", alter(n.kafka, topic, "bystander", "retention.ms", nil), kerr.InvalidRequest)
		wantCode(t, "unknown topic", alter(n.kafka, topic, "no-such-topic", "retention.ms", ptr("1")), kerr.UnknownTopicOrPartition)
		wantCode(t, "unknown kind", alter(n.kafka, 99, "bystander", "retention.ms", ptr("1")), kerr.InvalidRequest)
		wantCode(t, "unknown broker setting", alter(n.kafka, kmsg.ConfigResourceTypeBroker, "", "no.such.setting", ptr("1")), kerr.InvalidConfig)
	}
	w.unharmed(t)
}

// TestDeletedTopic: clients that go on with a deleted topic's name or id are
// told, and a new topic of the name is another one.
func TestDeletedTopic(t *testing.T) {
	w := watchOver(t)
	c := w.c
	c.createTopic("deleted", 1, 3, nil)
	if code := produceCode(c, produceOf("deleted", 0, goodBatch("gone soon"))); code != 0 {
		t.Fatal(kerr.ErrorForCode(code))
	}
	old := ask[*kmsg.MetadataResponse](t, c.nodes[0].kafka, 12, metadataOf("deleted")).Topics[0].TopicID
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.TimeoutMillis = 60_000
	del.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: ptr("deleted")}}
	if code := ask[*kmsg.DeleteTopicsResponse](t, c.nodes[1].kafka, 6, del).Topics[0].ErrorCode; code != 0 {
		t.Fatal(kerr.ErrorForCode(code))
	}
	wantCode(t, "deleted again", ask[*kmsg.DeleteTopicsResponse](t, c.nodes[1].kafka, 6, del).Topics[0].ErrorCode, kerr.UnknownTopicOrPartition)
	gone := func(n *node) {
		byID := produceOf("", 0, goodBatch("x"))
		byID.Topics[0].TopicID = old
		wantCode(t, "Produce by id", ask[*kmsg.ProduceResponse](t, n.kafka, 13, byID).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicID)
		wantCode(t, "Fetch by id", ask[*kmsg.FetchResponse](t, n.kafka, 13, fetchOf("", old, 0)).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicID)
	}
	for _, n := range c.nodes {
		eventually(t, fmt.Sprintf("broker %d forgets the topic", n.id), func(context.Context) error {
			if code := ask[*kmsg.MetadataResponse](t, n.kafka, 12, metadataOf("deleted")).Topics[0].ErrorCode; code != kerr.UnknownTopicOrPartition.Code {
				return fmt.Errorf("code %d", code)
			}
			return nil
		})
		wantCode(t, "Produce by name", ask[*kmsg.ProduceResponse](t, n.kafka, 12, produceOf("deleted", 0, goodBatch("x"))).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)
		gone(n)
	}
	c.createTopic("deleted", 1, 3, nil)
	for _, n := range c.nodes {
		gone(n)
	}
	if ends := c.ends("deleted"); ends[0] != 0 {
		t.Errorf("the new topic starts with %d records", ends[0])
	}
	w.unharmed(t)
}
