package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tailrace/tailrace/client"
)

// maxLine bounds one line of standard input; no topic takes larger records.
const maxLine = 64 << 20

type produceFlags struct {
	delimiter   string
	headers     []string
	partition   int32
	acks        string
	compression string
	maxBytes    int32
}

type producedDoc struct {
	Topic   string `json:"topic"`
	Records int64  `json:"records"`
	Bytes   int64  `json:"bytes"` // keys and values
}

func (a *app) produceCommand() *cobra.Command {
	var f produceFlags
	c := &cobra.Command{
		Use:   "produce NAME",
		Short: "Write each line of standard input as a record",
		Example: `  printf 'hello\nworld\n' | logctl produce greetings
  echo 'user7:{"n":1}' | logctl produce orders --key-delimiter : --header source=shell`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: a.completeTopics,
	}
	c.Flags().StringVar(&f.delimiter, "key-delimiter", "", `what separates the key from the value in a line (\t for a tab); lines without it have no key`)
	c.Flags().StringArrayVar(&f.headers, "header", nil, "header NAME=VALUE on every record, repeatable")
	c.Flags().Int32Var(&f.partition, "partition", -1, "write to this partition only (default: by key, or spread)")
	c.Flags().StringVar(&f.acks, "acks", "all", "all, 1 or 0")
	c.Flags().StringVar(&f.compression, "compression", "none", "none, gzip, snappy, lz4 or zstd")
	c.Flags().Int32Var(&f.maxBytes, "max-bytes", 0, "largest batch, for topics with a raised max.message.bytes")
	_ = c.RegisterFlagCompletionFunc("compression", fixed("none", "gzip", "snappy", "lz4", "zstd"))
	_ = c.RegisterFlagCompletionFunc("acks", fixed("all", "1", "0"))
	c.RunE = func(c *cobra.Command, args []string) error { return a.produce(c.Context(), args[0], f) }
	return c
}

func (a *app) produce(ctx context.Context, topic string, f produceFlags) error {
	acks, err := client.ParseAcks(f.acks)
	if err != nil {
		return usagef("%v", err)
	}
	headers, err := parseHeaders(f.headers)
	if err != nil {
		return err
	}
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := a.checkTopic(ctx, cl, topic, f.partition); err != nil {
		return err
	}
	p, err := cl.Producer(client.ProducerOptions{
		Topic: topic, Acks: acks, Compression: f.compression, Linger: 5 * time.Millisecond,
		MaxBatchBytes: f.maxBytes, ManualPartitions: f.partition >= 0, DeliveryTimeout: max(a.timeout, time.Second),
	})
	if errors.Is(err, client.ErrInvalid) {
		return usagef("%v", err)
	}
	if err != nil {
		return err
	}
	defer p.Close()
	run := &production{producer: p, headers: headers, delimiter: []byte(interpret(f.delimiter)), partition: f.partition}
	if err := run.all(ctx, a.in, a.timeout); err != nil {
		return err
	}
	t := &table{header: []string{"TOPIC", "RECORDS", "BYTES"}}
	t.add(topic, run.records, run.bytes)
	return a.print(producedDoc{Topic: topic, Records: run.records, Bytes: run.bytes}, t)
}

// checkTopic makes a wrong topic or partition an error before input is read.
func (a *app) checkTopic(ctx context.Context, cl *client.Client, topic string, partition int32) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	topics, err := cl.Admin().Topics(ctx, topic)
	if err != nil {
		return err
	}
	if n := len(topics[0].Partitions); int(partition) >= n {
		return &client.Error{Op: "produce to " + topic, Kind: client.ErrNotFound, Err: fmt.Errorf("the topic has %d partitions and no partition %d", n, partition)}
	}
	return nil
}

func parseHeaders(pairs []string) ([]client.Header, error) {
	out := make([]client.Header, 0, len(pairs))
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, usagef("bad header %q: use NAME=VALUE", p)
		}
		out = append(out, client.Header{Key: k, Value: []byte(v)})
	}
	return out, nil
}

// production writes the lines of one input.
type production struct {
	producer  *client.Producer
	headers   []client.Header
	delimiter []byte
	partition int32

	records, bytes int64

	mu struct {
		sync.Mutex
		err error // the first failure: nothing more is sent after it
	}
}

// all sends every line and returns when all are acknowledged.
func (p *production) all(ctx context.Context, in io.Reader, timeout time.Duration) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() && p.failure() == nil && ctx.Err() == nil {
		r := p.record(lines.Bytes())
		p.records++
		p.bytes += int64(len(r.Key) + len(r.Value))
		p.producer.ProduceAsync(ctx, r, p.done)
	}
	// Each record has its own time limit, so this ends.
	flushed, cancel := context.WithTimeout(ctx, timeout+time.Second)
	defer cancel()
	err := p.producer.Flush(flushed)
	if failed := p.failure(); failed != nil {
		return failed
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d of the input is over %d bytes: split it", p.records+1, maxLine)
	}
	return errors.Join(lines.Err(), err)
}

// record copies a line into a record.
func (p *production) record(line []byte) *client.Record {
	r := &client.Record{Headers: p.headers, Value: bytes.Clone(line)}
	if r.Value == nil {
		r.Value = []byte{}
	}
	if p.partition >= 0 {
		r.Partition = p.partition
	}
	if len(p.delimiter) > 0 {
		if k, v, ok := bytes.Cut(r.Value, p.delimiter); ok {
			r.Key, r.Value = k, v
		}
	}
	return r
}

func (p *production) done(_ *client.Record, err error) {
	if err == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.err == nil {
		p.mu.err = err
	}
}

func (p *production) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.err
}
