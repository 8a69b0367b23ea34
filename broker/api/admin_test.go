package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// control has the fake broker decide and apply commands as the real controller
// does, with a replica for every partition.
func (b *fakeBackend) withController(t *testing.T) {
	b.submit = func(ctx context.Context, cmd control.Command) (control.Result, error) {
		if err := ctx.Err(); err != nil {
			return control.Result{}, err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		in := control.Input{Index: b.image.Index + 1, Seed: [32]byte{byte(b.image.Index)}}
		records, res, err := control.Decide(b.image, control.NewVolatile(0), cmd, in)
		if err != nil {
			t.Errorf("%T: %v", cmd, err)
			return res, err
		}
		next, _, err := control.Apply(b.image, in.Index, records)
		if err != nil {
			t.Errorf("%T: %v", cmd, err)
			return res, err
		}
		b.image = next
		for id, topic := range next.Topics {
			for p := range topic.Partitions {
				tp := model.TopicPartition{Topic: id, Partition: int32(p)}
				if b.replicas[tp] == nil && topic.Name != "far" {
					b.replicas[tp] = newFakeReplica()
				}
			}
		}
		return res, nil
	}
}

func TestCreateTopicsEveryVersion(t *testing.T) {
	b := newFakeBackend()
	b.withController(t)
	c := newTestServer(t, b, Options{})
	hour := "3600000"
	for version := int16(2); version <= 7; version++ {
		for _, validateOnly := range []bool{true, false} {
			name := fmt.Sprintf("new-%d", version)
			req := &kmsg.CreateTopicsRequest{Version: version, TimeoutMillis: 10_000, ValidateOnly: validateOnly, Topics: []kmsg.CreateTopicsRequestTopic{
				{Topic: name, NumPartitions: 3, ReplicationFactor: -1, Configs: []kmsg.CreateTopicsRequestTopicConfig{{Name: "retention.ms", Value: &hour}}},
				{Topic: "t", NumPartitions: 1, ReplicationFactor: 1},
				{Topic: "../x", NumPartitions: 1, ReplicationFactor: 1},
				{Topic: "twice", NumPartitions: 1, ReplicationFactor: 1},
				{Topic: "twice", NumPartitions: 1, ReplicationFactor: 1},
				{Topic: "huge-factor", NumPartitions: 1, ReplicationFactor: 9},
				{Topic: "bad-config", NumPartitions: 1, ReplicationFactor: 1, Configs: []kmsg.CreateTopicsRequestTopicConfig{{Name: "no.such.key", Value: &hour}}},
				{Topic: "bad-assignment", NumPartitions: -1, ReplicationFactor: -1, ReplicaAssignment: []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 1, Replicas: []int32{1}}}},
			}}
			resp := c.do(req).(*kmsg.CreateTopicsResponse)
			want := []int16{0, kerr.TopicAlreadyExists.Code, kerr.InvalidTopicException.Code, kerr.InvalidRequest.Code, kerr.InvalidRequest.Code,
				kerr.InvalidReplicationFactor.Code, kerr.InvalidConfig.Code, kerr.InvalidReplicaAssignment.Code}
			for i, r := range resp.Topics {
				if r.Topic != req.Topics[i].Topic || r.ErrorCode != want[i] || (r.ErrorCode != 0 && (r.ErrorMessage == nil || *r.ErrorMessage == "")) {
					t.Errorf("version %d, validate %v: %s: %v, want %v", version, validateOnly, r.Topic, kerr.ErrorForCode(r.ErrorCode), kerr.ErrorForCode(want[i]))
				}
			}
			checkCreated(t, b, version, validateOnly, &resp.Topics[0])
		}
	}
}

func checkCreated(t *testing.T, b *fakeBackend, version int16, validateOnly bool, r *kmsg.CreateTopicsResponseTopic) {
	t.Helper()
	topic := b.Image().TopicsByName[r.Topic]
	if (topic == nil) != validateOnly {
		t.Fatalf("version %d: topic exists %v after validate only %v", version, topic != nil, validateOnly)
	}
	if version >= 7 && !validateOnly && topic.ID != r.TopicID {
		t.Errorf("topic id %v, want %v", r.TopicID, topic.ID)
	}
	if version < 5 {
		return
	}
	if r.NumPartitions != 3 || r.ReplicationFactor != 3 || len(r.Configs) != len(control.TopicConfigs()) {
		t.Errorf("version %d: %d partitions, %d replicas, %d configs", version, r.NumPartitions, r.ReplicationFactor, len(r.Configs))
	}
	for _, kv := range r.Configs {
		if kv.Name == "retention.ms" && (*kv.Value != "3600000" || kv.Source != int8(control.SourceTopic)) {
			t.Errorf("version %d: %s=%s from %d", version, kv.Name, *kv.Value, kv.Source)
		}
	}
}

func TestCreateTopicsWithoutController(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	for _, tc := range []struct {
		err  error
		want *kerr.Error
	}{
		{context.DeadlineExceeded, kerr.RequestTimedOut},
		{fmt.Errorf("lost it: %w", control.ErrUnknownOutcome), kerr.RequestTimedOut},
		{errors.New("nobody there"), kerr.NotController},
		{kerr.PolicyViolation, kerr.PolicyViolation},
	} {
		b.submit = func(context.Context, control.Command) (control.Result, error) { return control.Result{}, tc.err }
		req := &kmsg.CreateTopicsRequest{Version: 7, Topics: []kmsg.CreateTopicsRequestTopic{{Topic: "x", NumPartitions: 1, ReplicationFactor: 1}}}
		if r := c.do(req).(*kmsg.CreateTopicsResponse).Topics[0]; r.ErrorCode != tc.want.Code {
			t.Errorf("%v: %v, want %v", tc.err, kerr.ErrorForCode(r.ErrorCode), tc.want)
		}
	}
	// No result at all is a defect of the controller, not a success.
	b.submit = func(context.Context, control.Command) (control.Result, error) { return control.Result{}, nil }
	req := &kmsg.CreateTopicsRequest{Version: 7, Topics: []kmsg.CreateTopicsRequestTopic{{Topic: "x", NumPartitions: 1, ReplicationFactor: 1}}}
	if r := c.do(req).(*kmsg.CreateTopicsResponse).Topics[0]; r.ErrorCode != kerr.UnknownServerError.Code {
		t.Errorf("%v", kerr.ErrorForCode(r.ErrorCode))
	}
}

// TestAdminIsBounded: administrative requests beyond the limit wait for their
// turn, and their client's leaving ends the wait.
func TestAdminIsBounded(t *testing.T) {
	b := newFakeBackend()
	running, release := make(chan struct{}, 8), make(chan struct{})
	b.submit = func(ctx context.Context, _ control.Command) (control.Result, error) {
		running <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return control.Result{}, ctx.Err()
	}
	c := newTestServer(t, b, Options{AdminRequests: 2})
	req := &kmsg.CreateTopicsRequest{Version: 7, TimeoutMillis: math.MaxInt32, Topics: []kmsg.CreateTopicsRequestTopic{{Topic: "x", NumPartitions: 1, ReplicationFactor: 1}}}
	conns := []*fakeConn{c.start(req), c.start(req), c.start(req)}
	<-running
	<-running
	select {
	case <-running:
		t.Fatal("three at once")
	case <-time.After(20 * time.Millisecond):
	}
	for _, conn := range conns {
		close(conn.done)
	}
	for _, conn := range conns {
		conn.wait()
	}
	close(release)
}

func TestDeleteTopicsEveryVersion(t *testing.T) {
	for version := int16(1); version <= 6; version++ {
		b := newFakeBackend()
		b.withController(t)
		c := newTestServer(t, b, Options{})
		req := &kmsg.DeleteTopicsRequest{Version: version, TimeoutMillis: 10_000, TopicNames: []string{"t", "nope", "t"}}
		want := []int16{0, kerr.UnknownTopicOrPartition.Code, kerr.InvalidRequest.Code}
		if version >= 6 {
			name, other := "t", "other"
			req.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: &name}, {TopicID: topicID(99)}, {TopicID: topicID(1)}, {TopicID: topicID(3)}, {Topic: &other, TopicID: topicID(2)}}
			want = []int16{0, kerr.UnknownTopicID.Code, kerr.InvalidRequest.Code, 0, kerr.InvalidRequest.Code}
		}
		resp := c.do(req).(*kmsg.DeleteTopicsResponse)
		for i, r := range resp.Topics {
			if r.ErrorCode != want[i] {
				t.Errorf("version %d, topic %d: %v, want %v", version, i, kerr.ErrorForCode(r.ErrorCode), kerr.ErrorForCode(want[i]))
			}
		}
		if b.Image().TopicsByName["t"] != nil || b.Image().TopicsByName["other"] == nil {
			t.Errorf("version %d: wrong topics deleted", version)
		}
		if version >= 6 && (*resp.Topics[3].Topic != "far" || b.Image().TopicsByName["far"] != nil) {
			t.Errorf("delete by id: %+v", resp.Topics[3])
		}
	}
}

func TestDeleteTopicsDisabled(t *testing.T) {
	b := newFakeBackend()
	b.withController(t)
	b.node = map[string]string{"delete.topic.enable": "false"}
	c := newTestServer(t, b, Options{})
	for version, want := range map[int16]*kerr.Error{1: kerr.InvalidRequest, 5: kerr.TopicDeletionDisabled} {
		r := c.do(&kmsg.DeleteTopicsRequest{Version: version, TopicNames: []string{"t"}}).(*kmsg.DeleteTopicsResponse).Topics[0]
		if r.ErrorCode != want.Code {
			t.Errorf("version %d: %v", version, kerr.ErrorForCode(r.ErrorCode))
		}
	}
}

func TestCreatePartitionsEveryVersion(t *testing.T) {
	for version := int16(0); version <= 3; version++ {
		b := newFakeBackend()
		b.withController(t)
		c := newTestServer(t, b, Options{})
		req := &kmsg.CreatePartitionsRequest{Version: version, TimeoutMillis: 10_000, Topics: []kmsg.CreatePartitionsRequestTopic{
			{Topic: "t", Count: 4}, {Topic: "other", Count: 1}, {Topic: "nope", Count: 9},
		}}
		resp := c.do(req).(*kmsg.CreatePartitionsResponse)
		want := []int16{0, kerr.InvalidPartitions.Code, kerr.UnknownTopicOrPartition.Code}
		for i, r := range resp.Topics {
			if r.ErrorCode != want[i] || r.Topic != req.Topics[i].Topic {
				t.Errorf("version %d: %s: %v", version, r.Topic, kerr.ErrorForCode(r.ErrorCode))
			}
		}
		if n := len(b.Image().TopicsByName["t"].Partitions); n != 4 {
			t.Errorf("version %d: %d partitions", version, n)
		}
	}
}

func TestConfigsEveryVersion(t *testing.T) {
	b := newFakeBackend()
	b.withController(t)
	b.node = map[string]string{"broker.rack": "r1"}
	c := newTestServer(t, b, Options{})
	hour := "3600000"
	for version := int16(0); version <= 1; version++ {
		req := &kmsg.IncrementalAlterConfigsRequest{Version: version, Resources: []kmsg.IncrementalAlterConfigsRequestResource{
			{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t", Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: &hour}}},
			{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "nope"},
			{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t"},
			{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "other", Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "retention.ms"}}},
			{ResourceType: kmsg.ConfigResourceTypeBrokerLogger, ResourceName: "1"},
			{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "far", Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: &hour, Op: 9}}},
		}}
		want := []int16{0, kerr.UnknownTopicOrPartition.Code, kerr.InvalidRequest.Code, kerr.InvalidRequest.Code, kerr.InvalidRequest.Code, kerr.InvalidRequest.Code}
		for i, r := range c.do(req).(*kmsg.IncrementalAlterConfigsResponse).Resources {
			if r.ErrorCode != want[i] {
				t.Errorf("version %d, resource %d: %v", version, i, kerr.ErrorForCode(r.ErrorCode))
			}
		}
	}
	for version := int16(1); version <= 4; version++ {
		req := &kmsg.DescribeConfigsRequest{Version: version, IncludeSynonyms: true, IncludeDocumentation: true, Resources: []kmsg.DescribeConfigsRequestResource{
			{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t"},
			{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "1"},
			{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t", ConfigNames: []string{"retention.ms", "no.such.key"}},
			{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "2"},
			{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: ""},
			{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "nope"},
		}}
		resp := c.do(req).(*kmsg.DescribeConfigsResponse)
		lengths := []int{len(control.TopicConfigs()), len(control.BrokerConfigs()), 1, 0, len(control.BrokerConfigs()), 0}
		for i, r := range resp.Resources {
			if len(r.Configs) != lengths[i] || (r.ErrorCode != 0) != (lengths[i] == 0) {
				t.Errorf("version %d, resource %d: %d keys, %v", version, i, len(r.Configs), kerr.ErrorForCode(r.ErrorCode))
			}
		}
		kv := resp.Resources[2].Configs[0]
		if *kv.Value != hour || kv.Source != kmsg.ConfigSourceDynamicTopicConfig || len(kv.ConfigSynonyms) < 2 || kv.ReadOnly {
			t.Errorf("version %d: %+v", version, kv)
		}
		if (kv.Documentation != nil) != (version >= 3) {
			t.Errorf("version %d: documentation %v", version, kv.Documentation)
		}
		i := slices.IndexFunc(resp.Resources[1].Configs, func(kv kmsg.DescribeConfigsResponseResourceConfig) bool { return kv.Name == "broker.rack" })
		if kv := resp.Resources[1].Configs[i]; *kv.Value != "r1" || kv.Source != kmsg.ConfigSourceStaticBrokerConfig || !kv.ReadOnly {
			t.Errorf("version %d: %+v", version, kv)
		}
	}
	for version := int16(0); version <= 2; version++ {
		bytes := "1000000"
		req := &kmsg.AlterConfigsRequest{Version: version, Resources: []kmsg.AlterConfigsRequestResource{
			{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t", Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: "retention.bytes", Value: &bytes}}},
		}}
		if r := c.do(req).(*kmsg.AlterConfigsResponse).Resources[0]; r.ErrorCode != 0 {
			t.Errorf("version %d: %v", version, kerr.ErrorForCode(r.ErrorCode))
		}
		if cfg := b.Image().TopicsByName["t"].Config; len(cfg) != 1 || cfg["retention.bytes"] != bytes {
			t.Errorf("version %d: configuration was not replaced: %v", version, cfg)
		}
	}
}

func TestElectLeadersEveryVersion(t *testing.T) {
	b := newFakeBackend()
	b.withController(t)
	c := newTestServer(t, b, Options{})
	for version := int16(0); version <= 2; version++ {
		req := &kmsg.ElectLeadersRequest{Version: version, TimeoutMillis: 10_000, Topics: []kmsg.ElectLeadersRequestTopic{{Topic: "t", Partitions: []int32{0, 9}}, {Topic: "nope", Partitions: []int32{0}}}}
		got := map[string]int16{}
		resp := c.do(req).(*kmsg.ElectLeadersResponse)
		for _, topic := range resp.Topics {
			for _, p := range topic.Partitions {
				got[fmt.Sprintf("%s-%d", topic.Topic, p.Partition)] = p.ErrorCode
			}
		}
		want := map[string]int16{"t-0": kerr.ElectionNotNeeded.Code, "t-9": kerr.UnknownTopicOrPartition.Code, "nope-0": kerr.UnknownTopicOrPartition.Code}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("version %d: %v, want %v", version, got, want)
		}
	}
	resp := c.do(&kmsg.ElectLeadersRequest{Version: 2, TimeoutMillis: 10_000}).(*kmsg.ElectLeadersResponse) // "other" and "far" prefer broker 1
	if len(resp.Topics) != 2 || b.Image().TopicsByName["other"].Partitions[0].Leader != 1 {
		t.Errorf("%+v", resp)
	}
	if resp := c.do(&kmsg.ElectLeadersRequest{Version: 2, ElectionType: 7}).(*kmsg.ElectLeadersResponse); resp.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("%+v", resp)
	}
}

func TestDeleteRecordsEveryVersion(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	b.replica("t", 0).put(10)
	for version := int16(0); version <= 2; version++ {
		req := &kmsg.DeleteRecordsRequest{Version: version, TimeoutMillis: 1000, Topics: []kmsg.DeleteRecordsRequestTopic{
			{Topic: "t", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 0, Offset: int64(version) + 1}, {Partition: 1, Offset: 5}, {Partition: 7}}},
			{Topic: "far", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{}}},
		}}
		resp := c.do(req).(*kmsg.DeleteRecordsResponse)
		p := resp.Topics[0].Partitions
		if p[0].ErrorCode != 0 || p[0].LowWatermark != int64(version)+1 || p[1].ErrorCode != kerr.OffsetOutOfRange.Code || p[2].ErrorCode != kerr.UnknownTopicOrPartition.Code {
			t.Errorf("version %d: %+v", version, p)
		}
		if far := resp.Topics[1].Partitions[0]; far.ErrorCode != kerr.NotLeaderForPartition.Code || far.LowWatermark != -1 {
			t.Errorf("version %d: %+v", version, far)
		}
	}
}

func TestInitProducerIDEveryVersion(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	txn := "txn"
	seen := map[int64]bool{}
	for version := int16(0); version <= 5; version++ {
		for _, from := range []int64{-1, 77} { // a fresh producer, and one that lost its way (KIP-360)
			req := &kmsg.InitProducerIDRequest{Version: version, ProducerID: from, ProducerEpoch: int16(min(from, 5))}
			resp := c.do(req).(*kmsg.InitProducerIDResponse)
			if resp.ErrorCode != 0 || resp.ProducerEpoch != 0 || seen[resp.ProducerID] || resp.ProducerID == 77 {
				t.Errorf("version %d: %+v", version, resp)
			}
			seen[resp.ProducerID] = true
		}
		req := &kmsg.InitProducerIDRequest{Version: version, TransactionalID: &txn, ProducerID: -1, ProducerEpoch: -1}
		if resp := c.do(req).(*kmsg.InitProducerIDResponse); resp.ErrorCode != kerr.TransactionalIDAuthorizationFailed.Code || resp.ProducerID != -1 {
			t.Errorf("version %d, transactional: %+v", version, resp)
		}
	}
	if resp := c.do(&kmsg.InitProducerIDRequest{Version: 4, ProducerID: 5, ProducerEpoch: -1}).(*kmsg.InitProducerIDResponse); resp.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("%+v", resp)
	}
	b.idErr = errors.New("no quorum")
	if resp := c.do(&kmsg.InitProducerIDRequest{Version: 4, ProducerID: -1, ProducerEpoch: -1}).(*kmsg.InitProducerIDResponse); resp.ErrorCode != kerr.CoordinatorLoadInProgress.Code {
		t.Errorf("%+v", resp)
	}
}

func TestOffsetForLeaderEpochEveryVersion(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	for version := int16(2); version <= 4; version++ {
		req := &kmsg.OffsetForLeaderEpochRequest{Version: version, ReplicaID: -1, Topics: []kmsg.OffsetForLeaderEpochRequestTopic{
			{Topic: "t", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{{Partition: 0, LeaderEpoch: 2, CurrentLeaderEpoch: -1}, {Partition: 1, LeaderEpoch: 9, CurrentLeaderEpoch: -1}}},
			{Topic: "far", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{{}}},
		}}
		resp := c.do(req).(*kmsg.OffsetForLeaderEpochResponse)
		p := resp.Topics[0].Partitions
		if p[0].ErrorCode != 0 || p[0].LeaderEpoch != 2 || p[0].EndOffset != 7 || p[1].LeaderEpoch != -1 || p[1].EndOffset != -1 || p[1].Partition != 1 {
			t.Errorf("version %d: %+v", version, p)
		}
		if p := resp.Topics[1].Partitions[0]; p.ErrorCode != kerr.NotLeaderForPartition.Code {
			t.Errorf("version %d: %+v", version, p)
		}
	}
}

func TestFindCoordinatorEveryVersion(t *testing.T) {
	c := newTestServer(t, newFakeBackend(), Options{})
	for version := int16(0); version <= 6; version++ {
		resp := c.do(&kmsg.FindCoordinatorRequest{Version: version, CoordinatorKey: "g", CoordinatorKeys: []string{"a", "b"}}).(*kmsg.FindCoordinatorResponse)
		if version < 4 && resp.ErrorCode != kerr.CoordinatorNotAvailable.Code {
			t.Errorf("version %d: %+v", version, resp)
		}
		if version >= 4 && (len(resp.Coordinators) != 2 || resp.Coordinators[1].Key != "b" || resp.Coordinators[1].ErrorCode != kerr.CoordinatorNotAvailable.Code) {
			t.Errorf("version %d: %+v", version, resp)
		}
	}
	if resp := c.do(&kmsg.FindCoordinatorRequest{Version: 1, CoordinatorType: 9}).(*kmsg.FindCoordinatorResponse); resp.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("%+v", resp)
	}
}

func TestDescribeLogDirsEveryVersion(t *testing.T) {
	b := newFakeBackend()
	c := newTestServer(t, b, Options{})
	b.replica("t", 1).put(1)
	for version := int16(1); version <= 5; version++ {
		dir := c.do(&kmsg.DescribeLogDirsRequest{Version: version}).(*kmsg.DescribeLogDirsResponse).Dirs[0]
		if dir.Dir != "/data" || len(dir.Topics) != 2 || dir.Topics[1].Topic != "t" || len(dir.Topics[1].Partitions) != 2 || dir.Topics[1].Partitions[1].Size != int64(len(oneBatch(1))) {
			t.Errorf("version %d: %+v", version, dir)
		}
		if version >= 4 && (dir.TotalBytes != 1000 || dir.UsableBytes != 400) {
			t.Errorf("version %d: %+v", version, dir)
		}
		req := &kmsg.DescribeLogDirsRequest{Version: version, Topics: []kmsg.DescribeLogDirsRequestTopic{{Topic: "t", Partitions: []int32{1, 5}}, {Topic: "nope"}}}
		if dir := c.do(req).(*kmsg.DescribeLogDirsResponse).Dirs[0]; len(dir.Topics) != 1 || len(dir.Topics[0].Partitions) != 1 {
			t.Errorf("version %d: %+v", version, dir)
		}
	}
}
