package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/tailrace/tailrace/client"
)

type consumeFlags struct {
	from       string
	partitions []int
	count      int64
	follow     bool
	format     string
	replica    string
	rack       string
}

func (a *app) consumeCommand() *cobra.Command {
	var f consumeFlags
	c := &cobra.Command{
		Use:   "consume NAME",
		Short: "Read records; without --follow up to the end seen at the start",
		Example: `  logctl consume orders
  logctl consume orders --from -10 --format '%p %o %k %s\n'
  logctl consume orders --from @2026-01-01T00:00:00Z --follow
  logctl consume orders --replica 2`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: a.completeTopics,
	}
	c.Flags().StringVar(&f.from, "from", "earliest", "earliest, latest, -N (the last N of each partition), an offset, or @time (RFC 3339 or epoch ms)")
	c.Flags().IntSliceVar(&f.partitions, "partition", nil, "partitions to read (default: all)")
	c.Flags().Int64Var(&f.count, "count", 0, "stop after this many records in total (default: no limit)")
	c.Flags().BoolVar(&f.follow, "follow", false, "go on with new records until interrupted")
	c.Flags().StringVar(&f.format, "format", `%s\n`, `what to print: %k key, %s or %v value, %p partition, %o offset, %T timestamp in ms, %t topic, %h headers, %K %S lengths, %%, \n, \t; nothing is added`)
	c.Flags().StringVar(&f.replica, "replica", "leader", "read from: leader, nearest, any, or a broker id")
	c.Flags().StringVar(&f.rack, "rack", "", "where this client is, for --replica nearest")
	_ = c.RegisterFlagCompletionFunc("from", fixed("earliest", "latest"))
	_ = c.RegisterFlagCompletionFunc("replica", fixed("leader", "nearest", "any"))
	c.RunE = func(c *cobra.Command, args []string) error { return a.consume(c.Context(), args[0], f) }
	return c
}

func (f consumeFlags) options(topic string) (client.ConsumerOptions, error) {
	from, err := client.ParsePosition(f.from)
	if err != nil {
		return client.ConsumerOptions{}, usagef("%v", err)
	}
	policy, err := client.ParseReplicaPolicy(f.replica, f.rack)
	if err != nil {
		return client.ConsumerOptions{}, usagef("%v", err)
	}
	if f.count < 0 {
		return client.ConsumerOptions{}, usagef("--count must not be negative")
	}
	partitions, err := partitionNumbers(f.partitions)
	if err != nil {
		return client.ConsumerOptions{}, err
	}
	return client.ConsumerOptions{Topic: topic, Partitions: partitions, From: from, Replica: policy, StopAtEnd: !f.follow}, nil
}

// partitionNumbers checks the values of --partition.
func partitionNumbers(given []int) ([]int32, error) {
	out := make([]int32, 0, len(given))
	for _, n := range given {
		if n < 0 || n > math.MaxInt32 {
			return nil, usagef("bad partition %d: use numbers from 0", n)
		}
		out = append(out, int32(n))
	}
	return out, nil
}

func (a *app) consume(ctx context.Context, topic string, f consumeFlags) error {
	o, err := f.options(topic)
	if err != nil {
		return err
	}
	render, err := a.renderer(f.format)
	if err != nil {
		return err
	}
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	opening, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	con, err := cl.Consumer(opening, o)
	if err != nil {
		return err
	}
	defer con.Close()
	limit := time.Duration(0)
	if !f.follow {
		limit = a.timeout
	}
	err = a.copyRecords(ctx, topic, con, render, f.count, limit)
	if f.follow && ctx.Err() != nil {
		return nil // an interrupt is how a follow ends
	}
	return err
}

// renderer turns a record into what is printed.
func (a *app) renderer(text string) (func([]byte, *client.Record) []byte, error) {
	if a.output == "yaml" {
		return nil, usagef("a stream of records has no YAML form: use -o json, one document a line")
	}
	if a.output == "json" {
		return appendRecordJSON, nil
	}
	f, err := parseFormat(text)
	if err != nil {
		return nil, usagef("%v", err)
	}
	return f.append, nil
}

// copyRecords prints up to count records. With a limit it fails when no record
// comes for that long, for then the end can only be out of reach.
func (a *app) copyRecords(ctx context.Context, topic string, con *client.Consumer, render func([]byte, *client.Record) []byte, count int64, limit time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := &client.Error{Op: "consume " + topic, Kind: client.ErrUnavailable, Err: fmt.Errorf("no record for %v before the end was reached", limit)}
	watch := time.AfterFunc(max(limit, time.Hour), func() {})
	if limit > 0 {
		watch = time.AfterFunc(limit, func() { cancel(stalled) })
	}
	defer watch.Stop()
	out := bufio.NewWriterSize(a.out, 64<<10)
	var buf []byte
	n := int64(0)
	for batch, err := range con.Batches(ctx) {
		if err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, stalled) {
				err = cause
			}
			return errors.Join(out.Flush(), err)
		}
		watch.Stop() // a slow reader of our output is not the cluster's fault
		for _, r := range batch {
			buf = render(buf[:0], r)
			if _, err := out.Write(buf); err != nil {
				return err
			}
			if n++; n == count {
				return out.Flush()
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if limit > 0 {
			watch.Reset(limit)
		}
	}
	return out.Flush()
}

// recordDoc is a record as JSON, as a tail sends it: a string, or null, or
// absent where the bytes are in the field with _b64.
type recordDoc struct {
	Topic     string      `json:"topic"`
	Partition int32       `json:"partition"`
	Offset    int64       `json:"offset"`
	Timestamp int64       `json:"timestamp"`
	Key       any         `json:"key,omitempty"`
	KeyB64    []byte      `json:"key_b64,omitempty"`
	Value     any         `json:"value,omitempty"`
	ValueB64  []byte      `json:"value_b64,omitempty"`
	Headers   []headerDoc `json:"headers"`
}

type headerDoc struct {
	Key      string `json:"key"`
	Value    any    `json:"value,omitempty"`
	ValueB64 []byte `json:"value_b64,omitempty"`
}

func appendRecordJSON(dst []byte, r *client.Record) []byte {
	doc := recordDoc{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Headers: make([]headerDoc, 0, len(r.Headers))}
	doc.Key, doc.KeyB64 = textOrBytes(r.Key)
	doc.Value, doc.ValueB64 = textOrBytes(r.Value)
	for _, h := range r.Headers {
		hd := headerDoc{Key: h.Key}
		hd.Value, hd.ValueB64 = textOrBytes(h.Value)
		doc.Headers = append(doc.Headers, hd)
	}
	line, err := json.Marshal(doc)
	if err != nil {
		return dst // strings, numbers and bytes always marshal
	}
	return append(append(dst, line...), '\n')
}
