package faults

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/internal/batch"
	"github.com/tailrace/tailrace/internal/history"
)

func TestMain(m *testing.M) {
	code := m.Run()
	proc.KillAll()
	os.Exit(code)
}

// A value is recognised, and any damage or wrong place of it.
func TestValues(t *testing.T) {
	for _, size := range []int{0, valueOverhead, 100, 5000} {
		b := encodeValue(3, 77, size)
		if got := decodeValue(3, b); got != 77 || len(b) != max(size, valueOverhead) {
			t.Fatalf("size %d: value %d in %d bytes", size, got, len(b))
		}
		if decodeValue(4, b) != badValue {
			t.Fatal("a value of another partition was taken")
		}
		for i := range b {
			b[i] ^= 1
			if decodeValue(3, b) != badValue {
				t.Fatalf("a flip in byte %d was not seen", i)
			}
			b[i] ^= 1
		}
	}
}

func TestDecodeFetched(t *testing.T) {
	const k = history.Key(1)
	one := batch.Plain(10, 2, batch.Record{Value: encodeValue(k, 5, 40)}, batch.Record{Value: encodeValue(k, 6, 40)})
	two := batch.Plain(12, 3, batch.Record{Value: encodeValue(k, 7, 40)})
	raw := slices.Concat(one, two)
	got, err := decodeFetched(k, 11, raw) // inside the first batch
	if err != nil || got.next != 13 || len(got.batches) != 2 || len(got.reads) != 2 || got.reads[0] != (history.Read{Key: k, Offset: 11, Value: 6}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err = decodeFetched(k, 10, raw[:len(raw)-1]); err != nil || got.next != 12 {
		t.Fatalf("a batch that the limit cut: %+v, %v", got, err)
	}
	raw[len(one)-1] ^= 1
	if _, err = decodeFetched(k, 10, raw); err == nil {
		t.Fatal("damage was not seen")
	}
}

// Shapes cut what they say, and never a broker from itself.
func TestShapes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, s := range shapes {
		for range 50 {
			for _, l := range s.draw(rng, 5) {
				if l.from == l.to || l.from < 0 || l.to < 0 || l.from > 4 || l.to > 4 {
					t.Fatalf("%s cuts %v", s.name, l)
				}
			}
		}
	}
	seen := func(ls []link, n int) int { // brokers that n can talk to, itself included
		count := 1
		for o := range 5 {
			if o != n && !slices.Contains(ls, link{n, o}) && !slices.Contains(ls, link{o, n}) {
				count++
			}
		}
		return count
	}
	ring := shapeRing(rng, 5)
	for n := range 5 {
		if got := seen(ring, n); got != 3 {
			t.Errorf("on the ring broker %d sees %d of 5", n, got)
		}
	}
	bridge := shapeBridge(rng, 5)
	all := 0
	for n := range 5 {
		if seen(bridge, n) == 5 {
			all++
		}
	}
	if all != 1 {
		t.Errorf("%d brokers see both sides of the bridge", all)
	}
}

// One seed draws one schedule, whatever else draws meanwhile.
func TestSeedsRepeat(t *testing.T) {
	draw := func() []link {
		c := &campaign{o: Options{Seed: 7}}
		c.rand("other").Uint64()
		return shapeOneWay(c.rand("nemesis"), 5)
	}
	if a, b := draw(), draw(); !slices.Equal(a, b) {
		t.Fatalf("%v and %v", a, b)
	}
}

func TestFlipBits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	before := bytes.Repeat([]byte{0xa5}, 100)
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := flipBits(path, rand.New(rand.NewPCG(1, 2)), 1, t.Logf); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || len(after) != len(before) {
		t.Fatal(len(after), err)
	}
	diff := 0
	for i := range before {
		if before[i] != after[i] {
			diff++
		}
	}
	if diff != 1 {
		t.Fatalf("%d bytes differ", diff)
	}
}

func TestUnknownNemesis(t *testing.T) {
	if r, err := Run(t.Context(), Options{Nemesis: "rain"}); err == nil || r != nil {
		t.Fatalf("%v, %v", r, err)
	}
}

// A short campaign on loopback: brokers are killed, nothing is lost, and the
// parts of the harness work together.
func TestKillCampaign(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute) // a loaded machine builds the broker slowly
	defer cancel()
	parent := t.TempDir()
	r, err := Run(ctx, Options{Nemesis: "kill", Seed: 1, Rounds: 2, Loopback: true, Rate: 10, Partitions: 1, Recovery: 2 * time.Minute, Dir: parent})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r.Print(&b)
	if !r.Valid() || r.Report.Acked == 0 || r.Report.Reads == 0 || r.Acted["kill -9"] != 2 {
		t.Fatalf("%s", &b)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}
