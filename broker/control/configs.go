package control

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// ConfigType has Kafka's numbers of configuration types (DescribeConfigs v3+).
type ConfigType int8

// The types of configuration values.
const (
	TypeBool   ConfigType = 1
	TypeString ConfigType = 2
	TypeInt    ConfigType = 3
	TypeLong   ConfigType = 5
	TypeDouble ConfigType = 6
	TypeList   ConfigType = 7
)

// ConfigSource has Kafka's numbers of configuration sources.
type ConfigSource int8

// Where an effective value comes from.
const (
	SourceTopic       ConfigSource = 1
	SourceBroker      ConfigSource = 2
	SourceClusterWide ConfigSource = 3
	SourceStatic      ConfigSource = 4
	SourceDefault     ConfigSource = 5
)

const (
	maxLong          = math.MaxInt64
	defaultMinInsync = 2
)

// Scope says where a key can be set at run time.
type Scope uint8

// Scopes of broker keys. Topic keys are always settable on topics.
const (
	ReadOnly    Scope = iota // from the node's own settings
	ClusterWide              // as the cluster-wide default only
	PerBroker                // on a broker or as the default
)

// ConfigDef describes a configuration key.
type ConfigDef struct {
	Name    string
	Type    ConfigType
	Default string
	// Synonym is the broker key that holds a topic key's cluster-wide value.
	Synonym string
	Scope   Scope // of broker keys
	Doc     string
	check   func(string) error
}

// Check reports why value is not acceptable, or nil.
func (d *ConfigDef) Check(value string) error {
	if d.check == nil {
		return nil
	}
	if err := d.check(value); err != nil {
		return fmt.Errorf("invalid value %q for configuration %s: %w", value, d.Name, err)
	}
	return nil
}

func integer(lo, hi int64) func(string) error {
	return func(s string) error {
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("not an integer")
		}
		if v < lo || v > hi {
			return fmt.Errorf("must be in [%d, %d]", lo, hi)
		}
		return nil
	}
}

func ratio(s string) error {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v >= 0 && v <= 1) {
		return fmt.Errorf("must be a number in [0, 1]")
	}
	return nil
}

func boolean(s string) error { return oneOf("true", "false")(strings.ToLower(s)) }

func oneOf(values ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(values, s) {
			return fmt.Errorf("must be one of %s", strings.Join(values, ", "))
		}
		return nil
	}
}

func listOf(values ...string) func(string) error {
	return func(s string) error {
		for _, e := range splitList(s) {
			if err := oneOf(values...)(e); err != nil {
				return err
			}
		}
		return nil
	}
}

func allOrCount(s string) error {
	if s == "all" {
		return nil
	}
	if integer(1, math.MaxInt16)(s) != nil {
		return fmt.Errorf("must be \"all\" or a number of replicas, at least 1")
	}
	return nil
}

func throttledReplicas(s string) error {
	if s == "*" || s == "none" {
		return nil
	}
	for _, e := range splitList(s) {
		p, b, ok := strings.Cut(e, ":")
		if !ok || integer(0, math.MaxInt32)(p) != nil || integer(0, math.MaxInt32)(b) != nil {
			return fmt.Errorf("must be * or a list of partition:broker")
		}
	}
	return nil
}

// splitList splits a comma-separated list and drops blanks.
func splitList(s string) []string {
	var out []string
	for _, e := range strings.Split(s, ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	return out
}

func index(defs []*ConfigDef) map[string]*ConfigDef {
	m := make(map[string]*ConfigDef, len(defs))
	for _, d := range defs {
		m[d.Name] = d
	}
	return m
}

var (
	topicIndex  = index(topicConfigs)
	brokerIndex = index(brokerConfigs)
)

// TopicConfigs returns every topic key by name order. Do not modify.
func TopicConfigs() []*ConfigDef { return topicConfigs }

// BrokerConfigs returns every broker key by name order. Do not modify.
func BrokerConfigs() []*ConfigDef { return brokerConfigs }

// TopicConfigDef returns a topic key's definition, or nil.
func TopicConfigDef(name string) *ConfigDef { return topicIndex[name] }

// BrokerConfigDef returns a broker key's definition, or nil.
func BrokerConfigDef(name string) *ConfigDef { return brokerIndex[name] }
