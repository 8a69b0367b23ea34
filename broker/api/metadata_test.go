package api

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func askedTopics(names ...string) []kmsg.MetadataRequestTopic {
	out := make([]kmsg.MetadataRequestTopic, len(names))
	for i := range names {
		out[i].Topic = &names[i]
	}
	return out
}

func TestMetadataEveryVersion(t *testing.T) {
	b := newFakeBackend()
	b.image.Brokers[3].Fenced = true
	c := newTestServer(t, b, Options{})
	for version := int16(0); version <= 13; version++ {
		all := &kmsg.MetadataRequest{Version: version}
		resp := c.do(all).(*kmsg.MetadataResponse)
		if len(resp.Topics) != 3 || len(resp.Brokers) != 2 || resp.Brokers[1].Host != "host2" || resp.Brokers[1].Port != 9093 {
			t.Fatalf("version %d: %+v", version, resp)
		}
		if version >= 1 && (resp.ControllerID != 1 || *resp.Brokers[0].Rack != "r1") {
			t.Errorf("version %d: controller %d", version, resp.ControllerID)
		}
		if version >= 2 && *resp.ClusterID != testCluster {
			t.Errorf("version %d: cluster %v", version, resp.ClusterID)
		}
		none := &kmsg.MetadataRequest{Version: version, Topics: []kmsg.MetadataRequestTopic{}}
		if n, want := len(c.do(none).(*kmsg.MetadataResponse).Topics), 0; version > 0 && n != want || version == 0 && n != 3 {
			t.Errorf("version %d: an empty list gives %d topics", version, n)
		}
		resp = c.do(&kmsg.MetadataRequest{Version: version, Topics: askedTopics("t", "nope", "a/b")}).(*kmsg.MetadataResponse)
		for i, want := range []int16{0, kerr.UnknownTopicOrPartition.Code, kerr.InvalidTopicException.Code} {
			if resp.Topics[i].ErrorCode != want {
				t.Errorf("version %d, topic %d: %v", version, i, kerr.ErrorForCode(resp.Topics[i].ErrorCode))
			}
		}
		p := resp.Topics[0].Partitions[1]
		if p.Partition != 1 || p.Leader != 1 || !slices.Equal(p.Replicas, []int32{1, 2, 3}) || !slices.Equal(p.ISR, []int32{1, 2}) {
			t.Errorf("version %d: %+v", version, p)
		}
		if version >= 5 && !slices.Equal(p.OfflineReplicas, []int32{3}) {
			t.Errorf("version %d: offline %v", version, p.OfflineReplicas)
		}
		if version >= 7 && p.LeaderEpoch != 3 {
			t.Errorf("version %d: epoch %d", version, p.LeaderEpoch)
		}
		if version >= 10 && resp.Topics[0].TopicID != topicID(1) {
			t.Errorf("version %d: id %v", version, resp.Topics[0].TopicID)
		}
	}
	for version := int16(10); version <= 13; version++ {
		req := &kmsg.MetadataRequest{Version: version, Topics: []kmsg.MetadataRequestTopic{{TopicID: topicID(2)}, {TopicID: topicID(99)}}}
		resp := c.do(req).(*kmsg.MetadataResponse)
		if *resp.Topics[0].Topic != "other" || resp.Topics[1].ErrorCode != kerr.UnknownTopicID.Code || resp.Topics[1].TopicID != topicID(99) {
			t.Errorf("version %d by id: %+v", version, resp.Topics)
		}
	}
}

// TestMetadataUnreachable: what the client's listener cannot reach is not
// listed, and a partition led there has no leader for it.
func TestMetadataUnreachable(t *testing.T) {
	b := newFakeBackend()
	b.hidden[2] = true
	b.image.TopicsByName["t"].Partitions[1].Leader = model.NoBroker
	c := newTestServer(t, b, Options{})
	resp := c.do(&kmsg.MetadataRequest{Version: 12, Topics: askedTopics("other", "t")}).(*kmsg.MetadataResponse)
	if len(resp.Brokers) != 2 || resp.Brokers[1].NodeID != 3 {
		t.Errorf("%+v", resp.Brokers)
	}
	for i, p := range []int{0, 1} {
		if got := resp.Topics[i].Partitions[p]; got.ErrorCode != kerr.LeaderNotAvailable.Code {
			t.Errorf("%+v", got)
		}
	}
	if resp.Topics[1].Partitions[0].ErrorCode != 0 {
		t.Errorf("%+v", resp.Topics[1])
	}
}

func TestMetadataAuthorizedOperations(t *testing.T) {
	c := newTestServer(t, newFakeBackend(), Options{})
	resp := c.do(&kmsg.MetadataRequest{Version: 9, Topics: askedTopics("t"), IncludeClusterAuthorizedOperations: true, IncludeTopicAuthorizedOperations: true}).(*kmsg.MetadataResponse)
	if resp.AuthorizedOperations != 1<<5|1<<7|1<<8|1<<9|1<<10|1<<11|1<<12 {
		t.Errorf("cluster %b", resp.AuthorizedOperations)
	}
	if got := resp.Topics[0].AuthorizedOperations; got != 1<<3|1<<4|1<<5|1<<6|1<<7|1<<8|1<<10|1<<11 {
		t.Errorf("topic %b", got)
	}
}

// TestMetadataAutoCreate: needs the broker's setting and the client's consent.
func TestMetadataAutoCreate(t *testing.T) {
	for _, tc := range []struct {
		enabled, allowed bool
		version          int16
		created          bool
	}{
		{false, true, 12, false}, {true, false, 12, false}, {true, true, 12, true}, {true, false, 3, true}, {false, false, 3, false},
	} {
		b := newFakeBackend()
		b.withController(t)
		b.node = map[string]string{"auto.create.topics.enable": fmt.Sprint(tc.enabled)}
		c := newTestServer(t, b, Options{})
		resp := c.do(&kmsg.MetadataRequest{Version: tc.version, AllowAutoTopicCreation: tc.allowed, Topics: askedTopics("fresh", "a/b")}).(*kmsg.MetadataResponse)
		if created := b.Image().TopicsByName["fresh"] != nil; created != tc.created || (resp.Topics[0].ErrorCode == 0) != tc.created {
			t.Errorf("%+v: created %v, answer %v", tc, created, kerr.ErrorForCode(resp.Topics[0].ErrorCode))
		}
		if resp.Topics[1].ErrorCode != kerr.InvalidTopicException.Code {
			t.Errorf("%+v: %v", tc, kerr.ErrorForCode(resp.Topics[1].ErrorCode))
		}
	}
}

func TestDescribeClusterEveryVersion(t *testing.T) {
	b := newFakeBackend()
	b.image.Brokers[3].Fenced = true
	c := newTestServer(t, b, Options{})
	for version := int16(0); version <= 2; version++ {
		for _, fenced := range []bool{false, true} {
			resp := c.do(&kmsg.DescribeClusterRequest{Version: version, EndpointType: 1, IncludeFencedBrokers: fenced}).(*kmsg.DescribeClusterResponse)
			want := 2
			if version >= 2 && fenced {
				want = 3
			}
			if resp.ErrorCode != 0 || resp.ClusterID != testCluster || len(resp.Brokers) != want {
				t.Errorf("version %d: %+v", version, resp)
			}
		}
		if version >= 1 {
			if resp := c.do(&kmsg.DescribeClusterRequest{Version: version, EndpointType: 2}).(*kmsg.DescribeClusterResponse); resp.ErrorCode != kerr.UnsupportedEndpointType.Code {
				t.Errorf("version %d: %+v", version, resp)
			}
		}
	}
}

func TestListConfigResources(t *testing.T) {
	c := newTestServer(t, newFakeBackend(), Options{})
	for _, tc := range []struct {
		version int16
		types   []int8
		want    int
	}{{0, nil, 0}, {1, nil, 6}, {1, []int8{2}, 3}, {1, []int8{4}, 3}, {1, []int8{16}, 0}} {
		resp := c.do(&kmsg.ListConfigResourcesRequest{Version: tc.version, ResourceTypes: tc.types}).(*kmsg.ListConfigResourcesResponse)
		if len(resp.ConfigResources) != tc.want {
			t.Errorf("%+v: %+v", tc, resp.ConfigResources)
		}
	}
}

// TestDescribeTopicPartitionsPages walks all partitions one page at a time and
// sees each once.
func TestDescribeTopicPartitionsPages(t *testing.T) {
	b := newFakeBackend()
	b.addTopic("wide", topicID(4), 1, 7)
	for _, topic := range b.image.Topics {
		for _, p := range topic.Partitions {
			p.ELR = []model.BrokerID{3}
		}
	}
	c := newTestServer(t, b, Options{})
	for limit := int32(1); limit <= 12; limit++ {
		var got []string
		req := &kmsg.DescribeTopicPartitionsRequest{ResponsePartitionLimit: limit}
		for pages := 0; ; pages++ {
			resp := c.do(req).(*kmsg.DescribeTopicPartitionsResponse)
			for _, topic := range resp.Topics {
				for _, p := range topic.Partitions {
					got = append(got, fmt.Sprintf("%s-%d", *topic.Topic, p.Partition))
					if !slices.Equal(p.EligibleLeaderReplicas, []int32{3}) {
						t.Errorf("%+v", p)
					}
				}
			}
			if resp.NextCursor == nil {
				break
			}
			if pages > 20 {
				t.Fatal("no end")
			}
			req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: resp.NextCursor.Topic, Partition: resp.NextCursor.Partition}
		}
		want := []string{"far-0", "other-0", "t-0", "t-1", "wide-0", "wide-1", "wide-2", "wide-3", "wide-4", "wide-5", "wide-6"}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
	req := &kmsg.DescribeTopicPartitionsRequest{ResponsePartitionLimit: 10, Topics: []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "t"}, {Topic: "nope"}, {Topic: "t"}}}
	resp := c.do(req).(*kmsg.DescribeTopicPartitionsResponse)
	if len(resp.Topics) != 2 || resp.Topics[0].ErrorCode != kerr.UnknownTopicOrPartition.Code || len(resp.Topics[1].Partitions) != 2 {
		t.Errorf("%+v", resp)
	}
}
