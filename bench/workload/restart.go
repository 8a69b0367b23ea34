package workload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tailrace/tailrace/bench/load"
	"github.com/tailrace/tailrace/bench/report"
)

// Modes of the restart workload.
const (
	modeTerm = "term"
	modeKill = "kill"
)

var restart = Workload{
	Name:  "restart",
	Short: "all brokers stop (--mode term or kill) and start on their data (--preload): time to the first acknowledged produce",
	Own:   true,
	Defaults: func(p *Params) {
		p.Mode, p.Preload, p.Rounds, p.Rate, p.Linger = modeTerm, 64<<20, 5, 1000, 0
	},
	Setup: func(ctx context.Context, s *Session) error {
		if s.P.Mode != modeTerm && s.P.Mode != modeKill {
			return fmt.Errorf("unknown mode %q: %s or %s", s.P.Mode, modeTerm, modeKill)
		}
		if err := s.newTopic(ctx, "restart", s.P.Partitions); err != nil {
			return err
		}
		return s.preload(ctx)
	},
	Round: func(ctx context.Context, s *Session) ([]LineSample, error) { return one(s.restart(ctx)) },
}

func (s *Session) restart(ctx context.Context) (report.Sample, error) {
	var out report.Sample
	stopping := time.Now()
	if err := s.stopAll(); err != nil {
		return out, err
	}
	stopped := time.Since(stopping)
	m := s.startMeter()
	start := time.Now()
	for _, n := range s.C.Nodes {
		if err := n.Start(); err != nil {
			return out, err
		}
	}
	err := s.firstAck(ctx)
	took := time.Since(start)
	m.stop(&out)
	out.Values = map[string]float64{"start to first ack, s": took.Seconds(), "stop, s": stopped.Seconds()}
	return out, err
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

// firstAck returns when a record of every partition was acknowledged by
// clients that did not know the cluster before.
func (s *Session) firstAck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, inSyncLimit)
	defer cancel()
	p, err := s.producerSoon(ctx)
	if err != nil {
		return err
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
				continue
			}
			go func() { // each by itself: thousands may fail at once
				if sleep(ctx, pollMetadata) == nil {
					send(a.part)
				}
			}()
		case <-ctx.Done():
			return fmt.Errorf("no acknowledgement from every partition within %s", inSyncLimit)
		}
	}
	return nil
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
