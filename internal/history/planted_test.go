package history

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func send(p int, t Type, mops ...Mop) Op { return Op{Process: p, F: FSend, Type: t, Mops: mops} }
func poll(p int, reads ...Read) Op {
	return Op{Process: p, F: FPoll, Type: OK, Mops: []Mop{PollMop(reads...)}}
}
func at(v Value, offset int64) Mop  { return Mop{Value: v, Offset: offset} }
func rd(offset int64, v Value) Read { return Read{0, offset, v} }
func final(op Op, replica string) Op {
	op.Final, op.Replica = true, replica
	return op
}

// timed gives operations times one millisecond apart.
func timed(ops ...Op) *History {
	for i := range ops {
		ops[i].InvokedAt = int64(i+1) * 1_000_000
		ops[i].DoneAt = ops[i].InvokedAt + 500_000
	}
	return &History{Keys: []string{"t/0"}, Ops: ops}
}

func subscribed(p int) Op { return Op{Process: p, F: FSubscribe, Type: OK, Keys: []Key{0}} }

// Each anomaly is planted alone; the checker must find it, and with the
// verdict given.
func TestPlantedAnomalies(t *testing.T) {
	three := send(1, OK, at(1, 0), at(2, 1), at(3, 2))
	tests := []struct {
		code    string
		verdict Verdict
		h       *History
		o       Options
	}{
		{"A1", Bad, timed(send(1, OK, at(1, 0)), send(2, OK, at(2, 0))), Options{}},
		{"A1", Bad, timed(three, poll(2, rd(0, 1)), poll(3, rd(0, 3))), Options{}},
		{"A2", Bad, timed(three, poll(2, rd(0, 1), rd(1, 2), rd(2, 3), rd(3, 1))), Options{}},
		{"A2", Allowed, timed(three, poll(2, rd(0, 1), rd(1, 2), rd(2, 3), rd(3, 1))), Options{AllowDuplicates: true}},
		{"A3", Bad, timed(three, poll(2, rd(2, 3))), Options{}},
		{"A4", Bad, timed(three, final(poll(2, rd(0, 1), rd(1, 2)), "a")), Options{}},
		{"A4", Allowed, timed(three, poll(2, rd(0, 1), rd(1, 2))), Options{}},
		{"A5", Bad, timed(send(1, Fail, SendMop(0, 1)), poll(2, rd(0, 1))), Options{}},
		{"A6", Bad, timed(Op{Process: 1, F: FTxn, Type: OK, Mops: []Mop{at(1, 0), PollMop(rd(0, 1))}}), Options{}},
		{"A6", Allowed, timed(Op{Process: 1, F: FTxn, Type: OK, Mops: []Mop{at(1, 0), PollMop(rd(0, 1))}}), Options{ReadUncommitted: true}},
		{"A7", Bad, timed(three, poll(2, rd(0, 1), rd(2, 3))), Options{}},
		{"A8", Bad, timed(three, poll(2, rd(0, 1), rd(1, 2), rd(0, 1))), Options{}},
		{"A8", Bad, timed(three, poll(2, rd(0, 1), rd(0, 1))), Options{}},
		{"A9", Bad, timed(three, poll(2, rd(0, 1)), poll(2, rd(2, 3))), Options{}},
		{"A10", Bad, timed(three, poll(2, rd(0, 1), rd(1, 2)), poll(2, rd(1, 2))), Options{}},
		{"A11", Bad, timed(send(1, OK, at(1, 1)), send(1, OK, at(2, 0))), Options{}},
		{"A11", Bad, timed(send(1, OK, at(1, 1)), send(1, Info, SendMop(0, 2)), poll(2, rd(0, 2), rd(1, 1))), Options{}},
		{"A12", Bad, timed(send(1, OK, at(1, 1), at(2, 0))), Options{}},
		{"A13", Allowed, timed(send(1, OK, at(1, 0), at(3, 2)), send(2, OK, at(2, 1))), Options{}},
		{"A17", Allowed, timed(three, subscribed(2), poll(2, rd(0, 1)), subscribed(3), poll(3, rd(0, 1))), Options{}},
		{"A17", Bad, timed(three, subscribed(2), poll(2, rd(0, 1)), subscribed(3), poll(3, rd(0, 1))), Options{ExactlyOnce: true}},
		{"B1", Bad, timed(three, final(poll(2, rd(0, 1), rd(1, 2), rd(2, 3)), "a"), final(poll(3, rd(0, 1), rd(1, 2)), "b")), Options{}},
		{"B1", Bad, timed(three, final(poll(2, rd(0, 1), rd(1, 2), rd(2, 3)), "a")),
			Options{FinalReads: []FinalRead{{Replica: "a", Position: 3, End: 4}}}},
		{"B1", Bad, timed(three), Options{FinalReads: []FinalRead{{Replica: "a", Position: 3, End: 3}}}},
		{"B10", Bad, timed(send(1, OK, at(1, 1)), send(1, OK, at(2, 0))), Options{}},
		{"P1", Bad, timed(three, poll(2, rd(0, 1), rd(1, 2), rd(2, 3), rd(3, 9))), Options{}},
		{"P2", Bad, timed(poll(2, rd(0, 1)), send(1, OK, at(1, 0))), Options{}},
	}
	for _, tt := range tests {
		f := Check(tt.h, tt.o).Find(tt.code)
		if f == nil {
			t.Errorf("%s was not found in\n%s", tt.code, Check(tt.h, tt.o))
			continue
		}
		if f.Verdict != tt.verdict || f.Count == 0 || len(f.Examples) == 0 {
			t.Errorf("%s: %+v, want verdict %s and examples", tt.code, *f, tt.verdict)
		}
	}
}

// What is legal must not be reported as bad.
func TestLegalHistories(t *testing.T) {
	three := send(1, OK, at(1, 0), at(2, 1), at(3, 2))
	tests := map[string]*History{
		"rebalance explains a skip": timed(three, Op{Process: 2, F: FPoll, Type: OK, Rebalance: []Key{0},
			Mops: []Mop{PollMop(rd(0, 1), rd(2, 3))}}, poll(3, rd(0, 1), rd(1, 2), rd(2, 3))),
		"subscribers may go back":      timed(three, subscribed(2), poll(2, rd(0, 1), rd(1, 2)), poll(2, rd(0, 1), rd(1, 2), rd(2, 3))),
		"a failed poll moves no mark":  timed(three, poll(2, rd(0, 1)), Op{Process: 2, F: FPoll, Type: Info, Mops: []Mop{PollMop(rd(1, 2))}}, poll(2, rd(1, 2), rd(2, 3))),
		"seek forgets the position":    timed(three, poll(2, rd(0, 1), rd(1, 2), rd(2, 3)), Op{Process: 2, F: FSeek, Type: OK, Keys: []Key{0}}, poll(2, rd(0, 1), rd(1, 2), rd(2, 3))),
		"assign drops other positions": timed(three, poll(2, rd(0, 1)), Op{Process: 2, F: FAssign, Type: OK}, poll(2, rd(2, 3)), poll(3, rd(0, 1), rd(1, 2), rd(2, 3))),
		"an unknown write may be lost": timed(send(1, Info, SendMop(0, 1)), send(2, OK, at(2, 0)), final(poll(3, rd(0, 2)), "a")),
		"a rejected write is nowhere":  timed(send(1, Fail, SendMop(0, 1)), send(2, OK, at(2, 0)), final(poll(3, rd(0, 2)), "a")),
		"control records leave gaps":   timed(send(1, OK, at(1, 0), at(2, 5)), final(poll(2, rd(0, 1), rd(5, 2)), "a")),
		"a pending write may be lost":  timed(send(1, Invoke, SendMop(0, 1)), send(2, OK, at(2, 0)), final(poll(3, rd(0, 2)), "a")),
		"a pending write may be read":  timed(send(1, Invoke, SendMop(0, 1)), final(poll(3, rd(0, 1)), "a")),
	}
	for name, h := range tests {
		if rep := Check(h, Options{}); !rep.Valid() {
			t.Errorf("%s:\n%s", name, rep)
		}
	}
}

func TestReplicaEquality(t *testing.T) {
	a := []Batch{{0, 4, 1, 10}, {5, 9, 1, 11}, {10, 12, 2, 12}}
	mk := func(b []Batch, hw int64) Options {
		return Options{Dumps: []Dump{{Replica: "1", HighWatermark: 13, Batches: a}, {Replica: "2", HighWatermark: hw, Batches: b}}}
	}
	h := &History{Keys: []string{"t/0"}}
	good := map[string]Options{
		"equal":                              mk(a, 13),
		"retention moved one log start":      mk(a[1:], 13),
		"differs above the high watermark":   mk([]Batch{a[0], a[1], {10, 12, 3, 99}}, 10),
		"shorter, as its high watermark":     mk(a[:2], 10),
		"nothing committed on the other one": mk(nil, 0),
	}
	for name, o := range good {
		if rep := Check(h, o); !rep.Valid() {
			t.Errorf("%s:\n%s", name, rep)
		}
	}
	bad := map[string]Options{
		"CRC":     mk([]Batch{a[0], {5, 9, 1, 99}, a[2]}, 13),
		"epoch":   mk([]Batch{a[0], {5, 9, 2, 11}, a[2]}, 13),
		"hole":    mk([]Batch{a[0], a[2]}, 13),
		"short":   mk(a[:2], 13),
		"bounds":  mk([]Batch{a[0], {5, 8, 1, 11}, a[2]}, 13),
		"missing": mk(nil, 13),
	}
	for name, o := range bad {
		if rep := Check(h, o); !rep.Has("B2") || rep.Valid() {
			t.Errorf("%s was not found:\n%s", name, rep)
		}
	}
}

func TestBounds(t *testing.T) {
	none := Observation{Observer: "1", LogStart: NotTold, LastStable: NotTold, HighWatermark: NotTold, Latest: NotTold, LeaderEpoch: NotTold}
	obs := func(at int64, set func(*Observation)) Observation {
		o := none
		o.Invoked = at
		set(&o)
		return o
	}
	hw := func(v int64) func(*Observation) { return func(o *Observation) { o.HighWatermark = v } }
	tests := map[string]struct {
		bad bool
		obs []Observation
	}{
		"high watermark grows":                {false, []Observation{obs(1, hw(1)), obs(2, hw(1)), obs(3, hw(5))}},
		"untold bounds say nothing":           {false, []Observation{obs(1, hw(4)), none, obs(3, hw(5))}},
		"high watermark goes back":            {true, []Observation{obs(1, hw(4)), obs(2, hw(3))}},
		"leader epoch goes back":              {true, []Observation{obs(1, func(o *Observation) { o.LeaderEpoch = 4 }), obs(2, func(o *Observation) { o.LeaderEpoch = 3 })}},
		"last stable above high watermark":    {true, []Observation{obs(1, func(o *Observation) { o.HighWatermark, o.LastStable = 4, 5 })}},
		"log start above high watermark":      {true, []Observation{obs(1, func(o *Observation) { o.HighWatermark, o.LogStart = 4, 5 })}},
		"end offset covers acknowledged":      {false, []Observation{obs(5e6, func(o *Observation) { o.Latest = 3 })}},
		"end offset below acknowledged":       {true, []Observation{obs(5e6, func(o *Observation) { o.Latest = 2 })}},
		"end offset asked before the ack":     {false, []Observation{obs(1_400_000, func(o *Observation) { o.Latest = 0 })}},
		"brokers are judged one by one":       {false, []Observation{obs(1, hw(4)), obs(2, func(o *Observation) { o.Observer, o.HighWatermark = "2", 3 })}},
		"order is by time, not as they stand": {false, []Observation{obs(3, hw(5)), obs(1, hw(1))}},
	}
	for name, tt := range tests {
		rep := Check(timed(send(1, OK, at(1, 0), at(2, 1), at(3, 2))), Options{Observations: tt.obs})
		if rep.Has("B3") != tt.bad {
			t.Errorf("%s: bad = %v, want %v\n%s", name, !tt.bad, tt.bad, rep)
		}
	}
}

func TestLiveness(t *testing.T) {
	h := timed(send(1, OK, at(1, 0)), send(1, OK, at(2, 1))) // second completes at 2.5 ms
	tests := map[string]struct {
		bad bool
		o   Options
	}{
		"no fault":           {false, Options{}},
		"in time":            {false, Options{LastFault: 1500 * time.Microsecond, Recovery: time.Millisecond}},
		"too late":           {true, Options{LastFault: 1500 * time.Microsecond, Recovery: 500 * time.Microsecond}},
		"never":              {true, Options{LastFault: 10 * time.Millisecond}},
		"a group that moved": {false, Options{LastFault: 1500 * time.Microsecond, Progress: []Progress{{Name: "g", At: time.Second}}}},
		"a group too late":   {true, Options{LastFault: 1500 * time.Microsecond, Progress: []Progress{{Name: "g", At: time.Hour}}}},
		"a stuck client":     {true, Options{LastFault: 1500 * time.Microsecond, Progress: []Progress{{Name: "g", Never: true}}}},
	}
	for name, tt := range tests {
		if rep := Check(h, tt.o); rep.Has("B9") != tt.bad {
			t.Errorf("%s: bad = %v, want %v\n%s", name, !tt.bad, tt.bad, rep)
		}
	}
}

func TestRealtimeLag(t *testing.T) {
	// The record at offset 1 is known at 2.5 ms; the poll at 4 ms still ends
	// at offset 0.
	rep := Check(timed(send(1, OK, at(1, 0)), send(1, OK, at(2, 1)), poll(2, rd(0, 1)), poll(2)), Options{})
	if rep.Lag.Polls != 2 || rep.Lag.Max != 1_500_000 {
		t.Fatalf("lag %+v, want 2 polls and a maximum of 1.5 ms", rep.Lag)
	}
}

func TestOutcome(t *testing.T) {
	tests := []struct {
		code    int16
		earlier bool
		want    Type
	}{
		{0, false, OK}, {0, true, OK},
		{19, false, Fail}, {19, true, Info}, // NOT_ENOUGH_REPLICAS
		{20, false, Info}, // …_AFTER_APPEND
		{6, false, Info},  // NOT_LEADER_OR_FOLLOWER
		{7, false, Info},  // REQUEST_TIMED_OUT
		{56, false, Info}, // KAFKA_STORAGE_ERROR
		{-1, false, Info}, {46, false, Info},
		{10, false, Fail}, {87, false, Fail}, {29, false, Fail}, {29, true, Info},
	}
	for _, tt := range tests {
		if got := Outcome(tt.code, tt.earlier); got != tt.want {
			t.Errorf("Outcome(%d, %v) = %s, want %s", tt.code, tt.earlier, got, tt.want)
		}
	}
}

func TestRecorderAndFiles(t *testing.T) {
	r := NewRecorder()
	k := r.Key("t/0")
	if again := r.Key("t/0"); again != k || r.Key("t/1") == k {
		t.Fatal("a name must have one key of its own")
	}
	p := r.Begin(Op{Process: r.NewProcess(), F: FSend, Mops: []Mop{SendMop(k, r.NextValue(k))}})
	q := r.Begin(Op{Process: r.NewProcess(), F: FSend, Mops: []Mop{SendMop(k, r.NextValue(k))}})
	p.End(OK, func(o *Op) { o.Mops[0].Offset = 0 })
	p.End(Info, nil) // the first outcome stands
	r.Begin(Op{Process: r.NewProcess(), F: FPoll}).End(OK, func(o *Op) { o.Mops = []Mop{PollMop(Read{k, 0, 0})} })
	_ = q // never completes

	h := r.History()
	if h.Ops[0].Type != OK || h.Ops[1].Type != Invoke || h.Ops[0].Mops[0].Value == h.Ops[1].Mops[0].Value {
		t.Fatalf("recorded %+v", h.Ops)
	}
	var b bytes.Buffer
	if err := Save(&b, h); err != nil {
		t.Fatal(err)
	}
	got, err := Load(bytes.NewReader(b.Bytes()))
	if err != nil || !reflect.DeepEqual(got, h) {
		t.Fatalf("loaded %+v, %v\nwant %+v", got, err, h)
	}
	if rep := Check(got, Options{}); !rep.Valid() {
		t.Fatal(rep)
	}
}

func TestLoadRefusesBadFiles(t *testing.T) {
	head := `{"tailrace_history":1,"keys":["t/0"]}` + "\n"
	for name, text := range map[string]string{
		"empty":         "",
		"other format":  `{"tailrace_history":2}`,
		"not JSON":      head + "x",
		"unknown type":  head + `{"t":"maybe"}`,
		"key of a send": head + `{"t":"ok","m":[{"k":1}]}`,
		"key of a read": head + `{"t":"ok","m":[{"poll":true,"r":[{"k":-1}]}]}`,
		"key assigned":  head + `{"t":"ok","keys":[3]}`,
	} {
		if h, err := Load(strings.NewReader(text)); err == nil {
			t.Errorf("%s: loaded %+v", name, h)
		}
	}
}
