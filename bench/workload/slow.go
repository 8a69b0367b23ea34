package workload

import (
	"context"
	"fmt"

	"github.com/tailrace/tailrace/bench/stats"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// slowFollower measures the latency twice in each round: with a disk that works
// and with one whose syncs take longer, under a broker that leads nothing. It
// is the same disk in the same cluster, so that the delay is the only
// difference.
func (s *Session) slowFollower(ctx context.Context) ([]LineSample, error) {
	healthy, err := s.latencyRound(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.C.Slow(s.P.SlowSync); err != nil {
		return nil, err
	}
	slow, err := s.latencyRound(ctx)
	if err := s.C.Slow(0); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	slow.Line = fmt.Sprintf("one follower syncs %s slower", s.P.SlowSync)
	slow.Sample.Values = map[string]float64{}
	for name, q := range map[string][2]*stats.Quantiles{"ack": {slow.Sample.Ack, healthy.Sample.Ack}, "end to end": {slow.Sample.EndToEnd, healthy.Sample.EndToEnd}} {
		if q[0] != nil && q[1] != nil {
			slow.Sample.Values[name+" p99, times healthy"] = q[0].P99 / q[1].P99
			slow.Sample.Values[name+" p50, times healthy"] = q[0].P50 / q[1].P50
		}
	}
	healthy.Line = "healthy"
	return []LineSample{healthy, slow}, s.inSyncAgain(ctx)
}

func (s *Session) latencyRound(ctx context.Context) (LineSample, error) {
	sample, err := s.newFlow(s.P.Rate, s.racks(s.P.Consumers, s.P.Followers), 0).round(ctx, s.P.Warmup, s.P.Duration)
	return LineSample{Sample: sample}, err
}

// inSyncAgain waits for what the slow disk held up.
func (s *Session) inSyncAgain(ctx context.Context) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.C.Bootstrap...), kgo.MetadataMinAge(pollMetadata))
	if err != nil {
		return err
	}
	defer cl.Close()
	return s.awaitInSync(ctx, kadm.NewClient(cl))
}

// awayFrom places n partitions on all brokers so that one of them leads none.
func (s *Session) awayFrom(slow int32, n int) [][]int32 {
	var fast []int32
	for _, node := range s.C.Nodes {
		if node.ID != slow {
			fast = append(fast, node.ID)
		}
	}
	out := make([][]int32, n)
	for i := range out {
		for k := range fast {
			out[i] = append(out[i], fast[(i+k)%len(fast)])
		}
		out[i] = append(out[i], slow)
	}
	return out
}
