package api

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/broker/wire"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

// listening is a fake backend behind a real server on loopback.
type listening struct {
	*fakeBackend
	port int32
}

func (l *listening) Endpoint(string, model.BrokerID) (string, int32, bool) {
	return "127.0.0.1", l.port, true
}

// listen serves a backend whose partitions this broker all leads. It returns
// the address.
func listen(t *testing.T) (addr string, b *fakeBackend) {
	b = newFakeBackend()
	b.withController(t)
	for _, id := range []model.BrokerID{2, 3} {
		delete(b.image.Brokers, id)
	}
	for _, name := range []string{"other", "far"} {
		delete(b.image.Topics, b.image.TopicsByName[name].ID)
		delete(b.image.TopicsByName, name)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := &listening{b, int32(l.Addr().(*net.TCPAddr).Port)}
	s := New(host, Options{})
	ws := wire.NewServer(s, wire.Options{Listener: "PLAINTEXT"})
	served := make(chan error, 1)
	go func() { served <- ws.Serve(l) }()
	t.Cleanup(func() {
		ws.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return l.Addr().String(), b
}

const clientRecords = 200

// TestFranzGo produces (idempotent, compressed) and consumes with franz-go, at
// its newest versions and at those of old releases.
func TestFranzGo(t *testing.T) {
	for name, versions := range map[string]*kversion.Versions{"newest": kversion.Stable(), "2.1": kversion.V2_1_0(), "1.0": kversion.V1_0_0()} {
		t.Run(name, func(t *testing.T) {
			addr, b := listen(t)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.MaxVersions(versions), kgo.DefaultProduceTopic("t"), kgo.ConsumeTopics("t"),
				kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.Rack("r1"))
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			var failed atomic.Int32
			for i := range clientRecords {
				cl.Produce(ctx, kgo.StringRecord(fmt.Sprint(i)), func(_ *kgo.Record, err error) {
					if err != nil {
						failed.Add(1)
					}
				})
			}
			if err := cl.Flush(ctx); err != nil || failed.Load() > 0 {
				t.Fatalf("%v, %d failed; events %v", err, failed.Load(), b.events)
			}
			seen := map[string]bool{}
			for len(seen) < clientRecords {
				fetches := cl.PollFetches(ctx)
				if err := fetches.Err(); err != nil {
					t.Fatal(err)
				}
				fetches.EachRecord(func(r *kgo.Record) { seen[string(r.Value)] = true })
			}
		})
	}
}

// TestFranzGoAdmin drives the administrative keys through kadm.
func TestFranzGoAdmin(t *testing.T) {
	addr, _ := listen(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if r, err := adm.CreateTopic(ctx, 3, 1, map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}, "fresh"); err != nil || r.Err != nil || r.NumPartitions != 3 {
		t.Fatalf("create: %+v %v", r, err)
	}
	if rs, err := adm.ListTopics(ctx); err != nil || len(rs) != 2 || len(rs["fresh"].Partitions) != 3 {
		t.Errorf("list: %+v %v", rs, err)
	}
	if rs, err := adm.UpdatePartitions(ctx, 5, "fresh"); err != nil || rs["fresh"].Err != nil {
		t.Errorf("partitions: %+v %v", rs, err)
	}
	if rs, err := adm.ListEndOffsets(ctx, "fresh"); err != nil || len(rs["fresh"]) != 5 || rs.Error() != nil {
		t.Errorf("end offsets: %+v %v", rs, err)
	}
	if rs, err := adm.DescribeTopicConfigs(ctx, "fresh"); err != nil || len(rs) != 1 || rs[0].Err != nil {
		t.Errorf("configs: %+v %v", rs, err)
	}
	if rs, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: kadm.StringPtr("1000")}}, "fresh"); err != nil || rs[0].Err != nil {
		t.Errorf("alter: %+v %v", rs, err)
	}
	if rs, err := adm.DescribeAllLogDirs(ctx, nil); err != nil || len(rs) != 1 {
		t.Errorf("log dirs: %+v %v", rs, err)
	}
	if rs, err := adm.BrokerMetadata(ctx); err != nil || rs.Controller != 1 || rs.Cluster != testCluster {
		t.Errorf("metadata: %+v %v", rs, err)
	}
	if rs, err := adm.DeleteTopics(ctx, "fresh"); err != nil || rs["fresh"].Err != nil {
		t.Errorf("delete: %+v %v", rs, err)
	}
}

// TestSarama produces and consumes with Sarama, which fetches without sessions.
func TestSarama(t *testing.T) {
	addr, b := listen(t)
	for _, version := range []sarama.KafkaVersion{sarama.V1_0_0_0, sarama.DefaultVersion, sarama.MaxVersion} {
		cfg := sarama.NewConfig()
		cfg.Version = version
		cfg.Producer.Return.Successes = true
		cfg.Producer.RequiredAcks = sarama.WaitForAll
		p, err := sarama.NewSyncProducer([]string{addr}, cfg)
		if err != nil {
			t.Fatalf("%v: %v; events %v", version, err, b.events)
		}
		_, base, err := p.SendMessage(&sarama.ProducerMessage{Topic: "t", Partition: 0, Key: sarama.StringEncoder("k"), Value: sarama.StringEncoder(version.String())})
		if err != nil {
			t.Fatalf("%v: %v", version, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		consumeSarama(t, addr, cfg, base)
	}
}

func consumeSarama(t *testing.T, addr string, cfg *sarama.Config, offset int64) {
	t.Helper()
	c, err := sarama.NewConsumer([]string{addr}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for p := range int32(2) {
		if end, err := newestOffset(addr, cfg, p); err != nil || end <= offset {
			continue
		}
		pc, err := c.ConsumePartition("t", p, offset)
		if err != nil {
			t.Fatal(err)
		}
		if m := <-pc.Messages(); string(m.Value) != cfg.Version.String() || string(m.Key) != "k" {
			t.Errorf("%v: read %q=%q", cfg.Version, m.Key, m.Value)
		}
		if err := pc.Close(); err != nil {
			t.Error(err)
		}
		return
	}
	t.Errorf("%v: offset %d is nowhere", cfg.Version, offset)
}

func newestOffset(addr string, cfg *sarama.Config, p int32) (int64, error) {
	cl, err := sarama.NewClient([]string{addr}, cfg)
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	return cl.GetOffset("t", p, sarama.OffsetNewest)
}

// TestKafkaGo uses both of kafka-go's stacks, whose versions are picked from
// fixed lists.
func TestKafkaGo(t *testing.T) {
	addr, _ := listen(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := &kafkago.Writer{Addr: kafkago.TCP(addr), Topic: "t", RequiredAcks: kafkago.RequireAll, BatchSize: 10, Compression: kafkago.Snappy, Transport: &kafkago.Transport{}}
	var msgs []kafkago.Message
	for i := range 20 {
		msgs = append(msgs, kafkago.Message{Value: []byte(fmt.Sprint(i))})
	}
	if err := w.WriteMessages(ctx, msgs...); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	w.Transport.(*kafkago.Transport).CloseIdleConnections()
	seen := map[string]bool{}
	for p := range 2 {
		r := kafkago.NewReader(kafkago.ReaderConfig{Brokers: []string{addr}, Topic: "t", Partition: p, MaxBytes: 1 << 20, MaxWait: 100 * time.Millisecond})
		end, err := kafkago.DialLeader(ctx, "tcp", addr, "t", p)
		if err != nil {
			t.Fatal(err)
		}
		last, err := end.ReadLastOffset()
		if err != nil {
			t.Fatal(err)
		}
		_ = end.Close() // nothing was written on it
		for n := int64(0); n < last; n++ {
			m, err := r.ReadMessage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			seen[string(m.Value)] = true
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(seen) != 20 {
		t.Errorf("read %d of 20 messages", len(seen))
	}
}
