package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The kinds of failure. Every error of this package that stems from the
// cluster matches exactly one of them with errors.Is, and still matches the
// error of package kerr or net that caused it.
var (
	// ErrNotFound: the topic, partition or broker does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: the topic exists already.
	ErrExists = errors.New("exists already")
	// ErrInvalid: the cluster refuses the request as it stands (bad name,
	// unknown config key, too few brokers for the replication factor, …).
	ErrInvalid = errors.New("invalid request")
	// ErrTooLarge: a record or request is over the topic's or broker's limit.
	ErrTooLarge = errors.New("too large")
	// ErrNotEnoughReplicas: the in-sync set is below min.insync.replicas; the
	// record is not acknowledged.
	ErrNotEnoughReplicas = errors.New("not enough in-sync replicas")
	// ErrUnavailable: no broker, leader or controller answered in time. A
	// produce that ends so may or may not be in the log.
	ErrUnavailable = errors.New("unavailable")
	// ErrDenied: authentication or authorization failed.
	ErrDenied = errors.New("denied")
	// ErrUnsupported: the cluster does not serve this request or version.
	ErrUnsupported = errors.New("unsupported by the cluster")
	// ErrClosed: the client, producer or consumer is closed.
	ErrClosed = errors.New("closed")
	// ErrFailed: any other failure that the cluster reports.
	ErrFailed = errors.New("failed")
)

// Error is a failure of one operation, with its kind and its cause.
type Error struct {
	Op   string // what was tried: "create topic orders", "produce to orders"
	Kind error  // one of ErrNotFound, ErrUnavailable, …
	Err  error  // the cause: an error of package kerr, net or context
}

func (e *Error) Error() string {
	cause := describe(e.Err)
	if e.Kind == ErrFailed || e.Kind == ErrInvalid || strings.Contains(cause, e.Kind.Error()) {
		return fmt.Sprintf("%s: %s", e.Op, cause)
	}
	return fmt.Sprintf("%s: %s: %s", e.Op, e.Kind, cause)
}

// Unwrap makes both the kind and the cause visible to errors.Is and errors.As.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Err} }

// DataLossError says that the log ends below a position that was already
// consumed: the records from EndOffset up to Offset were delivered and are gone
// (the partition was truncated, which needs an unclean election or the loss of
// every in-sync replica). Detection is that of KIP-320, by leader epoch.
type DataLossError struct {
	Topic     string
	Partition int32
	Offset    int64 // the next offset that was to be read
	Epoch     int32 // leader epoch of the last record read, -1 if none
	EndOffset int64 // where the log of Epoch ends now, -1 if unknown
}

func (e *DataLossError) Error() string {
	return fmt.Sprintf("data loss: %s/%d was read up to offset %d (leader epoch %d), its log now ends at %d: restart from there to go on",
		e.Topic, e.Partition, e.Offset, e.Epoch, e.EndOffset)
}

// OffsetOutOfRangeError says that an offset is not in the log: below Start it
// has been deleted by retention, above End it was never written.
type OffsetOutOfRangeError struct {
	Topic      string
	Partition  int32
	Offset     int64
	Start, End int64 // the log of the leader: first offset, high watermark
}

func (e *OffsetOutOfRangeError) Error() string {
	return fmt.Sprintf("offset %d of %s/%d is out of range: the log holds [%d, %d)", e.Offset, e.Topic, e.Partition, e.Start, e.End)
}

// wrap gives err its operation and kind; nil stays nil.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Op: op, Kind: kindOf(err), Err: err}
}

// kinds maps Kafka's codes to ours; whatever is missing and retriable is
// ErrUnavailable, the rest ErrFailed.
var kinds = map[*kerr.Error]error{
	kerr.UnknownTopicOrPartition:            ErrNotFound,
	kerr.UnknownTopicID:                     ErrNotFound,
	kerr.TopicAlreadyExists:                 ErrExists,
	kerr.ResourceNotFound:                   ErrNotFound,
	kerr.MessageTooLarge:                    ErrTooLarge,
	kerr.RecordListTooLarge:                 ErrTooLarge,
	kerr.NotEnoughReplicas:                  ErrNotEnoughReplicas,
	kerr.NotEnoughReplicasAfterAppend:       ErrNotEnoughReplicas,
	kerr.TopicAuthorizationFailed:           ErrDenied,
	kerr.ClusterAuthorizationFailed:         ErrDenied,
	kerr.GroupAuthorizationFailed:           ErrDenied,
	kerr.TransactionalIDAuthorizationFailed: ErrDenied,
	kerr.SaslAuthenticationFailed:           ErrDenied,
	kerr.UnsupportedVersion:                 ErrUnsupported,
	kerr.InvalidTopicException:              ErrInvalid,
	kerr.InvalidPartitions:                  ErrInvalid,
	kerr.InvalidReplicationFactor:           ErrInvalid,
	kerr.InvalidReplicaAssignment:           ErrInvalid,
	kerr.InvalidConfig:                      ErrInvalid,
	kerr.InvalidRequest:                     ErrInvalid,
	kerr.InvalidRequiredAcks:                ErrInvalid,
	kerr.InvalidTimestamp:                   ErrInvalid,
	kerr.InvalidRecord:                      ErrInvalid,
	kerr.PolicyViolation:                    ErrInvalid,
}

func kindOf(err error) error {
	var ke *kerr.Error
	if errors.As(err, &ke) {
		if k, ok := kinds[ke]; ok {
			return k
		}
		if ke.Retriable {
			return ErrUnavailable
		}
		return ErrFailed
	}
	var ne net.Error
	switch {
	case errors.Is(err, kgo.ErrClientClosed):
		return ErrClosed
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, kgo.ErrRecordRetries),
		errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.As(err, &ne),
		kgo.IsRetryableBrokerErr(err):
		return ErrUnavailable
	}
	return ErrFailed
}

// describe renders a cause in one line for people: Kafka's codes as
// "CODE: sentence", the context's deadline as what it means.
func describe(err error) string {
	var ke *kerr.Error
	switch {
	case err == nil:
		return "unknown error"
	case errors.Is(err, context.DeadlineExceeded):
		if err == context.DeadlineExceeded {
			return "no answer within the time limit"
		}
	case errors.As(err, &ke) && err == error(ke):
		return ke.Message + ": " + strings.TrimSuffix(ke.Description, ".")
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// serverError joins a code with the message that the cluster sent beside it.
func serverError(err error, message string) error {
	if err == nil || message == "" {
		return err
	}
	return &messageError{err: err, message: message}
}

type messageError struct {
	err     error
	message string
}

func (e *messageError) Error() string {
	var ke *kerr.Error
	if errors.As(e.err, &ke) {
		return ke.Message + ": " + e.message
	}
	return e.message
}

func (e *messageError) Unwrap() error { return e.err }
