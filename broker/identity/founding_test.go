package identity

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/tailrace/tailrace/internal/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func f(broker int) Founder {
	return Founder{model.BrokerID(broker), model.StorageID{byte(broker), 1}}
}

func set(brokers ...int) (s []Founder) {
	for _, b := range brokers {
		s = append(s, f(b))
	}
	return s
}

// view is node 1's, of the given candidates, all heard with their votes.
func view(expect int, votes map[int]Vote) View {
	v := View{Self: Node{Broker: 1, Storage: f(1).Storage}, Expect: expect, Votes: map[model.StorageID]Vote{}}
	for b, vote := range votes {
		v.Candidates = append(v.Candidates, Candidate{Founder: f(b)})
		v.Votes[f(b).Storage] = vote
	}
	return v
}

func TestDecide(t *testing.T) {
	none := Vote{Expect: 3}
	voted := Vote{Expect: 3, Founders: set(3, 2, 1)}
	id := ClusterID(set(1, 2, 3))
	for _, tc := range []struct {
		name string
		v    func() View
		want Action
		says string
	}{
		{"alone", func() View { return view(3, nil) }, Wait, "2 more of 3"},
		{"two of three", func() View { return view(3, map[int]Vote{2: none}) }, Wait, "1 more of 3"},
		{"three of three", func() View { return view(3, map[int]Vote{2: none, 3: none}) }, Accept, ""},
		{"one of one", func() View { return view(1, nil) }, Accept, ""},
		{"gossip shows this node too", func() View { return view(1, map[int]Vote{1: {Expect: 1}}) }, Accept, ""},
		{"not heard", func() View {
			v := view(3, map[int]Vote{2: none, 3: none})
			delete(v.Votes, f(3).Storage)
			return v
		}, Wait, "hear from broker 3"},
		{"too many", func() View { return view(3, map[int]Vote{2: none, 3: none, 4: none}) }, Refused, "4 brokers want to found a cluster of 3"},
		{"one only joins", func() View { return view(3, map[int]Vote{2: none, 3: none, 4: {}}) }, Accept, ""},
		{"other expectation", func() View { return view(3, map[int]Vote{2: none, 3: {Expect: 5}}) }, Refused, "--bootstrap-expect 5"},
		{"same broker id twice", func() View {
			v := view(3, map[int]Vote{2: none, 3: none})
			v.Candidates[1].Broker = v.Candidates[0].Broker
			return v
		}, Refused, "give every broker its own --id"},
		{"join only", func() View { return view(0, map[int]Vote{2: none}) }, Wait, "a member of the cluster"},
		{"gossip shows a cluster", func() View {
			v := view(3, map[int]Vote{2: none})
			v.Candidates[0].Cluster = "C"
			return v
		}, Join, ""},
		{"a vote shows a cluster", func() View { return view(3, map[int]Vote{2: {Cluster: "C"}}) }, Join, ""},
		{"two clusters", func() View { return view(3, map[int]Vote{2: {Cluster: "C"}, 3: {Cluster: "D"}}) }, Refused, "several clusters (C, D)"},
		{"accepted, others not yet", func() View {
			v := view(3, map[int]Vote{2: none, 3: voted})
			v.Self.Founders = set(1, 2, 3)
			return v
		}, Wait, "agreement of broker 2"},
		{"accepted, one gone", func() View {
			v := view(3, map[int]Vote{3: voted})
			v.Self.Founders = set(1, 2, 3)
			return v
		}, Wait, "agreement of broker 2"},
		{"all accepted", func() View {
			v := view(3, map[int]Vote{2: voted, 3: voted})
			v.Self.Founders = set(1, 2, 3)
			return v
		}, Join, ""},
		{"another set accepted", func() View {
			v := view(3, map[int]Vote{2: voted, 3: {Expect: 3, Founders: set(2, 3, 4)}})
			v.Self.Founders = set(1, 2, 3)
			return v
		}, Refused, "broker 3 agreed to found"},
		{"expectation changed after accepting", func() View {
			v := view(5, map[int]Vote{2: voted, 3: voted})
			v.Self.Founders = set(1, 2, 3)
			return v
		}, Refused, "restore the old value"},
		{"own founding completed elsewhere", func() View {
			v := view(3, map[int]Vote{2: {Cluster: id, Founders: set(1, 2, 3)}})
			v.Self.Founders = set(1, 2, 3)
			return v
		}, Join, ""},
		{"foreign cluster after accepting", func() View {
			v := view(3, map[int]Vote{2: {Cluster: "C"}})
			v.Self.Founders = set(1, 2, 3)
			return v
		}, Refused, "move its data directory away"},
		{"member already", func() View {
			v := view(3, map[int]Vote{2: {Cluster: "D"}})
			v.Self.Cluster = "C"
			return v
		}, Wait, "member of cluster C"},
	} {
		d := Decide(tc.v())
		if d.Action != tc.want || !strings.Contains(d.Reason, tc.says) {
			t.Errorf("%s: got action %d, %q", tc.name, d.Action, d.Reason)
		}
		if strings.Contains(d.Reason, "\n") {
			t.Errorf("%s: the reason is more than a line", tc.name)
		}
	}
	if d := Decide(view(3, map[int]Vote{3: none, 2: none})); !slices.Equal(d.Founders, set(1, 2, 3)) {
		t.Errorf("accepts %v", d.Founders)
	}
}

func TestClusterIDDependsOnTheSetOnly(t *testing.T) {
	id := ClusterID(set(1, 2, 3))
	if len(id) != 22 || id != ClusterID(set(3, 1, 2)) {
		t.Fatalf("got %q and %q", id, ClusterID(set(3, 1, 2)))
	}
	other := set(1, 2, 3)
	other[0].Storage[15]++
	if id == ClusterID(other) || id == ClusterID(set(1, 2)) {
		t.Fatal("different sets have one id")
	}
}

// world is a number of nodes that found a cluster step by step, with crashes.
type world struct {
	t      *testing.T
	expect int
	rnd    *rand.Rand
	fs     []*vfs.MemFS
	dirs   []*Dir
	votes  []map[model.StorageID]Vote
	last   []Decision
	seen   map[string]bool // cluster ids that ever existed
}

func newWorld(t *testing.T, n, expect int, seed int64) *world {
	w := &world{t: t, expect: expect, rnd: rand.New(rand.NewSource(seed)), seen: map[string]bool{}}
	for i := range n {
		w.fs = append(w.fs, vfs.NewCrashableMem())
		w.dirs = append(w.dirs, nil)
		w.votes = append(w.votes, nil)
		w.last = append(w.last, Decision{})
		w.open(i)
	}
	return w
}

func (w *world) open(i int) {
	w.t.Helper()
	d, err := Open(Options{FS: w.fs[i], Dir: "/data", Broker: model.BrokerID(i + 1), Rand: w.rnd})
	if err != nil {
		w.t.Fatal(err)
	}
	w.dirs[i], w.votes[i], w.last[i] = d, map[model.StorageID]Vote{}, Decision{}
}

// crash loses what was not synced.
func (w *world) crash(i int) {
	w.fs[i] = w.fs[i].CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: w.rnd.Intn(101), RNG: newRNG(w.rnd)})
	w.open(i)
}

func (w *world) candidates(i int) (cs []Candidate) {
	for j, d := range w.dirs {
		if j != i {
			n := d.Node()
			cs = append(cs, Candidate{Founder: n.founder(), Cluster: n.Cluster, Internal: fmt.Sprint(j)})
		}
	}
	return cs
}

var errLost = errors.New("message lost")

func (w *world) step(i int, loss float64) {
	w.t.Helper()
	o := FounderOptions{Dir: w.dirs[i], Expect: w.expect,
		Candidates: func() []Candidate { return w.candidates(i) },
		Ask: func(_ context.Context, c Candidate) ([]byte, error) {
			return Answer(w.dirs[c.Broker-1], w.expect)
		}}
	if w.rnd.Float64() < loss {
		o.Ask = func(context.Context, Candidate) ([]byte, error) { return nil, errLost }
	}
	d, err := foundStep(context.Background(), &o, w.votes[i], w.last[i])
	if err != nil {
		w.t.Fatal(err)
	}
	w.last[i] = d
	if c := w.dirs[i].Node().Cluster; c != "" {
		w.seen[c] = true
	}
	if len(w.seen) > 1 {
		w.t.Fatalf("several clusters formed: %v", w.seen)
	}
}

func (w *world) formed() bool {
	for _, d := range w.dirs {
		if d.Node().Cluster == "" {
			return false
		}
	}
	return true
}

// Whatever steps are taken in whatever order, and whoever crashes when, one
// cluster forms and every node ends up in it.
func TestFoundingSurvivesCrashesAnywhere(t *testing.T) {
	for seed := range int64(150) {
		w := newWorld(t, 3, 3, seed)
		for n := 0; n < 60; n++ {
			w.step(w.rnd.Intn(3), 0.3)
			if w.rnd.Intn(3) == 0 {
				w.crash(w.rnd.Intn(3))
			}
		}
		for n := 0; n < 30 && !w.formed(); n++ {
			w.step(n%3, 0)
		}
		if !w.formed() || len(w.seen) != 1 {
			t.Fatalf("seed %d: formed %v, clusters %v; last %+v", seed, w.formed(), w.seen, w.last)
		}
	}
}

// Crash after each single step of an orderly founding.
func TestFoundingCrashAfterEveryStep(t *testing.T) {
	for crashAt := range 12 {
		for victim := range 3 {
			w := newWorld(t, 3, 3, 1)
			for n := range 30 {
				w.step(n%3, 0)
				if n == crashAt {
					w.crash(victim)
				}
			}
			if !w.formed() {
				t.Fatalf("crash of %d after step %d: not formed; last %+v", victim, crashAt, w.last)
			}
			n := w.dirs[victim].Node()
			if n.Cluster != ClusterID(n.Founders) {
				t.Fatalf("cluster %q is not that of %v", n.Cluster, n.Founders)
			}
		}
	}
}

// More candidates than expected never form two clusters, and form none while
// all are there.
func TestFoundingWithTooMany(t *testing.T) {
	w := newWorld(t, 4, 3, 1)
	for n := range 40 {
		w.step(n%4, 0)
	}
	if len(w.seen) != 0 || w.last[0].Action != Refused {
		t.Fatalf("clusters %v, last %+v", w.seen, w.last[0])
	}
}

// Found returns at once on a restart, and joins what others founded.
func TestFoundShell(t *testing.T) {
	w := newWorld(t, 3, 2, 1)
	for n := range 20 { // the first two found, the third is not there yet
		i := n % 2
		o := FounderOptions{Dir: w.dirs[i], Expect: 2,
			Candidates: func() []Candidate { return w.candidates(i)[:1] },
			Ask:        func(_ context.Context, c Candidate) ([]byte, error) { return Answer(w.dirs[c.Broker-1], 2) }}
		d, err := foundStep(context.Background(), &o, w.votes[i], w.last[i])
		if err != nil {
			t.Fatal(err)
		}
		w.last[i] = d
	}
	want := w.dirs[0].Node().Cluster
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	o := FounderOptions{Dir: w.dirs[2], Expect: 2, Interval: time.Millisecond,
		Candidates: func() []Candidate { return w.candidates(2) },
		Ask:        func(context.Context, Candidate) ([]byte, error) { return nil, errLost }}
	if got, err := Found(ctx, o); err != nil || got != want || want == "" {
		t.Fatalf("joined %q (%v), want %q", got, err, want)
	}
	o.Candidates = func() []Candidate { return nil }
	if got, err := Found(ctx, o); err != nil || got != want {
		t.Fatalf("after restart: %q, %v", got, err)
	}
}

func TestFoundEndsWithItsContext(t *testing.T) {
	w := newWorld(t, 1, 3, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var reported []Decision
	_, err := Found(ctx, FounderOptions{Dir: w.dirs[0], Expect: 3, Interval: time.Millisecond,
		Candidates: func() []Candidate { return nil },
		Report:     func(d Decision) { reported = append(reported, d); cancel() }})
	if !errors.Is(err, context.Canceled) || len(reported) != 1 {
		t.Fatalf("got %v, reports %v", err, reported)
	}
}
