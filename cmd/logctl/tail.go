package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/spf13/cobra"

	"github.com/tailrace/tailrace/client"
)

// httpConfig is the broker config that says where its HTTP interface is.
const httpConfig = "tailrace.http.advertised"

type tailFlags struct {
	http       string
	from       string
	partitions []int
	key        string
	headers    []string
	count      int64
	format     string
}

func (a *app) tailCommand() *cobra.Command {
	var f tailFlags
	c := &cobra.Command{
		Use:   "tail NAME",
		Short: "Follow a topic over a broker's websocket",
		Example: `  logctl tail orders
  logctl tail orders --from -10 --key user7 -o json`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: a.completeTopics,
	}
	c.Flags().StringVar(&f.http, "http", "", "URL of a broker's HTTP interface (default: what the brokers advertise)")
	c.Flags().StringVar(&f.from, "from", "latest", "earliest, latest, -N (the last N of each partition), an offset, or @time (RFC 3339 or epoch ms)")
	c.Flags().IntSliceVar(&f.partitions, "partition", nil, "partitions to read (default: all)")
	c.Flags().StringVar(&f.key, "key", "", "only records with this key")
	c.Flags().StringArrayVar(&f.headers, "header", nil, "only records with this header, NAME or NAME=VALUE, repeatable")
	c.Flags().Int64Var(&f.count, "count", 0, "stop after this many records (default: no limit)")
	c.Flags().StringVar(&f.format, "format", `%s\n`, "what to print, as in consume")
	c.RunE = func(c *cobra.Command, args []string) error {
		query, err := f.query(c.Flags().Changed("key"))
		if err != nil {
			return err
		}
		render, err := a.renderer(f.format)
		if err != nil {
			return err
		}
		return a.tail(c.Context(), args[0], f, query, render)
	}
	return c
}

func (f tailFlags) query(byKey bool) (url.Values, error) {
	if _, err := client.ParsePosition(f.from); err != nil {
		return nil, usagef("%v", err)
	}
	partitions, err := partitionNumbers(f.partitions)
	if err != nil {
		return nil, err
	}
	q := url.Values{"from": {f.from}}
	for _, p := range partitions {
		q.Add("partition", strconv.Itoa(int(p)))
	}
	if byKey {
		q.Set("key", f.key)
	}
	for _, h := range f.headers {
		q.Add("header", h)
	}
	return q, nil
}

func (a *app) tail(ctx context.Context, topic string, f tailFlags, query url.Values, render func([]byte, *client.Record) []byte) error {
	base, err := a.httpBase(ctx, f.http)
	if err != nil {
		return err
	}
	u := base.JoinPath("v1", "topics", url.PathEscape(topic), "tail")
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[base.Scheme]
	u.RawQuery = query.Encode()
	dialing, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	conn, resp, err := websocket.DefaultDialer.DialContext(dialing, u.String(), nil)
	if err != nil {
		return dialFailure(topic, base, resp, err)
	}
	defer conn.Close()
	// An interrupt ends the blocked read by closing under it.
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	err = a.copyFrames(conn, topic, render, f.count)
	if ctx.Err() != nil {
		return nil // an interrupt is how a tail ends
	}
	return err
}

// httpBase is the URL given, or the one that a broker advertises.
func (a *app) httpBase(ctx context.Context, given string) (*url.URL, error) {
	if given == "" {
		err := a.withAdmin(ctx, func(ctx context.Context, admin *client.Admin) (err error) {
			given, err = advertisedHTTP(ctx, admin)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return parseBase(given)
}

func parseBase(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, usagef("bad HTTP address %q: use http://host:port", s)
	}
	return u, nil
}

// advertisedHTTP asks the brokers in turn.
func advertisedHTTP(ctx context.Context, admin *client.Admin) (string, error) {
	status, err := admin.Cluster(ctx)
	if err != nil {
		return "", err
	}
	for _, b := range status.Brokers {
		if c, err := admin.BrokerConfig(ctx, b.ID, httpConfig); err == nil && c.Value != "" {
			return c.Value, nil
		}
	}
	return "", fmt.Errorf("no broker advertises an HTTP interface (config %s): give one with --http", httpConfig)
}

// dialFailure turns the answer to a refused upgrade into its error.
func dialFailure(topic string, base *url.URL, resp *http.Response, err error) error {
	op := "tail " + topic
	if resp == nil {
		return &client.Error{Op: op, Kind: client.ErrUnavailable, Err: fmt.Errorf("cannot reach %s: %w", base.Host, err)}
	}
	defer resp.Body.Close()
	var answer struct {
		Error string `json:"error"`
	}
	// gorilla keeps the start of the body, enough for our errors.
	if json.NewDecoder(resp.Body).Decode(&answer) != nil || answer.Error == "" {
		answer.Error = resp.Status
	}
	cause := errors.New(answer.Error)
	switch resp.StatusCode {
	case http.StatusNotFound:
		return &client.Error{Op: op, Kind: client.ErrNotFound, Err: cause}
	case http.StatusServiceUnavailable:
		return &client.Error{Op: op, Kind: client.ErrUnavailable, Err: cause}
	}
	return &client.Error{Op: op, Kind: client.ErrFailed, Err: cause}
}

// copyFrames prints records until count, the end of the connection or of output.
func (a *app) copyFrames(conn *websocket.Conn, topic string, render func([]byte, *client.Record) []byte, count int64) error {
	out := bufio.NewWriterSize(a.out, 64<<10)
	var buf []byte
	for n := int64(0); ; {
		_, frame, err := conn.ReadMessage()
		if err != nil {
			return errors.Join(out.Flush(), closeFailure(topic, err))
		}
		var doc recordDoc
		if err := json.Unmarshal(frame, &doc); err != nil {
			return fmt.Errorf("tail %s: unexpected frame: %w", topic, err)
		}
		buf = render(buf[:0], doc.record())
		if _, err := out.Write(buf); err != nil {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if n++; n == count {
			bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
			// The records are printed; a goodbye that fails changes nothing.
			_ = conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second))
			return nil
		}
	}
}

// closeFailure says why the broker ended a tail; RFC 6455 and our own codes.
func closeFailure(topic string, err error) error {
	op := "tail " + topic
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		return &client.Error{Op: op, Kind: client.ErrUnavailable, Err: err}
	}
	cause := errors.New(closed.Text)
	switch closed.Code {
	case websocket.CloseNormalClosure:
		return nil
	case websocket.CloseGoingAway, websocket.CloseAbnormalClosure:
		return &client.Error{Op: op, Kind: client.ErrUnavailable, Err: cause}
	case 4004:
		return &client.Error{Op: op, Kind: client.ErrNotFound, Err: cause}
	}
	return &client.Error{Op: op, Kind: client.ErrFailed, Err: cause}
}

// record turns a frame back into a record.
func (d recordDoc) record() *client.Record {
	r := &client.Record{Topic: d.Topic, Partition: d.Partition, Offset: d.Offset, Timestamp: time.UnixMilli(d.Timestamp)}
	r.Key = bytesOf(d.Key, d.KeyB64)
	r.Value = bytesOf(d.Value, d.ValueB64)
	for _, h := range d.Headers {
		r.Headers = append(r.Headers, client.Header{Key: h.Key, Value: bytesOf(h.Value, h.ValueB64)})
	}
	return r
}

// bytesOf is the inverse of textOrBytes.
func bytesOf(text any, raw []byte) []byte {
	if s, ok := text.(string); ok {
		return []byte(s)
	}
	return raw
}

// textOrBytes gives bytes as a string if they are UTF-8, as null if they are
// nil, and otherwise as they are.
func textOrBytes(b []byte) (text any, raw []byte) {
	switch {
	case b == nil:
		return json.RawMessage("null"), nil
	case utf8.Valid(b):
		return string(b), nil
	}
	return nil, b
}
