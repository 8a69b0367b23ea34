// Package history records what clients of a replicated log asked for and saw,
// and finds the anomalies in it that the log's promises forbid. It knows
// nothing of any broker: a history is data, and a check is a function of it.
//
// The model follows Jepsen's kafka workload: operations of sequential
// processes, made of send and poll micro-operations on keys (a key is one
// topic partition) with values that are unique per key over the whole run.
// Anomaly names A1–A17 are that workload's; B1–B10 are checks that it lacks
// (a lost suffix, unequal replicas, liveness, order within a session).
package history

import "fmt"

// Key is one topic partition, as an index into History.Keys.
type Key int32

// Value is what a record carries: unique per key over the whole run.
type Value int64

// NoOffset stands for an offset that the client was not told.
const NoOffset int64 = -1

// Type is the outcome of an operation.
type Type uint8

// Outcomes. Info means that nobody knows whether the operation took effect;
// Fail means that it did not and never will. An operation that never
// completed stays Invoke and counts as Info.
const (
	Invoke Type = iota
	OK
	Fail
	Info
)

var typeNames = [...]string{"invoke", "ok", "fail", "info"}

// String returns the name used in files and reports.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// MarshalText implements encoding.TextMarshaler.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Type) UnmarshalText(b []byte) error {
	for i, n := range typeNames {
		if n == string(b) {
			*t = Type(i)
			return nil
		}
	}
	return fmt.Errorf("history: unknown outcome %q", b)
}

// Func says what an operation does.
type Func string

// Operations. Txn sends and polls atomically. Assign and Subscribe set the
// keys of a process; keys that stay keep their position. Seek forgets the
// position of its keys. Crash ends a process.
const (
	FSend      Func = "send"
	FPoll      Func = "poll"
	FTxn       Func = "txn"
	FAssign    Func = "assign"
	FSubscribe Func = "subscribe"
	FSeek      Func = "seek"
	FCrash     Func = "crash"
)

// Read is one record as a poll delivered it.
type Read struct {
	Key    Key   `json:"k"`
	Offset int64 `json:"o"`
	Value  Value `json:"v"`
}

// Mop is a micro-operation: a poll when Poll is set, a send otherwise.
type Mop struct {
	Poll   bool   `json:"poll,omitempty"`
	Key    Key    `json:"k"`           // send
	Value  Value  `json:"v"`           // send
	Offset int64  `json:"o"`           // send: where it landed, or NoOffset
	Reads  []Read `json:"r,omitempty"` // poll: in the order of delivery
}

// SendMop returns the micro-operation that sends v to k, offset not yet known.
func SendMop(k Key, v Value) Mop { return Mop{Key: k, Value: v, Offset: NoOffset} }

// PollMop returns a poll that delivered reads.
func PollMop(reads ...Read) Mop { return Mop{Poll: true, Reads: reads} }

// Op is one operation of one process, invocation and completion together.
//
// A process is one client life: after Info it is not used again. Its polls do
// not overlap; its sends may (a producer with requests in flight), and are
// then ordered by invocation.
type Op struct {
	Process   int    `json:"p"`
	F         Func   `json:"f"`
	Type      Type   `json:"t"`
	InvokedAt int64  `json:"i"`           // ns, monotonic, one clock for the whole history
	DoneAt    int64  `json:"d,omitempty"` // ns; 0 while Type is Invoke
	Mops      []Mop  `json:"m,omitempty"`
	Keys      []Key  `json:"keys,omitempty"`       // assign, subscribe, seek
	Rebalance []Key  `json:"rebalanced,omitempty"` // keys gained or lost during the operation
	Final     bool   `json:"final,omitempty"`      // belongs to the final phase, after the last fault
	Replica   string `json:"replica,omitempty"`    // final polls: the replica read from
	Error     string `json:"err,omitempty"`
}

// known reports whether the operation has an outcome.
func (o *Op) known() bool { return o.Type != Invoke }

// History is a run: operations in the order of their invocation.
type History struct {
	Keys []string // the topic partition of each Key, for reports
	Ops  []Op
}

// KeyName returns the name of k for reports.
func (h *History) KeyName(k Key) string {
	if k >= 0 && int(k) < len(h.Keys) {
		return h.Keys[k]
	}
	return fmt.Sprintf("key %d", k)
}
