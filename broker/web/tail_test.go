package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tailrace/tailrace/client"
)

func record(offset int64, key, value string) *client.Record {
	return &client.Record{Topic: "orders", Partition: 1, Offset: offset, Timestamp: time.UnixMilli(1700000000123), Key: []byte(key), Value: []byte(value)}
}

// readFrame returns the next frame as generic JSON.
func readFrame(t *testing.T, conn *websocket.Conn) map[string]any {
	t.Helper()
	kind, data, err := conn.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	if kind != websocket.TextMessage {
		t.Fatalf("frame of kind %d", kind)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// closeCode reads until the connection is closed and returns how.
func closeCode(t *testing.T, conn *websocket.Conn) *websocket.CloseError {
	t.Helper()
	for {
		_, _, err := conn.ReadMessage()
		var closed *websocket.CloseError
		if errors.As(err, &closed) {
			return closed
		}
		if err != nil {
			t.Fatalf("ended without a close frame: %v", err)
		}
	}
}

func TestFrame(t *testing.T) {
	f := start(t, nil)
	conn := f.mustDial("?from=-10&partition=0,1&partition=2")
	r := <-f.tailer.asked
	if r.From != client.Last(10) || fmt.Sprint(r.Partitions) != "[0 1 2]" {
		t.Errorf("asked for %+v", r)
	}
	rec := record(7, "k", "<b>\u00e9</b>")
	rec.Headers = []client.Header{{Key: "h", Value: []byte("x")}, {Key: "h", Value: []byte{0xff}}, {Key: "n"}}
	f.push(rec)
	_, raw, err := conn.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"topic":"orders","partition":1,"offset":7,"timestamp":1700000000123,"key":"k","value":"\u003cb\u003eé\u003c/b\u003e",` +
		`"headers":[{"key":"h","value":"x"},{"key":"h","value_b64":"/w=="},{"key":"n","value":null}]}`
	if string(raw) != want {
		t.Errorf("frame\n%s\nwant\n%s", raw, want)
	}
}

func TestFrameBytesAndNull(t *testing.T) {
	f := start(t, nil)
	conn := f.mustDial("")
	f.push(&client.Record{Topic: "orders", Key: []byte{0xfe, 0x00}, Value: []byte{0xff}})
	m := readFrame(t, conn)
	if m["key_b64"] != "/gA=" || m["value_b64"] != "/w==" {
		t.Errorf("got %v", m)
	}
	if _, ok := m["value"]; ok {
		t.Error("value is there beside value_b64")
	}
	f.push(&client.Record{Topic: "orders", Value: nil})
	m = readFrame(t, conn)
	if v, ok := m["value"]; !ok || v != nil {
		t.Errorf("tombstone: %v", m)
	}
	f.push(&client.Record{Topic: "orders", Key: []byte{}, Value: []byte{}})
	if m = readFrame(t, conn); m["key"] != "" || m["value"] != "" {
		t.Errorf("empty: %v", m)
	}
}

func TestFilters(t *testing.T) {
	f := start(t, nil)
	conn := f.mustDial("?key=a&header=trace&header=env%3Dprod")
	all := func(h ...client.Header) []client.Header { return h }
	trace, prod := client.Header{Key: "trace", Value: []byte("1")}, client.Header{Key: "env", Value: []byte("prod")}
	for i, r := range []*client.Record{
		{Key: []byte("b"), Headers: all(trace, prod)},
		{Key: nil, Headers: all(trace, prod)},
		{Key: []byte("a"), Headers: all(trace)},
		{Key: []byte("a"), Headers: all(trace, client.Header{Key: "env", Value: []byte("dev")})},
		{Key: []byte("a"), Headers: all(prod, trace)},
	} {
		r.Offset = int64(i)
		f.push(r)
	}
	if m := readFrame(t, conn); m["offset"] != float64(4) {
		t.Errorf("first match: %v", m)
	}
}

func TestMalformedQueries(t *testing.T) {
	f := start(t, nil)
	for _, q := range []string{
		"?from=", "?from=yesterday", "?from=1&from=2", "?from=--1", "?from=@", "?from=99999999999999999999", "?partition=", "?partition=-1", "?partition=x",
		"?partition=1,,2", "?partition=4294967296", "?key=a&key=b", "?header=", "?header==x", "?nope=1", "?from=%zz", "?" + strings.Repeat("header=a&", 40),
	} {
		_, resp, err := f.dial(q, nil)
		if err == nil || resp == nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %v %v", q, resp, err)
		}
	}
}

func TestUnknownTopicIsRefusedBeforeUpgrade(t *testing.T) {
	f := start(t, nil)
	_, resp, err := websocket.DefaultDialer.Dial("ws://"+f.addr+"/v1/topics/nope/tail", nil)
	if err == nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("got %v, %v", resp, err)
	}
}

func TestOrigin(t *testing.T) {
	f := start(t, func(o *Options) { o.AllowedOrigins = []string{"https://ops.example.org/"} })
	for origin, want := range map[string]int{
		"http://" + f.addr: 101, "https://ops.example.org": 101,
		"http://evil.example.org": 403, "null": 403, "http://" + f.addr + ".evil.org": 403, "https://ops.example.org.evil.org": 403,
	} {
		_, resp, _ := f.dial("", http.Header{"Origin": {origin}})
		if resp == nil || resp.StatusCode != want {
			t.Errorf("Origin %s: %v, want %d", origin, resp, want)
		}
	}
	if _, resp, _ := f.dial("", nil); resp.StatusCode != 101 {
		t.Errorf("no Origin: %v", resp.Status)
	}
}

func TestSlowReaderIsToldAndCut(t *testing.T) {
	f := start(t, func(o *Options) {
		o.QueueMaxBytes = 64 << 10
		o.SlowAfter = 200 * time.Millisecond
		o.CloseGrace = deadline
	})
	conn := f.mustDial("")
	// Fill the socket buffers and the queue until the tail stops taking more,
	// which is when the reader has been found slow.
	big := string(bytes.Repeat([]byte("x"), 1<<20))
	pushed := 0
	for end := time.Now().Add(deadline); !strings.Contains(f.metrics(), "tailrace_web_tail_slow_readers_total 1"); {
		select {
		case f.tailer.feed <- record(int64(pushed), "k", big):
			pushed++
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("a reader that reads nothing is never cut")
		}
	}
	closed := closeCode(t, conn)
	if closed.Code != CloseSlowReader || !strings.Contains(closed.Text, "slow") {
		t.Errorf("closed with %v", closed)
	}
	if pushed > 200 {
		t.Errorf("%d records of 1 MiB were taken for a reader that reads nothing", pushed)
	}
	waitFor(t, "the tail to be closed", func() bool { return f.tailer.closed.Load() == 1 })
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !done(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestReaderThatLeaves(t *testing.T) {
	f := start(t, nil)
	conn := f.mustDial("")
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the tail to be closed", func() bool { return f.tailer.closed.Load() == 1 })
}

func TestTooManyTails(t *testing.T) {
	f := start(t, func(o *Options) { o.MaxTails = 1 })
	conn := f.mustDial("")
	if _, resp, err := f.dial("", nil); err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("second: %v %v", resp, err)
	}
	_ = conn.Close()
	waitFor(t, "the place to be free", func() bool {
		again, _, err := f.dial("", nil)
		if err == nil {
			_ = again.Close()
		}
		return err == nil
	})
}

func TestDeletedTopic(t *testing.T) {
	f := start(t, nil)
	conn := f.mustDial("")
	f.push(nil)
	if closed := closeCode(t, conn); closed.Code != CloseTopicDeleted {
		t.Errorf("closed with %v", closed)
	}
}

func TestShutdownTellsReaders(t *testing.T) {
	f := start(t, nil)
	conn := f.mustDial("")
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		done <- f.server.Shutdown(ctx)
	}()
	if closed := closeCode(t, conn); closed.Code != websocket.CloseGoingAway {
		t.Errorf("closed with %v", closed)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestClip(t *testing.T) {
	for in, want := range map[string]string{"short": "short", "éé": "é", "aéé": "aé"} {
		if got := clip(in, min(len(in), 3)); in != "short" && got != want {
			t.Errorf("clip(%q) = %q", in, got)
		}
	}
}

// TestKafkaTailer tails a real Kafka listener through the Go client.
func TestKafkaTailer(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(2, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	o := client.Options{Seeds: k.ListenAddrs()}
	tailer, err := NewKafkaTailer(o)
	if err != nil {
		t.Fatal(err)
	}
	defer tailer.Close()
	f := start(t, func(o *Options) { o.Tailer = tailer })
	cl, err := client.New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	p, err := cl.Producer(client.ProducerOptions{Topic: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	send := func(v string) {
		if _, err := p.Produce(ctx, &client.Record{Key: []byte("k"), Value: []byte(v)}); err != nil {
			t.Fatal(err)
		}
	}
	send("before")
	conn := f.mustDial("?from=earliest")
	if m := readFrame(t, conn); m["value"] != "before" {
		t.Errorf("got %v", m)
	}
	send("after")
	if m := readFrame(t, conn); m["value"] != "after" || m["offset"] != float64(1) {
		t.Errorf("got %v", m)
	}
	_, resp, err := websocket.DefaultDialer.Dial("ws://"+f.addr+"/v1/topics/nope/tail", nil)
	if err == nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown topic: %v %v", resp, err)
	}
	_, resp, err = f.dial("?from=99", nil)
	if err == nil || resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("beyond the end: %v %v", resp, err)
	}
	// Close the reader first, so that the tail ends before the cluster does.
	_ = conn.Close()
}
