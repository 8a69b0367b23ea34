package workload

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/tailrace/tailrace/bench/load"
	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/bench/report"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var partitions = Workload{
	Name:     "partitions",
	Short:    "the same load spread over more and more partitions (--counts)",
	Defaults: func(p *Params) { p.Counts, p.Rate = []int{1, 100, 1000}, 0 },
	Setup: func(ctx context.Context, s *Session) error {
		s.topics = map[int]load.Topic{}
		for _, n := range s.P.Counts {
			if err := s.newTopic(ctx, "partitions", n); err != nil {
				return err
			}
			s.topics[n] = s.Topic
		}
		return nil
	},
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) {
		var out []LineSample
		for _, n := range s.P.Counts {
			s.Topic = s.topics[n]
			sample, err := s.newFlow(s.P.Rate, nil, 0).round(ctx, s.P.Warmup, s.P.Duration)
			if err != nil {
				return out, fmt.Errorf("%d partitions: %w", n, err)
			}
			out = append(out, LineSample{fmt.Sprintf("%d partitions", n), sample})
		}
		return out, nil
	},
}

var connections = Workload{
	Name:     "connections",
	Short:    "throughput without and with idle connections (--counts), and the memory of one",
	Defaults: func(p *Params) { p.Counts = []int{10, 1000, 5000} },
	Setup: func(ctx context.Context, s *Session) error {
		if err := s.newTopic(ctx, "connections", s.P.Partitions); err != nil {
			return err
		}
		return s.weighConnections(ctx)
	},
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) { return s.besideConnections(ctx) },
}

// besideConnections measures without idle connections and with each count of
// them. Every second round goes the other way, so that what comes first has no
// advantage.
func (s *Session) besideConnections(ctx context.Context) ([]LineSample, error) {
	out := make([]LineSample, 1+len(s.P.Counts))
	order := make([]int, len(out))
	for i := range order {
		order[i] = i
	}
	if s.backwards = !s.backwards; !s.backwards {
		slices.Reverse(order)
	}
	for _, i := range order {
		n := 0
		if i > 0 {
			n = s.P.Counts[i-1]
		}
		var err error
		if out[i], err = s.withConnections(ctx, n); err != nil {
			return nil, fmt.Errorf("%d connections: %w", n, err)
		}
	}
	base := out[0].Sample
	for i, n := range s.P.Counts {
		sample := &out[i+1].Sample
		sample.Values = map[string]float64{shareOfNone: ratio(sample.Records, sample.Seconds, base.Records, base.Seconds)}
		if kib, ok := s.perConn[n]; ok {
			sample.Values["memory per connection, KiB"] = kib
		}
	}
	return out, nil
}

// shareOfNone compares a round with the one before it.
const shareOfNone = report.SharePrefix + "throughput without connections"

// ratio of two rates, 0 where there is nothing to compare with.
func ratio(a int64, aSeconds float64, b int64, bSeconds float64) float64 {
	if b == 0 || aSeconds == 0 {
		return 0
	}
	return float64(a) / aSeconds / (float64(b) / bSeconds)
}

// settle is the time that memory gets to show up before it is read.
const settle = 2 * time.Second

// weighConnections reads what idle connections add to the brokers' resident
// memory. It must come before any load: after it the heap has room that new
// connections would fill without being seen.
func (s *Session) weighConnections(ctx context.Context) error {
	s.perConn = map[int]float64{}
	for _, n := range slices.Sorted(slices.Values(s.P.Counts)) {
		if err := sleep(ctx, settle); err != nil {
			return err
		}
		before := s.residentMemory()
		conns, err := openConnections(ctx, s.C.Bootstrap, n)
		if err == nil {
			err = sleep(ctx, settle)
		}
		grown := s.residentMemory() - before
		closeAll(conns)
		if err != nil {
			return fmt.Errorf("%d connections: %w", n, err)
		}
		if n >= countable {
			s.perConn[n] = float64(grown) / float64(n) / 1024
		}
	}
	return nil
}

// countable is the number of connections from which their memory stands out of
// what a broker's heap does by itself.
const countable = 1000

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

func (s *Session) withConnections(ctx context.Context, n int) (LineSample, error) {
	ls := LineSample{Line: fmt.Sprintf("%d connections", n)}
	if n == 0 {
		ls.Line = "no idle connections"
	}
	conns, err := openConnections(ctx, s.C.Bootstrap, n)
	defer closeAll(conns)
	if err != nil {
		return ls, err
	}
	ls.Sample, err = s.newFlow(s.P.Rate, nil, 0).round(ctx, s.P.Warmup, s.P.Duration)
	return ls, err
}

// residentMemory of all brokers together.
func (s *Session) residentMemory() (sum int64) {
	for _, pid := range s.C.Pids() {
		if u, err := proc.ReadUsage(pid); err == nil {
			sum += u.RSS
		}
	}
	return sum
}

// openConnections opens n connections over all brokers in turn. Each has sent
// a request and got its answer, so it has cost what a real client's costs.
func openConnections(ctx context.Context, addrs []string, n int) ([]net.Conn, error) {
	var conns []net.Conn
	var d net.Dialer
	for i := range n {
		c, err := d.DialContext(ctx, "tcp", addrs[i%len(addrs)])
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
		if err := greet(c); err != nil {
			return conns, fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return conns, nil
}

// maxGreeting bounds an ApiVersions answer.
const maxGreeting = 1 << 20

// greet sends ApiVersions and reads the answer.
func greet(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	req := kmsg.NewPtrApiVersionsRequest()
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench"))
	if _, err := c.Write(f.AppendRequest(nil, req, 1)); err != nil {
		return err
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxGreeting {
		return fmt.Errorf("answer of %d bytes", n)
	}
	_, err := io.CopyN(io.Discard, c, int64(n))
	return err
}

var idle = Workload{
	Name:     "idle",
	Short:    "what a cluster costs that holds --partitions and does nothing",
	Defaults: func(p *Params) { p.Partitions = 1000 },
	Setup: func(ctx context.Context, s *Session) error {
		if err := s.newTopic(ctx, "idle", s.P.Partitions); err != nil {
			return err
		}
		return sleep(ctx, s.P.First)
	},
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) {
		ls := LineSample{}
		m := s.startMeter()
		err := sleep(ctx, s.P.Duration)
		m.stop(&ls.Sample)
		n := float64(max(1, len(s.C.Pids())))
		ls.Sample.Values = map[string]float64{"per broker, % of a core": 100 * ls.Sample.Brokers.CPU / ls.Sample.Seconds / n}
		return []LineSample{ls}, err
	},
}
