package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
)

// SessionOptions configure a broker's session with the controller.
type SessionOptions struct {
	Node  *Node
	Clock clock.Clock
	// Register is the registration; Previous is filled in.
	Register RegisterBroker
	// Report returns the state of every log of this broker.
	Report func() []LogReport
	// Applied returns the metadata index that the broker has acted on: every
	// partition knows its role in that image. Default: the node's image.
	Applied  func() uint64
	Interval time.Duration // of heartbeats; default 500 ms
	Lease    time.Duration // default DefaultLease; the controller's session is longer
	// OnRegistered hears of each new incarnation once it is durable and before
	// its first heartbeat. May be nil.
	OnRegistered func(model.Incarnation)
	// OnRefused hears why a registration was refused; it is tried again. May
	// be nil.
	OnRefused func(error)
}

// SessionState is what a broker knows of its standing.
type SessionState struct {
	Incarnation model.Incarnation // 0 until registered
	Fenced      bool
	MayStop     bool
}

// Session keeps a broker registered, and its lease as a leader. The lease
// counts from the sending of the heartbeat that won it, on monotonic time, and
// is shorter than the session at the controller: a broker that is cut off
// stops acting as a leader before another one is elected for its silence
// (I15).
type Session struct {
	o    SessionOptions
	kick chan struct{}

	mu       sync.Mutex
	state    SessionState
	lease    time.Duration // valid until, on the monotonic clock
	draining bool
	changed  chan struct{} // closed and replaced when state changes
}

// NewSession returns a session; Run drives it.
func NewSession(o SessionOptions) *Session {
	if o.Interval == 0 {
		o.Interval = 500 * time.Millisecond
	}
	if o.Lease == 0 {
		o.Lease = DefaultLease
	}
	if o.Applied == nil {
		o.Applied = func() uint64 { return o.Node.Image().Index }
	}
	if o.OnRegistered == nil {
		o.OnRegistered = func(model.Incarnation) {}
	}
	if o.OnRefused == nil {
		o.OnRefused = func(error) {}
	}
	return &Session{o: o, kick: make(chan struct{}, 1), changed: make(chan struct{}), state: SessionState{Fenced: true}}
}

// LeaseValid reports whether this broker may now give answers that only a
// current leader can give.
func (s *Session) LeaseValid() bool { return s.o.Clock.Elapsed() < s.LeaseUntil() }

// LeaseUntil returns the end of the lease on the monotonic clock.
func (s *Session) LeaseUntil() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}

// State returns the broker's standing as of the last answer.
func (s *Session) State() SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Incarnation returns the current incarnation, 0 until registered.
func (s *Session) Incarnation() model.Incarnation { return s.State().Incarnation }

// Kick sends the next heartbeat at once, as after the broker caught up.
func (s *Session) Kick() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Run registers and keeps the session until ctx ends. It returns only ctx's
// error, ErrStopped, or an error of the local storage.
func (s *Session) Run(ctx context.Context) error {
	for {
		if err := s.register(ctx); err != nil {
			return err
		}
		if err := s.report(ctx); err != nil {
			return err
		}
		if err := s.beats(ctx); err != nil {
			return err
		}
	}
}

// register starts a new incarnation and makes it durable before its first
// heartbeat.
func (s *Session) register(ctx context.Context) error {
	previous, err := s.o.Node.Incarnation()
	if err != nil {
		return err
	}
	s.update(func() { s.state, s.lease = SessionState{Fenced: true}, 0 })
	cmd := s.o.Register
	cmd.Previous = previous
	for {
		r, err := s.o.Node.Submit(ctx, &cmd)
		switch {
		case errors.Is(err, ErrStopped) || ctx.Err() != nil:
			return firstError(ctx.Err(), err)
		case err != nil:
			s.o.OnRefused(err)
		case r.Code != 0:
			s.o.OnRefused(fmt.Errorf("registration refused: %w: %s", kerr.ErrorForCode(r.Code), r.Message))
		default:
			if err := s.o.Node.SaveIncarnation(r.Incarnation); err != nil {
				return err
			}
			s.update(func() { s.state.Incarnation = r.Incarnation })
			s.o.OnRegistered(r.Incarnation)
			return s.o.Node.WaitApplied(ctx, uint64(r.Incarnation))
		}
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
}

// reportChunk is the number of logs in one command.
const reportChunk = 20_000

func (s *Session) report(ctx context.Context) error {
	at := s.o.Clock.Elapsed()
	logs := s.o.Report()
	for {
		n := min(len(logs), reportChunk)
		cmd := &ReportLogs{Broker: s.o.Register.Broker, Incarnation: s.Incarnation(), At: at, Logs: logs[:n], Last: n == len(logs)}
		_, err := s.o.Node.Submit(ctx, cmd)
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrStopped):
			return firstError(ctx.Err(), err)
		case err != nil:
			if err := s.pause(ctx); err != nil {
				return err
			}
			continue
		case cmd.Last:
			return nil
		}
		logs = logs[n:]
	}
}

// beats sends heartbeats until the controller does not know this incarnation.
func (s *Session) beats(ctx context.Context) error {
	for {
		known, err := s.beat(ctx)
		if err != nil {
			return err
		}
		if !known {
			return nil
		}
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
}

func (s *Session) beat(ctx context.Context) (known bool, err error) {
	s.mu.Lock()
	req := HeartbeatRequest{Broker: s.o.Register.Broker, Incarnation: s.state.Incarnation, WantDrain: s.draining}
	s.mu.Unlock()
	req.AppliedIndex = s.o.Applied()
	sent := s.o.Clock.Elapsed() // the lease counts from before the sending
	bctx, cancel := context.WithTimeout(ctx, s.o.Lease)
	resp, err := s.o.Node.SendHeartbeat(bctx, req)
	cancel()
	if ctx.Err() != nil || errors.Is(err, ErrStopped) {
		return true, firstError(ctx.Err(), err)
	}
	if err != nil {
		return true, nil // the lease runs out if this lasts
	}
	if resp.Unknown {
		s.update(func() { s.lease = 0 })
		return false, nil
	}
	s.update(func() {
		s.state.Fenced, s.state.MayStop = resp.Fenced, resp.MayStop
		switch {
		case resp.LeaseGranted:
			s.lease = max(s.lease, sent+s.o.Lease)
		case resp.Fenced:
			s.lease = 0
		}
	})
	if resp.NeedReport {
		return true, s.report(ctx)
	}
	if (resp.Fenced || !resp.LeaseGranted) && !req.WantDrain {
		s.soon() // admission needs another heartbeat: ask again shortly
	}
	return true, nil
}

// soon shortens the next pause.
func (s *Session) soon() {
	time.AfterFunc(retryPause, s.Kick)
}

// Drain asks the controller to move this broker's leaderships away and waits
// until it may stop, or until ctx ends.
func (s *Session) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	for {
		s.Kick()
		s.mu.Lock()
		ch, state := s.changed, s.state
		s.mu.Unlock()
		if state.MayStop || state.Incarnation == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ch:
		case <-time.After(retryPause):
		}
	}
}

// Leave tells the controller that this broker has stopped serving, so that it
// is fenced at once. Call it last, after Run has returned.
func (s *Session) Leave(ctx context.Context) error {
	inc := s.Incarnation()
	if inc == 0 {
		return nil
	}
	_, err := s.o.Node.SendHeartbeat(ctx, HeartbeatRequest{Broker: s.o.Register.Broker, Incarnation: inc, Stopped: true})
	return err
}

func (s *Session) update(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Session) pause(ctx context.Context) error {
	t := time.NewTimer(s.o.Interval)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	case <-s.kick:
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
