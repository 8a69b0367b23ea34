// Package e2e runs real broker processes and real clients.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/bench/proc"
)

// patience bounds every wait for something that must happen. It is generous
// because the machine may be loaded; figures are measured by bench, not here.
const patience = 90 * time.Second

var binaries struct {
	once   sync.Once
	dir    string
	broker string
	logctl string
	err    error
}

// TestMain builds the binaries once, into a directory that it removes.
func TestMain(m *testing.M) {
	code := m.Run()
	closeShared()
	if binaries.dir != "" {
		os.RemoveAll(binaries.dir)
	}
	os.Exit(code)
}

// build compiles broker and logctl as a user would get them.
func build(t testing.TB) (broker, logctl string) {
	t.Helper()
	b := &binaries
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "tailrace-e2e-"); b.err != nil {
			return
		}
		if b.err = os.Chmod(b.dir, 0o755); b.err != nil { // a test runs the binary as another user
			return
		}
		b.broker, b.logctl = filepath.Join(b.dir, "broker"), filepath.Join(b.dir, "logctl")
		for bin, pkg := range map[string]string{b.broker: "./cmd/broker", b.logctl: "./cmd/logctl"} {
			cmd := exec.Command("go", "build", "-o", bin, pkg)
			cmd.Dir = filepath.Join("..", "..")
			if out, err := cmd.CombinedOutput(); err != nil {
				b.err = fmt.Errorf("go build %s: %v\n%s", pkg, err, out)
				return
			}
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.broker, b.logctl
}

// node is one broker process of a cluster, started again under the same id,
// ports and directory.
type node struct {
	c                             *cluster
	id                            int
	dir                           string
	kafka, internal, gossip, http string
	extra                         []string // more flags

	mu  sync.Mutex
	cmd *exec.Cmd
	log *bytes.Buffer
	end chan struct{} // closed when the process is gone
}

type cluster struct {
	t      testing.TB
	expect int
	nodes  []*node
	kept   string // directory of a cluster that outlives its first test
}

// lockedBuffer collects a process's output.
type lockedBuffer struct {
	mu sync.Mutex
	b  *bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// freePorts returns n loopback addresses that are free and stay so for the test.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	ports, err := proc.FreePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprintf("127.0.0.1:%d", p))
	}
	return out
}

// add prepares one more node without starting it.
func (c *cluster) add(extra ...string) *node {
	p := freePorts(c.t, 4)
	nd := &node{c: c, id: len(c.nodes) + 1, kafka: p[0], internal: p[1], gossip: p[2], http: p[3], extra: extra}
	c.nodes = append(c.nodes, nd)
	if c.kept != "" {
		nd.dir = filepath.Join(c.kept, fmt.Sprint(nd.id))
		return nd
	}
	nd.dir = filepath.Join(c.t.TempDir(), "data")
	c.t.Cleanup(func() {
		nd.kill()
		if c.t.Failed() {
			c.t.Logf("broker %d said:\n%s", nd.id, tail(nd.output(), 60))
		}
	})
	return nd
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// args is the same command line for every start, as the architecture promises.
func (n *node) args() []string {
	var join []string
	for _, o := range n.c.nodes {
		join = append(join, o.gossip)
	}
	a := []string{"run", "--id", fmt.Sprint(n.id), "--dir", n.dir, "--kafka", n.kafka, "--internal", n.internal,
		"--gossip", n.gossip, "--http", n.http, "--join", strings.Join(join, ","), "--bootstrap-expect", fmt.Sprint(n.c.expect),
		"--log-format", "json"}
	return append(a, n.extra...)
}

func (n *node) start() {
	n.c.t.Helper()
	bin, _ := build(n.c.t)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.log == nil {
		n.log = &bytes.Buffer{}
	}
	w := &lockedBuffer{b: n.log}
	cmd := exec.Command(bin, n.args()...)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		n.c.t.Fatal(err)
	}
	end := make(chan struct{})
	go func() { cmd.Wait(); close(end) }()
	n.cmd, n.end = cmd, end
}

func (n *node) output() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.log == nil {
		return ""
	}
	return n.log.String()
}

func (n *node) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.end == nil {
		return false
	}
	select {
	case <-n.end:
		return false
	default:
		return true
	}
}

// kill is kill -9; it returns when the process is gone.
func (n *node) kill() { n.stop(syscall.SIGKILL) }

// terminate is SIGTERM: a clean stop.
func (n *node) terminate() { n.stop(syscall.SIGTERM) }

func (n *node) stop(sig syscall.Signal) {
	n.mu.Lock()
	cmd, end := n.cmd, n.end
	n.mu.Unlock()
	if cmd == nil {
		return
	}
	cmd.Process.Signal(sig)
	select {
	case <-end:
	case <-time.After(patience):
		cmd.Process.Kill()
		<-end
		n.c.t.Errorf("broker %d did not stop within %v of signal %v", n.id, patience, sig)
	}
}

func (n *node) signal(sig syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd.Process.Signal(sig)
}

// bootstrap lists the Kafka addresses of all nodes.
func (c *cluster) bootstrap() []string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.kafka)
	}
	return out
}

// client is a franz-go client with the given options added.
func (c *cluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.bootstrap()...), kgo.DisableClientMetrics(), kgo.MetadataMinAge(100 * time.Millisecond)}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

// eventually polls until f returns nil.
func eventually(t testing.TB, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		step, stop := context.WithTimeout(ctx, 10*time.Second)
		err = f(step)
		stop()
		if err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s did not happen within %v: %v", what, patience, err)
}

// waitLive waits until every running broker shows n live brokers.
func (c *cluster) waitLive(n int) {
	c.t.Helper()
	for _, nd := range c.nodes {
		if !nd.running() {
			continue
		}
		eventually(c.t, fmt.Sprintf("broker %d shows %d brokers", nd.id, n), func(ctx context.Context) error {
			if !nd.running() {
				c.t.Fatalf("broker %d ended:\n%s", nd.id, tail(nd.output(), 40))
			}
			cl, err := kgo.NewClient(kgo.SeedBrokers(nd.kafka), kgo.DisableClientMetrics(), kgo.RequestRetries(0))
			if err != nil {
				return err
			}
			defer cl.Close()
			m, err := kadm.NewClient(cl).BrokerMetadata(ctx)
			if err != nil {
				return err
			}
			if len(m.Brokers) != n {
				return fmt.Errorf("%d brokers", len(m.Brokers))
			}
			return nil
		})
	}
}

// createTopic creates a topic and waits until it can be written.
func (c *cluster) createTopic(name string, partitions int32, rf int16, configs map[string]*string) {
	c.t.Helper()
	adm := kadm.NewClient(c.client())
	eventually(c.t, "topic "+name+" is created", func(ctx context.Context) error {
		_, err := adm.CreateTopic(ctx, partitions, rf, configs, name)
		if err != nil && !strings.Contains(err.Error(), "TOPIC_ALREADY_EXISTS") {
			return err
		}
		return nil
	})
	c.waitInSync(name, int(rf))
}

// waitInSync waits until every running broker shows n in-sync members of each
// partition of the topic.
func (c *cluster) waitInSync(name string, n int) {
	c.t.Helper()
	cl := c.client()
	for _, nd := range c.nodes {
		if !nd.running() {
			continue
		}
		eventually(c.t, fmt.Sprintf("broker %d shows %d in-sync members of %s", nd.id, n, name), func(ctx context.Context) error {
			return inSync(ctx, cl.Broker(nd.id), name, n)
		})
	}
}

// inSync asks one broker.
func inSync(ctx context.Context, b *kgo.Broker, topic string, n int) error {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	resp, err := b.RetriableRequest(ctx, req)
	if err != nil {
		return err
	}
	ts := resp.(*kmsg.MetadataResponse).Topics
	if len(ts) != 1 || len(ts[0].Partitions) == 0 {
		return errors.New("no partitions")
	}
	for _, p := range ts[0].Partitions {
		if p.ErrorCode != 0 || p.Leader < 0 || len(p.ISR) != n {
			return fmt.Errorf("partition %d: leader %d, in sync %v, %v", p.Partition, p.Leader, p.ISR, kerr.ErrorForCode(p.ErrorCode))
		}
	}
	return kerr.ErrorForCode(ts[0].ErrorCode)
}

func ptr[T any](v T) *T { return &v }
