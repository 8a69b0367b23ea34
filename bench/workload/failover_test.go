package workload

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/bench/report"
	"github.com/tailrace/tailrace/internal/history"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// failoverParts makes what a failover round works with, on a null broker.
func failoverParts(t *testing.T) (*Session, *recorded, *kadm.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	p := small()
	p.HistoryFile = filepath.Join(t.TempDir(), "h.jsonl")
	s := nullSession(t, p)
	if err := s.newTopic(ctx, "failover", 3); err != nil {
		t.Fatal(err)
	}
	prod, err := s.Client.Producer(s.Topic.Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := kgo.NewClient(kgo.SeedBrokers(s.C.Bootstrap...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { admin.Close(); prod.Close() })
	return s, newRecorded(s, prod), kadm.NewClient(admin)
}

func TestJudgeAcceptsWhatIsThere(t *testing.T) {
	s, r, adm := failoverParts(t)
	acked := r.watch(1)
	for i := range int32(300) {
		r.send(i % 3)
	}
	select {
	case <-acked:
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was acknowledged after the watch began")
	}
	var out report.Sample
	if err := s.judge(context.Background(), r, adm, []float64{0.2, 0.4}, []float64{1, 2}, &out); err != nil {
		t.Fatal(err)
	}
	if out.Records != 300 || out.Values["lost"] != 0 || out.Values["kills"] != 2 || out.Values["kill to next ack, worst s"] != 0.4 {
		t.Errorf("%+v", out)
	}
	h, err := history.LoadFile(s.P.HistoryFile)
	if err != nil || len(h.Ops) != 301 {
		t.Errorf("saved history: %v", err)
	}
}

// A record that was acknowledged and is not there, one that is there twice:
// the workload fails and keeps the evidence.
func TestJudgeFindsLossAndDuplicates(t *testing.T) {
	for name, plant := range map[string]func(r *recorded){
		"lost-tail": func(r *recorded) {
			op := history.Op{Process: 99, F: history.FSend, Mops: []history.Mop{{Key: r.keys[0], Value: 7777, Offset: history.NoOffset}}}
			r.rec.Begin(op).End(history.OK, nil)
		},
		"duplicate": func(r *recorded) { // the same bytes again, behind the recorder's back
			value := make([]byte, r.size)
			r.p.Send(0, nil, value, func(int64, error) {})
		},
	} {
		s, r, adm := failoverParts(t)
		for i := range int32(30) {
			r.send(i % 3)
		}
		plant(r)
		var out report.Sample
		err := s.judge(context.Background(), r, adm, nil, nil, &out)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(s.P.HistoryFile); err != nil {
			t.Errorf("%s: the history was not kept: %v", name, err)
		}
	}
}

func TestFailoverNeedsKafkaProtocol(t *testing.T) {
	s := nullSession(t, small())
	s.C.Protocol = "nats"
	if _, err := s.failover(context.Background()); err == nil {
		t.Error("NATS has no leaders that this workload could find")
	}
}
