package workload

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tailrace/tailrace/bench/cluster"
	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/bench/report"
)

var perfTest = Workload{
	Name:  "perf-test",
	Short: "Kafka's own kafka-producer-perf-test, --preload bytes a round: a second client beside franz-go",
	Defaults: func(p *Params) {
		p.Preload, p.BatchBytes, p.Producers = 512<<20, 256<<10, 1
	},
	Setup: func(ctx context.Context, s *Session) error {
		if s.C.Protocol != "kafka" {
			return errors.New("perf-test needs a target that speaks Kafka's protocol")
		}
		return s.newTopic(ctx, "perf-test", s.P.Partitions)
	},
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) { return one(s.perfTest(ctx)) },
}

// perfArgs is the tool's command line for these settings.
func (s *Session) perfArgs(records int64) []string {
	rate := "-1"
	if s.P.Rate > 0 {
		rate = strconv.FormatFloat(s.P.Rate, 'f', -1, 64)
	}
	acks := map[string]string{"leader": "1", "none": "0"}[s.P.Acks]
	if acks == "" {
		acks = s.P.Acks
	}
	return []string{"--bootstrap-server", strings.Join(s.C.Bootstrap, ","), "--topic", s.Topic.Name,
		"--num-records", fmt.Sprint(records), "--record-size", fmt.Sprint(s.P.RecordSize), "--throughput", rate,
		"--command-property", "acks=" + acks, "linger.ms=" + strconv.FormatInt(s.P.Linger.Milliseconds(), 10),
		fmt.Sprintf("batch.size=%d", s.P.BatchBytes), fmt.Sprintf("buffer.memory=%d", bufferBytes), "compression.type=" + s.P.Compression}
}

// perfTest runs the tool once. Its rate and latencies are its own words: it
// stamps a record when it is sent, so a stall is seen by few of them.
func (s *Session) perfTest(ctx context.Context) (report.Sample, error) {
	var out report.Sample
	tool, err := cluster.KafkaTool(ctx, "org.apache.kafka.tools.ProducerPerformance")
	if err != nil {
		return out, err
	}
	path, err := exec.LookPath(tool[0])
	if err != nil {
		return out, err
	}
	m := s.startMeter()
	p, err := proc.Start(proc.Spec{Name: "kafka-producer-perf-test", Path: path, Args: append(tool[1:], s.perfArgs(max(1, s.P.Preload/int64(s.P.RecordSize)))...)})
	if err != nil {
		return out, err
	}
	load := proc.NewMeter(func() []int { return []int{p.Pid} })
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
	}
	m.stop(&out)
	out.Load = load.Stop() // the tool's, not ours
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	if err := p.Stop(time.Second); err != nil {
		return out, fmt.Errorf("%w\n%s", err, p.Output())
	}
	return out, readPerfTest(&out, p.Output(), s.P.RecordSize)
}

// perfLine is the tool's last word.
var perfLine = regexp.MustCompile(`(\d+) records sent, ([\d.]+) records/sec \([\d.]+ MB/sec\), ([\d.]+) ms avg latency, ([\d.]+) ms max latency, (\d+) ms 50th, (\d+) ms 95th, (\d+) ms 99th, (\d+) ms 99.9th`)

// perfFailure is what the tool prints for a record that it gave up on. What it
// tries again stands in the middle of a line of its log.
var perfFailure = regexp.MustCompile(`(?m)^(org\.apache\.kafka\.common\.errors\.|Exception in thread).*$`)

// readPerfTest fills in what the tool printed. Seconds are its own, so that
// rates are.
func readPerfTest(out *report.Sample, text string, recordSize int) error {
	failed := perfFailure.FindAllString(text, -1)
	if len(failed) > 0 {
		out.Errors, out.FirstError = int64(len(failed)), failed[0]
	}
	all := perfLine.FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return fmt.Errorf("no summary in the tool's output:\n%s", text)
	}
	v := make([]float64, 0, 8)
	for _, field := range all[len(all)-1][1:] {
		x, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return err
		}
		v = append(v, x)
	}
	out.Records = int64(v[0])
	out.Bytes = out.Records * int64(recordSize)
	out.Seconds = v[0] / v[1]
	out.Values = map[string]float64{"tool: average, ms": v[2], "tool: p50, ms": v[4], "tool: p95, ms": v[5], "tool: p99, ms": v[6], "tool: p99.9, ms": v[7], "tool: worst, ms": v[3]}
	return nil
}
