package faults

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// place is what metadata says of one partition.
type place struct {
	leader   int32 // -1: none
	epoch    int32
	replicas []int32
	isr      []int32
}

// topology is the newest metadata that any broker told, and how often it
// changed: what the faults did, seen from outside.
type topology struct {
	c *campaign

	mu     sync.Mutex
	places map[tp]place
	live   map[int32]bool
	first  map[tp]int32 // leader epoch when first seen
	names  map[model.TopicID]string
	terms  map[tp][]term
	moves  struct{ shrinks, expands, leaderless int }
	wake   chan struct{}
}

const (
	// topologyEvery is how often metadata is asked for without being told to.
	topologyEvery = 50 * time.Millisecond
	// topologyPatience bounds one answer: a paused broker gives none.
	topologyPatience = 300 * time.Millisecond
)

func newTopology(c *campaign) *topology {
	return &topology{c: c, places: map[tp]place{}, live: map[int32]bool{}, first: map[tp]int32{}, names: map[model.TopicID]string{}, terms: map[tp][]term{}, wake: make(chan struct{}, 1)}
}

// refresh asks for news soon: somebody met a broker that does not lead.
func (t *topology) refresh() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// run asks the brokers in turn until ctx ends.
func (t *topology) run(ctx context.Context) {
	conns := map[int]*rawConn{}
	defer func() {
		for _, c := range conns {
			c.close()
		}
	}()
	for i := 0; ctx.Err() == nil; i++ {
		n := t.c.nodes[i%len(t.c.nodes)]
		if !n.serving() {
			if i%len(t.c.nodes) == 0 {
				pause(ctx, 5*time.Millisecond) // perhaps none does
			}
			continue
		}
		if err := t.ask(n, conns); err != nil && conns[n.ix] != nil {
			conns[n.ix].close()
			delete(conns, n.ix)
		}
		select {
		case <-ctx.Done():
		case <-t.wake:
			pause(ctx, 5*time.Millisecond)
		case <-time.After(topologyEvery):
		}
	}
}

func (t *topology) ask(n *node, conns map[int]*rawConn) error {
	if conns[n.ix] == nil {
		c, err := dialRaw(n.kafka())
		if err != nil {
			return err
		}
		conns[n.ix] = c
	}
	resp, err := conns[n.ix].do(metadataRequest(t.c.topicNames()), topologyPatience)
	if err != nil {
		return err
	}
	t.learn(resp.(*kmsg.MetadataResponse))
	return nil
}

// learn takes what is newer: a broker that is cut off tells of the past.
func (t *topology) learn(m *kmsg.MetadataResponse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fresh := false
	for i := range m.Topics {
		topic := &m.Topics[i]
		if topic.Topic == nil {
			continue
		}
		t.names[topic.TopicID] = *topic.Topic
		for j := range topic.Partitions {
			p := &topic.Partitions[j]
			fresh = t.learnPlace(tp{*topic.Topic, p.Partition}, place{p.Leader, p.LeaderEpoch, p.Replicas, p.ISR}) || fresh
		}
	}
	if !fresh {
		return
	}
	live := map[int32]bool{}
	for _, b := range m.Brokers {
		live[b.NodeID] = true
	}
	t.live = live
}

func (t *topology) learnPlace(k tp, p place) bool {
	old, known := t.places[k]
	if !known {
		t.first[k] = p.epoch
	} else if p.epoch < old.epoch {
		return false
	}
	if known {
		switch {
		case len(p.isr) < len(old.isr):
			t.moves.shrinks++
		case len(p.isr) > len(old.isr):
			t.moves.expands++
		}
		if p.leader < 0 && old.leader >= 0 {
			t.moves.leaderless++
		}
	}
	if !known || p.epoch > old.epoch {
		t.terms[k] = append(t.terms[k], term{p.leader, p.epoch})
	}
	t.places[k] = p
	return true
}

// term is a leadership that metadata showed.
type term struct{ leader, epoch int32 }

// ledAfter reports whether a broker was seen to lead in a later epoch.
func (t *topology) ledAfter(k tp, broker, epoch int32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.terms[k], func(x term) bool { return x.leader == broker && x.epoch > epoch })
}

func (t *topology) place(k tp) (place, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.places[k]
	return p, ok
}

// name is the name of a topic; "" if nobody told it.
func (t *topology) name(id model.TopicID) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.names[id]
}

func (t *topology) all() map[tp]place {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.places)
}

// elections is the sum of leader epochs that passed since the start.
func (t *topology) elections() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := 0
	for k, p := range t.places {
		sum += int(p.epoch - t.first[k])
	}
	return sum
}

// full reports whether every partition has a leader and all its replicas in
// sync, as far as its synchronous target goes.
func (t *topology) full() bool {
	for k, p := range t.all() {
		want := len(p.replicas)
		if s := t.c.syncTarget(k.topic); s > 0 {
			want = min(want, s)
		}
		if p.leader < 0 || len(p.isr) < want || !slices.Contains(p.isr, p.leader) {
			return false
		}
	}
	return true
}

// pause sleeps unless ctx ends first, and reports whether it did not.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
