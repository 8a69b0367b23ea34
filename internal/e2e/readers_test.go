package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tailrace/tailrace/client"
)

// digest is the checksum of one partition's records in offset order: each
// record as offset, key and value with lengths.
type digest struct {
	h hash.Hash
	n int64
}

func newDigest() *digest { return &digest{h: sha256.New()} }

func (d *digest) add(offset int64, key, value []byte) {
	fmt.Fprintf(d.h, "%d %d ", offset, len(key))
	d.h.Write(key)
	fmt.Fprintf(d.h, " %d ", len(value))
	d.h.Write(value)
	d.n++
}

func (d *digest) String() string {
	return fmt.Sprintf("%d:%s", d.n, hex.EncodeToString(d.h.Sum(nil))[:16])
}

// ends returns the end offset of each partition, in order.
func (c *cluster) ends(topic string) []int64 {
	c.t.Helper()
	adm := kadm.NewClient(c.client())
	var out []int64
	eventually(c.t, "end offsets of "+topic, func(ctx context.Context) error {
		l, err := adm.ListEndOffsets(ctx, topic)
		if err != nil {
			return err
		}
		if err := l.Error(); err != nil {
			return err
		}
		out = make([]int64, len(l[topic]))
		for p, o := range l[topic] {
			out[p] = o.Offset
		}
		return nil
	})
	return out
}

// reader reads a whole topic up to the given ends and returns one digest for
// each partition. via is the broker to read from; 0 means the leaders.
type reader struct {
	name string
	read func(ctx context.Context, c *cluster, topic string, via int, ends []int64) ([]string, error)
}

func readTailrace(ctx context.Context, c *cluster, topic string, via int, ends []int64) ([]string, error) {
	cl, err := client.New(ctx, client.Options{Seeds: c.bootstrap()})
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	policy := client.Leader()
	if via > 0 {
		policy = client.Broker(int32(via))
	}
	ds := make([]*digest, len(ends))
	left := int64(0)
	for p := range ends {
		ds[p] = newDigest()
		left += ends[p]
	}
	co, err := cl.Consumer(ctx, client.ConsumerOptions{Topic: topic, Replica: policy})
	if err != nil {
		return nil, err
	}
	defer co.Close()
	for r, err := range co.Records(ctx) {
		if err != nil {
			return nil, err
		}
		if r.Offset < ends[r.Partition] {
			ds[r.Partition].add(r.Offset, r.Key, r.Value)
			left--
		}
		if left == 0 {
			break
		}
	}
	return texts(ds), ctx.Err()
}

func texts(ds []*digest) []string {
	var out []string
	for _, d := range ds {
		out = append(out, d.String())
	}
	return out
}

// rack is the rack of broker id in e2e clusters.
func rack(id int) string { return "rack-" + strconv.Itoa(id) }

func readFranz(ctx context.Context, c *cluster, topic string, via int, ends []int64) ([]string, error) {
	offs := map[int32]kgo.Offset{}
	ds := make([]*digest, len(ends))
	left := int64(0)
	for p := range ends {
		offs[int32(p)] = kgo.NewOffset().AtStart()
		ds[p] = newDigest()
		left += ends[p]
	}
	opts := []kgo.Opt{kgo.SeedBrokers(c.bootstrap()...), kgo.DisableClientMetrics(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offs})}
	if via > 0 {
		opts = append(opts, kgo.Rack(rack(via)))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	for left > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			return nil, err
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset < ends[r.Partition] {
				ds[r.Partition].add(r.Offset, r.Key, r.Value)
				left--
			}
		})
	}
	return texts(ds), nil
}

func readSarama(ctx context.Context, c *cluster, topic string, via int, ends []int64) ([]string, error) {
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V2_8_0_0
	if via > 0 {
		cfg.RackID = rack(via)
	}
	co, err := sarama.NewConsumer(c.bootstrap(), cfg)
	if err != nil {
		return nil, err
	}
	defer co.Close()
	ds := make([]*digest, len(ends))
	for p := range ends {
		ds[p] = newDigest()
		if ends[p] == 0 {
			continue
		}
		pc, err := co.ConsumePartition(topic, int32(p), sarama.OffsetOldest)
		if err != nil {
			return nil, err
		}
		for ds[p].n < ends[p] {
			select {
			case m := <-pc.Messages():
				ds[p].add(m.Offset, m.Key, m.Value)
			case <-ctx.Done():
				pc.Close()
				return nil, fmt.Errorf("partition %d at %d of %d: %w", p, ds[p].n, ends[p], ctx.Err())
			}
		}
		pc.Close()
	}
	return texts(ds), nil
}

func readKafkaGo(ctx context.Context, c *cluster, topic string, via int, ends []int64) ([]string, error) {
	ds := make([]*digest, len(ends))
	for p := range ends {
		ds[p] = newDigest()
		r := kafka.NewReader(kafka.ReaderConfig{Brokers: c.bootstrap(), Topic: topic, Partition: p, MinBytes: 1, MaxBytes: 8 << 20, MaxWait: 250 * time.Millisecond})
		for ds[p].n < ends[p] {
			m, err := r.ReadMessage(ctx)
			if err != nil {
				r.Close()
				return nil, err
			}
			ds[p].add(m.Offset, m.Key, m.Value)
		}
		r.Close()
	}
	return texts(ds), nil
}

// tool returns the path of a program that .ci/run installs. Elsewhere its
// absence skips the test.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("TAILRACE_CI") != "" {
		t.Fatalf("%s is missing: .ci/run must install it", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// python returns an interpreter that has confluent_kafka.
func python(t *testing.T) string {
	t.Helper()
	py := os.Getenv("TAILRACE_PYTHON")
	if py == "" {
		py = "python3"
	}
	if err := exec.Command(py, "-c", "import confluent_kafka").Run(); err != nil {
		if os.Getenv("TAILRACE_CI") != "" {
			t.Fatalf("%s has no confluent_kafka: .ci/run must install it", py)
		}
		t.Skipf("%s has no confluent_kafka", py)
	}
	return py
}

// readKcat reads with kcat; records must not contain the separator bytes.
func readKcat(ctx context.Context, c *cluster, topic string, via int, ends []int64) ([]string, error) {
	ds := make([]*digest, len(ends))
	for p := range ends {
		ds[p] = newDigest()
		if ends[p] == 0 {
			continue
		}
		args := []string{"-C", "-b", strings.Join(c.bootstrap(), ","), "-t", topic, "-p", strconv.Itoa(p), "-o", "beginning",
			"-c", strconv.FormatInt(ends[p], 10), "-q", "-f", "%o\x01%k\x01%s\x02"}
		if via > 0 {
			args = append(args, "-X", "client.rack="+rack(via))
		}
		cmd := exec.CommandContext(ctx, "kcat", args...)
		var errOut bytes.Buffer
		cmd.Stderr = &errOut
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("kcat: %w: %s", err, errOut.String())
		}
		for rec := range bytes.SplitSeq(bytes.TrimSuffix(out, []byte{2}), []byte{2}) {
			f := bytes.SplitN(rec, []byte{1}, 3)
			if len(f) != 3 {
				return nil, errors.New("kcat: record without its fields")
			}
			off, err := strconv.ParseInt(string(f[0]), 10, 64)
			if err != nil {
				return nil, err
			}
			ds[p].add(off, f[1], f[2])
		}
	}
	return texts(ds), nil
}

// confluentScript prints one digest line for each partition.
const confluentScript = `
import sys, hashlib
from confluent_kafka import Consumer, TopicPartition, OFFSET_BEGINNING
servers, topic, rack, ends = sys.argv[1], sys.argv[2], sys.argv[3], [int(x) for x in sys.argv[4].split(',')]
conf = {'bootstrap.servers': servers, 'group.id': 'none', 'enable.auto.commit': False}
if rack: conf['client.rack'] = rack
c = Consumer(conf)
hs, ns = [hashlib.sha256() for _ in ends], [0] * len(ends)
c.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(len(ends))])
left = sum(ends)
while left:
    for m in c.consume(5000, 1.0):
        if m.error(): raise Exception(m.error())
        p = m.partition()
        if m.offset() >= ends[p]: continue
        k, v = m.key() or b'', m.value() or b''
        hs[p].update(b'%d %d ' % (m.offset(), len(k)) + k + b' %d ' % len(v) + v)
        ns[p] += 1
        left -= 1
c.close()
for n, h in zip(ns, hs): print('%d:%s' % (n, h.hexdigest()[:16]))
`

func readConfluent(py string) func(ctx context.Context, c *cluster, topic string, via int, ends []int64) ([]string, error) {
	return func(ctx context.Context, c *cluster, topic string, via int, ends []int64) ([]string, error) {
		r := ""
		if via > 0 {
			r = rack(via)
		}
		var es []string
		for _, e := range ends {
			es = append(es, strconv.FormatInt(e, 10))
		}
		cmd := exec.CommandContext(ctx, py, "-c", confluentScript, strings.Join(c.bootstrap(), ","), topic, r, strings.Join(es, ","))
		var errOut bytes.Buffer
		cmd.Stderr = &errOut
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("confluent_kafka: %w: %s", err, errOut.String())
		}
		return strings.Fields(string(out)), nil
	}
}
