package control

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// samples has every command with every field set.
func samples() []Command {
	tp := model.TopicPartition{Topic: model.TopicID{1, 2}, Partition: 3}
	return []Command{
		&RegisterBroker{Broker: 1, Storage: storageOf("x"), RaftID: 9, Rack: "r", KafkaHost: "h", KafkaPort: 9092, Internal: "i:1", HTTP: "u", Version: "v", ClusterID: "c", Previous: 4, MaxFeature: 1},
		&FenceBroker{Broker: 1, Incarnation: 2, Reason: FenceRefused, Detail: "d"},
		&UnfenceBroker{Broker: 1, Incarnation: 2},
		&DrainBroker{Broker: 1, Incarnation: 2},
		&UnregisterBroker{Broker: 1},
		&CreateTopics{Topics: []NewTopic{{Name: "t", Partitions: -1, ReplicationFactor: -1, Assignment: [][]model.BrokerID{{1, 2}}, Config: map[string]string{"a": "b", "c": ""}, Internal: true}}, ValidateOnly: true},
		&DeleteTopics{Topics: []TopicRef{{ID: tp.Topic, Name: "t"}}},
		&CreatePartitions{Topics: []MorePartitions{{Name: "t", Count: 4, Assignment: [][]model.BrokerID{{1}}}}, ValidateOnly: true},
		&AlterConfigs{Resources: []ConfigChange{{Type: ResourceTopic, Name: "t", Replace: true, Ops: []ConfigOp{{Key: "k", Value: "v", Op: OpAppend}}}}, ValidateOnly: true},
		&AlterPartitions{Broker: 1, Incarnation: 2, Proposals: []PartitionProposal{{tp, isr.Proposal{ID: 1, LeaderEpoch: 2, PartitionEpoch: 3, BasedOn: 4, ISR: []isr.Member{{Broker: 1, Incarnation: 2}}, ByPolicy: []model.BrokerID{3}}}}},
		&ElectLeaders{Unclean: true, All: true, Partitions: []model.TopicPartition{tp}, Principal: "p"},
		&AllocateProducerIDs{Broker: 1, Incarnation: 2},
		&ReportLogs{Broker: 1, Incarnation: 2, Logs: []LogReport{{TP: tp, Epoch: 1, End: 2, Suspect: segment.Damaged}}, Last: true},
		&BalanceLeaders{Max: 3},
		&ResolveOffline{},
		&FinalizeFeatures{Level: 1, ValidateOnly: true},
	}
}

func TestCommandCodec(t *testing.T) {
	seen := map[commandKind]bool{}
	for _, cmd := range samples() {
		seen[cmd.kind()] = true
		b := EncodeCommand(cmd)
		back, err := DecodeCommand(b)
		if err != nil || !bytes.Equal(EncodeCommand(back), b) {
			t.Errorf("%T: %v", cmd, err)
		}
		for n := range b { // every truncation is an error, never a panic
			if _, err := DecodeCommand(b[:n]); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%T cut to %d of %d bytes: %v", cmd, n, len(b), err)
			}
		}
		if _, err := DecodeCommand(append(b, 0)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%T with a trailing byte: %v", cmd, err)
		}
	}
	for k := commandKind(1); newCommand(k) != nil; k++ {
		if !seen[k] {
			t.Errorf("command kind %d has no sample", k)
		}
	}
}

// A hostile length must not size an allocation.
func TestHostileLengths(t *testing.T) {
	b := []byte{messageVersion, byte(cmdDeleteTopics), 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3}
	allocs := testing.AllocsPerRun(10, func() {
		if _, err := DecodeCommand(b); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("got %v", err)
		}
	})
	if allocs > 20 {
		t.Fatalf("%v allocations for 10 bytes", allocs)
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, cmd := range samples() {
		f.Add(EncodeCommand(cmd))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd, err := DecodeCommand(b)
		if err != nil {
			return
		}
		again, err := DecodeCommand(EncodeCommand(cmd))
		if err != nil || !bytes.Equal(EncodeCommand(again), EncodeCommand(cmd)) {
			t.Fatalf("%T does not survive its encoding: %v", cmd, err)
		}
	})
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add(encodeBatch(5, []Record{&ProducerIDs{Next: 5}, &FeatureLevel{Level: 1}, &BrokerChanged{Broker: 1, Fenced: true}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		index, records, err := decodeBatch(b)
		if err != nil {
			return
		}
		_, _, _ = Apply(NewImage("c"), index, records) // must not panic
		_, again, err := decodeBatch(encodeBatch(index, records))
		if err != nil || len(again) != len(records) {
			t.Fatalf("a batch does not survive its encoding: %v", err)
		}
	})
}

func FuzzDecodeImage(f *testing.F) {
	w := randomWorld(f, rand.New(rand.NewPCG(1, 1)), 40)
	f.Add(EncodeImage(w.img))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := DecodeImage(b)
		if err != nil {
			return
		}
		if _, err := DecodeImage(EncodeImage(img)); err != nil {
			t.Fatalf("an image does not survive its encoding: %v", err)
		}
	})
}

func FuzzDecodeMessages(f *testing.F) {
	f.Add(encodeMessage(&HeartbeatRequest{Broker: 1, AppliedIndex: 7}))
	f.Add(EncodeResult(&Result{Message: "m", Topics: []TopicResult{{Name: "t"}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = decodeMessage(b, &HeartbeatRequest{})
		_ = decodeMessage(b, &HeartbeatResponse{})
		_ = decodeMessage(b, &Suspicion{})
		if r, err := DecodeResult(b); err == nil {
			if _, err := DecodeResult(EncodeResult(r)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestRandomHistories runs random commands: the invariants of checkImage hold
// after each, and a replay of the log gives the same image.
func TestRandomHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		steps := rapid.IntRange(1, 120).Draw(rt, "steps")
		w := randomWorld(t, rand.New(rand.NewPCG(seed, 0)), steps)
		w.checkReplay()
	})
}

func randomWorld(t testing.TB, rng *rand.Rand, steps int) *world {
	w := newWorld(t)
	for range steps {
		id := model.BrokerID(1 + rng.IntN(4))
		inc := incarnationOf(w.img, id)
		switch rng.IntN(14) {
		case 0, 1:
			disk := string(rune('a' + id))
			if rng.IntN(8) == 0 {
				disk += "2"
			}
			s := storageOf(disk)
			w.submit(&RegisterBroker{Broker: id, Storage: s, RaftID: RaftIDFor(s), Previous: inc - model.Incarnation(rng.IntN(2)), MaxFeature: 1})
		case 2, 3:
			w.submit(w.randomReport(rng, id))
		case 4, 5:
			w.submit(&UnfenceBroker{Broker: id, Incarnation: inc})
		case 6:
			w.submit(&FenceBroker{Broker: id, Incarnation: inc, Reason: FenceReason(1 + rng.IntN(5))})
		case 7:
			w.submit(&DrainBroker{Broker: id, Incarnation: inc})
		case 8:
			w.submit(&CreateTopics{Topics: []NewTopic{{Name: string(rune('a' + rng.IntN(4))), Partitions: int32(1 + rng.IntN(3)), ReplicationFactor: int16(1 + rng.IntN(3))}}})
		case 9, 10, 11:
			w.submit(w.randomProposal(rng))
		case 12:
			w.submit(w.randomConfig(rng))
		case 13:
			w.now += 3e9
			w.submit(&ResolveOffline{})
			w.submit(&ElectLeaders{Unclean: rng.IntN(6) == 0, All: true, Principal: "fuzz"})
		}
	}
	return w
}

func (w *world) randomReport(rng *rand.Rand, id model.BrokerID) *ReportLogs {
	r := &ReportLogs{Broker: id, Incarnation: incarnationOf(w.img, id), Last: true}
	for _, t := range w.img.SortedTopics() {
		for i := range t.Partitions {
			r.Logs = append(r.Logs, LogReport{TP: model.TopicPartition{Topic: t.ID, Partition: int32(i)}, End: rng.Int64N(9), Suspect: segment.Suspicion(max(0, rng.IntN(8)-4))})
		}
	}
	return r
}

func (w *world) randomProposal(rng *rand.Rand) *AlterPartitions {
	cmd := &AlterPartitions{}
	for _, t := range w.img.SortedTopics() {
		for i, p := range t.Partitions {
			if p.Leader == model.NoBroker || rng.IntN(2) == 0 {
				continue
			}
			cmd.Broker, cmd.Incarnation = p.Leader, p.LeaderIncarnation
			pr := isr.Proposal{ID: 1, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, BasedOn: w.img.Index}
			for _, r := range p.Replicas {
				if r == p.Leader || rng.IntN(2) == 0 {
					pr.ISR = append(pr.ISR, isr.Member{Broker: r, Incarnation: incarnationOf(w.img, r)})
				} else if rng.IntN(3) == 0 {
					pr.ByPolicy = append(pr.ByPolicy, r)
				}
			}
			cmd.Proposals = append(cmd.Proposals, PartitionProposal{model.TopicPartition{Topic: t.ID, Partition: int32(i)}, pr})
		}
	}
	return cmd
}

func (w *world) randomConfig(rng *rand.Rand) *AlterConfigs {
	keys := []string{keyMinInsync, keySyncReplicas}
	op := ConfigOp{Key: keys[rng.IntN(2)], Value: string(rune('1' + rng.IntN(3))), Op: OpType(rng.IntN(2))}
	ch := ConfigChange{Type: ResourceTopic, Name: string(rune('a' + rng.IntN(4))), Ops: []ConfigOp{op}}
	if rng.IntN(4) == 0 {
		ch.Type, ch.Name = ResourceBroker, ""
	}
	return &AlterConfigs{Resources: []ConfigChange{ch}}
}
