package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Admin manages topics, configs and looks at the cluster.
type Admin struct {
	client *Client
	kadm   *kadm.Client
}

// Admin returns the admin of this client; it shares the client's connections
// and needs no Close.
func (c *Client) Admin() *Admin {
	admin := kadm.NewClient(c.core)
	admin.SetTimeoutMillis(5000)
	return &Admin{client: c, kadm: admin}
}

// TopicSpec describes a topic to create.
type TopicSpec struct {
	Name string
	// Partitions and Replicas; 0 or -1 leaves them to the cluster's defaults.
	Partitions int32
	Replicas   int16
	// Configs by Kafka's names, for example min.insync.replicas.
	Configs map[string]string
}

// CreateTopic creates a topic and returns as soon as the cluster has accepted
// it; see WaitTopic.
func (a *Admin) CreateTopic(ctx context.Context, spec TopicSpec) error {
	op := "create topic " + spec.Name
	configs := make(map[string]*string, len(spec.Configs))
	for k, v := range spec.Configs {
		configs[k] = &v
	}
	resp, err := a.kadm.CreateTopics(ctx, orDefault(spec.Partitions), orDefault(spec.Replicas), configs, spec.Name)
	if err != nil {
		return a.client.explain(op, err)
	}
	r, err := resp.On(spec.Name, nil)
	if err != nil {
		return wrap(op, err)
	}
	return wrap(op, serverError(r.Err, r.ErrMessage))
}

func orDefault[T int16 | int32](n T) T {
	if n == 0 {
		return -1
	}
	return n
}

// WaitTopic returns when every live broker shows the topic with a leader for
// at least the given number of partitions (0 means at least one), so that it
// can be written and read through any of them.
func (a *Admin) WaitTopic(ctx context.Context, name string, partitions int) error {
	op := "wait for topic " + name
	var missing error
	for n := 1; ; n++ {
		now := a.topicMissing(ctx, name, max(partitions, 1))
		if now == nil {
			return nil
		}
		if missing == nil || ctx.Err() == nil {
			missing = now // what ends with ctx says only that time ran out
		}
		select {
		case <-ctx.Done():
			return &Error{Op: op, Kind: ErrUnavailable, Err: missing}
		case <-time.After(backoff(n)):
		}
	}
}

// topicMissing says what a live broker lacks of a topic, or nil.
func (a *Admin) topicMissing(ctx context.Context, name string, partitions int) error {
	brokers, err := a.brokers(ctx)
	if err != nil {
		return err
	}
	for _, id := range brokers {
		req := kmsg.NewPtrMetadataRequest()
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
		resp, err := a.client.core.Broker(int(id)).Request(ctx, req)
		if err != nil {
			return fmt.Errorf("broker %d: %w", id, err)
		}
		topics := resp.(*kmsg.MetadataResponse).Topics
		if len(topics) != 1 {
			return fmt.Errorf("broker %d does not show the topic yet", id)
		}
		if err := kerr.ErrorForCode(topics[0].ErrorCode); err != nil {
			return fmt.Errorf("broker %d: %w", id, err)
		}
		led := 0
		for _, p := range topics[0].Partitions {
			if p.ErrorCode == 0 && p.Leader >= 0 {
				led++
			}
		}
		if led < partitions || led < len(topics[0].Partitions) {
			return fmt.Errorf("broker %d shows %d of %d partitions with a leader", id, led, max(partitions, len(topics[0].Partitions)))
		}
	}
	return nil
}

// DeleteTopic deletes a topic and its records.
func (a *Admin) DeleteTopic(ctx context.Context, name string) error {
	op := "delete topic " + name
	resp, err := a.kadm.DeleteTopics(ctx, name)
	if err != nil {
		return a.client.explain(op, err)
	}
	r, err := resp.On(name, nil)
	if err != nil {
		return wrap(op, err)
	}
	return wrap(op, serverError(r.Err, r.ErrMessage))
}

// SetPartitions grows a topic to the given number of partitions. It cannot
// shrink, and keys then map to other partitions than before.
func (a *Admin) SetPartitions(ctx context.Context, name string, partitions int) error {
	op := "set partitions of " + name
	resp, err := a.kadm.UpdatePartitions(ctx, partitions, name)
	if err != nil {
		return a.client.explain(op, err)
	}
	r, err := resp.On(name, nil)
	if err != nil {
		return wrap(op, err)
	}
	return wrap(op, serverError(r.Err, r.ErrMessage))
}

// Config is one setting of a topic or broker.
type Config struct {
	Name      string `json:"name"`
	Value     string `json:"value"`
	Source    string `json:"source"`    // "DYNAMIC_TOPIC_CONFIG", "DEFAULT_CONFIG", …
	Sensitive bool   `json:"sensitive"` // then Value is empty
}

// Default says whether the value is the built-in default.
func (c Config) Default() bool { return c.Source == kmsg.ConfigSourceDefaultConfig.String() }

// TopicConfigs returns all settings of a topic, sorted by name.
func (a *Admin) TopicConfigs(ctx context.Context, topic string) ([]Config, error) {
	op := "configs of topic " + topic
	rs, err := a.kadm.DescribeTopicConfigs(ctx, topic)
	return a.configs(op, topic, rs, err)
}

// BrokerConfigs returns all settings of a broker, sorted by name.
func (a *Admin) BrokerConfigs(ctx context.Context, id int32) ([]Config, error) {
	op := fmt.Sprintf("configs of broker %d", id)
	if err := a.checkBroker(ctx, op, id); err != nil {
		return nil, err
	}
	rs, err := a.kadm.DescribeBrokerConfigs(ctx, id)
	return a.configs(op, strconv.Itoa(int(id)), rs, err)
}

func (a *Admin) configs(op, name string, rs kadm.ResourceConfigs, err error) ([]Config, error) {
	if err != nil {
		return nil, a.client.explain(op, shardCause(err))
	}
	r, err := rs.On(name, nil)
	if err == nil {
		err = serverError(r.Err, r.ErrMessage)
	}
	if err != nil {
		return nil, wrap(op, err)
	}
	out := make([]Config, 0, len(r.Configs))
	for _, c := range r.Configs {
		out = append(out, Config{Name: c.Key, Value: c.MaybeValue(), Source: c.Source.String(), Sensitive: c.Sensitive})
	}
	slices.SortFunc(out, func(x, y Config) int { return cmp.Compare(x.Name, y.Name) })
	return out, nil
}

// AlterTopicConfigs sets some settings of a topic and resets others to their
// defaults, all or nothing.
func (a *Admin) AlterTopicConfigs(ctx context.Context, topic string, set map[string]string, reset []string) error {
	op := "alter configs of topic " + topic
	rs, err := a.kadm.AlterTopicConfigs(ctx, alterations(set, reset), topic)
	return a.altered(op, topic, rs, err)
}

// AlterBrokerConfigs does the same for one broker.
func (a *Admin) AlterBrokerConfigs(ctx context.Context, id int32, set map[string]string, reset []string) error {
	op := fmt.Sprintf("alter configs of broker %d", id)
	if err := a.checkBroker(ctx, op, id); err != nil {
		return err
	}
	rs, err := a.kadm.AlterBrokerConfigs(ctx, alterations(set, reset), id)
	return a.altered(op, strconv.Itoa(int(id)), rs, err)
}

func alterations(set map[string]string, reset []string) []kadm.AlterConfig {
	out := make([]kadm.AlterConfig, 0, len(set)+len(reset))
	for k, v := range set {
		out = append(out, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
	}
	for _, k := range reset {
		out = append(out, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k})
	}
	return out
}

func (a *Admin) altered(op, name string, rs kadm.AlterConfigsResponses, err error) error {
	if err != nil {
		return a.client.explain(op, shardCause(err))
	}
	r, err := rs.On(name, nil)
	if err == nil {
		err = serverError(r.Err, r.ErrMessage)
	}
	return wrap(op, err)
}

// checkBroker gives a clear error for a broker that is not in the cluster.
func (a *Admin) checkBroker(ctx context.Context, op string, id int32) error {
	ids, err := a.brokers(ctx)
	if err != nil {
		return a.client.explain(op, err)
	}
	if !slices.Contains(ids, id) {
		return &Error{Op: op, Kind: ErrNotFound, Err: fmt.Errorf("the cluster has brokers %v", ids)}
	}
	return nil
}

// shardCause takes the first cause out of an error that kadm spread over
// several requests.
func shardCause(err error) error {
	var shards *kadm.ShardErrors
	if errors.As(err, &shards) && len(shards.Errs) > 0 {
		return shards.Errs[0].Err
	}
	return err
}
