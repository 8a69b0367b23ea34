package load_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tailrace/tailrace/bench/load"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// stub is one broker that creates any topic at once and names itself leader, but
// answers the first requests for offsets with an error.
type stub struct {
	ln      net.Listener
	code    int16        // of those answers
	refuse  atomic.Int32 // how many are left
	refused atomic.Int32
	wg      sync.WaitGroup
}

func startStub(t *testing.T, code int16, refuse int32) *stub {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stub{ln: ln, code: code}
	s.refuse.Store(refuse)
	s.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { defer c.Close(); s.serve(c) })
		}
	})
	return s
}

// serve answers requests in versions that have no flexible headers.
func (s *stub) serve(c net.Conn) {
	for {
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		key, version, correlation := int16(binary.BigEndian.Uint16(b)), int16(binary.BigEndian.Uint16(b[2:])), b[4:8]
		req := kmsg.RequestForKey(key)
		if key == int16(kmsg.ApiVersions) {
			req.SetVersion(0)
		} else {
			req.SetVersion(version)
			clientID := int(max(0, int16(binary.BigEndian.Uint16(b[8:]))))
			if err := req.ReadFrom(b[10+clientID:]); err != nil {
				return
			}
		}
		body := s.answer(req, version).AppendTo(correlation[:4:4])
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
			return
		}
	}
}

func (s *stub) answer(req kmsg.Request, asked int16) kmsg.Response {
	resp := req.ResponseKind()
	switch resp := resp.(type) {
	case *kmsg.ApiVersionsResponse:
		if asked > 0 { // flexible: the client asks again
			resp.ErrorCode = kerr.UnsupportedVersion.Code
		}
		for key, version := range map[kmsg.Key]int16{kmsg.ApiVersions: 0, kmsg.Metadata: 4, kmsg.CreateTopics: 2, kmsg.ListOffsets: 2} {
			resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: int16(key), MaxVersion: version})
		}
	case *kmsg.MetadataResponse:
		s.metadata(req.(*kmsg.MetadataRequest), resp)
	case *kmsg.CreateTopicsResponse:
		for _, t := range req.(*kmsg.CreateTopicsRequest).Topics {
			resp.Topics = append(resp.Topics, kmsg.CreateTopicsResponseTopic{Topic: t.Topic})
		}
	case *kmsg.ListOffsetsResponse:
		s.offsets(req.(*kmsg.ListOffsetsRequest), resp)
	}
	return resp
}

func (s *stub) metadata(req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) {
	host, port, _ := net.SplitHostPort(s.ln.Addr().String())
	n, _ := strconv.Atoi(port)
	resp.ControllerID = 1
	resp.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: host, Port: int32(n)}}
	for _, t := range req.Topics {
		rt := kmsg.MetadataResponseTopic{Topic: t.Topic}
		for p := range int32(3) {
			rt.Partitions = append(rt.Partitions, kmsg.MetadataResponseTopicPartition{Partition: p, Leader: 1, Replicas: []int32{1}, ISR: []int32{1}})
		}
		resp.Topics = append(resp.Topics, rt)
	}
}

func (s *stub) offsets(req *kmsg.ListOffsetsRequest, resp *kmsg.ListOffsetsResponse) {
	code := int16(0)
	if s.refuse.Add(-1) >= 0 {
		code = s.code
		s.refused.Add(1)
	}
	for _, t := range req.Topics {
		rt := kmsg.ListOffsetsResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, kmsg.ListOffsetsResponseTopicPartition{Partition: p.Partition, ErrorCode: code, Offset: 7})
		}
		resp.Topics = append(resp.Topics, rt)
	}
}

func (s *stub) createTopic(t *testing.T, ctx context.Context) error {
	t.Helper()
	cl, err := load.New("kafka", load.Options{Bootstrap: []string{s.ln.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	return cl.CreateTopic(ctx, load.Topic{Name: "t", Partitions: 3, Replication: 1})
}

// A leader that does not know yet that it is one, as Kafka's right after the creation,
// is waited for; a definite refusal is an error at once.
func TestCreateTopicWaitsForLeaders(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	late := startStub(t, kerr.NotLeaderForPartition.Code, 5)
	defer func() { late.ln.Close(); late.wg.Wait() }()
	if err := late.createTopic(t, ctx); err != nil || late.refused.Load() != 5 {
		t.Errorf("%v after %d refusals, want five and then success", err, late.refused.Load())
	}
	denied := startStub(t, kerr.TopicAuthorizationFailed.Code, 1<<30)
	defer func() { denied.ln.Close(); denied.wg.Wait() }()
	if err := denied.createTopic(t, ctx); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "AUTHORIZATION") {
		t.Errorf("definite refusal: %v", err)
	}
}

// A target that is not up is an error at once, to be asked again by the caller.
func TestTryCreateTopicAsksOnce(t *testing.T) {
	s := startStub(t, 0, 0)
	addr := s.ln.Addr().String()
	s.ln.Close()
	s.wg.Wait()
	cl, err := load.New("kafka", load.Options{Bootstrap: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := cl.TryCreateTopic(ctx, load.Topic{Name: "t", Partitions: 1, Replication: 1}); err == nil || ctx.Err() != nil {
		t.Errorf("nobody listens: %v", err)
	}
}
