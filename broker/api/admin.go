package api

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
)

// submitError maps a command that did not get through to a Kafka code. A
// timeout leaves open whether the command was or will be carried out.
func submitError(err error) (code int16, msg string) {
	var ke *kerr.Error
	switch {
	case errors.As(err, &ke):
		return ke.Code, err.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return kerr.RequestTimedOut.Code, "the controller did not answer in time; the change may still happen"
	default:
		return kerr.NotController.Code, err.Error()
	}
}
