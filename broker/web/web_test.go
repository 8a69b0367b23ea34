package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tailrace/tailrace/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline is how long a test waits for what must happen.
const deadline = 60 * time.Second

// fakeSource is a cluster of three brokers of which one is down, with two topics.
type fakeSource struct {
	notReady atomic.Pointer[string]
	extra    atomic.Int64 // added to every high watermark
}

func (f *fakeSource) Ready() error {
	if why := f.notReady.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

func (f *fakeSource) View() View {
	v := View{ClusterID: "k3v9s0dQT2C5o7bU", Self: 1, Controller: 2}
	for id := range int32(3) {
		v.Brokers = append(v.Brokers, Broker{
			ID: id + 1, Host: "127.0.0.1", Port: 9092 + id, Rack: fmt.Sprintf("r%d", id+1),
			Alive: id != 2, Role: "voter", Controller: id == 1, Leaders: 2, Replicas: 4,
		})
	}
	for _, name := range []string{"clicks", "orders"} {
		t := Topic{Topic: name, ID: "00", MinInsyncReplicas: 2}
		for p := range int32(3) {
			leader := p%2 + 1
			t.Partitions = append(t.Partitions, Partition{
				Topic: name, Partition: p, Leader: leader, LeaderEpoch: 3, ISR: []int32{1, 2},
				HighWatermark: 1000*int64(p) + f.extra.Load(), LogEnd: 1000 * int64(p), LogStart: 0,
				Replicas: []Replica{
					{Broker: 1, State: "in-sync", Lag: 0}, {Broker: 2, State: "in-sync", Lag: 3},
					{Broker: 3, State: "offline", Lag: -1, LogEnd: -1, HighWatermark: -1, Suspect: true},
				},
			})
		}
		v.Topics = append(v.Topics, t)
	}
	return v
}

// fakeTailer hands out one tail per topic "orders" whose records the test feeds.
type fakeTailer struct {
	feed   chan *client.Record
	asked  chan TailRequest
	closed atomic.Int64
}

func newFakeTailer() *fakeTailer {
	return &fakeTailer{feed: make(chan *client.Record), asked: make(chan TailRequest, 16)}
}

func (f *fakeTailer) Tail(_ context.Context, r TailRequest) (Tail, error) {
	if r.Topic != "orders" {
		return nil, &client.Error{Op: "tail " + r.Topic, Kind: client.ErrNotFound, Err: errors.New("no such topic")}
	}
	f.asked <- r
	return &fakeTail{f}, nil
}

type fakeTail struct{ f *fakeTailer }

func (t *fakeTail) Close() { t.f.closed.Add(1) }

func (t *fakeTail) Records(ctx context.Context) iter.Seq2[*client.Record, error] {
	return func(yield func(*client.Record, error) bool) {
		for {
			select {
			case r := <-t.f.feed:
				if r == nil {
					yield(nil, &client.Error{Op: "tail", Kind: client.ErrNotFound, Err: errors.New("gone")})
					return
				}
				if !yield(r, nil) {
					return
				}
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			}
		}
	}
}

// fixture is a running server.
type fixture struct {
	t      *testing.T
	server *Server
	source *fakeSource
	tailer *fakeTailer
	addr   string
}

func start(t *testing.T, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, source: &fakeSource{}, tailer: newFakeTailer()}
	registry := prometheus.NewRegistry()
	o := Options{Source: f.source, Tailer: f.tailer, Gatherer: registry}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	f.server = s
	registry.MustRegister(s)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return f
}

// get requests a path, with changes to the request, and returns status and body.
func (f *fixture) get(path string, change func(*http.Request)) (*http.Response, string) {
	f.t.Helper()
	req := httptest.NewRequest(http.MethodGet, "http://"+f.addr+path, nil)
	req.RequestURI = ""
	if change != nil {
		change(req)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr, Timeout: deadline}).Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp, string(body)
}

func (f *fixture) metrics() string {
	f.t.Helper()
	_, body := f.get("/metrics", nil)
	return body
}

// dial opens a tail of orders.
func (f *fixture) dial(query string, header http.Header) (*websocket.Conn, *http.Response, error) {
	f.t.Helper()
	conn, resp, err := websocket.DefaultDialer.Dial("ws://"+f.addr+"/v1/topics/orders/tail"+query, header)
	if conn != nil {
		f.t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, resp, err
}

func (f *fixture) mustDial(query string) *websocket.Conn {
	f.t.Helper()
	conn, _, err := f.dial(query, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		f.t.Fatal(err)
	}
	return conn
}

// push gives one record to the open tail.
func (f *fixture) push(r *client.Record) {
	f.t.Helper()
	select {
	case f.tailer.feed <- r:
	case <-time.After(deadline):
		f.t.Fatal("nobody reads the tail")
	}
}

func TestJSONEndpoints(t *testing.T) {
	f := start(t, nil)
	var cluster ClusterView
	_, body := f.get("/v1/cluster", nil)
	if err := json.Unmarshal([]byte(body), &cluster); err != nil {
		t.Fatal(err)
	}
	if cluster.ClusterID != "k3v9s0dQT2C5o7bU" || !cluster.Ready || cluster.Partitions != 6 || cluster.UnderReplicated != 6 || len(cluster.Brokers) != 3 {
		t.Errorf("cluster: %+v", cluster)
	}
	var topics []Topic
	_, body = f.get("/v1/topics", nil)
	if err := json.Unmarshal([]byte(body), &topics); err != nil || len(topics) != 2 {
		t.Errorf("topics: %v, %d", err, len(topics))
	}
	var topic Topic
	_, body = f.get("/v1/topics/orders", nil)
	if err := json.Unmarshal([]byte(body), &topic); err != nil || topic.Topic != "orders" || len(topic.Partitions) != 3 {
		t.Errorf("topic: %v, %+v", err, topic)
	}
	var partitions []Partition
	_, body = f.get("/v1/partitions?topic=orders", nil)
	if err := json.Unmarshal([]byte(body), &partitions); err != nil || len(partitions) != 3 || partitions[1].HighWatermark != 1000 {
		t.Errorf("partitions: %v, %+v", err, partitions)
	}
}

// TestSyncReplicasIsTheTarget: asynchronous replicas by policy are no fault.
func TestSyncReplicasIsTheTarget(t *testing.T) {
	v := (&fakeSource{}).View()
	if c := clusterView(v, nil); c.UnderReplicated != 6 || c.UnderMinISR != 0 || c.Leaderless != 0 {
		t.Errorf("two of three in sync: %+v", c)
	}
	for i := range v.Topics {
		v.Topics[i].SyncReplicas = 2
	}
	v.Topics[0].Partitions[1].ISR = []int32{1}
	v.Topics[0].Partitions[2].Leader = -1
	if c := clusterView(v, nil); c.UnderReplicated != 1 || c.UnderMinISR != 1 || c.Leaderless != 1 {
		t.Errorf("sync.replicas=2: %+v", c)
	}
}

func TestStatuses(t *testing.T) {
	f := start(t, nil)
	for path, want := range map[string]int{
		"/":                          200,
		"/console.js":                200,
		"/console.css":               200,
		"/healthz":                   200,
		"/readyz":                    200,
		"/metrics":                   200,
		"/icon.svg":                  200,
		"/nothing":                   404,
		"/v1/nothing":                404,
		"/v1/topics/nope":            404,
		"/v1/topics/nope/tail":       404,
		"/v1/topics/orders/tail":     426,
		"/v1/topics/orders/tail?a=b": 400,
	} {
		resp, body := f.get(path, nil)
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d: %s", path, resp.StatusCode, want, body)
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'self'") {
			t.Errorf("%s: CSP %q", path, csp)
		}
	}
}

func TestReadyz(t *testing.T) {
	f := start(t, nil)
	why := "no contact to the metadata quorum"
	f.source.notReady.Store(&why)
	resp, body := f.get("/readyz", nil)
	if resp.StatusCode != 503 || !strings.Contains(body, why) {
		t.Errorf("readyz: %d %q", resp.StatusCode, body)
	}
	if resp, _ := f.get("/healthz", nil); resp.StatusCode != 200 {
		t.Errorf("healthz: %d", resp.StatusCode)
	}
}

func TestOnlyReads(t *testing.T) {
	f := start(t, nil)
	resp, _ := f.get("/v1/topics", func(r *http.Request) { r.Method = http.MethodPost })
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", resp.StatusCode)
	}
}

func TestHostOfLoopbackListener(t *testing.T) {
	f := start(t, func(o *Options) { o.AllowedHosts = []string{"tail.example.org:8080"} })
	for host, want := range map[string]int{
		"localhost:8080": 200, "127.0.0.1": 200, "[::1]:8080": 200, "TAIL.example.org": 200, "tail.example.org:99": 200,
		"evil.example.org": 421, "127.0.0.1.evil.example.org": 421, "localhost.evil.org": 421, "192.168.1.1": 421,
	} {
		resp, _ := f.get("/v1/cluster", func(r *http.Request) { r.Host = host })
		if resp.StatusCode != want {
			t.Errorf("Host %s: %d, want %d", host, resp.StatusCode, want)
		}
	}
}

func TestConsoleHasNoInlineCode(t *testing.T) {
	f := start(t, nil)
	_, page := f.get("/", nil)
	for _, bad := range []string{"<style", "onclick", "onload", "javascript:", "http://", "https://", " style="} {
		if strings.Contains(page, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	if n := strings.Count(page, "<script"); n != 1 || !strings.Contains(page, `<script src="console.js" defer></script>`) {
		t.Errorf("%d scripts; want the one file", n)
	}
	_, code := f.get("/console.js", nil)
	for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"} {
		if strings.Contains(code, bad) {
			t.Errorf("the code contains %q", bad)
		}
	}
}
