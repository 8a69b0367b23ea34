package workload

import (
	"context"
	"errors"

	"github.com/tailrace/tailrace/bench/report"
)

// LineSample is one round of one line of a workload.
type LineSample struct {
	Line   string
	Sample report.Sample
}

// Workload is one kind of measurement.
type Workload struct {
	Name  string
	Short string // one line of help
	// Defaults changes the common defaults.
	Defaults func(*Params)
	// Setup prepares the target, once.
	Setup func(ctx context.Context, s *Session) error
	// Round measures once. It may give several lines.
	Round func(ctx context.Context, s *Session) ([]LineSample, error)
	// Own says that the workload stops and starts brokers: it needs a
	// cluster that this program started.
	Own bool
}

// All returns every workload by name.
func All() []Workload {
	return []Workload{produce, consume, latency, mixed, fanout, partitions, connections, failover, restart, idle, perfTest}
}

func one(s report.Sample, err error) ([]LineSample, error) {
	return []LineSample{{Sample: s}}, err
}

func oneTopic(name string) func(context.Context, *Session) error {
	return func(ctx context.Context, s *Session) error { return s.newTopic(ctx, name, s.P.Partitions) }
}

// steady measures one flow with the session's settings.
func steady(ctx context.Context, s *Session, rate float64, tail []string, back int) ([]LineSample, error) {
	return one(s.newFlow(rate, tail, back).round(ctx, s.P.Warmup, s.P.Duration))
}

var produce = Workload{
	Name:  "produce",
	Short: "acknowledged records per second, as fast as the producers can or at --rate",
	Setup: oneTopic("produce"),
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) {
		return steady(ctx, s, s.P.Rate, nil, 0)
	},
}

var latency = Workload{
	Name:  "latency",
	Short: "time from the due instant of each record to its acknowledgement and to the consumer, at a fixed rate",
	Defaults: func(p *Params) {
		p.Rate, p.Linger, p.Producers, p.Consumers = 5000, 0, 1, 1
	},
	Setup: func(ctx context.Context, s *Session) error {
		if s.P.SlowSync > 0 && s.C.SlowNode == 0 {
			return errors.New("a slow follower needs brokers of ours that were started here")
		}
		return s.newTopic(ctx, "latency", s.P.Partitions)
	},
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) {
		if s.P.SlowSync > 0 {
			return s.slowFollower(ctx)
		}
		return steady(ctx, s, s.P.Rate, s.racks(s.P.Consumers, s.P.Followers), 0)
	},
}

var mixed = Workload{
	Name:     "mixed",
	Short:    "producers, consumers at the tail and one that reads old data, together",
	Defaults: func(p *Params) { p.Consumers = 2 },
	Setup:    oneTopic("mixed"),
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) {
		return steady(ctx, s, s.P.Rate, s.racks(s.P.Consumers, s.P.Followers), 1)
	},
}

var fanout = Workload{
	Name:     "fanout",
	Short:    "one producer, many consumers spread over all replicas",
	Defaults: func(p *Params) { p.Producers, p.Consumers, p.Followers, p.Rate = 1, 6, true, 5000 },
	Setup:    oneTopic("fanout"),
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) {
		return steady(ctx, s, s.P.Rate, s.racks(s.P.Consumers, s.P.Followers), 0)
	},
}
