package limit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/tailrace/tailrace/bench/proc"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func context20(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// roundTrip produces n records over all partitions and reads them back.
func roundTrip(t *testing.T, addr string, partitions, n int) {
	t.Helper()
	ctx := context20(t)
	topic := TopicName("t", partitions)
	cl := client(t, addr, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, int32(partitions), -1, nil, topic); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(i % partitions), Value: fmt.Appendf(nil, "v%d", i)}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	next := map[int32]int64{}
	for len(seen) < n {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("%d of %d records: %v", len(seen), n, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset != next[r.Partition] || seen[string(r.Value)] {
				t.Errorf("partition %d offset %d (want %d): %s", r.Partition, r.Offset, next[r.Partition], r.Value)
			}
			next[r.Partition] = r.Offset + 1
			seen[string(r.Value)] = true
		})
	}
}

func TestNullBroker(t *testing.T) {
	s, err := StartNull("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, s.Addr(), 4, 5000)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func startNodes(t *testing.T, inSync int) []*Node {
	t.Helper()
	ports, err := proc.FreePorts(6)
	if err != nil {
		t.Fatal(err)
	}
	cfg := NodeConfig{InSync: inSync}
	for i := range 3 {
		cfg.Kafka = append(cfg.Kafka, fmt.Sprintf("127.0.0.1:%d", ports[i]))
		cfg.Repl = append(cfg.Repl, fmt.Sprintf("127.0.0.1:%d", ports[3+i]))
	}
	var nodes []*Node
	for i := range 3 {
		cfg.ID, cfg.Dir = i, filepath.Join(t.TempDir(), "n")
		n, err := StartNode(cfg)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// Acknowledged by a set of three means: all three files hold the bytes.
func TestNodesReplicate(t *testing.T) {
	nodes := startNodes(t, 3)
	roundTrip(t, nodes[0].Addr(), 6, 3000)
	for i, leader := range nodes {
		want, err := os.ReadFile(leader.file.Name())
		if err != nil || len(want) == 0 {
			t.Fatalf("leader %d: %d bytes, %v", i, len(want), err)
		}
		if err := verify(want); err != nil {
			t.Errorf("leader %d: the file is not batches back to back: %v", i, err)
		}
		for j, f := range nodes {
			if j == i {
				continue
			}
			got, err := os.ReadFile(filepath.Join(f.cfg.Dir, fmt.Sprintf("follower-%d.log", i)))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("node %d has %d of the %d bytes of leader %d: %v", j, len(got), len(want), i, err)
			}
		}
	}
	for _, n := range nodes {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A set of two does not wait for the third node.
func TestTwoOfThree(t *testing.T) {
	nodes := startNodes(t, 2)
	if err := nodes[2].Close(); err != nil {
		t.Fatal(err)
	}
	ctx := context20(t)
	cl := client(t, nodes[0].Addr())
	for p := range int32(2) { // led by the two that live
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: TopicName("t", 3), Partition: p, Value: []byte("v")}).FirstErr(); err != nil {
			t.Errorf("partition %d: %v", p, err)
		}
	}
	cl.Close()
	for _, n := range nodes[:2] {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCommitted(t *testing.T) {
	for _, tt := range []struct {
		durable []int64
		inSync  int
		want    int64
	}{
		{[]int64{9, 5, 7}, 1, 9},
		{[]int64{9, 5, 7}, 2, 7},
		{[]int64{9, 5, 7}, 3, 5},
		{[]int64{3, 5, 7}, 2, 3},
		{[]int64{3, 5, 5}, 3, 3},
		{[]int64{9, 5, 5}, 2, 5},
		{[]int64{9, 0, 0}, 2, 0},
	} {
		n := &Node{cfg: NodeConfig{InSync: tt.inSync}, durable: tt.durable}
		if got := n.committed(); got != tt.want {
			t.Errorf("leader and others %v, in-sync set of %d: committed %d, want %d", tt.durable, tt.inSync, got, tt.want)
		}
	}
}

func TestTailIsBounded(t *testing.T) {
	tl := newTail()
	p := partition{"t-p1", 0}
	for i := range int64(20) {
		tl.add([]*entry{{part: p, base: i, next: i + 1, f: newFrame(0), raw: make([]byte, tailBytes/8)}})
	}
	l := tl.log(p)
	if tl.bytes > tailBytes || l.end != 20 || l.start != 12 || len(l.entries) != 8 {
		t.Fatalf("%d bytes, log [%d, %d), %d entries", tl.bytes, l.start, l.end, len(l.entries))
	}
	if r := tl.readPartition(p, 3, 100); r.ErrorCode != offsetOutOfRange || r.LogStartOffset != 12 {
		t.Fatalf("a read below the start: code %d, start %d", r.ErrorCode, r.LogStartOffset)
	}
}

func TestPartitionsOf(t *testing.T) {
	for name, want := range map[string]int32{"a": 1, "a-p6": 6, "a-p0": 1, "a-p": 1, "a-px": 1, "b-p2-p1000": 1000, "a-p99999999": 1} {
		if got := partitionsOf(name); got != want {
			t.Errorf("%s: %d partitions, want %d", name, got, want)
		}
	}
	if got := partitionsOf(TopicName("x", 7)); got != 7 {
		t.Errorf("round trip: %d, want 7", got)
	}
}

// A frame is used again only when its last holder has let go.
func TestFramesAreHeld(t *testing.T) {
	for _, n := range []int{0, 1, 1024, 1025, 1 << 20, maxFrame} {
		if c := class(n); 1<<c < n || c > maxClass {
			t.Errorf("%d bytes: class %d", n, c)
		}
	}
	f := newFrame(5000)
	f.hold()
	f.release()
	if got := f.refs.Load(); got != 1 || len(f.buf) != 5000 {
		t.Errorf("%d holders, %d bytes", got, len(f.buf))
	}
	var n names
	b := []byte("topic")
	own := n.intern(unsafe.String(&b[0], len(b)))
	b[0] = 'x'
	if own != "topic" || n.intern("topic") != "topic" {
		t.Error("a name must survive its frame")
	}
}
