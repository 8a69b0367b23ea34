package control

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tailrace/tailrace/internal/model"
)

// Apply returns the image after a batch of records committed at index, and
// what changed. It is deterministic: every broker that applies the same log
// has an equal image. img is not touched; what did not change is shared. An
// error means that the records do not fit the image, which is a defect or a
// damaged log: the broker must stop.
func Apply(img *Image, index uint64, records []Record) (*Image, Update, error) {
	b := newBuilder(img, index)
	for _, r := range records {
		if err := b.apply(r); err != nil {
			return nil, Update{}, fmt.Errorf("control: metadata index %d: %w", index, err)
		}
	}
	return b.img, b.finish(img), nil
}

// builder makes the next image by copying, once each, the maps and the topics
// that the records change. Until finish its image is private and mutable.
type builder struct {
	img      *Image
	index    uint64
	ownMaps  bool // Topics, TopicsByName
	owned    map[model.TopicID]bool
	ownB     bool // Brokers
	ownDel   bool // Deleted
	topics   map[model.TopicID]struct{}
	order    []model.TopicID // keys of topics in the order of their change
	brokers  []model.BrokerID
	config   bool
	events   []Event
	reshaped map[model.BrokerID]bool // brokers whose liveness or incarnation changed
}

func newBuilder(img *Image, index uint64) *builder {
	next := *img
	next.Index = index
	return &builder{img: &next, index: index,
		owned: map[model.TopicID]bool{}, topics: map[model.TopicID]struct{}{}, reshaped: map[model.BrokerID]bool{}}
}

func (b *builder) finish(prev *Image) Update {
	b.touchHosted()
	return Update{Prev: prev, Next: b.img, Topics: b.order, Brokers: b.brokers, Config: b.config, Events: b.events}
}

// touchHosted adds the topics with a replica on a reshaped broker: a
// partition's replication state depends on its replicas' incarnations.
func (b *builder) touchHosted() {
	if len(b.reshaped) == 0 {
		return
	}
	for _, name := range sortedKeys(b.img.TopicsByName) {
		t := b.img.TopicsByName[name]
		if _, done := b.topics[t.ID]; !done && t.hostedOn(b.reshaped) {
			b.touch(t.ID)
		}
	}
}

func (t *Topic) hostedOn(brokers map[model.BrokerID]bool) bool {
	for _, p := range t.Partitions {
		for _, r := range p.Replicas {
			if brokers[r] {
				return true
			}
		}
	}
	return false
}

func (b *builder) touch(id model.TopicID) {
	if _, ok := b.topics[id]; !ok {
		b.topics[id] = struct{}{}
		b.order = append(b.order, id)
	}
}

func (b *builder) touchBroker(id model.BrokerID) {
	if !slices.Contains(b.brokers, id) {
		b.brokers = append(b.brokers, id)
	}
	b.reshaped[id] = true
}

func (b *builder) event(e Event) { b.events = append(b.events, e) }

func (b *builder) ownTopicMaps() {
	if !b.ownMaps {
		b.img.Topics, b.img.TopicsByName = cloneMap(b.img.Topics), cloneMap(b.img.TopicsByName)
		b.ownMaps = true
	}
}

// topic returns a private copy of a topic.
func (b *builder) topic(id model.TopicID) (*Topic, error) {
	t := b.img.Topics[id]
	if t == nil {
		return nil, fmt.Errorf("topic %v does not exist", id)
	}
	b.touch(id)
	if b.owned[id] {
		return t, nil
	}
	b.ownTopicMaps()
	next := *t
	next.Partitions = slices.Clone(t.Partitions)
	b.img.Topics[id], b.img.TopicsByName[t.Name] = &next, &next
	b.owned[id] = true
	return &next, nil
}

func (b *builder) setBroker(br *Broker) {
	if !b.ownB {
		b.img.Brokers, b.ownB = cloneMap(b.img.Brokers), true
	}
	b.img.Brokers[br.ID] = br
	b.touchBroker(br.ID)
}

func (b *builder) apply(r Record) error {
	switch r := r.(type) {
	case *BrokerRegistered:
		return b.brokerRegistered(r)
	case *BrokerChanged:
		return b.brokerChanged(r)
	case *BrokerRemoved:
		return b.brokerRemoved(r)
	case *TopicCreated:
		return b.topicCreated(r)
	case *PartitionCreated:
		return b.partitionCreated(r)
	case *PartitionChanged:
		return b.partitionChanged(r)
	case *TopicDeleted:
		return b.topicDeleted(r)
	case *TopicConfig:
		return b.topicConfig(r)
	case *Config:
		return b.configChanged(r)
	case *ProducerIDs:
		if r.Next < b.img.NextProducerID {
			return fmt.Errorf("producer ids go back from %d to %d", b.img.NextProducerID, r.Next)
		}
		b.img.NextProducerID = r.Next
		return nil
	case *FeatureLevel:
		b.img.FeatureLevel = r.Level
		b.event(Event{Kind: EventFeatureFinalized, Detail: fmt.Sprint(r.Level)})
		return nil
	}
	return fmt.Errorf("%w: %T", ErrUnknownRecord, r)
}

func (b *builder) brokerRegistered(r *BrokerRegistered) error {
	old := b.img.Brokers[r.Broker.ID]
	next := r.Broker
	next.Incarnation = model.Incarnation(b.index)
	b.setBroker(&next)
	if slices.Contains(b.img.Retired, next.RaftID) {
		b.img.Retired = b.without(next.RaftID)
	}
	b.event(Event{Kind: EventBrokerRegistered, Broker: next.ID, Incarnation: next.Incarnation})
	if old != nil && old.StorageID != next.StorageID {
		if old.RaftID != next.RaftID {
			b.retire(old.RaftID)
		}
		b.event(Event{Kind: EventStorageChanged, Broker: next.ID, Incarnation: next.Incarnation,
			Detail: fmt.Sprintf("%v replaces %v", next.StorageID, old.StorageID)})
	}
	return nil
}

// retire notes that the storage behind a raft id will not come back.
func (b *builder) retire(id uint64) { b.img.Retired = append(b.without(id), id) }

func (b *builder) without(id uint64) []uint64 {
	return slices.DeleteFunc(slices.Clone(b.img.Retired), func(r uint64) bool { return r == id })
}

func (b *builder) brokerChanged(r *BrokerChanged) error {
	old := b.img.Brokers[r.Broker]
	if old == nil {
		return fmt.Errorf("broker %d is not registered", r.Broker)
	}
	next := *old
	next.Fenced, next.Draining = r.Fenced, r.Draining
	if !r.Fenced {
		next.Confirmed = next.Incarnation
	}
	b.setBroker(&next)
	e := Event{Broker: r.Broker, Incarnation: next.Incarnation, Detail: r.Detail}
	switch {
	case r.Fenced && !old.Fenced:
		e.Kind, e.Detail = EventBrokerFenced, r.Reason.String()
		if r.Detail != "" {
			e.Detail += ": " + r.Detail
		}
	case !r.Fenced && old.Fenced:
		e.Kind = EventBrokerUnfenced
	case r.Draining && !old.Draining:
		e.Kind = EventBrokerDraining
	default:
		return nil
	}
	b.event(e)
	return nil
}

func (b *builder) brokerRemoved(r *BrokerRemoved) error {
	old := b.img.Brokers[r.Broker]
	if old == nil {
		return fmt.Errorf("broker %d is not registered", r.Broker)
	}
	b.retire(old.RaftID)
	if !b.ownB {
		b.img.Brokers, b.ownB = cloneMap(b.img.Brokers), true
	}
	delete(b.img.Brokers, r.Broker)
	b.touchBroker(r.Broker)
	b.event(Event{Kind: EventBrokerUnregistered, Broker: r.Broker})
	return nil
}

func (b *builder) topicCreated(r *TopicCreated) error {
	if b.img.Topics[r.ID] != nil || b.img.TopicsByName[r.Name] != nil {
		return fmt.Errorf("topic %q (%v) exists", r.Name, r.ID)
	}
	b.ownTopicMaps()
	t := &Topic{ID: r.ID, Name: r.Name, Internal: r.Internal, Config: maps.Clone(r.Config), ConfigIndex: b.index}
	b.img.Topics[r.ID], b.img.TopicsByName[r.Name] = t, t
	b.owned[r.ID] = true
	b.touch(r.ID)
	b.event(Event{Kind: EventTopicCreated, TP: model.TopicPartition{Topic: r.ID}, Detail: r.Name})
	return nil
}

func (b *builder) partitionCreated(r *PartitionCreated) error {
	t, err := b.topic(r.TP.Topic)
	if err != nil {
		return err
	}
	if int(r.TP.Partition) != len(t.Partitions) || len(r.Replicas) == 0 || len(r.Directories) != len(r.Replicas) {
		return fmt.Errorf("partition %v does not fit topic %q of %d partitions", r.TP, t.Name, len(t.Partitions))
	}
	t.Partitions = append(t.Partitions, &Partition{Replicas: r.Replicas, Directories: r.Directories, ISR: r.ISR,
		Leader: r.Leader, LeaderIncarnation: r.LeaderIncarnation})
	if len(t.Partitions) == 1 || len(r.Replicas) < t.leastFactor {
		t.leastFactor = len(r.Replicas) // a partition's replicas never change in number
	}
	return nil
}

func (b *builder) partitionChanged(r *PartitionChanged) error {
	t, err := b.topic(r.TP.Topic)
	if err != nil {
		return err
	}
	if r.TP.Partition < 0 || int(r.TP.Partition) >= len(t.Partitions) {
		return fmt.Errorf("partition %v does not exist", r.TP)
	}
	old := t.Partitions[r.TP.Partition]
	if r.PartitionEpoch <= old.PartitionEpoch || r.LeaderEpoch < old.LeaderEpoch {
		return fmt.Errorf("partition %v: epochs go back from %d/%d to %d/%d", r.TP,
			old.LeaderEpoch, old.PartitionEpoch, r.LeaderEpoch, r.PartitionEpoch)
	}
	next := &Partition{Replicas: old.Replicas, Directories: old.Directories, ISR: r.ISR, ELR: r.ELR, Leader: r.Leader,
		LeaderEpoch: r.LeaderEpoch, LeaderIncarnation: r.LeaderIncarnation, PartitionEpoch: r.PartitionEpoch}
	if r.Directories != nil {
		next.Directories = r.Directories
	}
	if err := next.check(); err != nil {
		return fmt.Errorf("partition %v: %w", r.TP, err)
	}
	t.Partitions[r.TP.Partition] = next
	if old.Leader != model.NoBroker && r.Leader == model.NoBroker {
		b.event(Event{Kind: EventPartitionOffline, TP: r.TP, Broker: old.Leader})
	}
	if r.Unclean != "" {
		b.event(Event{Kind: EventUncleanElection, TP: r.TP, Broker: r.Leader, Incarnation: r.LeaderIncarnation, Detail: r.Unclean})
	}
	return nil
}

// check verifies I8's static part.
func (p *Partition) check() error {
	for i, m := range p.ISR {
		if !slices.Contains(p.Replicas, m) || slices.Contains(p.ISR[:i], m) || slices.Contains(p.ELR, m) {
			return fmt.Errorf("in-sync set %v, eligible %v do not fit replicas %v", p.ISR, p.ELR, p.Replicas)
		}
	}
	for i, m := range p.ELR {
		if !slices.Contains(p.Replicas, m) || slices.Contains(p.ELR[:i], m) {
			return fmt.Errorf("eligible leaders %v do not fit replicas %v", p.ELR, p.Replicas)
		}
	}
	if p.Leader != model.NoBroker && !slices.Contains(p.ISR, p.Leader) {
		return fmt.Errorf("leader %d is not in the in-sync set %v", p.Leader, p.ISR)
	}
	if len(p.Directories) != len(p.Replicas) {
		return fmt.Errorf("%d directories for %d replicas", len(p.Directories), len(p.Replicas))
	}
	return nil
}

func (b *builder) topicDeleted(r *TopicDeleted) error {
	t := b.img.Topics[r.ID]
	if t == nil {
		return fmt.Errorf("topic %v does not exist", r.ID)
	}
	b.ownTopicMaps()
	if !b.ownDel {
		b.img.Deleted, b.ownDel = cloneMap(b.img.Deleted), true
	}
	delete(b.img.Topics, r.ID)
	delete(b.img.TopicsByName, t.Name)
	b.img.Deleted[r.ID] = struct{}{}
	b.touch(r.ID)
	b.event(Event{Kind: EventTopicDeleted, TP: model.TopicPartition{Topic: r.ID}, Detail: t.Name})
	return nil
}

func (b *builder) topicConfig(r *TopicConfig) error {
	t, err := b.topic(r.ID)
	if err != nil {
		return err
	}
	t.Config = changed(t.Config, r.Set, r.Delete)
	t.ConfigIndex = b.index
	return nil
}

func (b *builder) configChanged(r *Config) error {
	b.config = true
	if r.Broker == model.NoBroker {
		b.img.ClusterConfig = changed(b.img.ClusterConfig, r.Set, r.Delete)
		b.img.ConfigIndex = b.index
		return nil
	}
	b.img.BrokerConfig = cloneMap(b.img.BrokerConfig)
	if next := changed(b.img.BrokerConfig[r.Broker], r.Set, r.Delete); len(next) > 0 {
		b.img.BrokerConfig[r.Broker] = next
	} else {
		delete(b.img.BrokerConfig, r.Broker)
	}
	return nil
}

func changed(m, set map[string]string, del []string) map[string]string {
	next := cloneMap(m)
	for _, k := range del {
		delete(next, k)
	}
	maps.Copy(next, set)
	if len(next) == 0 {
		return nil
	}
	return next
}

// cloneMap copies m into a map that is never nil.
func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	next := make(map[K]V, len(m)+1)
	maps.Copy(next, m)
	return next
}
