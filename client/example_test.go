package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tailrace/tailrace/client"
)

// cluster starts a small cluster in this process, so that the examples run.
func cluster(topics ...string) (seeds []string, stop func()) {
	k, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(1, topics...))
	if err != nil {
		log.Fatal(err)
	}
	return k.ListenAddrs(), k.Close
}

func Example() {
	seeds, stop := cluster()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	cl, err := client.New(ctx, client.Options{Seeds: seeds})
	if err != nil {
		log.Fatal(err)
	}
	defer cl.Close()

	if err := cl.Admin().CreateTopic(ctx, client.TopicSpec{Name: "greetings", Partitions: 1, Replicas: 3}); err != nil {
		log.Fatal(err)
	}
	if err := cl.Admin().WaitTopic(ctx, "greetings", 1); err != nil {
		log.Fatal(err)
	}

	producer, err := cl.Producer(client.ProducerOptions{Topic: "greetings"})
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close()
	for _, word := range []string{"hello", "world"} {
		if _, err := producer.Produce(ctx, &client.Record{Value: []byte(word)}); err != nil {
			log.Fatal(err)
		}
	}

	consumer, err := cl.Consumer(ctx, client.ConsumerOptions{Topic: "greetings", StopAtEnd: true})
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()
	for rec, err := range consumer.Records(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %s\n", rec.Offset, rec.Value)
	}
	// Output:
	// 0 hello
	// 1 world
}

func ExampleProducer_ProduceAsync() {
	seeds, stop := cluster("clicks")
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cl, err := client.New(ctx, client.Options{Seeds: seeds})
	if err != nil {
		log.Fatal(err)
	}
	defer cl.Close()
	producer, err := cl.Producer(client.ProducerOptions{Topic: "clicks", Compression: "zstd", Linger: 5 * time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close()

	for i := range 3 {
		producer.ProduceAsync(ctx, &client.Record{Key: []byte("user7"), Value: fmt.Appendf(nil, "click %d", i)},
			func(r *client.Record, err error) {
				if err != nil {
					fmt.Println("lost:", err)
					return
				}
				fmt.Printf("%s is at offset %d\n", r.Value, r.Offset)
			})
	}
	if err := producer.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// click 0 is at offset 0
	// click 1 is at offset 1
	// click 2 is at offset 2
}

// Read the last ten records of each partition from the replicas in one's own
// rack, and go on with what comes.
func ExampleConsumer_Records() {
	follow := func(ctx context.Context, cl *client.Client) error {
		consumer, err := cl.Consumer(ctx, client.ConsumerOptions{
			Topic:   "orders",
			From:    client.Last(10),
			Replica: client.Nearest("rack-a"),
		})
		if err != nil {
			return err
		}
		defer consumer.Close()
		for rec, err := range consumer.Records(ctx) {
			if err != nil {
				return err
			}
			fmt.Printf("%d/%d %s\n", rec.Partition, rec.Offset, rec.Value)
		}
		return nil
	}
	_ = follow
}

// A loss of records that were read already is reported. Whoever has undone
// what came from them goes on from where the log ends now.
func ExampleDataLossError() {
	read := func(ctx context.Context, consumer *client.Consumer) error {
		for rec, err := range consumer.Records(ctx) {
			var loss *client.DataLossError
			if errors.As(err, &loss) && loss.EndOffset >= 0 {
				fmt.Println("undo from offset", loss.EndOffset)
				consumer.Seek(loss.Partition, loss.EndOffset)
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Println(rec.Offset)
		}
		return nil
	}
	_ = read
}

func ExampleError() {
	seeds, stop := cluster()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cl, err := client.New(ctx, client.Options{Seeds: seeds})
	if err != nil {
		log.Fatal(err)
	}
	defer cl.Close()

	_, err = cl.Consumer(ctx, client.ConsumerOptions{Topic: "nope"})
	fmt.Println(errors.Is(err, client.ErrNotFound))
	fmt.Println(err)
	// Output:
	// true
	// consume nope: not found: UNKNOWN_TOPIC_OR_PARTITION: This server does not host this topic-partition
}

func ExampleParsePosition() {
	for _, s := range []string{"earliest", "-10", "42", "@2026-01-01T00:00:00Z"} {
		p, err := client.ParsePosition(s)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(p)
	}
	// Output:
	// earliest
	// -10
	// 42
	// @1767225600000
}
