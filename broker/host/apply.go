package host

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

// ApplyUpdate carries a metadata update into the replicas: it creates the logs
// of new assignments in one synced batch, deletes those of deleted topics, and
// hands every touched replica its committed state. Updates must come in log
// order. An error is final for the broker.
func (h *Host) ApplyUpdate(u control.Update) error {
	h.applyMu.Lock()
	defer h.applyMu.Unlock()
	cur := h.image.Load()
	if cur != nil && u.Next.Index <= cur.Index {
		return nil
	}
	moved := movedBrokers(cur, u.Next)
	if err := h.createMissing(u, moved); err != nil {
		return err
	}
	if err := h.deleteGone(u); err != nil {
		return err
	}
	h.image.Store(u.Next)
	touched := u.Topics
	if u.Config { // cluster-wide defaults reach every topic
		touched = touched[:len(touched):len(touched)]
		for _, t := range u.Next.Topics {
			touched = append(touched, t.ID)
		}
		slices.SortFunc(touched, func(a, b model.TopicID) int { return bytes.Compare(a[:], b[:]) })
		touched = slices.Compact(touched)
	}
	for _, id := range touched {
		if t := u.Next.Topics[id]; t != nil {
			h.applyTopic(u.Next, t, moved)
		}
	}
	return nil
}

func (h *Host) createMissing(u control.Update, moved []model.BrokerID) error {
	var specs []segment.CreateSpec
	topics := map[model.TopicID]newTopic{}
	for _, id := range u.Topics {
		t := u.Next.Topics[id]
		if t == nil {
			continue
		}
		cfg := control.EffectiveTopicConfig(u.Next, t)
		topics[id] = newTopic{t.Name, topicConfig(cfg)}
		for _, p := range h.affected(t, cfg.ConfigIndex, moved) {
			tp := model.TopicPartition{Topic: id, Partition: p}
			if h.Replica(tp) == nil {
				specs = append(specs, segment.CreateSpec{TP: tp, Config: cfg.Log})
			}
		}
	}
	if len(specs) == 0 {
		return nil
	}
	logs, err := h.o.Store.Create(specs...)
	if err != nil {
		return fmt.Errorf("create logs: %w", err)
	}
	for i, l := range logs {
		if err := h.add(l, topics[specs[i].TP.Topic]); err != nil {
			return err
		}
	}
	return nil
}

// newTopic is what replicas of a topic are made with: worked out once a topic,
// which may have thousands of them.
type newTopic struct {
	name   string
	config partition.TopicConfig
}

// add makes a replica for a log.
func (h *Host) add(l *segment.Log, t newTopic) error {
	r, err := partition.New(partition.Config{
		Self: h.o.Self, Incarnation: h.Incarnation(), Log: partition.Segment(l), Clock: h.o.Clock,
		Contacts: h.o.Contacts, Fetches: h.o.Fetches, Topic: t.config,
	})
	if err != nil {
		return fmt.Errorf("replica %s of topic %q: %w", l.TP(), t.name, err)
	}
	m := &member{Replica: r}
	m.following.Store(int32(model.NoBroker))
	if h.o.View != nil {
		m.view = h.o.View(r)
	}
	m.flush = func(eff *partition.Effects) { h.carry(m, eff, nil); eff.Reset() }
	h.mu.Lock()
	h.replicas[l.TP()] = m
	h.mu.Unlock()
	return nil
}

// deleteGone removes replicas whose topic is deleted. A log without metadata
// whose topic is not among the tombstones stays untouched (I37).
func (h *Host) deleteGone(u control.Update) error {
	var gone []model.TopicPartition
	for _, id := range u.Topics {
		if _, dead := u.Next.Deleted[id]; !dead {
			continue
		}
		gone = append(gone, h.remove(id)...)
		delete(h.handed, id)
	}
	return h.deleteLogs(gone)
}

// deleteLogs deletes the logs that exist, in one synced batch.
func (h *Host) deleteLogs(tps []model.TopicPartition) error {
	tps = slices.DeleteFunc(tps, func(tp model.TopicPartition) bool { return h.o.Store.Log(tp) == nil })
	if len(tps) == 0 {
		return nil
	}
	if err := h.o.Store.Delete(tps...); err != nil && !errors.Is(err, segment.ErrClosed) {
		return fmt.Errorf("delete logs: %w", err)
	}
	return nil
}

// remove takes the replicas of a deleted topic out of the host: their parked
// requests are answered, their fetches stop.
func (h *Host) remove(id model.TopicID) []model.TopicPartition {
	h.mu.Lock()
	var gone []*member
	for tp, m := range h.replicas {
		if tp.Topic == id {
			gone = append(gone, m)
			delete(h.replicas, tp)
		}
	}
	h.mu.Unlock()
	sortMembers(gone)
	var tps []model.TopicPartition
	for _, m := range gone {
		tps = append(tps, m.TP())
		h.with(m, nil, func(eff *partition.Effects) { m.Close(eff) })
	}
	return tps
}

// handed is the state of a topic that its replicas here were handed last. Images
// are immutable and share what did not change, so equal pointers mean equal
// states.
type handed struct {
	topic  *control.Topic
	config uint64 // index of the settings
}

// affected lists the partitions of t that this broker holds and that changed
// since their replicas were handed the committed state: by themselves, by the
// topic's settings, or by one of the brokers that have them. What did not change
// is left alone: an update of one partition of a topic with thousands must not
// cost as much as one of all.
func (h *Host) affected(t *control.Topic, config uint64, moved []model.BrokerID) []int32 {
	var before []*control.Partition
	if was := h.handed[t.ID]; was.topic != nil && was.config == config {
		before = was.topic.Partitions
	}
	var out []int32
	for i, p := range t.Partitions {
		if i < len(before) && before[i] == p && !overlap(p.Replicas, moved) {
			continue
		}
		if slices.Contains(p.Replicas, h.o.Self) {
			out = append(out, int32(i))
		}
	}
	return out
}

func overlap(a, b []model.BrokerID) bool {
	return len(b) > 0 && slices.ContainsFunc(a, func(id model.BrokerID) bool { return slices.Contains(b, id) })
}

// movedBrokers lists the brokers that one image knows otherwise than the other:
// their incarnation, or whether they may lead.
func movedBrokers(from, to *control.Image) []model.BrokerID {
	if from == nil {
		from = &control.Image{}
	}
	var out []model.BrokerID
	for id, b := range to.Brokers {
		if from.Brokers[id] != b {
			out = append(out, id)
		}
	}
	for id := range from.Brokers {
		if to.Brokers[id] == nil {
			out = append(out, id)
		}
	}
	return out
}

// applyTopic hands the committed state of t to those of its replicas here for
// which it changed.
func (h *Host) applyTopic(img *control.Image, t *control.Topic, moved []model.BrokerID) {
	cfg := control.EffectiveTopicConfig(img, t)
	for _, p := range h.affected(t, cfg.ConfigIndex, moved) {
		m := h.member(model.TopicPartition{Topic: t.ID, Partition: p})
		if m == nil {
			continue
		}
		if m.configIndex != cfg.ConfigIndex {
			m.SetConfig(topicConfig(cfg))
			m.configIndex = cfg.ConfigIndex
		}
		meta := control.MetaWith(img, t.Partitions[p], cfg)
		h.with(m, nil, func(eff *partition.Effects) { m.ApplyMeta(meta, eff) })
		h.activate(m)
	}
	h.handed[t.ID] = handed{t, cfg.ConfigIndex}
}

// topicConfig is the part of the settings that replicas obey.
func topicConfig(s control.TopicSettings) partition.TopicConfig {
	return partition.TopicConfig{
		MaxMessageBytes: s.MaxMessageBytes, LogAppendTime: s.LogAppendTime,
		TimestampBefore: millis(s.TimestampBefore), TimestampAfter: millis(s.TimestampAfter),
		AcksFloorClient: s.HonourAcks1, Compact: s.Compact, ReadMaxLag: s.ReadMaxLag, Log: s.Log,
	}
}

// millis converts a limit in milliseconds; what no duration can hold is no
// limit, which is 0.
func millis(ms int64) time.Duration {
	if ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// Register gives every replica the incarnation under which this process is
// registered. What it led under an earlier one it no longer leads.
func (h *Host) Register(i model.Incarnation) {
	h.applyMu.Lock()
	defer h.applyMu.Unlock()
	h.incarnation.Store(int64(i))
	ms := h.members()
	for _, m := range ms {
		h.with(m, nil, func(eff *partition.Effects) { m.Registered(i, eff) })
	}
}

// members lists the members in a fixed order.
func (h *Host) members() []*member {
	h.mu.RLock()
	out := make([]*member, 0, len(h.replicas))
	for _, m := range h.replicas {
		out = append(out, m)
	}
	h.mu.RUnlock()
	sortMembers(out)
	return out
}

// Close saves what replicas keep in memory and answers what waits.
func (h *Host) Close() {
	for _, m := range h.members() {
		h.with(m, nil, func(eff *partition.Effects) { m.Close(eff) })
	}
}

// Reports describes every log for the election after an unclean stop.
func (h *Host) Reports() []control.LogReport {
	tps := h.o.Store.Refs()
	out := make([]control.LogReport, 0, len(tps))
	for _, tp := range tps {
		if l := h.o.Store.Log(tp); l != nil {
			out = append(out, control.LogReport{TP: tp, Epoch: l.LastEpoch(), End: l.DurableEnd(), Suspect: l.Suspect()})
		}
	}
	return out
}

// Recover makes replicas for the logs that are on disk already and whose topic
// the image knows, and deletes those of tombstoned topics. It is called once,
// with the first image that contains this broker's registration.
func (h *Host) Recover(img *control.Image) error {
	h.applyMu.Lock()
	defer h.applyMu.Unlock()
	var gone []model.TopicPartition
	defer h.image.Store(img)
	topics := map[model.TopicID]newTopic{}
	for _, t := range img.Topics {
		topics[t.ID] = newTopic{t.Name, topicConfig(control.EffectiveTopicConfig(img, t))}
	}
	for _, tp := range h.o.Store.Refs() {
		if _, dead := img.Deleted[tp.Topic]; dead {
			gone = append(gone, tp)
			continue
		}
		t := img.Topics[tp.Topic]
		if t == nil || int(tp.Partition) >= len(t.Partitions) || !slices.Contains(t.Partitions[tp.Partition].Replicas, h.o.Self) {
			continue
		}
		if err := h.add(h.o.Store.Log(tp), topics[t.ID]); err != nil {
			return err
		}
	}
	return h.deleteLogs(gone)
}

func sortMembers(ms []*member) {
	slices.SortFunc(ms, func(a, b *member) int {
		x, y := a.TP(), b.TP()
		return cmp.Or(bytes.Compare(x.Topic[:], y.Topic[:]), cmp.Compare(x.Partition, y.Partition))
	})
}
