package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"
	"github.com/twmb/franz-go/pkg/kgo"
)

// openTail opens a tail of a topic on one broker.
func openTail(t testing.TB, n *node, topic string, query url.Values) *websocket.Conn {
	t.Helper()
	u := url.URL{Scheme: "ws", Host: n.http, Path: "/v1/topics/" + topic + "/tail", RawQuery: query.Encode()}
	var conn *websocket.Conn
	eventually(t, "a tail of "+topic+" opens on broker "+fmt.Sprint(n.id), func(ctx context.Context) (err error) {
		conn, _, err = websocket.DefaultDialer.DialContext(ctx, u.String(), nil)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// nextFrames reads n frames as they are.
func nextFrames(t testing.TB, conn *websocket.Conn, n int) []string {
	t.Helper()
	var out []string
	for range n {
		kind, data, err := conn.ReadMessage()
		if err != nil {
			t.Fatalf("after %d of %d frames: %v", len(out), n, err)
		}
		if kind != websocket.TextMessage {
			t.Fatalf("frame of kind %d", kind)
		}
		out = append(out, string(data))
	}
	return out
}

// offsetsOf lists partition:offset of frames.
func offsetsOf(t testing.TB, frames []string) []string {
	t.Helper()
	var out []string
	for _, f := range frames {
		var r struct{ Partition, Offset int64 }
		if err := json.Unmarshal([]byte(f), &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%d:%d", r.Partition, r.Offset))
	}
	slices.Sort(out)
	return out
}

// produceAll writes records one after the other.
func (c *cluster) produceAll(records ...*kgo.Record) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i, r := range records {
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			c.t.Fatalf("record %d: %v", i, err)
		}
	}
}

// tailTopic fills a topic of two partitions with what filters tell apart.
func tailTopic(c *cluster, name string) {
	c.t.Helper()
	c.createTopic(name, 2, 3, nil)
	at := time.UnixMilli(time.Now().UnixMilli() - 60_000)
	header := func(k, v string) []kgo.RecordHeader { return []kgo.RecordHeader{{Key: k, Value: []byte(v)}} }
	c.produceAll(
		&kgo.Record{Topic: name, Timestamp: at, Key: []byte("a"), Value: []byte("one"), Headers: header("kind", "x")},
		&kgo.Record{Topic: name, Timestamp: at.Add(time.Second), Key: []byte("b"), Value: []byte("größe <b>\n"), Headers: header("kind", "y")},
		&kgo.Record{Topic: name, Timestamp: at.Add(2 * time.Second), Key: []byte{0xff, 0}, Value: []byte{0xfe, 0xed}, Headers: header("raw", "\xc3\x28")},
		&kgo.Record{Topic: name, Timestamp: at.Add(3 * time.Second), Key: []byte("a"), Value: nil},
		&kgo.Record{Topic: name, Timestamp: at.Add(4 * time.Second), Value: []byte{}, Headers: header("kind", "x")},
		&kgo.Record{Topic: name, Partition: 1, Timestamp: at, Key: []byte("a"), Value: []byte("other")},
	)
}

// TestTailFrames: each broker sends the same frames, with the documented fields.
func TestTailFrames(t *testing.T) {
	c := sharedCluster(t)
	tailTopic(c, "tail-frames")
	query := url.Values{"from": {"earliest"}, "partition": {"0"}}
	want := nextFrames(t, openTail(t, c.nodes[0], "tail-frames", query), 5)
	for _, n := range c.nodes[1:] {
		if got := nextFrames(t, openTail(t, n, "tail-frames", query), 5); !slices.Equal(got, want) {
			t.Errorf("broker %d sends\n%s\nbroker 1\n%s", n.id, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	b64 := base64.StdEncoding.EncodeToString
	for i, in := range []struct {
		names []string
		value map[string]any
	}{
		{[]string{"key", "value"}, map[string]any{"key": "a", "value": "one"}},
		{[]string{"key", "value"}, map[string]any{"key": "b", "value": "größe <b>\n"}},
		{[]string{"key_b64", "value_b64"}, map[string]any{"key_b64": b64([]byte{0xff, 0}), "value_b64": b64([]byte{0xfe, 0xed})}},
		{[]string{"key", "value"}, map[string]any{"key": "a", "value": nil}},
		{[]string{"key", "value"}, map[string]any{"key": nil, "value": ""}},
	} {
		var frame map[string]any
		if err := json.Unmarshal([]byte(want[i]), &frame); err != nil {
			t.Fatal(err)
		}
		fields(t, "a frame", frame, append(in.names, "topic", "partition", "offset", "timestamp", "headers")...)
		if frame["topic"] != "tail-frames" || frame["partition"] != 0.0 || frame["offset"] != float64(i) || frame["timestamp"].(float64) < 1e12 {
			t.Errorf("frame %d: %s", i, want[i])
		}
		for k, v := range in.value {
			if frame[k] != v {
				t.Errorf("frame %d: %s is %v, want %v", i, k, frame[k], v)
			}
		}
		if headers, ok := frame["headers"].([]any); !ok || (i == 3) != (len(headers) == 0) {
			t.Errorf("frame %d: headers %v", i, frame["headers"])
		}
	}
	if !strings.Contains(want[2], `"headers":[{"key":"raw","value_b64":"`+b64([]byte("\xc3\x28"))+`"}]`) {
		t.Errorf("a binary header: %s", want[2])
	}
}

// TestTailFilters: where a tail starts and what it lets through, on each broker.
func TestTailFilters(t *testing.T) {
	c := sharedCluster(t)
	tailTopic(c, "tail-filters")
	stamp := "@" + time.Now().Add(-57500*time.Millisecond).Format(time.RFC3339Nano)
	for _, in := range []struct {
		query string
		want  string
	}{
		{"from=earliest", "0:0 0:1 0:2 0:3 0:4 1:0"},
		{"from=-1", "0:4 1:0"},
		{"from=-2&partition=0", "0:3 0:4"},
		{"from=3&partition=0", "0:3 0:4"},
		{"from=earliest&partition=1", "1:0"},
		{"from=earliest&partition=0,1", "0:0 0:1 0:2 0:3 0:4 1:0"},
		{"from=earliest&partition=0&partition=1", "0:0 0:1 0:2 0:3 0:4 1:0"},
		{"from=earliest&key=a", "0:0 0:3 1:0"},
		{"from=earliest&key=a&partition=0", "0:0 0:3"},
		{"from=earliest&header=kind", "0:0 0:1 0:4"},
		{"from=earliest&header=kind%3Dx", "0:0 0:4"},
		{"from=earliest&header=kind%3Dx&key=a", "0:0"},
		{"partition=0&from=" + url.QueryEscape(stamp), "0:3 0:4"},
	} {
		query, err := url.ParseQuery(in.query)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Fields(in.want)
		for _, n := range c.nodes {
			got := offsetsOf(t, nextFrames(t, openTail(t, n, "tail-filters", query), len(want)))
			if !slices.Equal(got, want) {
				t.Errorf("broker %d, %s: %v, want %v", n.id, in.query, got, want)
			}
		}
	}
}

// TestTailLatest: a tail from the end shows what is written after it opened, on
// each broker, and passes over what its filter does not match.
func TestTailLatest(t *testing.T) {
	c := sharedCluster(t)
	c.createTopic("tail-latest", 1, 3, nil)
	c.produceAll(&kgo.Record{Topic: "tail-latest", Key: []byte("k"), Value: []byte("before")})
	var conns []*websocket.Conn
	for _, n := range c.nodes {
		// Without "from" a tail starts at the end.
		conns = append(conns, openTail(t, n, "tail-latest", url.Values{"key": {"k"}}))
	}
	c.produceAll(
		&kgo.Record{Topic: "tail-latest", Key: []byte("other"), Value: []byte("passed over")},
		&kgo.Record{Topic: "tail-latest", Key: []byte("k"), Value: []byte("after")},
	)
	for i, conn := range conns {
		if got := nextFrames(t, conn, 1)[0]; !strings.Contains(got, `"offset":2,`) || !strings.Contains(got, `"value":"after"`) {
			t.Errorf("broker %d sends %s", i+1, got)
		}
	}
}

// TestTailRefusals: what cannot be tailed is refused before the upgrade, with a
// status and a reason.
func TestTailRefusals(t *testing.T) {
	c := sharedCluster(t)
	c.createTopic("tail-refusals", 1, 3, nil)
	for _, in := range []struct {
		path   string
		status int
		say    string
	}{
		{"no-such-topic/tail", http.StatusNotFound, "no-such-topic"},
		{"tail-refusals/tail?partition=7", http.StatusNotFound, "7"},
		{"tail-refusals/tail?from=soon", http.StatusBadRequest, "soon"},
		{"tail-refusals/tail?from=1&from=2", http.StatusBadRequest, "from"},
		{"tail-refusals/tail?partition=x", http.StatusBadRequest, "x"},
		{"tail-refusals/tail?start=1", http.StatusBadRequest, "start"},
		{"tail-refusals/tail?from=99&partition=0", http.StatusRequestedRangeNotSatisfiable, "99"},
	} {
		for _, n := range c.nodes {
			conn, resp, err := websocket.DefaultDialer.Dial("ws://"+n.http+"/v1/topics/"+in.path, nil)
			if err == nil {
				conn.Close()
				t.Errorf("broker %d, %s: opened", n.id, in.path)
				continue
			}
			if resp == nil {
				t.Fatalf("broker %d, %s: %v", n.id, in.path, err)
			}
			var answer struct{ Error string }
			if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != in.status || !strings.Contains(answer.Error, in.say) {
				t.Errorf("broker %d, %s: status %d, %q (%v), want %d", n.id, in.path, resp.StatusCode, answer.Error, err, in.status)
			}
			resp.Body.Close()
		}
	}
}

// TestTailDeletedTopic: a tail of a topic that goes away is told.
func TestTailDeletedTopic(t *testing.T) {
	c := sharedCluster(t)
	c.createTopic("tail-deleted", 1, 3, nil)
	c.produceAll(&kgo.Record{Topic: "tail-deleted", Value: []byte("x")})
	conn := openTail(t, c.nodes[1], "tail-deleted", url.Values{"from": {"earliest"}})
	nextFrames(t, conn, 1)
	newShell(t, c).must("", "topic", "delete", "tail-deleted")
	if closed := closing(t, conn); closed.Code != 4004 {
		t.Errorf("closed with %v, want 4004", closed)
	}
}

// closing reads until the broker closes the tail.
func closing(t testing.TB, conn *websocket.Conn) *websocket.CloseError {
	t.Helper()
	for {
		_, _, err := conn.ReadMessage()
		var closed *websocket.CloseError
		if errors.As(err, &closed) {
			return closed
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatalf("the broker did not close the tail: %v", err)
		}
		if err != nil { // the connection ended in the middle of a frame
			return &websocket.CloseError{Code: websocket.CloseAbnormalClosure, Text: err.Error()}
		}
	}
}

// TestTailSlowReader: a reader that does not read is cut with a reason, while
// one beside it gets everything.
func TestTailSlowReader(t *testing.T) {
	c := sharedCluster(t)
	c.createTopic("tail-slow", 1, 3, nil)
	// More than the reader's queue and the sockets between hold.
	const records = 32
	value := strings.Repeat("x", 900_000)
	var all []*kgo.Record
	for range records {
		all = append(all, &kgo.Record{Topic: "tail-slow", Value: []byte(value)})
	}
	c.produceAll(all...)
	cut := slowReaders(t, c.nodes[0])
	slow := openNarrow(t, c.nodes[0])
	nextFrames(t, openTail(t, c.nodes[0], "tail-slow", url.Values{"from": {"earliest"}}), records)
	// The reason waits a few seconds for a reader that wakes up; a test on a
	// slow machine may miss that, so it has more than one try.
	var closed *websocket.CloseError
	for range 4 {
		eventually(t, "the slow reader is cut", func(context.Context) error {
			if slowReaders(t, c.nodes[0]) == cut {
				return errors.New("no tail was cut")
			}
			return nil
		})
		if closed = closing(t, slow); closed.Code == 4008 {
			break
		}
		cut, slow = slowReaders(t, c.nodes[0]), openNarrow(t, c.nodes[0])
	}
	if closed.Code != 4008 || !strings.Contains(closed.Text, "slow") {
		t.Errorf("closed with %v, want 4008 and why", closed)
	}
}

// openNarrow opens a tail that buffers little on this side.
func openNarrow(t testing.TB, n *node) *websocket.Conn {
	t.Helper()
	narrow := websocket.Dialer{NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if tcp, ok := nc.(*net.TCPConn); ok {
			err = errors.Join(err, tcp.SetReadBuffer(256<<10))
		}
		return nc, err
	}}
	conn, _, err := narrow.Dial("ws://"+n.http+"/v1/topics/tail-slow/tail?from=earliest", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// slowReaders is how many tails a broker has cut, as its metrics say.
func slowReaders(t testing.TB, n *node) (count string) {
	t.Helper()
	eventually(t, "metrics", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.http+"/metrics", nil)
		if err != nil {
			return err
		}
		text, err := get(req)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			if figure, ok := strings.CutPrefix(strings.TrimSpace(line), "tailrace_web_tail_slow_readers_total "); ok {
				count = figure
				return nil
			}
		}
		return errors.New("no figure of slow readers")
	})
	return count
}

// get returns the body of a successful answer.
func get(req *http.Request) (string, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var b strings.Builder
	if err := resp.Write(&b); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", resp.Status)
	}
	return b.String(), nil
}

// browser starts a headless Chromium with a profile of its own.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		if os.Getenv("TAILRACE_CI") != "" {
			t.Fatal("no chromium: .ci/run must install it")
		}
		t.Skip("no chromium on PATH: install it to test the console")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900),
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-background-networking", true),
		chromedp.WSURLReadTimeout(patience))
	ctx, cancelDeadline := context.WithTimeout(context.Background(), 2*patience)
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx, opts...)
	ctx, cancelBrowser := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		// Cancel waits for the browser to end before its profile is removed.
		_ = chromedp.Cancel(ctx)
		cancelBrowser()
		cancelAllocator()
		cancelDeadline()
	})
	return ctx
}

// TestConsole: a browser shows the brokers, a topic, and records as they come.
func TestConsole(t *testing.T) {
	ctx := browser(t)
	c := sharedCluster(t)
	c.createTopic("console-topic", 2, 3, nil)
	n := c.nodes[2]
	if err := chromedp.Do(ctx,
		chromedp.Navigate("http://"+n.http+"/"),
		chromedp.WaitVisible(`#brokers tbody tr:nth-child(3)`),
		chromedp.WaitVisible(`#topics tr[data-key="console-topic"]`),
		chromedp.Click(`#topics tr[data-key="console-topic"] button`),
		chromedp.WaitVisible(`#topics tr[data-key="console-topic/1"]`),
		chromedp.SetValue(`#tail-topic`, "console-topic"),
		chromedp.Click(`#tail-go`),
	); err != nil {
		t.Fatal(err)
	}
	brokers, err := chromedp.Run(ctx, chromedp.Text(`#brokers`))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range c.nodes {
		if !strings.Contains(brokers, o.kafka) || !strings.Contains(brokers, rack(o.id)) {
			t.Errorf("the brokers lack %s in %s:\n%s", o.kafka, rack(o.id), brokers)
		}
	}
	if strings.Count(brokers, "alive") != 3 {
		t.Errorf("not three live brokers:\n%s", brokers)
	}
	page(t, ctx, `document.getElementById("tail-state").textContent.startsWith("tailing console-topic")`)
	c.produceAll(&kgo.Record{Topic: "console-topic", Partition: 1, Key: []byte("cup"), Value: []byte("tea for <b>two</b>")})
	page(t, ctx, `[...document.querySelectorAll("#records li")].some(li => li.textContent.includes("tea for <b>two</b>") && li.textContent.includes("cup"))`)
	page(t, ctx, `document.querySelector('#topics tr[data-key="console-topic/1"]').cells[3].textContent === "1"`)
}

// page waits until an expression is true in the page.
func page(t *testing.T, ctx context.Context, expression string) {
	t.Helper()
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(patience))); err != nil {
		text, _ := chromedp.Run(ctx, chromedp.Text(`body`))
		t.Fatalf("not so: %s: %v\n%s", expression, err, text)
	}
}
