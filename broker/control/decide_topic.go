package control

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tailrace/tailrace/internal/model"
)

// maxNewPartitions bounds what one topic may add at once, and with it the
// size of a log entry.
const maxNewPartitions = 20_000

const maxTopicName = 249

// ValidTopicName reports why a topic name is not acceptable, or "".
func ValidTopicName(name string) string {
	switch {
	case name == "":
		return "topic name is empty"
	case name == "." || name == "..":
		return fmt.Sprintf("topic name cannot be %q", name)
	case len(name) > maxTopicName:
		return fmt.Sprintf("topic name is longer than %d characters", maxTopicName)
	}
	for _, r := range name {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			continue
		}
		return "topic name has characters other than ASCII letters, digits, '.', '_' and '-'"
	}
	return ""
}

// problem is why one item of a command fails.
type problem struct {
	err *kerr.Error
	why string
}

func fails(e *kerr.Error, format string, args ...any) *problem {
	return &problem{e, fmt.Sprintf(format, args...)}
}

func (d *decision) createTopics(cmd *CreateTopics) error {
	rng := rand.NewChaCha8(d.in.Seed)
	var pl *placer
	seen := map[string]int{}
	for _, t := range cmd.Topics {
		seen[t.Name]++
	}
	names := d.collisions(len(cmd.Topics))
	for i := range cmd.Topics {
		t := &cmd.Topics[i]
		if pl == nil {
			pl = newPlacer(d.img, d.in.Seed)
		}
		r := TopicResult{Name: t.Name}
		parts, bad := [][]model.BrokerID(nil), (*problem)(nil)
		if seen[t.Name] > 1 {
			bad = fails(kerr.InvalidRequest, "topic %q is there twice", t.Name)
		} else {
			parts, bad = d.planTopic(t, pl, names)
		}
		if bad != nil {
			r.Code, r.Message = bad.err.Code, bad.why
			d.result.Topics = append(d.result.Topics, r)
			continue
		}
		r.Partitions, r.ReplicationFactor = int32(len(parts)), int16(len(parts[0]))
		if !cmd.ValidateOnly {
			id, err := model.NewTopicID(rng)
			if err != nil {
				return err
			}
			r.ID = id
			if err := d.emitTopic(t, id, parts); err != nil {
				return err
			}
		}
		names[NormalizeName(t.Name)] = t.Name
		d.result.Topics = append(d.result.Topics, r)
	}
	return nil
}

// collisions maps the normalized names to the names that exist.
func (d *decision) collisions(more int) map[string]string {
	names := make(map[string]string, len(d.img.TopicsByName)+more)
	for name := range d.img.TopicsByName {
		names[NormalizeName(name)] = name
	}
	return names
}

func (d *decision) planTopic(t *NewTopic, pl *placer, names map[string]string) ([][]model.BrokerID, *problem) {
	if why := ValidTopicName(t.Name); why != "" {
		return nil, fails(kerr.InvalidTopicException, "%s", why)
	}
	if d.img.TopicsByName[t.Name] != nil {
		return nil, fails(kerr.TopicAlreadyExists, "topic %q exists", t.Name)
	}
	if other, ok := names[NormalizeName(t.Name)]; ok {
		return nil, fails(kerr.InvalidTopicException, "topic %q collides with %q: '.' and '_' are the same in metric names", t.Name, other)
	}
	parts, bad := d.planReplicas(t, pl)
	if bad != nil {
		return nil, bad
	}
	if bad := checkTopicConfig(t.Config); bad != nil {
		return nil, bad
	}
	return parts, checkSizes(d.img, t.Config, len(parts[0]))
}

func (d *decision) planReplicas(t *NewTopic, pl *placer) ([][]model.BrokerID, *problem) {
	if t.Assignment != nil {
		if t.ReplicationFactor != -1 || t.Partitions != -1 && int(t.Partitions) != len(t.Assignment) {
			return nil, fails(kerr.InvalidRequest, "replication factor and number of partitions must be -1 with an assignment")
		}
		return t.Assignment, d.checkAssignment(t.Assignment, 0)
	}
	n, rf := int(t.Partitions), int(t.ReplicationFactor)
	if n == -1 {
		n, _ = strconv.Atoi(ClusterValue(d.img, "num.partitions"))
	}
	if n <= 0 || n > maxNewPartitions {
		return nil, fails(kerr.InvalidPartitions, "number of partitions must be in [1, %d]", maxNewPartitions)
	}
	if rf == -1 {
		want, _ := strconv.Atoi(ClusterValue(d.img, "default.replication.factor"))
		rf = max(1, min(want, pl.live()))
	}
	if rf <= 0 {
		return nil, fails(kerr.InvalidReplicationFactor, "replication factor must be positive")
	}
	if rf > len(pl.brokers) || pl.live() == 0 {
		return nil, fails(kerr.InvalidReplicationFactor, "replication factor %d is larger than the number of brokers, %d (%d live)", rf, len(pl.brokers), pl.live())
	}
	pl.begin(nil)
	parts := make([][]model.BrokerID, n)
	for i := range parts {
		parts[i] = pl.place(rf)
	}
	return parts, nil
}

// checkAssignment checks replicas that a client chose. rf is the topic's
// factor, 0 for a new one.
func (d *decision) checkAssignment(parts [][]model.BrokerID, rf int) *problem {
	if len(parts) == 0 || len(parts) > maxNewPartitions {
		return fails(kerr.InvalidReplicaAssignment, "assignment of %d partitions", len(parts))
	}
	for i, replicas := range parts {
		if rf == 0 {
			rf = len(replicas)
		}
		if len(replicas) == 0 || len(replicas) != rf {
			return fails(kerr.InvalidReplicaAssignment, "partition %d has %d replicas, not %d", i, len(replicas), rf)
		}
		live := false
		for k, id := range replicas {
			if d.img.Brokers[id] == nil {
				return fails(kerr.InvalidReplicaAssignment, "broker %d is not registered", id)
			}
			if slices.Contains(replicas[:k], id) {
				return fails(kerr.InvalidReplicaAssignment, "broker %d is there twice", id)
			}
			live = live || d.img.Brokers[id].Live()
		}
		if !live {
			return fails(kerr.InvalidReplicaAssignment, "no broker of partition %d is live", i)
		}
	}
	return nil
}

func (d *decision) emitTopic(t *NewTopic, id model.TopicID, parts [][]model.BrokerID) error {
	if err := d.emit(&TopicCreated{ID: id, Name: t.Name, Internal: t.Internal, Config: t.Config}); err != nil {
		return err
	}
	return d.emitPartitions(id, 0, parts)
}

// emitPartitions creates partitions with every live replica in sync: there is
// nothing yet that one could lack.
func (d *decision) emitPartitions(id model.TopicID, first int, parts [][]model.BrokerID) error {
	for i, replicas := range parts {
		r := &PartitionCreated{TP: model.TopicPartition{Topic: id, Partition: int32(first + i)}, Replicas: replicas, Leader: model.NoBroker}
		for _, b := range replicas {
			broker := d.img.Brokers[b]
			r.Directories = append(r.Directories, broker.StorageID)
			if !broker.Live() {
				continue
			}
			r.ISR = append(r.ISR, b)
			if r.Leader == model.NoBroker {
				r.Leader, r.LeaderIncarnation = b, broker.Incarnation
			}
		}
		if err := d.emit(r); err != nil {
			return err
		}
	}
	return nil
}

func (d *decision) deleteTopics(cmd *DeleteTopics) error {
	off := ClusterValue(d.img, "delete.topic.enable") == "false"
	for _, ref := range cmd.Topics {
		t, r := d.find(ref)
		switch {
		case t == nil:
		case off:
			r.Code, r.Message = kerr.TopicDeletionDisabled.Code, "topic deletion is disabled"
		default:
			if err := d.emit(&TopicDeleted{ID: t.ID}); err != nil {
				return err
			}
		}
		d.result.Topics = append(d.result.Topics, r)
	}
	return nil
}

// find resolves a reference, or prepares the answer that there is no such
// topic.
func (d *decision) find(ref TopicRef) (*Topic, TopicResult) {
	if !ref.ID.IsZero() {
		if t := d.img.Topics[ref.ID]; t != nil {
			return t, TopicResult{ID: t.ID, Name: t.Name}
		}
		return nil, TopicResult{ID: ref.ID, Code: kerr.UnknownTopicID.Code, Message: "no topic has this id"}
	}
	if t := d.img.TopicsByName[ref.Name]; t != nil {
		return t, TopicResult{ID: t.ID, Name: t.Name}
	}
	return nil, TopicResult{Name: ref.Name, Code: kerr.UnknownTopicOrPartition.Code, Message: "no topic has this name"}
}

func (d *decision) createPartitions(cmd *CreatePartitions) error {
	pl := newPlacer(d.img, d.in.Seed)
	seen := map[string]bool{}
	for i := range cmd.Topics {
		m := &cmd.Topics[i]
		t, r := d.find(TopicRef{Name: m.Name})
		var bad *problem
		var parts [][]model.BrokerID
		switch {
		case seen[m.Name]:
			bad = fails(kerr.InvalidRequest, "topic %q is there twice", m.Name)
		case t != nil:
			parts, bad = d.planGrowth(m, t, pl)
		}
		seen[m.Name] = true
		if bad != nil {
			r.Code, r.Message = bad.err.Code, bad.why
		}
		if t != nil && bad == nil {
			r.Partitions, r.ReplicationFactor = m.Count, int16(t.ReplicationFactor())
			if !cmd.ValidateOnly {
				if err := d.emitPartitions(t.ID, len(t.Partitions), parts); err != nil {
					return err
				}
			}
		}
		d.result.Topics = append(d.result.Topics, r)
	}
	return nil
}

func (d *decision) planGrowth(m *MorePartitions, t *Topic, pl *placer) ([][]model.BrokerID, *problem) {
	have, rf := len(t.Partitions), t.ReplicationFactor()
	more := int(m.Count) - have
	switch {
	case more <= 0:
		return nil, fails(kerr.InvalidPartitions, "topic has %d partitions; %d is not more", have, m.Count)
	case more > maxNewPartitions:
		return nil, fails(kerr.InvalidPartitions, "at most %d partitions can be added at once", maxNewPartitions)
	case m.Assignment != nil && len(m.Assignment) != more:
		return nil, fails(kerr.InvalidReplicaAssignment, "assignment of %d partitions for %d new ones", len(m.Assignment), more)
	case m.Assignment != nil:
		return m.Assignment, d.checkAssignment(m.Assignment, rf)
	case rf > len(pl.brokers) || pl.live() == 0:
		return nil, fails(kerr.InvalidReplicationFactor, "replication factor %d is larger than the number of brokers, %d (%d live)", rf, len(pl.brokers), pl.live())
	}
	pl.begin(t)
	parts := make([][]model.BrokerID, more)
	for i := range parts {
		parts[i] = pl.place(rf)
	}
	return parts, nil
}
