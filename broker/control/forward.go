package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

// DefaultSubmitTimeout bounds Submit for callers without a deadline.
const DefaultSubmitTimeout = 5 * time.Second

// retryPause is the wait before the controller is looked for again.
const retryPause = 50 * time.Millisecond

// Kinds of requests between nodes, the first byte of a Transport.Call.
const (
	callCommand byte = iota + 1
	callHeartbeat
	callSuspicion
)

// Prompt reports whether a request of Transport.Call is answered without
// waiting for a decision: heartbeats and evidence. They deserve a connection
// of their own.
func Prompt(request []byte) bool {
	return len(request) > 0 && (request[0] == callHeartbeat || request[0] == callSuspicion)
}

// Status bytes of the answers.
const (
	answerOK byte = iota
	answerNotController
	answerUnknownOutcome
	answerBusy
	answerError
)

// Submit has a command decided by the controller, wherever it is, and returns
// when its effect is committed. Without a deadline in ctx it gives up after
// DefaultSubmitTimeout. Errors: ErrUnknownOutcome when the controller was lost
// with the command in flight (commands that may be repeated are repeated
// instead), the context's error when no controller was found.
func (n *Node) Submit(ctx context.Context, cmd Command) (Result, error) {
	var result Result
	payload := append([]byte{callCommand}, EncodeCommand(cmd)...)
	if len(payload) > MaxMessage {
		return result, fmt.Errorf("control: command of %d bytes is too large", len(payload))
	}
	err := n.toController(ctx, payload, repeatable(cmd),
		func(ctx context.Context) (err error) {
			result, err = n.submitHere(ctx, cmd)
			return err
		},
		func(b []byte) error {
			r, err := DecodeResult(b)
			if err == nil {
				result = *r
			}
			return err
		})
	return result, err
}

// SendHeartbeat delivers a broker's heartbeat to the controller.
func (n *Node) SendHeartbeat(ctx context.Context, req HeartbeatRequest) (HeartbeatResponse, error) {
	var resp HeartbeatResponse
	payload := append([]byte{callHeartbeat}, encodeMessage(&req)...)
	err := n.toController(ctx, payload, true,
		func(ctx context.Context) (err error) {
			resp, err = n.heartbeatHere(ctx, req)
			return err
		},
		func(b []byte) error { return decodeMessage(b, &resp) })
	return resp, err
}

// Suspect tells the controller what this broker saw of another one.
func (n *Node) Suspect(ctx context.Context, s Suspicion) error {
	payload := append([]byte{callSuspicion}, encodeMessage(&s)...)
	return n.toController(ctx, payload, true,
		func(ctx context.Context) error { return n.suspectHere(ctx, s) },
		func([]byte) error { return nil })
}

// repeatable reports whether a command with an unknown outcome may simply be
// submitted again.
func repeatable(cmd Command) bool {
	switch cmd.(type) {
	case *CreateTopics, *DeleteTopics, *CreatePartitions, *AlterConfigs, *AlterPartitions, *ElectLeaders:
		return false
	}
	return true
}

// toController runs a request here or at the controller, looking for it until
// ctx ends.
func (n *Node) toController(ctx context.Context, payload []byte, repeat bool,
	here func(context.Context) error, decode func([]byte) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultSubmitTimeout)
		defer cancel()
	}
	unknown := false
	for attempt := 0; ; attempt++ {
		err := n.attempt(ctx, attempt, payload, here, decode)
		if err == nil || errors.Is(err, ErrStopped) || errors.Is(err, ErrCorrupt) {
			return err
		}
		if !errors.Is(err, ErrNotController) && !errors.Is(err, ErrBusy) {
			unknown = true // the call may have arrived
			if !repeat {
				return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
			}
		}
		select {
		case <-ctx.Done():
			if unknown {
				return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
			}
			return err
		case <-n.done:
			return ErrStopped
		case <-time.After(retryPause):
		}
	}
}

func (n *Node) attempt(ctx context.Context, attempt int, payload []byte,
	here func(context.Context) error, decode func([]byte) error) error {
	to := n.target(attempt)
	if to == n.opt.RaftID {
		return here(ctx)
	}
	if to == 0 {
		return ErrNotController
	}
	answer, err := n.opt.Transport.Call(ctx, to, payload)
	if err != nil {
		return err
	}
	if len(answer) == 0 || len(answer) > MaxMessage {
		return fmt.Errorf("%w: answer of %d bytes", ErrCorrupt, len(answer))
	}
	switch body := answer[1:]; answer[0] {
	case answerOK:
		return decode(body)
	case answerNotController:
		return ErrNotController
	case answerUnknownOutcome:
		return ErrUnknownOutcome
	case answerBusy:
		return ErrBusy
	default:
		return fmt.Errorf("control: controller: %s", body)
	}
}

// target is the raft id to ask: the leader where it is known, else this and
// the other members in turn.
func (n *Node) target(attempt int) uint64 {
	if leader := n.Status().Leader; leader != 0 {
		return leader
	}
	var peers []uint64
	for _, id := range n.Image().Voters {
		if id != n.opt.RaftID {
			peers = append(peers, id)
		}
	}
	if len(peers) == 0 && n.opt.Peers != nil {
		peers = n.opt.Peers()
	}
	if len(peers) == 0 {
		return 0
	}
	return peers[attempt%len(peers)]
}

// Serve answers a peer's Transport.Call. The caller has authenticated the
// peer as a broker of this cluster.
func (n *Node) Serve(ctx context.Context, request []byte) []byte {
	if len(request) == 0 {
		return failure(fmt.Errorf("%w: empty request", ErrCorrupt))
	}
	body := request[1:]
	switch request[0] {
	case callCommand:
		cmd, err := DecodeCommand(body)
		if err != nil {
			return failure(err)
		}
		r, err := n.submitHere(ctx, cmd)
		if err != nil {
			return failure(err)
		}
		return append([]byte{answerOK}, EncodeResult(&r)...)
	case callHeartbeat:
		var req HeartbeatRequest
		if err := decodeMessage(body, &req); err != nil {
			return failure(err)
		}
		resp, err := n.heartbeatHere(ctx, req)
		if err != nil {
			return failure(err)
		}
		return append([]byte{answerOK}, encodeMessage(&resp)...)
	case callSuspicion:
		var s Suspicion
		if err := decodeMessage(body, &s); err != nil {
			return failure(err)
		}
		if err := n.suspectHere(ctx, s); err != nil {
			return failure(err)
		}
		return []byte{answerOK}
	}
	return failure(fmt.Errorf("%w: request kind %d", ErrCorrupt, request[0]))
}

func failure(err error) []byte {
	switch {
	case errors.Is(err, ErrUnknownOutcome):
		return []byte{answerUnknownOutcome}
	case errors.Is(err, ErrNotController), errors.Is(err, ErrStopped):
		return []byte{answerNotController}
	case errors.Is(err, ErrBusy):
		return []byte{answerBusy}
	}
	return append([]byte{answerError}, err.Error()...)
}

// await runs start on the node's goroutine and waits for its callback.
func await[T any](ctx context.Context, n *Node, start func(done func(T, error))) (T, error) {
	type answer struct {
		v   T
		err error
	}
	var zero T
	ch := make(chan answer, 1)
	if err := n.do(ctx, func() { start(func(v T, err error) { ch <- answer{v, err} }) }); err != nil {
		return zero, err
	}
	select {
	case a := <-ch:
		return a.v, a.err
	case <-ctx.Done():
		return zero, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	case <-n.done:
		return zero, ErrStopped
	}
}

func (n *Node) submitHere(ctx context.Context, cmd Command) (Result, error) {
	return await(ctx, n, func(done func(Result, error)) { n.core.Submit(cmd, done) })
}

func (n *Node) heartbeatHere(ctx context.Context, req HeartbeatRequest) (HeartbeatResponse, error) {
	return await(ctx, n, func(done func(HeartbeatResponse, error)) { n.core.Heartbeat(req, done) })
}

func (n *Node) suspectHere(ctx context.Context, s Suspicion) error {
	_, err := await(ctx, n, func(done func(struct{}, error)) { done(struct{}{}, n.core.Suspect(s)) })
	return err
}

// Incarnation returns the incarnation under which this node's storage was last
// registered, 0 if never.
func (n *Node) Incarnation() (model.Incarnation, error) { return n.core.Incarnation() }

// SaveIncarnation records a new incarnation durably.
func (n *Node) SaveIncarnation(i model.Incarnation) error { return n.core.SaveIncarnation(i) }

// Members returns the quorum's members if this node leads it, else
// ErrNotController.
func (n *Node) Members(ctx context.Context) ([]Member, error) {
	return await(ctx, n, func(done func([]Member, error)) {
		if m := n.core.Members(); m != nil {
			done(m, nil)
			return
		}
		done(nil, ErrNotController)
	})
}

// StepDown hands the quorum's leadership to another voter, so that a graceful
// stop costs no election timeout. It returns when this node does not lead.
func (n *Node) StepDown(ctx context.Context) error {
	for n.Status().Leader == n.opt.RaftID {
		if err := n.do(ctx, n.core.Transfer); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.done:
			return ErrStopped
		case <-time.After(retryPause):
		}
	}
	return nil
}
