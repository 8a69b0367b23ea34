package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/client"
)

// newReplicated starts a cluster whose topic "t" has one partition with n
// records, that every broker serves. It returns the leader and a follower.
func newReplicated(t *testing.T, n int) (k *kfake.Cluster, cl *client.Client, leader, follower int32) {
	t.Helper()
	k, cl = newCluster(t, 1)
	fill(t, cl, 0, n)
	leader = k.LeaderFor("t", 0)
	k.SetFollowers("t", 0, []int32{0, 1, 2})
	return k, cl, leader, (leader + 1) % 3
}

// readAll reads to the end and returns who served how many records, after
// checking that each offset came exactly once and in order.
func readAll(t *testing.T, cl *client.Client, n int, o client.ConsumerOptions) map[int32]int64 {
	t.Helper()
	o.Topic, o.StopAtEnd, o.MaxWait = "t", true, 50*time.Millisecond
	con, err := cl.Consumer(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	next := int64(0)
	for r, err := range con.Records(testContext(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Offset != next {
			t.Fatalf("offset %d, want %d", r.Offset, next)
		}
		next++
	}
	if next != int64(n) {
		t.Fatalf("read %d records, want %d", next, n)
	}
	return con.Served()
}

func TestLeaderPolicy(t *testing.T) {
	_, cl, leader, _ := newReplicated(t, 20)
	if got := readAll(t, cl, 20, client.ConsumerOptions{}); got[leader] != 20 {
		t.Errorf("served by %v, want all by leader %d", got, leader)
	}
}

func TestBrokerPolicy(t *testing.T) {
	_, cl, _, follower := newReplicated(t, 20)
	got := readAll(t, cl, 20, client.ConsumerOptions{Replica: client.Broker(follower)})
	if got[follower] != 20 {
		t.Errorf("served by %v, want all by broker %d", got, follower)
	}
}

// TestBrokerWithoutReplica: an unknown broker cannot serve, the leader does.
func TestBrokerWithoutReplica(t *testing.T) {
	_, cl, leader, _ := newReplicated(t, 5)
	if got := readAll(t, cl, 5, client.ConsumerOptions{Replica: client.Broker(77)}); got[leader] != 5 {
		t.Errorf("served by %v, want leader %d", got, leader)
	}
}

// TestAnySpreads reads many partitions and sees every broker serve some.
func TestAnySpreads(t *testing.T) {
	const partitions = 60 // each chooses by itself: that none chooses one of three is out of the question
	k, cl := newCluster(t, partitions)
	for p := range int32(partitions) {
		fill(t, cl, p, 2)
		k.SetFollowers("t", p, []int32{0, 1, 2})
	}
	con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t", StopAtEnd: true, Replica: client.Any()})
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	n := 0
	for _, err := range con.Records(testContext(t)) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if served := con.Served(); n != 2*partitions || len(served) != 3 {
		t.Errorf("%d records served by %v, want %d by three brokers", n, served, 2*partitions)
	}
}

// redirect makes one broker answer fetches as a Tailrace follower that cannot
// serve an offset from limit on: no records, and another broker as preferred.
func redirect(k *kfake.Cluster, at, to int32, limit int64) *atomic.Int64 {
	var redirected atomic.Int64
	k.ControlKey(int16(kmsg.Fetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		req := kreq.(*kmsg.FetchRequest)
		if k.CurrentNode() != at || req.Topics[0].Partitions[0].FetchOffset < limit {
			return nil, nil, false
		}
		redirected.Add(1)
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		topic := kmsg.NewFetchResponseTopic()
		topic.Topic, topic.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
		p := kmsg.NewFetchResponseTopicPartition()
		p.PreferredReadReplica = to
		topic.Partitions = append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	return &redirected
}

// TestFollowerRedirects: what a replica cannot serve yet comes from the leader.
func TestFollowerRedirects(t *testing.T) {
	for _, policy := range []string{"broker", "any"} {
		t.Run(policy, func(t *testing.T) {
			k, cl, leader, follower := newReplicated(t, 20)
			redirected := redirect(k, follower, leader, 7)
			third := 3 - leader - follower
			redirect(k, third, leader, 7)
			o := client.ConsumerOptions{Replica: client.Any(), MaxPartitionBytes: 1}
			if policy == "broker" {
				o.Replica = client.Broker(follower)
			}
			got := readAll(t, cl, 20, o)
			if got[leader] < 13 {
				t.Errorf("served by %v, want at least 13 from leader %d", got, leader)
			}
			if policy == "broker" && (got[follower] != 7 || redirected.Load() == 0) {
				t.Errorf("served by %v, want 7 from broker %d before the redirect", got, follower)
			}
		})
	}
}

// TestNearestFollowsTheLeadersHint (KIP-392): the leader names a replica in the
// rack, which then serves.
func TestNearestFollowsTheLeadersHint(t *testing.T) {
	k, cl, leader, follower := newReplicated(t, 20)
	var rack atomic.Value
	k.ControlKey(int16(kmsg.Fetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		if k.CurrentNode() == leader {
			rack.Store(kreq.(*kmsg.FetchRequest).Rack)
		}
		return nil, nil, false
	})
	redirect(k, leader, follower, 0)
	got := readAll(t, cl, 20, client.ConsumerOptions{Replica: client.Nearest("r7")})
	if got[follower] != 20 {
		t.Errorf("served by %v, want broker %d", got, follower)
	}
	if rack.Load() != "r7" {
		t.Errorf("the leader was told rack %v", rack.Load())
	}
}

// TestFollowerErrors: a replica that fails is left for the leader, whatever it says.
func TestFollowerErrors(t *testing.T) {
	for _, code := range []*kerr.Error{
		kerr.OffsetOutOfRange, kerr.NotLeaderForPartition, kerr.KafkaStorageError, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID,
		kerr.ReplicaNotAvailable, kerr.UnknownLeaderEpoch, kerr.FencedLeaderEpoch, kerr.CorruptMessage, kerr.UnknownServerError, kerr.OffsetNotAvailable,
	} {
		t.Run(code.Message, func(t *testing.T) {
			k, cl, leader, follower := newReplicated(t, 5)
			k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Nodes: []int32{follower}, Err: code, Count: -1})
			got := readAll(t, cl, 5, client.ConsumerOptions{Replica: client.Broker(follower)})
			if got[leader] != 5 {
				t.Errorf("served by %v, want leader %d", got, leader)
			}
		})
	}
}

// TestLeaderErrorsAreRetried: what heals is not reported.
func TestLeaderErrorsAreRetried(t *testing.T) {
	for _, code := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.KafkaStorageError, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.LeaderNotAvailable,
		kerr.UnknownLeaderEpoch, kerr.FencedLeaderEpoch, kerr.CorruptMessage, kerr.OffsetNotAvailable, kerr.OffsetOutOfRange,
	} {
		t.Run(code.Message, func(t *testing.T) {
			k, cl, leader, _ := newReplicated(t, 5)
			h := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: code, Count: 2})
			if got := readAll(t, cl, 5, client.ConsumerOptions{}); got[leader] != 5 {
				t.Errorf("served by %v, want leader %d", got, leader)
			}
			if h.Hits() != 2 {
				t.Errorf("%d faults were met, want 2", h.Hits())
			}
		})
	}
}

// TestDamagedBytesOfAFollower: a batch that fails its checksum is read elsewhere.
func TestDamagedBytesOfAFollower(t *testing.T) {
	k, cl, leader, follower := newReplicated(t, 5)
	k.ControlKey(int16(kmsg.Fetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if k.CurrentNode() != follower {
			return nil, nil, false
		}
		req := kreq.(*kmsg.FetchRequest)
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		topic := kmsg.NewFetchResponseTopic()
		topic.Topic, topic.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
		p := kmsg.NewFetchResponseTopicPartition()
		p.HighWatermark = 5
		p.RecordBatches = damagedBatch()
		topic.Partitions = append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	if got := readAll(t, cl, 5, client.ConsumerOptions{Replica: client.Broker(follower)}); got[leader] != 5 {
		t.Errorf("served by %v, want leader %d", got, leader)
	}
}

// damagedBatch is a well-formed header whose checksum does not match.
func damagedBatch() []byte {
	b := kmsg.RecordBatch{Length: 49, Magic: 2, CRC: 12345, NumRecords: 1}
	return b.AppendTo(nil)
}

// TestLeaderMoves: reading goes on over changes of leader, with every policy.
func TestLeaderMoves(t *testing.T) {
	for _, policy := range []client.ReplicaPolicy{client.Leader(), client.Nearest(""), client.Any(), client.Broker(1)} {
		t.Run(policy.String(), func(t *testing.T) {
			k, cl, _, _ := newReplicated(t, 0)
			con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t", Replica: policy, MaxWait: 50 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer con.Close()
			next := int64(0)
			fill(t, cl, 0, 3)
			for r, err := range con.Records(testContext(t)) {
				if err != nil {
					t.Fatal(err)
				}
				if r.Offset != next {
					t.Fatalf("offset %d, want %d", r.Offset, next)
				}
				if next++; next == 12 {
					break
				}
				if next%3 == 0 {
					if err := k.MoveTopicPartition("t", 0, (k.LeaderFor("t", 0)+1)%3); err != nil {
						t.Fatal(err)
					}
					fill(t, cl, 0, 3)
				}
			}
			if next != 12 {
				t.Errorf("ended after %d records", next)
			}
		})
	}
}

// TestBrokerDies: Any goes on with the replicas that are left.
func TestBrokerDies(t *testing.T) {
	for _, policy := range []string{"any", "broker"} {
		t.Run(policy, func(t *testing.T) {
			k, cl, _, follower := newReplicated(t, 3)
			o := client.ConsumerOptions{Topic: "t", Replica: client.Any(), MaxWait: 50 * time.Millisecond}
			if policy == "broker" {
				o.Replica = client.Broker(follower)
			}
			con, err := cl.Consumer(testContext(t), o)
			if err != nil {
				t.Fatal(err)
			}
			defer con.Close()
			n := 0
			for _, err := range con.Records(testContext(t)) {
				if err != nil {
					t.Fatal(err)
				}
				if n++; n == 3 {
					if err := k.RemoveNode(follower); err != nil {
						t.Fatal(err)
					}
					fill(t, cl, 0, 3)
				}
				if n == 6 {
					break
				}
			}
			if n != 6 {
				t.Errorf("ended after %d records", n)
			}
		})
	}
}

// TestDataLoss: after a change of leader the new one's log of the epoch that was
// read ends below the position. The loss is reported, with every policy.
func TestDataLoss(t *testing.T) {
	for _, policy := range []client.ReplicaPolicy{client.Leader(), client.Any(), client.Broker(0)} {
		t.Run(policy.String(), func(t *testing.T) {
			k, cl, leader, _ := newReplicated(t, 10)
			con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t", Replica: policy, MaxWait: 50 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer con.Close()
			var loss *client.DataLossError
			n := 0
			for _, err := range con.Records(testContext(t)) {
				if err != nil {
					if !errors.As(err, &loss) {
						t.Fatal(err)
					}
					break
				}
				if n++; n == 10 {
					truncated(k, 6)
					if err := k.MoveTopicPartition("t", 0, (leader+1)%3); err != nil {
						t.Fatal(err)
					}
				}
			}
			if loss == nil || loss.Offset != 10 || loss.EndOffset != 6 || loss.Topic != "t" {
				t.Fatalf("after %d records: %+v, want a loss from 6 to 10", n, loss)
			}
			// Accepting the loss goes on from where the logs agree.
			con.Seek(0, loss.EndOffset)
			for r, err := range con.Records(testContext(t)) {
				if err != nil || r.Offset != 6 {
					t.Fatalf("after the loss: %v %v", r, err)
				}
				break
			}
		})
	}
}

// truncated makes every leader answer that any epoch ends at end.
func truncated(k *kfake.Cluster, end int64) {
	k.ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		topic := kmsg.NewOffsetForLeaderEpochResponseTopic()
		topic.Topic = req.Topics[0].Topic
		p := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
		p.Partition = req.Topics[0].Partitions[0].Partition
		p.LeaderEpoch = req.Topics[0].Partitions[0].LeaderEpoch
		p.EndOffset = end
		topic.Partitions = append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
}

// TestOutOfRangeOnce: a leader that calls an offset out of range while its log
// holds it (its high watermark lags after an election) is asked again.
func TestOutOfRangeOnce(t *testing.T) {
	k, cl, _, _ := newReplicated(t, 4)
	con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t", MaxWait: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	n := 0
	for _, err := range con.Records(testContext(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 4 {
			k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.OffsetOutOfRange, Count: 3})
			fill(t, cl, 0, 2)
		}
		if n == 6 {
			return
		}
	}
	t.Errorf("ended after %d records", n)
}

// TestLeaderHangs: a leader that takes fetches and never answers is left as
// soon as another one is elected, however long requests may take.
func TestLeaderHangs(t *testing.T) {
	k, _, leader, _ := newReplicated(t, 3)
	cl, err := client.New(context.Background(), client.Options{Seeds: k.ListenAddrs(), Extra: []kgo.Opt{kgo.RequestTimeoutOverhead(10 * time.Minute)}})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t", MaxWait: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	release := make(chan struct{})
	defer close(release)
	hung := make(chan struct{}, 16)
	k.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		if k.CurrentNode() == leader {
			hung <- struct{}{}
			k.SleepControl(func() { <-release })
		}
		return nil, nil, false
	})
	go func() {
		<-hung
		if err := k.MoveTopicPartition("t", 0, (leader+1)%3); err != nil {
			t.Error(err)
		}
	}()
	n := 0
	for r, err := range con.Records(testContext(t)) {
		if err != nil || r.Offset != int64(n) {
			t.Fatalf("%v %v, want offset %d", r, err, n)
		}
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Errorf("ended after %d records", n)
	}
}

// TestNewPartitions: a consumer of all partitions follows the topic as it grows.
func TestNewPartitions(t *testing.T) {
	_, cl := newCluster(t, 1)
	fill(t, cl, 0, 1)
	con, err := cl.Consumer(testContext(t), client.ConsumerOptions{Topic: "t", MaxWait: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	if err := cl.Admin().SetPartitions(testContext(t), "t", 2); err != nil {
		t.Fatal(err)
	}
	if err := cl.Admin().WaitTopic(testContext(t), "t", 2); err != nil {
		t.Fatal(err)
	}
	fill(t, cl, 1, 2)
	n := 0
	for _, err := range con.Records(testContext(t)) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			break
		}
	}
	if got := con.Positions(); got[0] != 1 || got[1] != 2 {
		t.Errorf("positions %v", got)
	}
}

func TestParseReplicaPolicy(t *testing.T) {
	for _, s := range []string{"leader", "nearest", "any", "0", "12"} {
		p, err := client.ParseReplicaPolicy(s, "r1")
		if err != nil || p.String() != s {
			t.Errorf("%s: %v, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "follower", "-1", "99999999999", "1x"} {
		if _, err := client.ParseReplicaPolicy(s, ""); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
	if fmt.Sprint(client.ReplicaPolicy{}) != "leader" {
		t.Error("the zero policy is not leader")
	}
}
