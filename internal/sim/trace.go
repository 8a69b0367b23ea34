package sim

import (
	"fmt"
	"time"
)

// kind names events in traces.
type kind uint8

const (
	evNone kind = iota
	evStart
	evTick
	evApply
	evCommit
	evPersisted
	evRaft
	evRequest
	evReply
	evTimeout
	evFetch
	evReport
	evPropose
	evSession
	evAnswer
	evClient
	evFault
	evNote
)

var kindNames = [...]string{"none", "start", "tick", "apply", "commit", "persisted", "raft", "request", "reply", "timeout",
	"fetch", "report", "propose", "session", "answer", "client", "fault", "note"}

// traceLine is one event, or a note about it.
type traceLine struct {
	at   time.Duration
	kind kind
	node int32
	text string
}

// trace keeps the last events, and a hash over all of them.
type trace struct {
	hash  uint64
	lines []traceLine // a ring
	next  int
	full  bool
	now   time.Duration
}

func (t *trace) init(n int) {
	t.hash = 14695981039346656037
	t.lines = make([]traceLine, n)
}

// mix folds a number into the hash (FNV-1a over its bytes).
func (t *trace) mix(v uint64) {
	h := t.hash
	for range 8 {
		h = (h ^ v&0xff) * 1099511628211
		v >>= 8
	}
	t.hash = h
}

func (t *trace) add(at time.Duration, k kind, n *node) {
	id := int32(-1)
	if n != nil {
		id = int32(n.id)
	}
	t.now = at
	t.mix(uint64(at)<<8 ^ uint64(k)<<4 ^ uint64(uint32(id)))
	t.push(traceLine{at: at, kind: k, node: id})
}

func (t *trace) push(l traceLine) {
	t.lines[t.next] = l
	if t.next++; t.next == len(t.lines) {
		t.next, t.full = 0, true
	}
}

// note adds words to the last event; use it for what is rare.
func (t *trace) note(format string, args ...any) {
	t.push(traceLine{at: t.now, kind: evNote, node: -1, text: fmt.Sprintf(format, args...)})
}

func (t *trace) tail() []string {
	var out []string
	ring := t.lines[:t.next]
	if t.full {
		ring = append(append([]traceLine(nil), t.lines[t.next:]...), t.lines[:t.next]...)
	}
	for _, l := range ring {
		if l.kind == evNote {
			out = append(out, fmt.Sprintf("%12v   %s", l.at, l.text))
			continue
		}
		out = append(out, fmt.Sprintf("%12v %-9s node %d", l.at, kindNames[l.kind], l.node))
	}
	return out
}

// Acted counts how often each fault or mechanism really had an effect.
type Acted struct {
	Elections, Epochs                                   int64 // of partitions; metadata elections below
	Truncations, RecordsCut                             int64
	Shrinks, Expands, Swaps                             int64
	Recoveries, Kills, PowerCuts, AllPowerCuts          int64
	CrashPoints, Wipes, Pauses, Resumes, FatalExits     int64
	Cuts, Lost, Duplicated, Held, Old                   int64 // messages; Old: delivered to a later process
	TornWrites, BitFlips, Damages, Repairs, SyncErrors  int64
	DiskFull, SlowSyncs, ClockJumps, FalseEvidence      int64
	Fences, Registrations, QuorumElections              int64
	Acks, UnknownOutcomes, Deduplicated, Refused        int64
	Reads, FollowerReads, EndAnswers, EndRefused        int64
	Proposals, ProposalsRejected, ProposalsUnknown      int64
	StaleFetches, Divergences, OffsetReset, DeletedRecs int64
	Balances, Committed, Forgotten, LeftOffline         int64
	TopicDeletions, FilesDeleted, Grown                 int64 // files and directories of deleted topics; partitions
	Trusted                                             int64 // reads of bytes that had been verified, before the page cache was dropped
	Successions                                         int64 // of leaders that were alone in sync and damaged
	Misdirected                                         int64 // writes that went to another place, or nowhere
	LateProposals, LateRefused, RollBacks               int64 // proposals that met another life of the proposed member
}

// Add sums two counts.
func (a *Acted) Add(b *Acted) {
	for _, p := range a.fields(b) {
		*p.a += *p.b
	}
}
