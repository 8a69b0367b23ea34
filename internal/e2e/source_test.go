package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// goroot is the directory of the Go distribution that runs the test.
func goroot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// sourceLines reads up to n lines of Go's own source tree, in a fixed order.
func sourceLines(t *testing.T, n int) [][]byte {
	t.Helper()
	var out [][]byte
	stop := errors.New("enough")
	err := filepath.WalkDir(filepath.Join(goroot(t), "src"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sc := bufio.NewScanner(bytes.NewReader(b))
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			line := bytes.Clone(sc.Bytes())
			// kcat's field separators must not occur.
			line = bytes.Map(func(r rune) rune {
				if r < 3 {
					return ' '
				}
				return r
			}, line)
			out = append(out, line)
			if len(out) == n {
				return stop
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, stop) {
		t.Fatal(err)
	}
	return out
}

// TestSourceTree sends Go's source through three brokers, one line a record,
// with kill -9 in the middle, and reads it from each replica with each client:
// nothing acknowledged may be missing, doubled or different anywhere.
func TestSourceTree(t *testing.T) {
	n, kills := 400_000, 6
	if testing.Short() {
		n, kills = 40_000, 2
	}
	lines := sourceLines(t, n)
	c := newRackCluster(t, 3)
	const topic, parts = "source", 6
	c.createTopic(topic, parts, 3, nil)

	cl := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(2*time.Millisecond),
		kgo.RecordDeliveryTimeout(patience), kgo.MaxBufferedRecords(20_000))
	want := make([]*digest, parts)
	for p := range want {
		want[p] = newDigest()
	}
	offsets := make([]int64, len(lines))
	var failed atomic.Pointer[error]
	ctx := context.Background()
	killAt := len(lines) / (kills + 1)
	for i, line := range lines {
		if i > 0 && i%killAt == 0 && kills > 0 {
			kills--
			victim := c.nodes[(i/killAt)%len(c.nodes)]
			victim.kill()
			victim.start()
		}
		rec := &kgo.Record{Topic: topic, Partition: int32(i % parts), Key: []byte(strconv.Itoa(i)), Value: line}
		cl.Produce(ctx, rec, func(r *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
			offsets[i] = r.Offset
		})
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := failed.Load(); err != nil {
		t.Fatalf("a record was not acknowledged: %v", *err)
	}
	// The idempotent producer keeps order: record i of a partition is at offset i.
	for i, line := range lines {
		if offsets[i] != int64(i/parts) {
			t.Fatalf("record %d of partition %d was acknowledged at offset %d: a record is missing or doubled", i/parts, i%parts, offsets[i])
		}
		want[i%parts].add(offsets[i], []byte(strconv.Itoa(i)), line)
	}
	c.waitLive(3)
	c.waitInSync(topic, 3)
	ends := c.ends(topic)
	wantDigests := texts(want)

	readers := []reader{{"tailrace", readTailrace}, {"franz-go", readFranz}, {"sarama", readSarama}, {"kafka-go", readKafkaGo}}
	t.Run("kcat", func(t *testing.T) { tool(t, "kcat"); readers = append(readers, reader{"kcat", readKcat}) })
	t.Run("confluent", func(t *testing.T) {
		py := python(t)
		readers = append(readers, reader{"confluent_kafka", readConfluent(py)})
	})
	for _, r := range readers {
		for via := 1; via <= 3; via++ {
			ctx, cancel := context.WithTimeout(ctx, 2*patience)
			got, err := r.read(ctx, c, topic, via, ends)
			cancel()
			if err != nil {
				t.Errorf("%s near broker %d: %v", r.name, via, err)
			} else if !slices.Equal(got, wantDigests) {
				t.Errorf("%s near broker %d read %v, want %v", r.name, via, got, wantDigests)
			}
		}
	}
}

// newRackCluster is a cluster whose broker i is in rack(i).
func newRackCluster(t testing.TB, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, expect: n}
	for i := range n {
		c.add("--rack", rack(i+1))
	}
	for _, nd := range c.nodes {
		nd.start()
	}
	c.waitLive(n)
	return c
}
