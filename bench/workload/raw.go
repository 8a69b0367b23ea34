package workload

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/tailrace/tailrace/bench/load"
	"github.com/tailrace/tailrace/bench/report"
	"golang.org/x/sync/errgroup"
)

// rawMaxBytes is what a raw fetcher asks for at once: the default of Kafka's
// clients for one partition (max.partition.fetch.bytes).
const rawMaxBytes = 1 << 20

// rawCase is a set of raw fetchers, each reading the whole topic: from the
// leaders, or all from one broker.
type rawCase struct {
	line    string
	brokers []int32
}

// rawCases are one fetcher on the leaders; and, where every broker is known and
// has every partition, one on a single broker and one on each.
func (s *Session) rawCases() []rawCase {
	cases := []rawCase{{"1 raw fetcher, leaders", []int32{load.Leaders}}}
	var ids []int32
	for _, n := range s.C.Nodes {
		ids = append(ids, n.ID)
	}
	if len(ids) < 2 || s.Topic.Replication < len(ids) {
		return cases
	}
	return append(cases, rawCase{rawOne, ids[:1]}, rawCase{fmt.Sprintf("%d raw fetchers, each on its replica", len(ids)), ids})
}

// rawOne is the line that the one with all replicas is compared with.
const rawOne = "1 raw fetcher, one replica"

func (s *Session) raw(ctx context.Context) ([]LineSample, error) {
	var out []LineSample
	single := 0.0
	for _, c := range s.rawCases() {
		sample, err := s.rawWindow(ctx, c.brokers)
		if err != nil {
			return out, fmt.Errorf("%s: %w", c.line, err)
		}
		rate := float64(sample.ConsumedBytes) / sample.Seconds
		if c.line == rawOne {
			single = rate
		} else if len(c.brokers) > 1 && single > 0 {
			sample.Values = map[string]float64{report.SharePrefix + "one replica's rate": rate / single}
		}
		out = append(out, LineSample{c.line, sample})
	}
	return out, nil
}

// rawWindow measures one set of fetchers.
func (s *Session) rawWindow(ctx context.Context, brokers []int32) (report.Sample, error) {
	var out report.Sample
	var records, bytes atomic.Int64
	fetch, end := context.WithCancel(ctx)
	defer end()
	g, fetch := errgroup.WithContext(fetch)
	for _, b := range brokers {
		g.Go(func() error {
			return load.FetchRaw(fetch, load.RawOptions{Bootstrap: s.C.Bootstrap, Topic: s.Topic.Name, Partitions: s.Topic.Partitions, Broker: b, MaxBytes: rawMaxBytes},
				func(r, n int64) { records.Add(r); bytes.Add(n) })
		})
	}
	err := sleep(fetch, s.P.Warmup)
	r0, b0 := records.Load(), bytes.Load()
	m := s.startMeter()
	if err == nil {
		err = sleep(fetch, s.P.Duration)
	}
	out.Consumed, out.ConsumedBytes = records.Load()-r0, bytes.Load()-b0
	m.stop(&out)
	end()
	if failed := g.Wait(); failed != nil {
		return out, failed // the reason why the sleep ended early
	}
	if err == nil && out.Consumed == 0 {
		err = errors.New("nothing was read")
	}
	return out, err
}
