package replicate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/broker/transport"
	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/partition"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network answers the calls of broker 1 as broker 2 and the controller would.
type network struct {
	mu      sync.Mutex
	reports []DurableReport
	refuse  func(n int, rep DurableReport) ([]int, error) // n counts reports from 1; nil takes all
	fetch   func(req *kmsg.FetchRequest) *kmsg.FetchResponse
	submits []*control.AlterPartitions
	outcome func(cmd *control.AlterPartitions) (control.Result, error)
}

func (n *network) Call(ctx context.Context, _ model.BrokerID, _ transport.Class, key, _ int16, body []byte) ([]byte, func(), error) {
	switch key {
	case transport.KeyDurable:
		return n.report(body)
	case int16(kmsg.Fetch):
		req := kmsg.NewPtrFetchRequest()
		req.SetVersion(FetchVersion)
		if err := req.ReadFrom(body); err != nil {
			return nil, nil, err
		}
		if n.fetch != nil {
			if resp := n.fetch(req); resp != nil {
				resp.SetVersion(FetchVersion)
				return resp.AppendTo(nil), func() {}, nil
			}
		}
	}
	<-ctx.Done() // parked
	return nil, nil, ctx.Err()
}

func (n *network) report(body []byte) ([]byte, func(), error) {
	rep, err := DecodeDurableReport(body)
	if err != nil {
		return nil, nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(rep.Ends) == 0 {
		return appendIndexes(nil, nil), func() {}, nil
	}
	n.reports = append(n.reports, rep)
	var idx []int
	if n.refuse != nil {
		if idx, err = n.refuse(len(n.reports), rep); err != nil {
			return nil, nil, err
		}
	}
	return appendIndexes(nil, idx), func() {}, nil
}

func (n *network) Submit(_ context.Context, cmd control.Command) (control.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	alter := cmd.(*control.AlterPartitions)
	n.submits = append(n.submits, alter)
	return n.outcome(alter)
}

func (n *network) taken() []DurableReport {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.reports)
}

func start(t *testing.T, b *broker, n *network) *Manager {
	m := New(Options{Self: b.self, Caller: n, Submitter: n, Clock: b.clock, Contacts: &partition.Contacts{}, Fetches: &partition.Contacts{},
		OnError: func(model.BrokerID, string, error) {}})
	m.Start(b)
	t.Cleanup(m.Close)
	return m
}

// confirmed makes partition n of a follower hold records that it may report.
func (b *broker) confirmed(n int32, count int) {
	b.t.Helper()
	b.Do(tpN(n), func(r *partition.Replica, eff *partition.Effects) {
		if err := r.AppendFetched(partition.Fetched{Leader: 2, Epoch: 1, Batches: records(0, count)}, eff); err != nil {
			b.t.Error(err)
		}
	})
	b.commit()
}

// TestReportsAreRepeated: what the leader could not take is sent again, alone;
// after a broken call everything is.
func TestReportsAreRepeated(t *testing.T) {
	b := newBroker(t, 1, 2, 2)
	b.confirmed(0, 3)
	b.confirmed(1, 5)
	n := &network{refuse: func(n int, rep DurableReport) ([]int, error) {
		switch n {
		case 1:
			return nil, errors.New("connection lost")
		case 2: // not the leader of partition 1 yet
			i := slices.IndexFunc(rep.Ends, func(e DurableEnd) bool { return e.TP == tpN(1) })
			return []int{i}, nil
		}
		return nil, nil
	}}
	m := start(t, b, n)
	l := m.link(2)
	l.durable.mu.Lock() // both go into the first report
	for i := range int32(2) {
		l.durable.pending[tpN(i)], l.durable.follows[tpN(i)] = b.replicas[tpN(i)], b.replicas[tpN(i)]
	}
	l.durable.mu.Unlock()
	l.durable.more()
	eventually(t, "three reports", func() bool { return len(n.taken()) >= 3 })
	ends := func(rep DurableReport) map[int32]int64 {
		out := map[int32]int64{}
		for _, e := range rep.Ends {
			if e.Epoch != 1 || rep.Incarnation != inc {
				t.Errorf("report %+v", rep)
			}
			out[e.TP.Partition] = e.End
		}
		return out
	}
	got := n.taken()
	for i, want := range []map[int32]int64{{0: 3, 1: 5}, {0: 3, 1: 5}, {1: 5}} {
		if g := ends(got[i]); len(g) != len(want) || g[0] != want[0] || g[1] != want[1] {
			t.Errorf("report %d says %v, want %v", i+1, g, want)
		}
	}
}

// A replica that may not report (its log was not found to match yet) is left
// out, and one that was moved away is not reported to its old leader.
func TestReportsOnlyWhatIsConfirmed(t *testing.T) {
	b := newBroker(t, 1, 2, 3)
	b.confirmed(0, 1)
	b.confirmed(2, 1)
	n := &network{}
	m := start(t, b, n)
	m.Following(b.replicas[tpN(1)], model.NoBroker, 2)
	m.Following(b.replicas[tpN(2)], model.NoBroker, 2)
	m.Following(b.replicas[tpN(2)], 2, model.NoBroker)
	seen := len(n.taken())
	m.Following(b.replicas[tpN(0)], model.NoBroker, 2)
	eventually(t, "the report of partition 0", func() bool {
		for _, rep := range n.taken()[seen:] {
			for _, e := range rep.Ends {
				if e.TP == tpN(0) {
					return true
				}
			}
		}
		return false
	})
	for _, rep := range n.taken() {
		for _, e := range rep.Ends {
			if e.TP == tpN(1) {
				t.Errorf("an unconfirmed end was reported: %+v", e)
			}
		}
	}
}

// TestFetchLoop: what the leader answers reaches the replica, and the session
// goes on from there.
func TestFetchLoop(t *testing.T) {
	b := newBroker(t, 1, 2, 1)
	var offsets []int64
	var mu sync.Mutex
	n := &network{fetch: func(req *kmsg.FetchRequest) *kmsg.FetchResponse {
		if len(req.Topics) == 0 {
			return nil
		}
		at := req.Topics[0].Partitions[0].FetchOffset
		mu.Lock()
		offsets = append(offsets, at)
		mu.Unlock()
		if at >= 6 {
			return nil
		}
		return response(7, part(0, records(at, 2), at))
	}}
	m := start(t, b, n)
	m.Following(b.replicas[tpN(0)], model.NoBroker, 2)
	eventually(t, "six records", func() bool { return b.replicas[tpN(0)].Status().LogEnd == 6 })
	eventually(t, "the fetch behind them", func() bool { mu.Lock(); defer mu.Unlock(); return slices.Contains(offsets, 6) })
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(offsets[:4], []int64{0, 2, 4, 6}) {
		t.Errorf("fetched at %v", offsets)
	}
}

// TestProposals: each gets its own outcome; without an answer the outcome is
// unknown, so that the proposed members keep counting (I5).
func TestProposals(t *testing.T) {
	for name, tc := range map[string]struct {
		outcome func(*control.AlterPartitions) (control.Result, error)
		pending bool
	}{
		"rejected": {func(cmd *control.AlterPartitions) (control.Result, error) {
			return control.Result{Partitions: []control.PartitionResult{{TP: tpN(0), Outcome: isr.Rejected}}}, nil
		}, false},
		"no answer": {func(*control.AlterPartitions) (control.Result, error) {
			return control.Result{}, errors.New("timed out")
		}, true},
		"refused as a whole": {func(*control.AlterPartitions) (control.Result, error) {
			return control.Result{Code: 77, Partitions: []control.PartitionResult{{Outcome: isr.Rejected}}}, nil
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t, 1, 1, 1)
			b.narrow(tpN(0))
			if len(b.proposed) != 1 || len(b.proposed[0].ISR) != 2 {
				t.Fatalf("proposals %+v, want one that lets broker 2 in", b.proposed)
			}
			n := &network{outcome: tc.outcome}
			m := start(t, b, n)
			m.Propose(tpN(0), b.proposed[0])
			eventually(t, "the proposal", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.submits) == 1 })
			eventually(t, "its outcome", func() bool { return b.replicas[tpN(0)].Status().Followers[0].Pending == tc.pending })
			m.Close() // what was decided stays so
			if got := b.replicas[tpN(0)].Status().Followers[0].Pending; got != tc.pending {
				t.Errorf("pending: %v, want %v", got, tc.pending)
			}
			if cmd := n.submits[0]; cmd.Broker != 1 || cmd.Incarnation != inc || cmd.Proposals[0].TP != tpN(0) {
				t.Errorf("command %+v", cmd)
			}
		})
	}
}

// narrow makes broker 1 the only member, and broker 2 catch up, which makes
// the leader propose it.
func (b *broker) narrow(tp model.TopicPartition) {
	b.epoch[tp]++
	e := b.epoch[tp]
	m := isr.Meta{Index: uint64(10 * e), Leader: 1, LeaderEpoch: e, LeaderIncarnation: inc, PartitionEpoch: e, MinISR: 1, ISR: []model.BrokerID{1}}
	for id := model.BrokerID(1); id <= 2; id++ {
		m.Replicas = append(m.Replicas, isr.ReplicaMeta{Broker: id, Incarnation: inc, Eligible: true})
	}
	b.Do(tp, func(r *partition.Replica, eff *partition.Effects) { r.ApplyMeta(m, eff) })
	b.Do(tp, func(r *partition.Replica, eff *partition.Effects) {
		r.Append(&partition.AppendRequest{Batches: batch.Plain(0, 0, batch.Record{}), Acks: -1, Epoch: -1, Done: ignore{}}, eff)
	})
	b.commit()
	b.Do(tp, func(r *partition.Replica, eff *partition.Effects) {
		r.Read(partition.ReadRequest{Offset: 1, Follower: 2, Incarnation: inc, CurrentEpoch: e, LastFetchedEpoch: e}, eff)
	})
	if refused := TakeReport(b, 2, DurableReport{Incarnation: inc, Ends: []DurableEnd{{TP: tp, Epoch: e, End: 1}}}, b.clock.Elapsed()); len(refused) != 0 {
		b.t.Fatalf("the report was refused")
	}
}

type ignore struct{}

func (ignore) Complete(partition.AppendResult) {}

// TestTakeReport: reports of another epoch, incarnation or partition are
// handed back, to be sent again.
func TestTakeReport(t *testing.T) {
	b := newBroker(t, 1, 1, 1)
	b.narrow(tpN(0))
	e := b.epoch[tpN(0)]
	for what, rep := range map[string]DurableReport{
		"an old epoch":      {Incarnation: inc, Ends: []DurableEnd{{TP: tpN(0), Epoch: e - 1, End: 1}}},
		"a future epoch":    {Incarnation: inc, Ends: []DurableEnd{{TP: tpN(0), Epoch: e + 1, End: 1}}},
		"another life":      {Incarnation: inc + 1, Ends: []DurableEnd{{TP: tpN(0), Epoch: e, End: 1}}},
		"no such partition": {Incarnation: inc, Ends: []DurableEnd{{TP: tpN(9), Epoch: e, End: 1}}},
	} {
		if got := TakeReport(b, 2, rep, 0); !slices.Equal(got, []int{0}) {
			t.Errorf("%s: refused %v, want entry 0", what, got)
		}
	}
	mixed := DurableReport{Incarnation: inc, Ends: []DurableEnd{{TP: tpN(0), Epoch: e, End: 1}, {TP: tpN(9), Epoch: e}}}
	if got := TakeReport(b, 2, mixed, 0); !slices.Equal(got, []int{1}) {
		t.Errorf("refused %v, want only the unknown partition", got)
	}
}
