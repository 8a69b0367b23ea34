package host

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

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
	if cur := h.image.Load(); cur != nil && u.Next.Index <= cur.Index {
		return nil
	}
	if err := h.createMissing(u); err != nil {
		return err
	}
	if err := h.deleteGone(u); err != nil {
		return err
	}
	h.image.Store(u.Next)
	for _, id := range u.Topics {
		if t := u.Next.Topics[id]; t != nil {
			h.applyTopic(u.Next, t)
		}
	}
	return nil
}

// assigned lists the partitions of t that this broker holds.
func (h *Host) assigned(t *control.Topic) []int32 {
	var out []int32
	for i, p := range t.Partitions {
		if slices.Contains(p.Replicas, h.o.Self) {
			out = append(out, int32(i))
		}
	}
	return out
}

func (h *Host) createMissing(u control.Update) error {
	var specs []segment.CreateSpec
	topics := map[model.TopicID]*control.Topic{}
	for _, id := range u.Topics {
		t := u.Next.Topics[id]
		if t == nil {
			continue
		}
		topics[id] = t
		cfg := control.EffectiveTopicConfig(u.Next, t)
		for _, p := range h.assigned(t) {
			tp := model.TopicPartition{Topic: id, Partition: p}
			if h.Replica(tp) == nil {
				specs = append(specs, segment.CreateSpec{TP: tp, Config: logConfig(cfg)})
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
		if err := h.add(l, u.Next, topics[specs[i].TP.Topic]); err != nil {
			return err
		}
	}
	return nil
}

// add makes a replica for a log.
func (h *Host) add(l *segment.Log, img *control.Image, t *control.Topic) error {
	r, err := partition.New(partition.Config{
		TP: l.TP(), Self: h.o.Self, Log: partition.WrapLog(l), Clock: h.o.Clock, Heard: h.o.Heard,
		Topic: topicConfig(control.EffectiveTopicConfig(img, t)),
	})
	if err != nil {
		return fmt.Errorf("replica %s of topic %q: %w", l.TP(), t.Name, err)
	}
	m := &member{Replica: r}
	m.following.Store(int32(model.NoBroker))
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
			delete(h.active, m)
		}
	}
	h.mu.Unlock()
	sortMembers(gone)
	var tps []model.TopicPartition
	for _, m := range gone {
		tps = append(tps, m.TP())
		h.with(m, func(eff *partition.Effects) { m.Close(eff) })
	}
	return tps
}

func (h *Host) applyTopic(img *control.Image, t *control.Topic) {
	cfg := control.EffectiveTopicConfig(img, t)
	for _, p := range h.assigned(t) {
		tp := model.TopicPartition{Topic: t.ID, Partition: p}
		m := h.member(tp)
		if m == nil {
			continue
		}
		if m.topic == nil || m.topic.ConfigIndex != t.ConfigIndex {
			m.SetConfig(topicConfig(cfg))
			m.SetLogConfig(logConfig(cfg))
		}
		m.topic = t
		meta, ok := control.MetaFor(img, tp)
		if !ok {
			continue
		}
		h.with(m, func(eff *partition.Effects) { m.ApplyMeta(meta, h.Incarnation(), eff) })
	}
}

// Recover makes replicas for the logs that are on disk already and whose topic
// the image knows, and deletes those of tombstoned topics. It is called once,
// with the first image that contains this broker's registration.
func (h *Host) Recover(img *control.Image) error {
	h.applyMu.Lock()
	defer h.applyMu.Unlock()
	var gone []model.TopicPartition
	for _, tp := range h.o.Store.Refs() {
		if _, dead := img.Deleted[tp.Topic]; dead {
			gone = append(gone, tp)
			continue
		}
		t := img.Topics[tp.Topic]
		if t == nil || int(tp.Partition) >= len(t.Partitions) || !slices.Contains(t.Partitions[tp.Partition].Replicas, h.o.Self) {
			continue
		}
		if err := h.add(h.o.Store.Log(tp), img, t); err != nil {
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
