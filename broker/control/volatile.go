package control

import (
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// Input is what a decision depends on besides image and command, so that
// Decide stays pure.
type Input struct {
	Index uint64        // metadata index at which the records would be committed
	Now   time.Duration // monotonic
	Seed  [32]byte      // fresh random bytes, for topic ids
}

// Volatile is what a controller knows beside the log: the reports of logs. It
// is lost with the controller; the next one asks again.
type Volatile struct {
	Reports map[model.BrokerID]*BrokerReport
	// Grace is how long an election of an offline partition waits, from the
	// first usable report, for the members that have not reported.
	Grace time.Duration
}

// BrokerReport is what one incarnation of a broker reported about its logs.
type BrokerReport struct {
	Incarnation model.Incarnation
	At          time.Duration // first part received
	Complete    bool
	Logs        map[model.TopicPartition]LogReport
}

// NewVolatile returns the state of a controller that has just taken office.
func NewVolatile(grace time.Duration) *Volatile {
	return &Volatile{Reports: map[model.BrokerID]*BrokerReport{}, Grace: grace}
}

// Add files a report. Decide does not: it changes nothing.
func (v *Volatile) Add(r *ReportLogs, now time.Duration) {
	br := v.Reports[r.Broker]
	if br != nil && br.Incarnation > r.Incarnation {
		return // of an earlier life
	}
	if br == nil || br.Incarnation < r.Incarnation {
		br = &BrokerReport{Incarnation: r.Incarnation, At: now, Logs: make(map[model.TopicPartition]LogReport, len(r.Logs))}
		v.Reports[r.Broker] = br
	}
	for _, l := range r.Logs {
		if old, ok := br.Logs[l.TP]; !ok || old.at <= r.At {
			l.at = r.At
			br.Logs[l.TP] = l
		}
	}
	br.Complete = br.Complete || r.Last
}

// overtaken reports whether a later report about a log is known.
func (v *Volatile) overtaken(r *ReportLogs, tp model.TopicPartition) bool {
	br := v.Reports[r.Broker]
	return br != nil && br.Incarnation == r.Incarnation && br.Logs[tp].at > r.At
}

// complete returns the report of the broker's current incarnation, if it is
// complete.
func (v *Volatile) complete(b *Broker) *BrokerReport {
	if b == nil {
		return nil
	}
	if br := v.Reports[b.ID]; br != nil && br.Incarnation == b.Incarnation && br.Complete {
		return br
	}
	return nil
}

// log returns what a broker's current incarnation reported of one log. One
// that it does not have counts as empty and torn: either nothing was ever
// written to it, or it is lost.
func (v *Volatile) log(b *Broker, tp model.TopicPartition) (LogReport, time.Duration, bool) {
	br := v.complete(b)
	if br == nil {
		return LogReport{}, 0, false
	}
	l, ok := br.Logs[tp]
	if !ok {
		l = LogReport{TP: tp, Epoch: model.NoEpoch, Suspect: segment.TornTail}
	}
	return l, br.At, true
}

// damaged reports whether the broker's current incarnation said last that a log
// is damaged.
func (v *Volatile) damaged(b *Broker, tp model.TopicPartition) bool {
	if b == nil {
		return false
	}
	br := v.Reports[b.ID]
	return br != nil && br.Incarnation == b.Incarnation && br.Logs[tp].Suspect > segment.TornTail
}
