package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/client"
)

func TestTopicLifecycle(t *testing.T) {
	_, cl := newCluster(t, 1)
	admin, ctx := cl.Admin(), testContext(t)
	spec := client.TopicSpec{Name: "orders", Partitions: 3, Replicas: 2, Configs: map[string]string{"retention.ms": "60000"}}
	if err := admin.CreateTopic(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if err := admin.WaitTopic(ctx, "orders", 3); err != nil {
		t.Fatal(err)
	}
	if err := admin.CreateTopic(ctx, spec); !errors.Is(err, client.ErrExists) {
		t.Errorf("again: %v", err)
	}
	if err := admin.SetPartitions(ctx, "orders", 5); err != nil {
		t.Fatal(err)
	}
	topics, err := admin.Topics(ctx, "orders")
	if err != nil || len(topics) != 1 || len(topics[0].Partitions) != 5 {
		t.Fatalf("%+v %v", topics, err)
	}
	if err := admin.DeleteTopic(ctx, "orders"); err != nil {
		t.Fatal(err)
	}
	if err := admin.DeleteTopic(ctx, "orders"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("delete again: %v", err)
	}
	if _, err := admin.Topics(ctx, "orders"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("describe: %v", err)
	}
	if topics, err := admin.Topics(ctx); err != nil || len(topics) != 1 || topics[0].Topic != "t" {
		t.Errorf("list: %+v %v", topics, err)
	}
}

// TestMessageOfTheCluster: what the cluster says beside a code is passed on.
func TestMessageOfTheCluster(t *testing.T) {
	k, cl := newCluster(t, 1)
	k.ControlKey(int16(kmsg.CreateTopics), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		resp := kreq.ResponseKind().(*kmsg.CreateTopicsResponse)
		topic := kmsg.NewCreateTopicsResponseTopic()
		topic.Topic = "x"
		topic.ErrorCode = kerr.InvalidReplicationFactor.Code
		topic.ErrorMessage = kmsg.StringPtr("replication factor 3, but 1 broker is alive")
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	err := cl.Admin().CreateTopic(testContext(t), client.TopicSpec{Name: "x"})
	if !errors.Is(err, client.ErrInvalid) || !errors.Is(err, kerr.InvalidReplicationFactor) {
		t.Errorf("kind of %v", err)
	}
	if want := "create topic x: INVALID_REPLICATION_FACTOR: replication factor 3, but 1 broker is alive"; err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

// TestWaitTopicWaitsForEveryBroker: one broker that does not know the topic yet
// is enough to wait, and named when time runs out.
func TestWaitTopicWaitsForEveryBroker(t *testing.T) {
	k, cl := newCluster(t, 2)
	behind := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Nodes: []int32{2}, Topic: "t", Err: kerr.UnknownTopicOrPartition, Count: -1})
	// Time runs out while a broker that has the topic is asked for the second time.
	ctx, cancel := context.WithCancel(testContext(t))
	asked := 0
	k.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if topics := kreq.(*kmsg.MetadataRequest).Topics; k.CurrentNode() == 0 && len(topics) == 1 {
			if asked++; asked == 2 {
				cancel()
			}
		}
		return nil, nil, false
	})
	err := cl.Admin().WaitTopic(ctx, "t", 2)
	if !errors.Is(err, client.ErrUnavailable) || !strings.Contains(err.Error(), "broker 2") {
		t.Errorf("got %v", err)
	}
	behind.Remove()
	if err := cl.Admin().WaitTopic(testContext(t), "t", 2); err != nil {
		t.Errorf("once all know it: %v", err)
	}
}

func TestConfigs(t *testing.T) {
	_, cl := newCluster(t, 1)
	admin, ctx := cl.Admin(), testContext(t)
	find := func(configs []client.Config, name string) client.Config {
		for _, c := range configs {
			if c.Name == name {
				return c
			}
		}
		t.Fatalf("no config %s", name)
		return client.Config{}
	}
	if err := admin.AlterTopicConfigs(ctx, "t", map[string]string{"retention.ms": "1234"}, nil); err != nil {
		t.Fatal(err)
	}
	configs, err := admin.TopicConfigs(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	if c := find(configs, "retention.ms"); c.Value != "1234" || c.Default() || c.Source != "DYNAMIC_TOPIC_CONFIG" {
		t.Errorf("after setting: %+v", c)
	}
	if err := admin.AlterTopicConfigs(ctx, "t", nil, []string{"retention.ms"}); err != nil {
		t.Fatal(err)
	}
	configs, err = admin.TopicConfigs(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	if c := find(configs, "retention.ms"); c.Value == "1234" || !c.Default() {
		t.Errorf("after resetting: %+v", c)
	}
	if _, err := admin.TopicConfigs(ctx, "nope"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("unknown topic: %v", err)
	}
	if configs, err := admin.BrokerConfigs(ctx, 1); err != nil || len(configs) == 0 {
		t.Errorf("broker 1: %d configs, %v", len(configs), err)
	}
	if _, err := admin.BrokerConfigs(ctx, 77); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("unknown broker: %v", err)
	}
	if err := admin.AlterBrokerConfigs(ctx, 77, map[string]string{"a": "b"}, nil); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("unknown broker: %v", err)
	}
	if _, err := admin.BrokerConfig(ctx, 1, "tailrace.no.such"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("unknown setting: %v", err)
	}
}

func TestClusterAndPartitions(t *testing.T) {
	k, cl := newCluster(t, 3)
	fill(t, cl, 1, 7)
	admin, ctx := cl.Admin(), testContext(t)
	s, err := admin.Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	leaders, replicas := 0, 0
	for i, b := range s.Brokers {
		if b.ID != int32(i) || b.Port == 0 || b.Controller != (b.ID == s.Controller) {
			t.Errorf("broker %d: %+v", i, b)
		}
		leaders += b.Leaders
		replicas += b.Replicas
	}
	if len(s.Brokers) != 3 || s.Topics != 1 || s.Partitions != 3 || leaders != 3 || replicas != 9 || s.Leaderless+s.UnderReplicated != 0 {
		t.Errorf("cluster: %+v", s)
	}
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Partitions: []int32{2}, Err: kerr.UnknownServerError, Count: -1})
	partitions, err := admin.Partitions(ctx, "t")
	if err != nil || len(partitions) != 3 {
		t.Fatalf("%+v %v", partitions, err)
	}
	if p := partitions[1]; p.Leader != k.LeaderFor("t", 1) || p.Start != 0 || p.HighWatermark != 7 || len(p.ISR) != 3 || len(p.Replicas) != 3 {
		t.Errorf("partition 1: %+v", p)
	}
	if p := partitions[2]; p.HighWatermark != -1 || p.Start != -1 {
		t.Errorf("a partition whose leader does not answer: %+v", p)
	}
	if _, err := admin.Partitions(ctx, "nope"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("unknown topic: %v", err)
	}
}

func TestAdminUnreachable(t *testing.T) {
	cl, err := client.New(context.Background(), client.Options{Seeds: []string{"127.0.0.1:1", "127.0.0.1:2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := cl.Admin().Cluster(ctx); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("cluster: %v", err)
	}
	if err := cl.Ping(ctx); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("ping: %v", err)
	}
	if _, err := client.New(context.Background(), client.Options{}); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("no seeds: %v", err)
	}
}
