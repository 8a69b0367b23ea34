package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

// message is what a client sent and must read back unchanged.
type message struct {
	key, value []byte // nil is null
	headers    map[string]string
}

// corpus covers what clients send: plain and null values, keys, headers, binary
// bytes, sizes from 1 byte to the default limit.
func corpus() []message {
	r := rand.New(rand.NewPCG(1, 2))
	blob := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	return []message{
		{value: []byte("x")},
		{key: []byte("k"), value: []byte("v")},
		{key: []byte("dead"), value: nil},
		{key: []byte("h"), value: []byte("with headers"), headers: map[string]string{"a": "1", "b": ""}},
		{key: blob(100), value: blob(1000)},
		{value: bytes.Repeat([]byte("compressible "), 5000)},
		{value: blob(1_000_000 - 200)},
	}
}

func checkMessage(t *testing.T, i int, want message, key, value []byte, headers map[string]string) {
	t.Helper()
	// Some clients cannot tell null from empty.
	if !bytes.Equal(key, want.key) || !bytes.Equal(value, want.value) {
		t.Fatalf("record %d: key of %d and value of %d bytes, want %d and %d", i, len(key), len(value), len(want.key), len(want.value))
	}
	if len(headers) != len(want.headers) {
		t.Fatalf("record %d: headers %v, want %v", i, headers, want.headers)
	}
	for k, v := range want.headers {
		if headers[k] != v {
			t.Fatalf("record %d: header %s is %q, want %q", i, k, headers[k], v)
		}
	}
}

// TestFranzGo sends the corpus with every codec, with new and old request
// versions, idempotent and not, and reads it back.
func TestFranzGo(t *testing.T) {
	c := sharedCluster(t)
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	for name, codec := range codecs {
		t.Run(name, func(t *testing.T) { franzRoundTrip(t, c, "franz-"+name, kgo.ProducerBatchCompression(codec)) })
	}
	t.Run("versions of Kafka 2.0", func(t *testing.T) {
		franzRoundTrip(t, c, "franz-old", kgo.MaxVersions(kversion.V2_0_0()))
	})
	t.Run("not idempotent, acks of the leader", func(t *testing.T) {
		franzRoundTrip(t, c, "franz-plain", kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))
	})
}

func franzRoundTrip(t *testing.T, c *cluster, topic string, opts ...kgo.Opt) {
	c.createTopic(topic, 1, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p := c.client(append(opts, kgo.DefaultProduceTopic(topic))...)
	msgs := corpus()
	for i, m := range msgs {
		rec := &kgo.Record{Key: m.key, Value: m.value}
		for k, v := range m.headers {
			rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
		}
		if err := p.ProduceSync(ctx, rec).FirstErr(); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	r := c.client(append(opts, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	for i := 0; i < len(msgs); {
		fs := r.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(rec *kgo.Record) {
			hs := map[string]string{}
			for _, h := range rec.Headers {
				hs[h.Key] = string(h.Value)
			}
			if rec.Offset != int64(i) {
				t.Fatalf("offset %d, want %d", rec.Offset, i)
			}
			if (rec.Value == nil) != (msgs[i].value == nil) || (rec.Key == nil) != (msgs[i].key == nil) {
				t.Fatalf("record %d: null became empty or the reverse", i)
			}
			checkMessage(t, i, msgs[i], rec.Key, rec.Value, hs)
			i++
		})
	}
}

func TestSarama(t *testing.T) {
	c := sharedCluster(t)
	for _, v := range []sarama.KafkaVersion{sarama.V0_11_0_0, sarama.V2_8_0_0, sarama.MaxVersion} {
		for codec := sarama.CompressionNone; codec <= sarama.CompressionZSTD; codec++ {
			if codec == sarama.CompressionZSTD && !v.IsAtLeast(sarama.V2_1_0_0) {
				continue
			}
			t.Run(v.String()+" "+codec.String(), func(t *testing.T) {
				saramaRoundTrip(t, c, fmt.Sprintf("sarama-%s-%d", v, codec), v, codec)
			})
		}
	}
}

func saramaRoundTrip(t *testing.T, c *cluster, topic string, v sarama.KafkaVersion, codec sarama.CompressionCodec) {
	c.createTopic(topic, 1, 3, nil)
	cfg := sarama.NewConfig()
	cfg.Version = v
	cfg.Producer.Compression = codec
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Producer.Return.Successes = true
	cfg.Producer.Idempotent = v.IsAtLeast(sarama.V2_8_0_0)
	cfg.Net.MaxOpenRequests = 1
	p, err := sarama.NewSyncProducer(c.bootstrap(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	msgs := corpus()
	for i, m := range msgs {
		pm := &sarama.ProducerMessage{Topic: topic}
		if m.key != nil {
			pm.Key = sarama.ByteEncoder(m.key)
		}
		if m.value != nil {
			pm.Value = sarama.ByteEncoder(m.value)
		}
		for k, v := range m.headers {
			pm.Headers = append(pm.Headers, sarama.RecordHeader{Key: []byte(k), Value: []byte(v)})
		}
		if _, off, err := p.SendMessage(pm); err != nil || off != int64(i) {
			t.Fatalf("record %d: offset %d, %v", i, off, err)
		}
	}
	co, err := sarama.NewConsumer(c.bootstrap(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer co.Close()
	pc, err := co.ConsumePartition(topic, 0, sarama.OffsetOldest)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	for i, m := range msgs {
		select {
		case got := <-pc.Messages():
			hs := map[string]string{}
			for _, h := range got.Headers {
				hs[string(h.Key)] = string(h.Value)
			}
			checkMessage(t, i, m, got.Key, got.Value, hs)
		case <-time.After(patience):
			t.Fatalf("record %d did not come", i)
		}
	}
}

func TestKafkaGo(t *testing.T) {
	c := sharedCluster(t)
	for _, codec := range []kafka.Compression{0, kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd} {
		t.Run(fmt.Sprint("codec ", int(codec)), func(t *testing.T) {
			topic := fmt.Sprintf("kafka-go-%d", codec)
			c.createTopic(topic, 1, 3, nil)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			tr := &kafka.Transport{}
			defer tr.CloseIdleConnections()
			w := &kafka.Writer{Transport: tr, Addr: kafka.TCP(c.bootstrap()...), Topic: topic, RequiredAcks: kafka.RequireAll, Compression: codec, BatchTimeout: time.Millisecond, BatchBytes: 2 << 20}
			defer w.Close()
			msgs := corpus()
			for i, m := range msgs {
				km := kafka.Message{Key: m.key, Value: m.value}
				for k, v := range m.headers {
					km.Headers = append(km.Headers, kafka.Header{Key: k, Value: []byte(v)})
				}
				if err := w.WriteMessages(ctx, km); err != nil {
					t.Fatalf("record %d: %v", i, err)
				}
			}
			r := kafka.NewReader(kafka.ReaderConfig{Brokers: c.bootstrap(), Topic: topic, MaxBytes: 8 << 20, MaxWait: 250 * time.Millisecond})
			defer r.Close()
			for i, m := range msgs {
				got, err := r.ReadMessage(ctx)
				if err != nil {
					t.Fatal(err)
				}
				hs := map[string]string{}
				for _, h := range got.Headers {
					hs[h.Key] = string(h.Value)
				}
				checkMessage(t, i, m, got.Key, got.Value, hs)
			}
		})
	}
}

// TestLargeRecords: 10 MiB pass on a topic with a raised limit and are refused
// on one without.
func TestLargeRecords(t *testing.T) {
	c := sharedCluster(t)
	c.createTopic("large", 1, 3, map[string]*string{"max.message.bytes": ptr("12000000")})
	c.createTopic("ordinary", 1, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p := c.client(kgo.ProducerBatchMaxBytes(11<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
	value := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	if err := p.ProduceSync(ctx, &kgo.Record{Topic: "large", Value: value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := p.ProduceSync(ctx, &kgo.Record{Topic: "ordinary", Value: value}).FirstErr(); !errors.Is(err, kerr.MessageTooLarge) {
		t.Fatalf("10 MiB on an ordinary topic: %v, want MESSAGE_TOO_LARGE", err)
	}
	r := c.client(kgo.ConsumeTopics("large"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	fs := r.PollFetches(ctx)
	if fs.Err() != nil || fs.NumRecords() != 1 || !bytes.Equal(fs.Records()[0].Value, value) {
		t.Fatalf("read %d records, %v", fs.NumRecords(), fs.Err())
	}
}

func TestKcat(t *testing.T) {
	tool(t, "kcat")
	c := sharedCluster(t)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			topic := "kcat-" + codec
			c.createTopic(topic, 1, 3, nil)
			var in strings.Builder
			for i := range 1000 {
				fmt.Fprintf(&in, "key%d:value %d\n", i, i)
			}
			kcatRun(t, in.String(), "-P", "-b", strings.Join(c.bootstrap(), ","), "-t", topic, "-K:", "-z", codec, "-X", "acks=all")
			out := kcatRun(t, "", "-C", "-b", strings.Join(c.bootstrap(), ","), "-t", topic, "-o", "beginning", "-c", "1000", "-q", "-f", "%k:%s\n")
			if out != in.String() {
				t.Fatalf("read %d bytes, sent %d: not the same", len(out), in.Len())
			}
		})
	}
}

func kcatRun(t *testing.T, in string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kcat", args...)
	cmd.Stdin = strings.NewReader(in)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kcat %v: %v\n%s", args, err, errOut.String())
	}
	return string(out)
}

// confluentProduce sends n records with every codec, idempotent.
const confluentProduce = `
import sys
from confluent_kafka import Producer, Consumer, TopicPartition, OFFSET_BEGINNING
servers, topic, codec = sys.argv[1:4]
bad = []
p = Producer({'bootstrap.servers': servers, 'enable.idempotence': True, 'compression.type': codec, 'linger.ms': 5})
def done(err, m):
    if err: bad.append(err)
for i in range(2000):
    p.produce(topic, value=b'v%d' % i, key=b'k%d' % i, headers=[('h', b'%d' % i)], on_delivery=done)
p.produce(topic, value=None, key=b'gone', on_delivery=done)
if p.flush(60) or bad: sys.exit('not delivered: %s' % bad[:3])
c = Consumer({'bootstrap.servers': servers, 'group.id': 'none', 'enable.auto.commit': False})
c.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
n = 0
while n < 2001:
    for m in c.consume(500, 5.0):
        if m.error(): sys.exit(str(m.error()))
        if n < 2000: assert (m.key(), m.value(), m.headers()) == (b'k%d' % n, b'v%d' % n, [('h', b'%d' % n)]), n
        else: assert m.value() is None
        assert m.offset() == n
        n += 1
c.close()
print('ok', n)
`

func TestConfluentPython(t *testing.T) {
	py := python(t)
	c := sharedCluster(t)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			topic := "confluent-" + codec
			c.createTopic(topic, 1, 3, nil)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			out, err := exec.CommandContext(ctx, py, "-c", confluentProduce, strings.Join(c.bootstrap(), ","), topic, codec).CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != "ok "+strconv.Itoa(2001) {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
}
