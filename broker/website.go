package broker

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/web"
	"github.com/tailrace/tailrace/client"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
	"github.com/tailrace/tailrace/segment"
)

// startWeb serves console, metrics, health and tails.
func (b *Broker) startWeb() error {
	if b.httpListener == nil {
		return nil
	}
	t, err := web.NewKafkaTailer(client.Options{Seeds: []string{b.kafkaListener.Addr().String()}, Rack: b.o.Rack})
	if err != nil {
		return err
	}
	b.tailer = t
	b.web, err = web.New(web.Options{
		Source: source{b}, Tailer: t, Gatherer: b.metrics.registry,
		OnError: func(err error) { b.trouble("serve the console", err, false) },
	})
	if err != nil {
		return err
	}
	if err := b.metrics.registry.Register(b.web); err != nil {
		return fmt.Errorf("metrics of the web server: %w", err)
	}
	b.background(func() { b.web.Serve(b.httpListener) })
	return nil
}

func (b *Broker) closeWeb() {
	if b.web != nil {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownWeb)
		defer cancel()
		b.web.Shutdown(ctx)
	}
	if b.tailer != nil {
		b.tailer.Close()
	}
}

// source is what the console shows (web.Source).
type source struct{ b *Broker }

// Ready implements web.Source.
func (s source) Ready() error { return s.b.Ready() }

// View implements web.Source.
func (s source) View() web.View {
	b, img := s.b, s.b.Image()
	v := web.View{ClusterID: img.ClusterID, Self: int32(b.o.ID), Controller: int32(b.node.ControllerBroker())}
	leads, holds := map[model.BrokerID]int{}, map[model.BrokerID]int{}
	for _, t := range img.Topics {
		cfg := control.EffectiveTopicConfig(img, t)
		wt := web.Topic{Topic: t.Name, ID: t.ID.String(), Internal: t.Internal, MinInsyncReplicas: cfg.MinInsync, SyncReplicas: cfg.SyncReplicas}
		for i, p := range t.Partitions {
			leads[p.Leader]++
			for _, r := range p.Replicas {
				holds[r]++
			}
			wt.Partitions = append(wt.Partitions, s.partition(img, t, int32(i), p))
		}
		v.Topics = append(v.Topics, wt)
	}
	slices.SortFunc(v.Topics, func(a, b web.Topic) int { return cmp.Compare(a.Topic, b.Topic) })
	for _, br := range img.Brokers {
		wb := web.Broker{
			ID: int32(br.ID), Host: br.KafkaHost, Port: br.KafkaPort, HTTP: br.HTTP, Rack: br.Rack, Alive: br.Live(),
			Controller: int32(br.ID) == v.Controller, Leaders: leads[br.ID], Replicas: holds[br.ID], Role: "learner",
		}
		if slices.Contains(img.Voters, br.RaftID) {
			wb.Role = "voter"
		}
		if wb.Controller {
			wb.Role = "leader"
		}
		v.Brokers = append(v.Brokers, wb)
	}
	slices.SortFunc(v.Brokers, func(a, b web.Broker) int { return cmp.Compare(a.ID, b.ID) })
	return v
}

// partition is one partition as this broker knows it.
func (s source) partition(img *control.Image, t *control.Topic, n int32, p *control.Partition) web.Partition {
	out := web.Partition{
		Topic: t.Name, Partition: n, Leader: int32(p.Leader), LeaderEpoch: p.LeaderEpoch,
		LogStart: -1, HighWatermark: -1, LogEnd: -1,
	}
	for _, id := range p.ISR {
		out.ISR = append(out.ISR, int32(id))
	}
	var own *partition.Status
	if r := s.b.host.Replica(model.TopicPartition{Topic: t.ID, Partition: n}); r != nil {
		st := r.Status()
		own = &st
		out.LogStart, out.HighWatermark, out.LogEnd = st.LogStart, st.HighWatermark, st.LogEnd
	}
	for _, id := range p.Replicas {
		out.Replicas = append(out.Replicas, s.replica(img, id, p, own))
	}
	return out
}

// replica is what this broker knows of one replica: its own state, or, as the
// leader, a follower's progress.
func (s source) replica(img *control.Image, id model.BrokerID, p *control.Partition, own *partition.Status) web.Replica {
	r := web.Replica{Broker: int32(id), LogEnd: -1, HighWatermark: -1, Lag: -1, State: "async"}
	switch {
	case !img.Brokers[id].Live():
		r.State = "offline"
	case id == p.Leader:
		r.State = "leader"
	case slices.Contains(p.ISR, id):
		r.State = "in-sync"
	}
	if own == nil {
		return r
	}
	if id == s.b.o.ID {
		r.LogEnd, r.HighWatermark = own.DurableEnd, own.HighWatermark
		r.Suspect, r.Damaged = own.Suspect != segment.Trusted, len(own.Damaged) > 0
		if own.Role == isr.Leader {
			r.Lag = 0
		}
		if own.Err != nil {
			r.State = "offline"
		}
		return r
	}
	if end := followerEnd(own, id); end >= 0 {
		r.LogEnd, r.Lag = end, max(own.LogEnd-end, 0)
	}
	return r
}

// followerEnd is how far a leader knows a follower to be: its durable end, or
// where it fetches while it has not reported one in this epoch; -1 if neither.
func followerEnd(own *partition.Status, id model.BrokerID) int64 {
	for _, f := range own.Followers {
		switch {
		case f.Broker != id:
		case f.Durable >= 0:
			return f.Durable
		case f.Fetched:
			return f.Position
		}
	}
	return -1
}
