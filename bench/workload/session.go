package workload

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/tailrace/tailrace/bench/cluster"
	"github.com/tailrace/tailrace/bench/limit"
	"github.com/tailrace/tailrace/bench/load"
	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/bench/report"
)

// Session is one workload on one target.
type Session struct {
	C      *cluster.Cluster
	Client load.Client
	P      Params
	Topic  load.Topic
	Logf   func(format string, args ...any)

	preloaded int64              // records that a catch-up reads
	topics    map[int]load.Topic // by partition count
	perConn   map[int]float64    // KiB, by number of connections
	backwards bool               // the last round of connections went from many to none
	idleRSS   int64              // of the largest process, before any load
}

// bufferBytes bounds what all producers of a session hold back together.
const bufferBytes = 64 << 20

// NewSession makes the client of a target.
func NewSession(c *cluster.Cluster, p Params, logf func(string, ...any)) (*Session, error) {
	cl, err := load.New(c.Protocol, load.Options{Bootstrap: c.Bootstrap, Acks: p.Acks, BatchBytes: p.BatchBytes,
		Linger: p.Linger, Compression: p.Compression, Buffer: max(bufferBytes/p.Producers, 2*p.RecordSize)})
	if err != nil {
		return nil, err
	}
	return &Session{C: c, Client: cl, P: p, Logf: logf}, nil
}

// Close ends the client.
func (s *Session) Close() { s.Client.Close() }

// ReadIdle notes what the target's processes hold while they have nothing to
// do, after their setup and before the first load.
func (s *Session) ReadIdle() {
	for _, pid := range s.C.Pids() {
		if u, err := proc.ReadUsage(pid); err == nil {
			s.idleRSS = max(s.idleRSS, u.RSS)
		}
	}
}

// newTopic creates a topic with n partitions and makes it the session's.
func (s *Session) newTopic(ctx context.Context, base string, n int) error {
	s.nameTopic(base, n)
	start := time.Now()
	err := s.Client.CreateTopic(ctx, s.Topic)
	s.Logf("%s: a topic of %d partitions had leaders after %.1f s", s.C.Name, n, time.Since(start).Seconds())
	return err
}

// nameTopic makes a topic that does not exist yet the session's.
func (s *Session) nameTopic(base string, n int) {
	name := fmt.Sprintf("%s-%d", base, time.Now().UnixNano()%1e9)
	name = limit.TopicName(name, n)
	s.Topic = load.Topic{Name: name, Partitions: n, Replication: min(s.P.Replication, max(1, len(s.C.Nodes))), MinInSync: s.P.MinInSync}
	if len(s.C.Nodes) == 0 {
		s.Topic.Replication = s.P.Replication
	}
	s.Topic.MinInSync = min(s.Topic.MinInSync, s.Topic.Replication)
	if s.C.Name == "tailrace" {
		s.Topic.SyncSet = s.P.SyncSet // Kafka has no such setting
	}
	if s.C.SlowNode != 0 {
		s.Topic.Assignment = s.awayFrom(s.C.SlowNode, n)
	}
}

// meter measures brokers and load over a window.
type meter struct {
	s             *Session
	brokers, load *proc.Meter
	fsyncs        float64
	started       time.Time
}

func (s *Session) startMeter() *meter {
	return &meter{s: s, fsyncs: s.fsyncs(), brokers: proc.NewMeter(s.C.Pids),
		load: proc.NewMeter(func() []int { return []int{os.Getpid()} }), started: time.Now()}
}

// stop fills in what the window used.
func (m *meter) stop(out *report.Sample) {
	out.Seconds = time.Since(m.started).Seconds()
	out.Brokers, out.Load = m.brokers.Stop(), m.load.Stop()
	out.IdleRSS = m.s.idleRSS
	if f := m.s.fsyncs(); f > m.fsyncs {
		out.Fsyncs = f - m.fsyncs
	}
}

// fsyncs sums the brokers' counters of syncs, 0 if the target shows none.
func (s *Session) fsyncs() float64 {
	var sum float64
	for _, n := range s.C.Nodes {
		if n.Metrics != "" {
			sum += scrape(n.Metrics, isSyncCounter)
		}
	}
	return sum
}

// isSyncCounter knows tailrace_segment_syncs_total and
// tailrace_catalog_syncs_total, and the usual names of others.
func isSyncCounter(name string) bool {
	return strings.HasSuffix(name, "_syncs_total") || strings.HasSuffix(name, "_fsyncs_total") || strings.HasSuffix(name, "_fdatasyncs_total")
}

var scraper = http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// scrape sums the samples of a Prometheus page whose names match. A target
// that does not answer counts as 0.
func scrape(url string, match func(string) bool) float64 {
	resp, err := scraper.Get(url)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var sum float64
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		line := sc.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		if i := strings.IndexByte(name, '{'); i >= 0 {
			name = name[:i]
			rest = line[strings.LastIndexByte(line, '}')+1:]
		}
		if f := strings.Fields(rest); match(name) && len(f) > 0 {
			if v, err := strconv.ParseFloat(f[0], 64); err == nil {
				sum += v
			}
		}
	}
	return sum
}
