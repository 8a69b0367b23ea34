package member

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/tailrace/tailrace/internal/model"
)

// TestMain looks for leaked goroutines with patience: memberlist does not wait
// for a probe in flight when it shuts down.
func TestMain(m *testing.M) {
	code := m.Run()
	err := goleak.Find()
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); err = goleak.Find() {
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const patience = 40 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// node is a member that records its events.
type node struct {
	*Members
	mu     sync.Mutex
	events []Event
	closed sync.Once
}

func (n *node) add(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

func (n *node) has(match func(Event) bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if match(e) {
			return true
		}
	}
	return false
}

func (n *node) stop(t *testing.T) {
	t.Helper()
	n.closed.Do(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
}

func start(t *testing.T, id int, cluster string, o Options) *node {
	t.Helper()
	o.Meta = Meta{Broker: model.BrokerID(id), Storage: model.StorageID{byte(id)}, Cluster: cluster, Internal: fmt.Sprint("127.0.0.1:", id)}
	if o.Bind == "" {
		o.Bind = "127.0.0.1:0"
	}
	o.Logger = zerolog.Nop()
	n := new(node)
	o.OnEvent = n.add
	m, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	n.Members = m
	t.Cleanup(func() { n.stop(t) })
	return n
}

func ids(n *node) string {
	var b strings.Builder
	for _, m := range n.Members.Members() {
		fmt.Fprint(&b, m.Broker, m.Cluster, " ")
	}
	return b.String()
}

func TestJoinUpdateLeaveAndFail(t *testing.T) {
	a := start(t, 1, "", Options{})
	b := start(t, 2, "", Options{Join: []string{a.Addr()}})
	c := start(t, 3, "", Options{Join: []string{a.Addr(), "127.0.0.1:1"}}) // one is not up
	all := []*node{a, b, c}
	for i, n := range all {
		want := []string{"2 3 ", "1 3 ", "1 2 "}[i]
		eventually(t, "all joined", func() bool { return ids(n) == want })
	}
	if m := b.Members.Members()[0]; m.Internal != "127.0.0.1:1" || m.Addr != a.Addr() || m.Storage != (model.StorageID{1}) {
		t.Fatalf("got %+v", m)
	}
	if err := a.SetCluster("C"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "update seen", func() bool {
		return ids(b) == "1C 3 " && c.has(func(e Event) bool { return e.Kind == Update && e.Meta.Broker == 1 && e.Meta.Cluster == "C" })
	})

	if err := b.Leave(patience); err != nil {
		t.Fatal(err)
	}
	b.stop(t)
	for _, n := range []*node{a, c} {
		eventually(t, "graceful leave seen", func() bool {
			return n.has(func(e Event) bool { return e.Kind == Leave && e.Meta.Broker == 2 && e.Graceful })
		})
	}

	c.stop(t) // as a crash: it says nothing
	eventually(t, "suspicion, then failure", func() bool {
		return a.has(func(e Event) bool { return e.Kind == Suspect && e.Meta.Broker == 3 }) &&
			a.has(func(e Event) bool { return e.Kind == Leave && e.Meta.Broker == 3 && !e.Graceful })
	})
	if got := ids(a); got != "" {
		t.Fatalf("members %q", got)
	}
}

// Two clusters that are told to join each other stay apart.
func TestClustersDoNotMerge(t *testing.T) {
	a1 := start(t, 1, "A", Options{})
	a2 := start(t, 2, "A", Options{Join: []string{a1.Addr()}})
	b1 := start(t, 1, "B", Options{Join: []string{a1.Addr(), a2.Addr()}})
	b2 := start(t, 4, "B", Options{Join: []string{b1.Addr(), a2.Addr()}})
	// A node of neither meets both.
	x := start(t, 9, "", Options{Join: []string{a1.Addr(), b2.Addr()}})
	eventually(t, "each cluster complete", func() bool {
		return ids(a1) == "2A 9 " && ids(a2) == "1A 9 " && ids(b1) == "4B 9 " && ids(b2) == "1B 9 "
	})
	eventually(t, "the node without a cluster sees both", func() bool {
		got := ids(x)
		return strings.Contains(got, "A") && strings.Contains(got, "B")
	})
	if err := x.SetCluster("A"); err != nil {
		t.Fatal(err)
	}
	if got := ids(x); strings.Contains(got, "B") {
		t.Fatalf("a member of A sees %q", got)
	}
	if a, b := ids(a1)+ids(a2), ids(b1)+ids(b2); strings.Contains(a, "B") || strings.Contains(b, "A") {
		t.Fatalf("clusters merged: A sees %q, B sees %q", a, b)
	}
}

func TestSecretKeepsOthersOut(t *testing.T) {
	secret := []byte("s")
	a := start(t, 1, "", Options{Secret: secret})
	b := start(t, 2, "", Options{Secret: secret, Join: []string{a.Addr()}})
	wrong := start(t, 3, "", Options{Secret: []byte("t"), Join: []string{a.Addr()}})
	plain := start(t, 4, "", Options{Join: []string{a.Addr()}})
	eventually(t, "those with the secret joined", func() bool { return ids(a) == "2 " && ids(b) == "1 " })
	for _, n := range []*node{wrong, plain} {
		if _, err := n.list.Join([]string{a.Addr()}); err == nil {
			t.Error("joined without the secret")
		}
		if got := ids(n); got != "" {
			t.Errorf("members %q", got)
		}
	}
}

// A restart on another port is no failure: its past process's death is silent.
func TestRestartOnAnotherPort(t *testing.T) {
	a := start(t, 1, "", Options{})
	old := start(t, 2, "", Options{Join: []string{a.Addr()}})
	eventually(t, "joined", func() bool { return ids(a) == "2 " })
	start1 := a.Members.Members()[0].Start
	old.stop(t)
	fresh := start(t, 2, "", Options{Join: []string{a.Addr()}})
	eventually(t, "new process seen", func() bool {
		m := a.Members.Members()
		return len(m) == 1 && m[0].Start > start1 && m[0].Addr == fresh.Addr()
	})
	eventually(t, "old process dead in gossip", func() bool { return a.size() == 2 })
	if a.has(func(e Event) bool { return e.Kind == Leave && e.Meta.Start == start1 }) {
		t.Fatal("the old process's death was reported")
	}
}

// A name binds its address, not all interfaces.
func TestBindByName(t *testing.T) {
	a := start(t, 1, "", Options{Bind: "localhost:0"})
	if !strings.HasPrefix(a.Addr(), "127.0.0.1:") {
		t.Fatalf("bound %s", a.Addr())
	}
}

func TestBindErrorsAreReported(t *testing.T) {
	a := start(t, 1, "", Options{})
	for _, bind := range []string{a.Addr(), "nonsense", "127.0.0.1:x", "127.0.0.1:70000"} {
		m, err := Start(Options{Meta: Meta{Broker: 2, Storage: model.StorageID{2}}, Bind: bind, Logger: zerolog.New(io.Discard)})
		if err == nil {
			t.Errorf("bound %q", bind)
			err = m.Close()
			if err != nil {
				t.Error(err)
			}
		}
	}
}

func TestMetaRoundTripAndLimit(t *testing.T) {
	m := Meta{Broker: 5, Storage: model.StorageID{1, 2}, Cluster: "C", Internal: "h:1", HTTP: "http://h:2", Version: "1.0", Leaving: true, Start: 9}
	b, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	var got Meta
	if err := got.decode(append(b, "of a later version"...)); err != nil || got != m {
		t.Fatalf("got %+v, %v", got, err)
	}
	for n := range b {
		if err := got.decode(b[:n]); !errors.Is(err, errMeta) {
			t.Fatalf("decoded %d of %d bytes", n, len(b))
		}
	}
	m.Internal = strings.Repeat("h", maxMeta)
	if _, err := m.encode(); err == nil {
		t.Fatal("encoded metadata beyond the limit")
	}
	if _, err := Start(Options{Meta: m, Bind: "127.0.0.1:0"}); err == nil {
		t.Fatal("started with metadata beyond the limit")
	}
}

func FuzzMeta(f *testing.F) {
	m := Meta{Broker: 5, Storage: model.StorageID{1}, Cluster: "C"}
	b, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again Meta
		if m.decode(b) != nil {
			return
		}
		if e, err := m.encode(); err == nil && (again.decode(e) != nil || again != m) {
			t.Fatalf("%+v became %+v", m, again)
		}
	})
}

// Slow consumers lose events and are told so.
func TestOverflowBecomesResync(t *testing.T) {
	a := start(t, 1, "", Options{})
	for range maxEvents + 10 {
		a.post(Event{Kind: Update, Meta: Meta{Broker: 7}})
	}
	a.lost.Store(true)
	a.post(Event{Kind: Update, Meta: Meta{Broker: 7}})
	eventually(t, "resync", func() bool { return a.has(func(e Event) bool { return e.Kind == Resync }) })
}

// TestForeignPeers: a node whose every peer is in another cluster is told so; a
// node without a cluster, or with a peer of its own, is not.
func TestForeignPeers(t *testing.T) {
	other := start(t, 1, "other", Options{})
	told := make(chan string, 16)
	foreign := func(cluster string) {
		select {
		case told <- cluster:
		default:
		}
	}
	fresh := start(t, 2, "", Options{Join: []string{other.Addr()}, OnForeign: foreign})
	eventually(t, "the node without a cluster to see the other", func() bool { return len(fresh.Members.Members()) == 1 })
	mine := start(t, 3, "mine", Options{})
	joined := start(t, 4, "mine", Options{Join: []string{other.Addr(), mine.Addr()}, OnForeign: foreign})
	<-joined.Tried()
	eventually(t, "the node to see its own", func() bool { return len(joined.Members.Members()) == 1 })
	select {
	case cluster := <-told:
		t.Fatalf("told of cluster %q", cluster)
	default:
	}
	start(t, 5, "mine", Options{Join: []string{other.Addr()}, OnForeign: foreign})
	select {
	case cluster := <-told:
		if cluster != "other" {
			t.Errorf("told of cluster %q", cluster)
		}
	case <-time.After(patience):
		t.Error("not told that the peer is of another cluster")
	}
}
