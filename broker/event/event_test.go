package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// all has one value of every kind of event.
var all = []Event{
	NodeStarted{Cluster: "C", Took: time.Second}, NodeStopping{}, NodeStopped{}, Founding{}, Founding{Refused: true}, ClusterJoined{}, Registered{},
	ControllerChanged{}, LeaderElected{}, UncleanElection{}, ISRShrunk{}, ISRExpanded{}, Fenced{}, Unfenced{}, Truncated{},
	Poisoned{Err: errors.New("x")}, CorruptionFound{}, Repaired{}, TornTail{}, Quarantined{}, DiskLow{}, DiskRecovered{},
	ConnectionClosed{}, ConnectionClosed{Ordinary: true}, ConnectionRefused{}, PeerUp{}, PeerDown{}, PeerRefused{}, MemberChanged{},
	Fatal{}, Trouble{}, Trouble{Severe: true}, BrokerChanged{}, TopicChanged{}, ReplicaFailed{}, SteppedDown{},
	RepairFailed{}, SegmentMissing{}, Trusted{}, StorageNotice{}, StorageNotice{Severe: true},
	RequestFailed{}, RequestFailed{Kind: "panic"}, Audit{}, Audit{Denied: true},
}

func logger(t *testing.T, level string) (*Log, *bytes.Buffer, *clock.Manual) {
	t.Helper()
	var b bytes.Buffer
	l, err := NewLogger(&b, "auto", level, 3)
	if err != nil {
		t.Fatal(err)
	}
	c := clock.NewManual(time.Unix(0, 0))
	return NewLog(l, c), &b, c
}

func line(t *testing.T, b *bytes.Buffer) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(b.Bytes(), &m); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	return m
}

func TestEveryEventIsNamedLoggedAndCounted(t *testing.T) {
	reg := NewRegistry()
	metrics := NewMetrics(reg)
	for _, e := range all {
		i := e.Info()
		if i.Name == "" || i.Message == "" || i.Name != strings.ToLower(i.Name) {
			t.Errorf("%T: %+v", e, i)
		}
		log, b, _ := logger(t, "debug")
		Tee(log, metrics).On(e)
		if m := line(t, b); m["event"] != i.Name || m["message"] != i.Message || m["broker_id"] != 3.0 || m["level"] != i.Level.String() {
			t.Errorf("%T logs %v", e, m)
		}
	}
	if got := sum(t, reg, "tailrace_events_total"); got != float64(len(all)) {
		t.Errorf("counted %v of %d events", got, len(all))
	}
}

// sum adds up the series of a metric.
func sum(t *testing.T, reg *prometheus.Registry, name string) (total float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return total
}

func TestFields(t *testing.T) {
	log, b, _ := logger(t, "debug")
	log.On(ISRShrunk{Topic: "orders", Partition: 0, Removed: []model.BrokerID{2}, ISR: []model.BrokerID{0, 1}})
	m := line(t, b)
	want := map[string]any{"topic": "orders", "partition": 0.0, "removed": []any{2.0}, "isr": []any{0.0, 1.0}}
	for k, v := range want {
		if !reflect.DeepEqual(m[k], v) {
			t.Errorf("%s is %v, want %v", k, m[k], v)
		}
	}
	b.Reset()
	log.On(PeerDown{Broker: 0, Addr: "h:1", Class: "raft", Reason: errors.New("gone")})
	if m := line(t, b); m["broker"] != 0.0 || m["reason"] != "gone" || m["class"] != "raft" {
		t.Errorf("got %v", m)
	}
	for in, want := range map[string]string{"LeaderEpoch": "leader_epoch", "ISR": "isr", "HTTP": "http", "ClientID": "client_id", "RemoteAddr": "remote_addr"} {
		if got := snake(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// What a client sends can neither forge a line nor drive a terminal, in
// either format.
func TestHostileStrings(t *testing.T) {
	hostile := "x\r\n{\"level\":\"info\"}\x1b[2J\x00\u202e\u2028" + strings.Repeat("y", 10000) + "\xff"
	for _, format := range []string{"json", "console"} {
		var b bytes.Buffer
		l, err := NewLogger(&b, format, "debug", 1)
		if err != nil {
			t.Fatal(err)
		}
		NewLog(l, clock.NewManual(time.Unix(0, 0))).On(ConnectionClosed{ClientID: hostile, Software: hostile, Reason: errors.New(hostile)})
		out := b.String()
		if strings.Count(out, "\n") != 1 || strings.ContainsAny(out, "\r\x1b\x00\u202e\u2028") {
			t.Errorf("%s: %q", format, out)
		}
		if len(out) > 3*(maxText+100)+500 {
			t.Errorf("%s: a line of %d bytes", format, len(out))
		}
	}
	if got := Clean("größe 日本 ok"); got != "größe 日本 ok" {
		t.Errorf("harmless text became %q", got)
	}
}

func TestFloodIsSuppressedAndCounted(t *testing.T) {
	log, b, c := logger(t, "debug")
	count := func() int { return strings.Count(b.String(), "\n") }
	for range 3 * logBurst {
		log.On(ConnectionRefused{})
	}
	if n := count(); n != logBurst {
		t.Fatalf("%d lines, want %d", n, logBurst)
	}
	log.On(PeerUp{}) // other events are not held back
	for range 2 * logBurst {
		log.On(Audit{Denied: true}) // nor are these ever
		log.On(DiskLow{})
	}
	if n := count(); n != 5*logBurst+1 {
		t.Fatalf("%d lines, want %d", n, 5*logBurst+1)
	}
	c.Advance(logPeriod)
	b.Reset()
	log.On(ConnectionRefused{})
	if m := line(t, b); m["suppressed"] != float64(2*logBurst) {
		t.Fatalf("got %v", m)
	}
}

func TestLevels(t *testing.T) {
	log, b, _ := logger(t, "warn")
	log.On(NodeStarted{})
	log.On(PeerUp{})
	if b.Len() != 0 {
		t.Fatalf("logged %s", b)
	}
	log.On(Fenced{Broker: 1})
	if line(t, b)["event"] != "broker_fenced" {
		t.Fatalf("logged %s", b)
	}
	if _, err := NewLogger(b, "json", "loud", 1); err == nil {
		t.Fatal("took an unknown level")
	}
	NewLog(zerolog.Nop(), clock.NewReal()).On(Poisoned{})
}

func TestSpecificMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	for _, e := range []Event{DiskLow{}, Poisoned{}, Fenced{}, CorruptionFound{}, Repaired{}, ConnectionClosed{Listener: "kafka"}} {
		m.On(e)
	}
	for _, name := range []string{"disk_low", "poisoned", "brokers_fenced_total", "damaged_ranges_total", "repaired_ranges_total", "connections_closed_total"} {
		if got := sum(t, reg, "tailrace_"+name); got != 1 {
			t.Errorf("%s is %v", name, got)
		}
	}
	m.On(DiskRecovered{})
	if got := sum(t, reg, "tailrace_disk_low"); got != 0 {
		t.Errorf("disk_low is %v", got)
	}
}
