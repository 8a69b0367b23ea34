package partition

import "errors"

// Kafka error codes that a replica answers with.
const (
	codeNone                        int16 = 0
	codeOffsetOutOfRange            int16 = 1
	codeCorruptMessage              int16 = 2
	codeNotLeaderOrFollower         int16 = 6
	codeRequestTimedOut             int16 = 7
	codeMessageTooLarge             int16 = 10
	codeNotEnoughReplicas           int16 = 19
	codeNotEnoughReplicasAfter      int16 = 20
	codeInvalidRequiredAcks         int16 = 21
	codeInvalidTimestamp            int16 = 32
	codeInvalidRequest              int16 = 42
	codeUnsupportedForMessageFormat int16 = 43
	codeOutOfOrderSequence          int16 = 45
	codeInvalidProducerEpoch        int16 = 47
	codeInvalidTxnState             int16 = 48
	codeStorageError                int16 = 56
	codeFencedLeaderEpoch           int16 = 74
	codeUnknownLeaderEpoch          int16 = 75
	codeStaleBrokerEpoch            int16 = 77
	codeOffsetNotAvailable          int16 = 78
	codeInvalidRecord               int16 = 87
)

// Errors of the follower's side.
var (
	// ErrStale: the response does not belong to the replica's present state
	// (leader, epoch, position or generation differ, I22). Read FetchState
	// and fetch again.
	ErrStale = errors.New("partition: response does not match the replica's state")
	// ErrCorrupt: the response's bytes are damaged. Nothing was appended.
	ErrCorrupt = errors.New("partition: corrupt fetch response")
	// ErrBelowHighWatermark: the leader's answer would cut committed records
	// (I19). The replica stopped and stays offline until it is looked at.
	ErrBelowHighWatermark = errors.New("partition: truncation below the high watermark refused")
	// ErrDiskFull: there was no room for what the leader sent. Nothing was
	// appended, and the replica goes on when there is.
	ErrDiskFull = errors.New("partition: no space left for fetched records")
	// ErrFailed: the log failed earlier; the replica is offline.
	ErrFailed = errors.New("partition: replica is offline after a storage error")
)
