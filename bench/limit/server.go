// Package limit shows what the machine and the client allow. Two servers
// understand just enough of Kafka's protocol to serve franz-go: the null
// broker answers at once (the client's own ceiling), and the limit node does
// only what no replicated log can leave out: receive, check the checksum,
// write, sync in groups, forward to two other processes which write and sync,
// and acknowledge when the in-sync set has it.
//
// Neither is a broker: there is no recovery, no election, no retention, and a
// topic has as many partitions as its name says (TopicName).
package limit

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxFrame bounds a request before it sizes an allocation.
const maxFrame = 128 << 20

// maxPipeline bounds the requests of one connection that wait for an answer.
const maxPipeline = 64

// TopicName returns the name of a topic that these servers take to have n
// partitions: they hold no metadata, so the name carries it.
func TopicName(base string, n int) string { return fmt.Sprintf("%s-p%d", base, n) }

// partitionsOf parses what TopicName made; 1 for other names.
func partitionsOf(topic string) int32 {
	i := strings.LastIndex(topic, "-p")
	if i < 0 {
		return 1
	}
	n, err := strconv.Atoi(topic[i+2:])
	if err != nil || n < 1 || n > 100_000 {
		return 1
	}
	return int32(n)
}

// partition is the address of a log.
type partition struct {
	topic string
	id    int32
}

// appended is the answer to one produce: base offset of each batch set, given
// once everything in the request is as durable as the backend promises.
type appended struct {
	part partition
	base int64
	code int16
}

// backend is where records go.
type backend interface {
	// append takes one request's batches, which lie in f: the backend holds f
	// for as long as it keeps them. done is called once.
	append(f *frame, parts []partition, records [][]byte, done func([]appended))
	fetch(req *kmsg.FetchRequest, correlation int32) (reply, error)
	listOffsets(req *kmsg.ListOffsetsRequest) kmsg.Response
	// close ends fetches that wait; release comes after the last request.
	close()
	release() error
	// brokers and leader answer Metadata.
	brokers() []net.TCPAddr
	leader(id int32) int32
}

// Server serves one backend on one listener.
type Server struct {
	ln net.Listener
	b  backend

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup

	producerIDs atomic.Int64
	topics      names
}

func serve(ln net.Listener, b backend) *Server {
	s := &Server{ln: ln, b: b, conns: map[net.Conn]struct{}{}}
	s.wg.Add(1)
	go s.accept()
	return s
}

// Addr is the address that clients connect to.
func (s *Server) Addr() string { return s.ln.Addr().String() }

func (s *Server) accept() {
	defer s.wg.Done()
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.wg.Add(1)
		s.mu.Unlock()
		go s.conn(c)
	}
}

// Close ends the listener and all connections and waits for their goroutines.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	err := s.ln.Close()
	s.b.close()
	s.wg.Wait()
	return errors.Join(err, s.b.release())
}

// conn reads requests and hands out their answers in order. One goroutine
// reads, one writes; a produce that waits does not hold up the next request.
func (s *Server) conn(c net.Conn) {
	defer s.wg.Done()
	answers := make(chan chan reply, maxPipeline)
	s.wg.Add(1)
	go s.write(c, answers)
	r := bufio.NewReaderSize(c, 64<<10)
	for {
		f, err := readFrame(r)
		if err != nil {
			break
		}
		answer := make(chan reply, 1)
		if err := s.handle(f, answer); err != nil {
			break
		}
		answers <- answer
	}
	close(answers)
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

func (s *Server) write(c net.Conn, answers <-chan chan reply) {
	defer s.wg.Done()
	for answer := range answers {
		r, ok := <-answer
		if !ok {
			continue // acks=0
		}
		if err := r.send(c); err != nil {
			c.Close() // ends the reader; later answers are dropped as they come
		}
	}
}

func readFrame(r *bufio.Reader) (*frame, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("limit: frame of %d bytes", n)
	}
	f := newFrame(int(n))
	_, err := io.ReadFull(r, f.buf)
	return f, err
}

// versions of the keys that are served. They stop below topic ids (Produce
// 13, Fetch 13), since names carry the partition count.
var versions = map[int16][2]int16{
	int16(kmsg.Produce):        {3, 11},
	int16(kmsg.Fetch):          {4, 12},
	int16(kmsg.ListOffsets):    {1, 7},
	int16(kmsg.Metadata):       {1, 9},
	int16(kmsg.ApiVersions):    {0, 3},
	int16(kmsg.CreateTopics):   {0, 5},
	int16(kmsg.DeleteTopics):   {0, 5},
	int16(kmsg.InitProducerID): {0, 4},
}

// handle decodes one request and arranges for its answer. Only a produce
// gives its frame back: what others decode to may point into it.
func (s *Server) handle(f *frame, answer chan<- reply) error {
	r := kbin.Reader{Src: f.buf}
	key, version, correlation := r.Int16(), r.Int16(), r.Int32()
	r.NullableString() // client id
	if r.Complete() != nil {
		return errors.New("limit: short request header")
	}
	if key == int16(kmsg.ApiVersions) && version > versions[key][1] {
		answer <- reply{head: encode(correlation, apiVersions(0, 35))} // UNSUPPORTED_VERSION, KIP-511
		return nil
	}
	v, ok := versions[key]
	if !ok || version < v[0] || version > v[1] {
		return fmt.Errorf("limit: key %d version %d is not served", key, version)
	}
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	if req.IsFlexible() {
		kmsg.SkipTags(&r)
	}
	if err := readRequest(req, r.Src); err != nil {
		return err
	}
	return s.dispatch(f, req, correlation, answer)
}

// fetch answers one Fetch. One that cannot be served ends the connection.
func (s *Server) fetch(req *kmsg.FetchRequest, correlation int32, answer chan<- reply) {
	r, err := s.b.fetch(req, correlation)
	if err != nil {
		r = reply{err: err}
	}
	answer <- r
}

func readRequest(req kmsg.Request, body []byte) error {
	if u, ok := req.(kmsg.UnsafeReadFrom); ok {
		return u.UnsafeReadFrom(body)
	}
	return req.ReadFrom(body)
}

func (s *Server) dispatch(f *frame, req kmsg.Request, correlation int32, answer chan<- reply) error {
	respond := func(resp kmsg.Response) { answer <- reply{head: encode(correlation, resp)} }
	switch req := req.(type) {
	case *kmsg.ProduceRequest:
		s.produce(f, req, correlation, answer)
	case *kmsg.FetchRequest:
		s.wg.Add(1)
		go func() { defer s.wg.Done(); s.fetch(req, correlation, answer) }()
	case *kmsg.ListOffsetsRequest:
		respond(s.b.listOffsets(req))
	case *kmsg.MetadataRequest:
		respond(s.metadata(req))
	case *kmsg.ApiVersionsRequest:
		respond(apiVersions(req.Version, 0))
	case *kmsg.CreateTopicsRequest:
		respond(createTopics(req))
	case *kmsg.DeleteTopicsRequest:
		respond(deleteTopics(req))
	case *kmsg.InitProducerIDRequest:
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ProducerID = s.producerIDs.Add(1)
		respond(resp)
	default:
		return fmt.Errorf("limit: key %d is not served", req.Key())
	}
	return nil
}

// encode frames a response. ApiVersions keeps the old header at every version
// (KIP-511); other flexible responses have a tag section.
func encode(correlation int32, resp kmsg.Response) []byte {
	b := kbin.AppendInt32(make([]byte, 4, 256), correlation)
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		b = append(b, 0)
	}
	b = resp.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func apiVersions(version, code int16) kmsg.Response {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.Version, resp.ErrorCode = version, code
	for key, v := range versions {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = key, v[0], v[1]
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	return resp
}

func (s *Server) metadata(req *kmsg.MetadataRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	addrs := s.b.brokers()
	replicas := make([]int32, len(addrs))
	for i, a := range addrs {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = int32(i), a.IP.String(), int32(a.Port)
		resp.Brokers = append(resp.Brokers, b)
		replicas[i] = int32(i)
	}
	cluster := "limit"
	resp.ClusterID, resp.ControllerID = &cluster, 0
	for _, rt := range req.Topics {
		if rt.Topic == nil {
			continue
		}
		t := kmsg.NewMetadataResponseTopic()
		t.Topic = rt.Topic
		for id := range partitionsOf(*rt.Topic) {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Leader, p.LeaderEpoch = id, s.b.leader(id), 0
			p.Replicas, p.ISR = replicas, replicas
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

func createTopics(req *kmsg.CreateTopicsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	for _, rt := range req.Topics {
		t := kmsg.NewCreateTopicsResponseTopic()
		t.Topic = rt.Topic
		if want := partitionsOf(rt.Topic); rt.NumPartitions != want {
			msg := fmt.Sprintf("the name says %d partitions", want)
			t.ErrorCode, t.ErrorMessage = 37, &msg // INVALID_PARTITIONS
		}
		t.NumPartitions, t.ReplicationFactor = rt.NumPartitions, rt.ReplicationFactor
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

func deleteTopics(req *kmsg.DeleteTopicsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DeleteTopicsResponse)
	for _, name := range req.TopicNames {
		t := kmsg.NewDeleteTopicsResponseTopic()
		t.Topic = kmsg.StringPtr(name)
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}
