package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
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
	p, err := cl.Producer(client.ProducerOptions{
		Topic: topic, Acks: acks, Compression: f.compression, Linger: 5 * time.Millisecond,
		MaxBatchBytes: f.maxBytes, ManualPartitions: f.partition >= 0,
	})
	if errors.Is(err, client.ErrInvalid) {
		return usagef("%v", err)
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if err := a.checkTopic(ctx, cl, topic, f.partition); err != nil {
		return err
	}
	run := &production{producer: p, headers: headers, delimiter: []byte(interpret(f.delimiter)), partition: f.partition, patience: a.timeout}
	if err := run.all(ctx, a.in); err != nil {
		return a.whyUnacknowledged(ctx, cl, topic, err)
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

// whyUnacknowledged adds to a produce that timed out what the topic lacks.
func (a *app) whyUnacknowledged(ctx context.Context, cl *client.Client, topic string, err error) error {
	if !errors.Is(err, client.ErrUnavailable) || ctx.Err() != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	topics, lookup := cl.Admin().Topics(ctx, topic)
	configs, lookup2 := cl.Admin().TopicConfigs(ctx, topic)
	if lookup != nil || lookup2 != nil {
		return err
	}
	least := 1
	for _, c := range configs {
		if n, convErr := strconv.Atoi(c.Value); convErr == nil && c.Name == "min.insync.replicas" {
			least = n
		}
	}
	for _, p := range topics[0].Partitions {
		if p.Leader < 0 {
			return fmt.Errorf("%w: partition %d has no leader", err, p.Partition)
		}
		if len(p.ISR) < least {
			cause := fmt.Errorf("partition %d has %d in-sync replicas and needs %d", p.Partition, len(p.ISR), least)
			return &client.Error{Op: "produce to " + topic, Kind: client.ErrNotEnoughReplicas, Err: cause}
		}
	}
	return err
}

// production writes the lines of one input.
type production struct {
	producer  *client.Producer
	headers   []client.Header
	delimiter []byte
	partition int32
	patience  time.Duration // how long may pass without an acknowledgement

	records, bytes int64

	mu struct {
		sync.Mutex
		waiting int64       // records without an answer
		watch   *time.Timer // runs while waiting > 0
		err     error       // the first failure: nothing more is sent after it
	}
}

// errNoAck ends a production whose records are not acknowledged any more.
var errNoAck = &client.Error{Op: "produce", Kind: client.ErrUnavailable, Err: errors.New("no acknowledgement in time; the records that waited may be written or not")}

// all sends every line and returns when all are acknowledged, one has failed,
// or no acknowledgement has come for too long.
func (p *production) all(ctx context.Context, in io.Reader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.mu.watch = time.AfterFunc(time.Hour, func() { cancel(errNoAck) })
	defer p.mu.watch.Stop()
	p.mu.watch.Stop()

	inputErr := p.sendLines(ctx, in)
	err := p.producer.Flush(ctx)
	switch failed := p.failure(); {
	case errors.Is(context.Cause(ctx), errNoAck):
		return errNoAck
	case failed != nil:
		return failed
	}
	return errors.Join(inputErr, err)
}

// sendLines queues a record for each line until the input or ctx ends. The
// input is read by a goroutine of its own, because a terminal or pipe that
// stays silent must not keep an interrupt or a failure from ending the command.
func (p *production) sendLines(ctx context.Context, in io.Reader) error {
	records := make(chan *client.Record, 256)
	finished := make(chan error, 1)
	go func() {
		defer close(records)
		lines := bufio.NewScanner(in)
		lines.Buffer(make([]byte, 0, 64<<10), maxLine)
		for lines.Scan() {
			select {
			case records <- p.record(lines.Bytes()):
			case <-ctx.Done():
				finished <- ctx.Err()
				return
			}
		}
		finished <- lines.Err()
	}()
	for p.failure() == nil {
		select {
		case r, ok := <-records:
			if !ok {
				return p.inputFailure(<-finished)
			}
			p.records++
			p.bytes += int64(len(r.Key) + len(r.Value))
			p.sent()
			p.producer.ProduceAsync(ctx, r, p.done)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (p *production) inputFailure(err error) error {
	if errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("line %d of the input is over %d bytes: split it", p.records+1, maxLine)
	}
	return err
}

// sent notes that one more record waits.
func (p *production) sent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.waiting++; p.mu.waiting == 1 {
		p.mu.watch.Reset(p.patience)
	}
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
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.waiting--
	if err != nil && p.mu.err == nil {
		p.mu.err = err
	}
	p.mu.watch.Stop()
	if p.mu.waiting > 0 {
		p.mu.watch.Reset(p.patience)
	}
}

func (p *production) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.err
}
