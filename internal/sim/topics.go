package sim

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
)

// topic is a topic as its clients know it.
type topic struct {
	name string
	id   model.TopicID
	n    int
	gone bool // deleted; clients have not noticed yet
}

const (
	topicName = "t"
	// staleFor is how long clients go on with a topic that is deleted.
	staleFor = time.Second
	// maxPartitions is as far as a topic grows.
	maxPartitions = 5
)

// createTopic has the topic made, and asks again until it is there.
func (w *world) createTopic() {
	cmd := &control.CreateTopics{Topics: []control.NewTopic{{Name: topicName, Partitions: int32(w.cfg.Partitions),
		ReplicationFactor: int16(w.par.rf), Config: w.topicConfig()}}}
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	again := func() { w.after(200*time.Millisecond, evClient, w.createTopic) }
	if !n.up || n.paused || n.core == nil || len(n.core.Image().Brokers) < w.par.rf {
		again()
		return
	}
	if t := n.core.Image().TopicsByName[topicName]; t != nil {
		if w.orc.deleted(t.ID) {
			again() // this broker is behind
			return
		}
		w.topics = append(w.topics, &topic{name: topicName, id: t.ID, n: len(t.Partitions)})
		return
	}
	n.submit(&control.AlterConfigs{Resources: []control.ConfigChange{{Type: control.ResourceBroker, Ops: []control.ConfigOp{
		{Key: "replica.lag.time.max.ms", Value: fmt.Sprint(w.par.lagMax.Milliseconds())}}}}}, func(r control.Result, err error) {
		w.trace.note("configure: %+v, %v", r, err)
	})
	n.submit(cmd, func(r control.Result, err error) {
		w.trace.note("create topic: %+v, %v", r, err)
	})
	again()
}

func (w *world) topicConfig() map[string]string {
	p := &w.par
	c := map[string]string{
		"min.insync.replicas":            fmt.Sprint(p.minISR),
		"segment.bytes":                  fmt.Sprint(p.segmentBytes),
		"retention.ms":                   "-1",
		"message.timestamp.type":         "CreateTime",
		"replica.read.max.lag.ms":        "5000",
		"message.timestamp.after.max.ms": "9223372036854775807",
	}
	if p.syncReplicas > 0 {
		c["sync.replicas"] = fmt.Sprint(p.syncReplicas)
	}
	return c
}

// deleteTopic has the topic deleted. That it was shows in the metadata, whatever
// becomes of the answer, and the name is used again then. With some luck a
// broker is away meanwhile.
func deleteTopic(w *world, n *node, f Fault) {
	if len(w.topics) != 1 || w.topics[0].gone || !n.up || n.paused || n.core == nil {
		return
	}
	if away := w.nodes[f.To]; f.Arg%2 == 0 && away != n && away.up {
		away.crash(f.Arg%4 == 0)
		away.restartIn(f.For)
	}
	n.submit(&control.DeleteTopics{Topics: []control.TopicRef{{Name: topicName}}}, func(r control.Result, err error) {
		w.trace.note("delete topic: %+v, %v", r, err)
	})
}

// growTopic adds partitions.
func growTopic(w *world, n *node, f Fault) {
	if len(w.topics) != 1 || w.topics[0].gone || w.topics[0].n >= maxPartitions || !n.up || n.paused || n.core == nil {
		return
	}
	more := control.MorePartitions{Name: topicName, Count: int32(w.topics[0].n) + 1 + int32(f.Arg%2)}
	n.submit(&control.CreatePartitions{Topics: []control.MorePartitions{more}}, func(r control.Result, err error) {
		w.trace.note("grow topic: %+v, %v", r, err)
	})
}

// deleted reports whether the deletion of a topic is committed.
func (o *oracle) deleted(id model.TopicID) bool {
	if o.image == nil {
		return false
	}
	_, dead := o.image.Deleted[id]
	return dead
}

// lifetimes checks what became of topics between two images: the deleted stay
// so, and the clients' view follows a little later.
func (o *oracle) lifetimes(prev, next *control.Image) {
	if prev == nil {
		return
	}
	for id := range prev.Deleted {
		if next.Topics[id] != nil {
			o.w.violate(invIdentity, "the deleted topic %s is there again", id)
		}
		if _, dead := next.Deleted[id]; !dead {
			o.w.violate(invIdentity, "the tombstone of topic %s is gone", id)
		}
	}
	for _, t := range prev.SortedTopics() {
		if _, dead := next.Deleted[t.ID]; dead {
			o.bury(t.ID)
		} else if next.Topics[t.ID] == nil {
			o.w.violate(invIdentity, "topic %s went without being deleted", t.ID)
		}
	}
	for _, t := range o.w.topics {
		if now := next.Topics[t.id]; now != nil && len(now.Partitions) > t.n {
			o.w.acted.Grown += int64(len(now.Partitions) - t.n)
			t.n = len(now.Partitions)
		}
	}
}

// bury takes a deleted topic's partitions out of what must hold.
func (o *oracle) bury(id model.TopicID) {
	w := o.w
	w.acted.TopicDeletions++
	w.trace.note("topic %s is deleted", id)
	o.order = slices.DeleteFunc(o.order, func(p *part) bool { return p.tp.Topic == id })
	for _, t := range w.topics {
		if t.id != id {
			continue
		}
		t.gone = true
		w.after(staleFor, evClient, func() { w.topics = slices.DeleteFunc(w.topics, func(x *topic) bool { return x == t }) })
		w.after(w.pause(0, 2000), evClient, w.createTopic)
	}
}

// unlinked checks what a broker removes from its data directory: a directory
// only after the deletion of its topic is committed, and no file while it opens.
func (n *node) unlinked(name string, dir bool) {
	w := n.w
	if n.opening && !dir {
		w.violate(invQuarantine, "%d unlinks %s", n.id, name)
	}
	rest, ok := strings.CutPrefix(name, "data/segments/")
	if !ok {
		return
	}
	topic, _, _ := strings.Cut(rest, "/")
	id, err := model.ParseTopicID(topic)
	if err == nil && w.orc.deleted(id) {
		w.acted.FilesDeleted++
	} else if dir {
		w.violate(invIdentity, "%d removes %s, whose topic is not deleted", n.id, name)
	}
}

// leftovers says what a broker still has of deleted topics. Files go by wall
// clock, so they may stay for long after a jump.
func (n *node) leftovers() string {
	for _, tp := range n.store.Refs() {
		if n.w.orc.deleted(tp.Topic) {
			return fmt.Sprintf("broker %d has the log of partition %d of the deleted topic %s", n.id, tp.Partition, tp.Topic)
		}
	}
	if n.w.acted.ClockJumps > 0 {
		return ""
	}
	for _, topic := range n.disk.children(path.Join("data", "segments")) {
		if id, err := model.ParseTopicID(topic); err == nil && n.w.orc.deleted(id) {
			return fmt.Sprintf("broker %d has files of the deleted topic %s", n.id, topic)
		}
	}
	return ""
}
