package control

import (
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/segment"
)

// A report of damage that arrives after the report of its repair, as a repeated
// one may, changes nothing. Found by the cluster simulator: the broker was kept
// out of the in-sync set for good.
func TestLateReportOfDamageIsIgnored(t *testing.T) {
	tp := model.TopicPartition{Topic: model.TopicID{1}}
	v := NewVolatile(time.Second)
	report := func(at time.Duration, s segment.Suspicion) *ReportLogs {
		return &ReportLogs{Broker: 1, Incarnation: 5, At: at, Logs: []LogReport{{TP: tp, Suspect: s}}, Last: true}
	}
	damaged, well := report(1, segment.Damaged), report(2, segment.Trusted)
	v.Add(damaged, 0)
	v.Add(well, 0)
	v.Add(damaged, 0)
	if got := v.Reports[1].Logs[tp].Suspect; got != segment.Trusted {
		t.Errorf("suspicion %v after the late report", got)
	}
	if !v.overtaken(damaged, tp) || v.overtaken(well, tp) {
		t.Error("the wrong report counts as overtaken")
	}
	v.Add(&ReportLogs{Broker: 1, Incarnation: 6, At: 0, Logs: []LogReport{{TP: tp, Suspect: segment.Missing}}}, 0)
	if got := v.Reports[1].Logs[tp].Suspect; got != segment.Missing {
		t.Errorf("suspicion %v: clocks of two lives were compared", got)
	}
}
