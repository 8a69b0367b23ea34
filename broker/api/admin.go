package api

import (
	"context"
	"errors"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/twmb/franz-go/pkg/kerr"
)

// submitError maps a command that did not get through to a Kafka code. A
// timeout leaves open whether the command was or will be carried out.
func submitError(err error) (code int16, msg string) {
	var ke *kerr.Error
	switch {
	case errors.As(err, &ke):
		return ke.Code, err.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, control.ErrUnknownOutcome):
		return kerr.RequestTimedOut.Code, "the controller did not answer in time; the change may still happen"
	default:
		return kerr.NotController.Code, err.Error()
	}
}

// outcome is a command's failure as a whole, from the point of view of its
// k-th element of n.
func outcome(res control.Result, n, k int, err error) (code int16, msg string) {
	switch {
	case err != nil:
		return submitError(err)
	case res.Code != 0:
		return res.Code, res.Message
	case k >= n:
		return kerr.UnknownServerError.Code, "the controller gave no result"
	default:
		return 0, ""
	}
}

// topicOutcome is the outcome for the k-th topic of a command.
func topicOutcome(res control.Result, k int, err error) (code int16, msg string) {
	if code, msg = outcome(res, len(res.Topics), k, err); code != 0 {
		return code, msg
	}
	return res.Topics[k].Code, res.Topics[k].Message
}
