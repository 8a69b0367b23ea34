package workload

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tailrace/tailrace/bench/cluster"
	"github.com/tailrace/tailrace/bench/load"
	"github.com/tailrace/tailrace/bench/report"
)

// Modes of the restart workload.
const (
	modeTerm  = "term"
	modeKill  = "kill"
	modeOne   = "one"
	modeFresh = "fresh"
)

var restart = Workload{
	Name:  "restart",
	Short: "brokers stop and start on their data (--preload): all of them (--mode term or kill), one by kill (one), or all on empty directories (fresh): time to serve again",
	Own:   true,
	Defaults: func(p *Params) {
		p.Mode, p.Preload, p.Rounds, p.Rate, p.Linger = modeTerm, 64<<20, 5, 1000, 0
	},
	Setup: func(ctx context.Context, s *Session) error {
		modes := []string{modeTerm, modeKill, modeOne, modeFresh}
		switch {
		case !slices.Contains(modes, s.P.Mode):
			return fmt.Errorf("unknown mode %q: one of %s", s.P.Mode, strings.Join(modes, ", "))
		case s.P.Mode == modeFresh:
			return nil
		}
		if err := s.newTopic(ctx, "restart", s.P.Partitions); err != nil {
			return err
		}
		return s.preload(ctx)
	},
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) {
		switch s.P.Mode {
		case modeOne:
			return one(s.restartOne(ctx))
		case modeFresh:
			return one(s.fresh(ctx))
		}
		return one(s.restart(ctx))
	},
}

func (s *Session) restart(ctx context.Context) (report.Sample, error) {
	var out report.Sample
	stopping := time.Now()
	if err := s.stopAll(); err != nil {
		return out, err
	}
	stopped := time.Since(stopping)
	m := s.startMeter()
	start, err := s.startAll()
	if err != nil {
		return out, err
	}
	first, all, err := s.firstAcks(ctx, start)
	m.stop(&out)
	out.Values = map[string]float64{"start to first ack, s": first.Seconds(), "start to an ack of every partition, s": all.Seconds(), "stop, s": stopped.Seconds()}
	return out, err
}

// fresh starts all brokers as a new cluster and creates a topic as soon as they let us.
func (s *Session) fresh(ctx context.Context) (report.Sample, error) {
	var out report.Sample
	if err := errors.Join(s.stopAll(), s.C.Empty(ctx)); err != nil {
		return out, err
	}
	s.nameTopic("fresh", s.P.Partitions)
	m := s.startMeter()
	start, err := s.startAll()
	if err != nil {
		return out, err
	}
	created, err := s.topicSoon(ctx, start)
	if err != nil {
		return out, err
	}
	first, all, err := s.firstAcks(ctx, start)
	m.stop(&out)
	out.Values = map[string]float64{"start to the topic's creation, s": created.Seconds(), "start to first ack, s": first.Seconds(), "start to an ack of every partition, s": all.Seconds()}
	return out, err
}

// topicSoon creates the session's topic on a target that may not be up yet, and tells
// how long after start that was answered.
func (s *Session) topicSoon(ctx context.Context, start time.Time) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, inSyncLimit)
	defer cancel()
	for {
		err := s.Client.TryCreateTopic(ctx, s.Topic)
		if err == nil {
			return time.Since(start), nil
		}
		if sleep(ctx, pollMetadata) != nil {
			return 0, fmt.Errorf("no topic within %s, last: %w", inSyncLimit, err)
		}
	}
}

// startAll starts every broker and returns the instant before the first.
func (s *Session) startAll() (time.Time, error) {
	start := time.Now()
	for _, n := range s.C.Nodes {
		if err := n.Start(); err != nil {
			return start, err
		}
	}
	return start, nil
}

// restartOne kills the last broker, waits until the others serve every
// partition, and starts it again.
func (s *Session) restartOne(ctx context.Context) (report.Sample, error) {
	var out report.Sample
	node := s.C.Nodes[len(s.C.Nodes)-1]
	if err := s.inSyncAgain(ctx); err != nil {
		return out, err
	}
	killed := time.Now()
	node.Kill()
	_, without, err := s.firstAcks(ctx, killed)
	if err != nil {
		return out, err
	}
	m := s.startMeter()
	start := time.Now()
	if err := node.Start(); err != nil {
		return out, err
	}
	ready, err := s.awaitReady(ctx, node, start)
	if err == nil {
		err = s.inSyncAgain(ctx)
	}
	back := time.Since(start)
	m.stop(&out)
	out.Values = map[string]float64{"kill to an ack of every partition, s": without.Seconds(), "start to every replica in sync, s": back.Seconds()}
	if ready > 0 {
		out.Values["start to ready, s"] = ready.Seconds()
	}
	return out, err
}

// awaitReady returns how long a broker took to say that it serves; 0 for a
// target that does not say it.
func (s *Session) awaitReady(ctx context.Context, node *cluster.Node, start time.Time) (time.Duration, error) {
	if node.Ready == "" {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, inSyncLimit)
	defer cancel()
	for {
		if resp, err := scraper.Get(node.Ready); err == nil {
			_ = resp.Body.Close() // its status is all we want
			if resp.StatusCode == http.StatusOK {
				return time.Since(start), nil
			}
		}
		if err := sleep(ctx, pollMetadata); err != nil {
			return 0, fmt.Errorf("broker %d did not become ready within %s", node.ID, inSyncLimit)
		}
	}
}

func (s *Session) stopAll() error {
	var wg sync.WaitGroup
	errs := make([]error, len(s.C.Nodes))
	for i, n := range s.C.Nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if s.P.Mode == modeKill {
				n.Kill()
				return
			}
			errs[i] = n.Stop(60 * time.Second)
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// firstAcks tells after how long the first record was acknowledged to a client
// that did not know the cluster before, and one of every partition.
func (s *Session) firstAcks(ctx context.Context, start time.Time) (first, all time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, inSyncLimit)
	defer cancel()
	p, err := s.producerSoon(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer p.Close()
	type answer struct {
		part int32
		err  error
	}
	answers := make(chan answer, s.Topic.Partitions)
	send := func(part int32) {
		p.Send(part, nil, make([]byte, s.P.RecordSize), func(_ int64, err error) { answers <- answer{part, err} })
	}
	for i := range s.Topic.Partitions {
		go send(int32(i))
	}
	for left := s.Topic.Partitions; left > 0; {
		select {
		case a := <-answers:
			if a.err == nil {
				left--
				if first == 0 {
					first = time.Since(start)
				}
				continue
			}
			go func() { // each by itself: thousands may fail at once
				if sleep(ctx, pollMetadata) == nil {
					send(a.part)
				}
			}()
		case <-ctx.Done():
			return first, 0, fmt.Errorf("no acknowledgement from %d of %d partitions within %s", left, s.Topic.Partitions, inSyncLimit)
		}
	}
	return first, time.Since(start), nil
}

// producerSoon makes a producer of a target that may not be up yet.
func (s *Session) producerSoon(ctx context.Context) (load.Producer, error) {
	for {
		p, err := s.Client.Producer(s.Topic.Name, nil)
		if err == nil {
			return p, nil
		}
		if sleep(ctx, pollMetadata) != nil {
			return nil, err
		}
	}
}
