package api

import (
	"errors"
	"github.com/tailrace/tailrace/broker/control"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestApiVersions(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	c.peer.Principal = "" // before authentication
	cluster := testCluster
	for version := int16(0); version <= 5; version++ {
		req := &kmsg.ApiVersionsRequest{Version: version, ClientSoftwareName: "kgo", ClientSoftwareVersion: "v1.22.2", NodeID: -1}
		if version == 5 {
			req.ClusterID, req.NodeID = &cluster, 1
		}
		resp := c.do(req).(*kmsg.ApiVersionsResponse)
		if resp.ErrorCode != 0 || len(resp.ApiKeys) != len(Keys()) || resp.ApiKeys[0].MinVersion != 0 || resp.ApiKeys[0].MaxVersion != 13 {
			t.Errorf("version %d: %+v", version, resp)
		}
		if version >= 3 && (resp.FinalizedFeaturesEpoch != 42 || len(resp.FinalizedFeatures) != 1 || resp.FinalizedFeatures[0].Name != "metadata.version") {
			t.Errorf("version %d: features %+v at %d", version, resp.FinalizedFeatures, resp.FinalizedFeaturesEpoch)
		}
	}
}

// TestApiVersionsUnsupported: an unknown version gets a version 0 body with
// this key only, and the connection stays (KIP-511).
func TestApiVersionsUnsupported(t *testing.T) {
	c := newTestServer(t, newFakeBackend(), Options{})
	a := c.raw(18, 99, []byte("whatever"))
	resp := kmsg.ApiVersionsResponse{Version: 0}
	if err := resp.ReadFrom(a.wait().body); err != nil {
		t.Fatal(err)
	}
	if resp.ErrorCode != kerr.UnsupportedVersion.Code || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != 18 || resp.ApiKeys[0].MaxVersion != 5 {
		t.Errorf("%+v", resp)
	}
}

func TestApiVersionsChecks(t *testing.T) {
	c := newTestServer(t, newFakeBackend(), Options{})
	right, wrong := testCluster, "another"
	for _, tc := range []struct {
		name, software, release string
		cluster                 *string
		node                    int32
		want                    int16
	}{
		{"nobody in particular", "kgo", "v1", nil, -1, 0},
		{"us", "kgo", "v1", &right, 1, 0},
		{"another node", "kgo", "v1", &right, 2, kerr.RebootstrapRequired.Code},
		{"another cluster", "kgo", "v1", &wrong, 1, kerr.RebootstrapRequired.Code},
		{"cluster without node", "kgo", "v1", &right, -1, kerr.InvalidRequest.Code},
		{"node without cluster", "kgo", "v1", nil, 1, kerr.InvalidRequest.Code},
		{"empty software name", "", "v1", nil, -1, kerr.InvalidRequest.Code},
		{"line break in software name", "kgo\nx", "v1", nil, -1, kerr.InvalidRequest.Code},
		{"trailing dot in version", "kgo", "1.", nil, -1, kerr.InvalidRequest.Code},
		{"long software name", strings.Repeat("a", 300), "v1", nil, -1, kerr.InvalidRequest.Code},
	} {
		req := &kmsg.ApiVersionsRequest{Version: 5, ClientSoftwareName: tc.software, ClientSoftwareVersion: tc.release, ClusterID: tc.cluster, NodeID: tc.node}
		if resp := c.do(req).(*kmsg.ApiVersionsResponse); resp.ErrorCode != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, kerr.ErrorForCode(resp.ErrorCode), kerr.ErrorForCode(tc.want))
		}
	}
}

// TestAdmission: what no response can express closes the connection, says why
// and counts.
func TestAdmission(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	for _, tc := range []struct {
		name         string
		principal    string
		key, version int16
		size         int
		want         error
	}{
		{"unknown key", "User:a", 999, 0, 0, ErrRefused},
		{"negative key", "User:a", -1, 0, 0, ErrRefused},
		{"controller key", "User:a", 56, 2, 0, ErrRefused},
		{"telemetry", "User:a", 71, 0, 0, ErrRefused},
		{"produce 2", "User:a", 0, 2, 100, ErrRefused},
		{"version too new", "User:a", 3, 14, 100, ErrRefused},
		{"negative version", "User:a", 3, -1, 100, ErrRefused},
		{"before authentication", "", 3, 9, 100, ErrRefused},
		{"too large", "User:a", 3, 9, maxAdminBytes + 1, ErrMalformed},
		{"too large before authentication", "", 18, 3, maxPreAuthBytes + 1, ErrMalformed},
	} {
		c.peer.Principal = tc.principal
		before := len(b.eventKinds())
		if a := c.raw(tc.key, tc.version, make([]byte, tc.size)).wait(); !errors.Is(a.closed, tc.want) {
			t.Errorf("%s: closed with %v, want %v", tc.name, a.closed, tc.want)
		}
		if len(b.eventKinds()) != before+1 {
			t.Errorf("%s: not reported", tc.name)
		}
	}
}

// panicky is a backend whose image panics.
type panicky struct{ *fakeBackend }

func (panicky) Image() *control.Image { panic("planted") }

// TestPanicClosesConnection: a bug in a handler costs its connection, not the
// broker.
func TestPanicClosesConnection(t *testing.T) {
	b := newFakeBackend()
	s := New(panicky{b}, Options{})
	defer s.Close()
	c := &client{t, s, Peer{Principal: "User:ANONYMOUS", Broker: -1}}
	if a := c.start(produceRequest(13, -1, oneBatch(1), 0)).wait(); a.closed == nil {
		t.Errorf("%+v", a)
	}
	if kinds := b.eventKinds(); len(kinds) != 1 || kinds[0] != EventPanic || len(b.events[0].Stack) == 0 {
		t.Errorf("events %v", b.events)
	}
}

// denyAll forbids everything.
type denyAll struct{}

func (denyAll) Allowed(*Peer, Operation, Resource, string) bool { return false }

// TestDenied: with nothing allowed no key but the open ones gives anything, and
// an existing topic looks like one that does not exist (T18).
func TestDenied(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{Authorizer: denyAll{}})
	both := func(code func(topic string) int16) {
		t.Helper()
		if a, b := code("t"), code("nope"); a == 0 || a != b {
			t.Errorf("existing topic %v, missing topic %v", kerr.ErrorForCode(a), kerr.ErrorForCode(b))
		}
	}
	both(func(topic string) int16 {
		req := produceRequest(9, -1, oneBatch(1), 0)
		req.Topics[0].Topic = topic
		return c.do(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := fetchRequest(12, 0, -1, fetchPart{topic, 0, 0})
		return c.do(req).(*kmsg.FetchResponse).Topics[0].Partitions[0].ErrorCode
	})
	both(func(topic string) int16 {
		return c.do(listOffsetsRequest(7, topic, 0, -1)).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := &kmsg.MetadataRequest{Version: 9, Topics: []kmsg.MetadataRequestTopic{{Topic: &topic}}}
		return c.do(req).(*kmsg.MetadataResponse).Topics[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := &kmsg.DescribeConfigsRequest{Version: 4, Resources: []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: topic}}}
		return c.do(req).(*kmsg.DescribeConfigsResponse).Resources[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := &kmsg.CreateTopicsRequest{Version: 7, Topics: []kmsg.CreateTopicsRequestTopic{{Topic: topic, NumPartitions: 1, ReplicationFactor: 1}}}
		return c.do(req).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := &kmsg.DeleteTopicsRequest{Version: 5, TopicNames: []string{topic}}
		return c.do(req).(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := &kmsg.DeleteRecordsRequest{Version: 2, Topics: []kmsg.DeleteRecordsRequestTopic{{Topic: topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{}}}}}
		return c.do(req).(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := &kmsg.CreatePartitionsRequest{Version: 3, Topics: []kmsg.CreatePartitionsRequestTopic{{Topic: topic, Count: 9}}}
		return c.do(req).(*kmsg.CreatePartitionsResponse).Topics[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := &kmsg.IncrementalAlterConfigsRequest{Version: 1, Resources: []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: topic}}}
		return c.do(req).(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := &kmsg.AlterConfigsRequest{Version: 2, Resources: []kmsg.AlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: topic}}}
		return c.do(req).(*kmsg.AlterConfigsResponse).Resources[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := &kmsg.OffsetForLeaderEpochRequest{Version: 4, Topics: []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{{}}}}}
		return c.do(req).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0].ErrorCode
	})
	both(func(topic string) int16 {
		req := &kmsg.DescribeTopicPartitionsRequest{Topics: []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: topic}}, ResponsePartitionLimit: 10}
		return c.do(req).(*kmsg.DescribeTopicPartitionsResponse).Topics[0].ErrorCode
	})
	for _, code := range []int16{
		c.do(&kmsg.InitProducerIDRequest{Version: 4, ProducerID: -1, ProducerEpoch: -1}).(*kmsg.InitProducerIDResponse).ErrorCode,
		c.do(&kmsg.DescribeLogDirsRequest{Version: 4}).(*kmsg.DescribeLogDirsResponse).ErrorCode,
		c.do(&kmsg.ElectLeadersRequest{Version: 2}).(*kmsg.ElectLeadersResponse).ErrorCode,
		c.do(&kmsg.ListConfigResourcesRequest{Version: 1}).(*kmsg.ListConfigResourcesResponse).ErrorCode,
	} {
		if code != kerr.ClusterAuthorizationFailed.Code {
			t.Errorf("cluster operation: %v", kerr.ErrorForCode(code))
		}
	}
	if md := c.do(&kmsg.MetadataRequest{Version: 13}).(*kmsg.MetadataResponse); len(md.Topics) != 0 {
		t.Errorf("metadata shows %d topics", len(md.Topics))
	}
	req := fetchRequest(13, 0, -1, fetchPart{"t", 0, 0})
	req.Topics[0].TopicID = topicID(1)
	if p := c.do(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]; p.ErrorCode != kerr.UnknownTopicID.Code {
		t.Errorf("fetch by id: %v", kerr.ErrorForCode(p.ErrorCode))
	}
}
