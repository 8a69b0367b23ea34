package control

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tailrace/tailrace/internal/model"
)

// checkTopicConfig checks keys and values by themselves.
func checkTopicConfig(config map[string]string) *problem {
	for _, k := range sortedKeys(config) {
		def := topicIndex[k]
		if def == nil {
			return fails(kerr.InvalidConfig, "unknown topic configuration %s", k)
		}
		if err := def.Check(config[k]); err != nil {
			return fails(kerr.InvalidConfig, "%s", err)
		}
	}
	return nil
}

// checkSizes holds 1 ≤ min.insync.replicas ≤ sync.replicas ≤ factor for what
// the topic sets itself. A minimum of 1 at a factor of 2 or more must be said;
// it does not follow from a small sync.replicas.
func checkSizes(img *Image, config map[string]string, rf int) *problem {
	lo, loSet := topicSize(config, keyMinInsync)
	hi, hiSet := topicSize(config, keySyncReplicas)
	if loSet && lo > rf {
		return fails(kerr.InvalidConfig, "%s=%d is larger than the replication factor %d", keyMinInsync, lo, rf)
	}
	if hiSet && hi > rf {
		return fails(kerr.InvalidConfig, "%s=%d is larger than the replication factor %d", keySyncReplicas, hi, rf)
	}
	if !loSet {
		lo = defaultMin(img, rf)
	}
	if hiSet && hi != 0 && lo > hi {
		return fails(kerr.InvalidConfig, "%s=%d is larger than %s=%d", keyMinInsync, lo, keySyncReplicas, hi)
	}
	return nil
}

// topicSize reads a size that a topic sets; "all" is 0.
func topicSize(config map[string]string, key string) (int, bool) {
	v, ok := config[key]
	if !ok {
		return 0, false
	}
	n, _ := strconv.Atoi(v) // checked; 0 for "all"
	return n, true
}

func defaultMin(img *Image, rf int) int {
	n, _ := strconv.Atoi(ClusterValue(img, keyMinInsync))
	return max(1, min(n, rf))
}

// sizes returns the effective min.insync.replicas and sync.replicas (0: all).
// What the topic does not set itself gives way to what it does set, and to
// the replication factor.
func sizes(img *Image, config map[string]string, rf int) (lo, hi int) {
	lo, loSet := topicSize(config, keyMinInsync)
	hi, hiSet := topicSize(config, keySyncReplicas)
	if !loSet {
		lo = defaultMin(img, rf)
	}
	if !hiSet {
		if v := ClusterValue(img, keySyncReplicas); v != "all" {
			n, _ := strconv.Atoi(v)
			hi = max(lo, min(n, rf))
		}
	}
	if !loSet && hi != 0 {
		lo = min(lo, hi)
	}
	return lo, hi
}

func (d *decision) alterConfigs(cmd *AlterConfigs) error {
	seen := map[[2]string]bool{}
	for i := range cmd.Resources {
		ch := &cmd.Resources[i]
		r := ResourceResult{Type: ch.Type, Name: ch.Name}
		key := [2]string{strconv.Itoa(int(ch.Type)), ch.Name}
		var bad *problem
		var err error
		switch {
		case seen[key]:
			bad = fails(kerr.InvalidRequest, "resource %q is there twice", ch.Name)
		case ch.Type == ResourceTopic:
			bad, err = d.alterTopicConfig(ch, cmd.ValidateOnly)
		case ch.Type == ResourceBroker:
			bad, err = d.alterBrokerConfig(ch, cmd.ValidateOnly)
		default:
			bad = fails(kerr.InvalidRequest, "resource type %d has no configuration here", ch.Type)
		}
		if err != nil {
			return err
		}
		seen[key] = true
		if bad != nil {
			r.Code, r.Message = bad.err.Code, bad.why
		}
		d.result.Resources = append(d.result.Resources, r)
	}
	return nil
}

func (d *decision) alterTopicConfig(ch *ConfigChange, validate bool) (*problem, error) {
	t := d.img.TopicsByName[ch.Name]
	if t == nil {
		return fails(kerr.UnknownTopicOrPartition, "no topic has this name"), nil
	}
	get := func(k string) string {
		v, _ := topicValue(d.img, nil, t.minReplicationFactor(), topicIndex[k])
		return v
	}
	next, bad := newConfig(t.Config, ch, topicIndex, get)
	if bad == nil {
		bad = checkTopicConfig(next)
	}
	if bad == nil {
		bad = checkSizes(d.img, next, t.minReplicationFactor())
	}
	if bad != nil || validate {
		return bad, nil
	}
	set, del := difference(t.Config, next)
	if len(set)+len(del) == 0 {
		return nil, nil
	}
	if err := d.emit(&TopicConfig{ID: t.ID, Set: set, Delete: del}); err != nil {
		return nil, err
	}
	return nil, d.resettle(t.ID)
}

// resettle brings the eligible leaders of a topic in line with its minimum,
// in the batch that changed the minimum.
func (d *decision) resettle(id model.TopicID) error {
	min := minInsync(d.img, d.img.Topics[id])
	for i := range d.img.Topics[id].Partitions {
		p := d.img.Topics[id].Partitions[i]
		if len(p.ELR) == 0 {
			continue
		}
		x := newTransition(model.TopicPartition{Topic: id, Partition: int32(i)}, p, min)
		if err := d.settle(x); err != nil {
			return err
		}
	}
	return nil
}

func (d *decision) alterBrokerConfig(ch *ConfigChange, validate bool) (*problem, error) {
	id, have := model.NoBroker, d.img.ClusterConfig
	if ch.Name != "" {
		n, err := strconv.ParseInt(ch.Name, 10, 32)
		if err != nil || d.img.Brokers[model.BrokerID(n)] == nil {
			return fails(kerr.InvalidRequest, "%q is not the id of a registered broker", ch.Name), nil
		}
		id = model.BrokerID(n)
		have = d.img.BrokerConfig[id]
	}
	next, bad := newConfig(have, ch, brokerIndex, func(k string) string { return brokerIndex[k].Default })
	if bad == nil {
		bad = checkBrokerConfig(next, id)
	}
	if bad != nil || validate {
		return bad, nil
	}
	set, del := difference(have, next)
	if len(set)+len(del) == 0 {
		return nil, nil
	}
	if err := d.emit(&Config{Broker: id, Set: set, Delete: del}); err != nil {
		return nil, err
	}
	if id != model.NoBroker {
		return nil, nil
	}
	for _, t := range d.img.SortedTopics() {
		if err := d.resettle(t.ID); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func checkBrokerConfig(config map[string]string, id model.BrokerID) *problem {
	for _, k := range sortedKeys(config) {
		def := brokerIndex[k]
		switch {
		case def == nil:
			return fails(kerr.InvalidConfig, "unknown broker configuration %s", k)
		case def.Scope == ReadOnly:
			return fails(kerr.InvalidConfig, "%s cannot be changed at run time", k)
		case def.Scope == ClusterWide && id != model.NoBroker:
			return fails(kerr.InvalidConfig, "%s can be set for the whole cluster only", k)
		}
		if err := def.Check(config[k]); err != nil {
			return fails(kerr.InvalidConfig, "%s", err)
		}
	}
	lo, loSet := topicSize(config, keyMinInsync)
	hi, hiSet := topicSize(config, keySyncReplicas)
	if !loSet {
		lo = defaultMinInsync
	}
	if hiSet && hi != 0 && lo > hi {
		return fails(kerr.InvalidConfig, "%s=%d is larger than %s=%d", keyMinInsync, lo, keySyncReplicas, hi)
	}
	return nil
}

// newConfig applies the operations to a configuration. def gives the value
// that lists are appended to where nothing is set.
func newConfig(have map[string]string, ch *ConfigChange, defs map[string]*ConfigDef, def func(string) string) (map[string]string, *problem) {
	next := cloneMap(have)
	if ch.Replace {
		clear(next)
	}
	seen := map[string]bool{}
	for _, op := range ch.Ops {
		d := defs[op.Key]
		switch {
		case d == nil:
			return nil, fails(kerr.InvalidConfig, "unknown configuration %s", op.Key)
		case seen[op.Key]:
			return nil, fails(kerr.InvalidRequest, "configuration %s is there twice", op.Key)
		}
		seen[op.Key] = true
		switch op.Op {
		case OpSet:
			next[op.Key] = op.Value
		case OpDelete:
			delete(next, op.Key)
		case OpAppend, OpSubtract:
			if d.Type != TypeList {
				return nil, fails(kerr.InvalidConfig, "configuration %s is not a list", op.Key)
			}
			old, ok := next[op.Key]
			if !ok {
				old = def(op.Key)
			}
			next[op.Key] = editList(old, op)
		default:
			return nil, fails(kerr.InvalidRequest, "unknown operation %d", op.Op)
		}
	}
	return next, nil
}

func editList(old string, op ConfigOp) string {
	list := splitList(old)
	for _, e := range splitList(op.Value) {
		switch i := slices.Index(list, e); {
		case op.Op == OpAppend && i < 0:
			list = append(list, e)
		case op.Op == OpSubtract && i >= 0:
			list = slices.Delete(list, i, i+1)
		}
	}
	return strings.Join(list, ",")
}

func difference(have, next map[string]string) (set map[string]string, del []string) {
	set = maps.Clone(next)
	maps.DeleteFunc(set, func(k, v string) bool {
		old, ok := have[k]
		return ok && old == v
	})
	for _, k := range sortedKeys(have) {
		if _, ok := next[k]; !ok {
			del = append(del, k)
		}
	}
	return set, del
}
