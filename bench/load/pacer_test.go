package load

import (
	"context"
	"testing"
	"time"
)

// However long a call takes, none is left out and due times stay on the
// schedule: that is what makes latencies free of coordinated omission.
func TestPaceKeepsTheSchedule(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	const rate, n = 1000.0, 200
	var dues []time.Time
	var lags []time.Duration
	Pace(ctx, rate, func(d time.Duration) { lags = append(lags, d) }, func(i int64, due time.Time) {
		if int(i) != len(dues) {
			t.Fatalf("call %d after %d calls", i, len(dues))
		}
		dues = append(dues, due)
		if i == 50 {
			time.Sleep(80 * time.Millisecond) // a stall
		}
		if len(dues) == n {
			cancel()
		}
	})
	for i, due := range dues {
		if want := dues[0].Add(time.Duration(i) * time.Millisecond); due != want {
			t.Fatalf("call %d was due at +%v, want +%v", i, due.Sub(dues[0]), want.Sub(dues[0]))
		}
	}
	if len(lags) != n || lags[51] < 70*time.Millisecond {
		t.Fatalf("%d lags; the one after the stall is %v, want about 79 ms", len(lags), lags[51])
	}
	for _, lag := range lags {
		if lag < 0 {
			t.Fatalf("a call came %v before it was due", -lag)
		}
	}
}

func TestPaceEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	Pace(ctx, 1, func(time.Duration) {}, func(int64, time.Time) { t.Error("called after the end") })
}

func TestBadOptions(t *testing.T) {
	if _, err := ProducerOptions(Options{Compression: "rar"}, "t"); err == nil {
		t.Error("unknown compression")
	}
	if _, err := ProducerOptions(Options{Acks: "some"}, "t"); err == nil {
		t.Error("unknown acks")
	}
	if _, err := New("smtp", Options{}); err == nil {
		t.Error("unknown protocol")
	}
}
