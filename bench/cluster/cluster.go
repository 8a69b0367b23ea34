// Package cluster starts what is measured: our brokers, Apache Kafka, NATS,
// the floor programs (limit, null, sendfile); or joins what runs already. All run as
// processes on loopback with their data in a temporary directory.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tailrace/tailrace/bench/proc"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Info says what a target promises, for the report.
type Info struct {
	Version     string `json:"version"`
	Fsync       string `json:"fsync"` // when data reaches stable storage, in words
	Replication int    `json:"replication"`
	InSync      int    `json:"min_insync"` // copies that an acknowledgement waits for at least
}

// Options are common to all targets.
type Options struct {
	Nodes       int    // processes; 3 unless said
	MinInSync   int    // min.insync.replicas; 2 unless said
	InSync      int    // limit: copies before the acknowledgement; 3 unless said
	Module      string // directory of our module, to build the broker in
	Binary      string // a broker binary to use instead of building one
	Self        string // this program, which is also the null broker and the limit node
	Log         io.Writer
	Keep        bool // leave the data directory
	KafkaHeapMB int
	SlowDisk    bool          // tailrace: the last node's disk can be made slow (Cluster.Slow)
	Ready       time.Duration // how long a start may take; default 90 s
}

// Node is one process of a target.
type Node struct {
	ID      int32 // as the protocol names it
	Metrics string
	Ready   string // URL that answers 200 once the node serves; empty if it has none
	termed  int    // exit status after SIGTERM, 0 unless the program has a habit of its own
	spec    proc.Spec
	mu      sync.Mutex
	p       *proc.Proc
}

// Start starts the node's process again, on its data.
func (n *Node) Start() error {
	p, err := proc.Start(n.spec)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.p = p
	n.mu.Unlock()
	return nil
}

func (n *Node) proc() *proc.Proc {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.p
}

// Kill ends the process with SIGKILL.
func (n *Node) Kill() { n.proc().Kill() }

// Stop ends the process with SIGTERM.
func (n *Node) Stop(grace time.Duration) error {
	err := n.proc().Stop(grace)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == n.termed {
		return nil
	}
	return err
}

// Pid of the running process, 0 if it has ended.
func (n *Node) Pid() int {
	if p := n.proc(); p != nil && p.Alive() {
		return p.Pid
	}
	return 0
}

// Cluster is a running target.
type Cluster struct {
	Name      string
	Protocol  string // "kafka" or "nats"
	Bootstrap []string
	Nodes     []*Node
	Info      Info
	RawOnly   bool // serves raw fetchers only, no other consumer
	NamedP    bool // topic names must carry the partition count (limit.TopicName)
	Foreign   []int
	SlowNode  int32 // the node whose disk Slow governs; 0 if there is none
	slow      *slowDisk
	format    func(context.Context) error // what a node's empty directory needs before a start; nil: nothing
	dir       string
	data      []string // the nodes' directories
	keep      bool
}

// Pids returns the processes to measure.
func (c *Cluster) Pids() []int {
	pids := slices.Clone(c.Foreign)
	for _, n := range c.Nodes {
		if pid := n.Pid(); pid != 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Node returns the node with that broker id, or nil.
func (c *Cluster) Node(id int32) *Node {
	for _, n := range c.Nodes {
		if n.ID == id {
			return n
		}
	}
	return nil
}

// Dir is where the target keeps its data; empty for a foreign cluster.
func (c *Cluster) Dir() string { return c.dir }

// stopGrace is how long a SIGTERM may take before SIGKILL.
const stopGrace = 90 * time.Second

// Stop ends all processes, all at once, and removes the data.
func (c *Cluster) Stop() error {
	errs := make([]error, len(c.Nodes)+2)
	var wg sync.WaitGroup
	for i, n := range c.Nodes {
		if n.Pid() == 0 {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := n.Stop(stopGrace); err != nil {
				errs[i] = fmt.Errorf("%s node %d: %w", c.Name, n.ID, err)
			}
		}()
	}
	wg.Wait()
	errs[len(c.Nodes)] = c.unmountSlowDisk()
	if c.dir != "" && !c.keep && errs[len(c.Nodes)] == nil {
		errs[len(c.Nodes)+1] = os.RemoveAll(c.dir)
	}
	return errors.Join(errs...)
}

// newCluster makes the temporary directory of a target.
func newCluster(name, protocol string, o Options) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "tailrace-bench-"+name+"-")
	if err != nil {
		return nil, err
	}
	return &Cluster{Name: name, Protocol: protocol, dir: dir, keep: o.Keep}, nil
}

// addNode starts one process of the target.
func (c *Cluster) addNode(id int32, spec proc.Spec) error {
	spec.Name = fmt.Sprintf("%s-%d", c.Name, id)
	n := &Node{ID: id, spec: spec}
	if err := n.Start(); err != nil {
		return err
	}
	c.Nodes = append(c.Nodes, n)
	return nil
}

// nodeDir makes the data directory of one node.
func (c *Cluster) nodeDir(id int) (string, error) {
	d := filepath.Join(c.dir, fmt.Sprintf("n%d", id))
	c.data = append(c.data, d)
	return d, os.MkdirAll(d, 0o755)
}

// Empty gives every node, all of which are stopped, a directory as it was before its
// first start.
func (c *Cluster) Empty(ctx context.Context) error {
	if c.dir == "" || c.slow != nil {
		return errors.New("only nodes that were started here, on plain directories, can start afresh")
	}
	for _, d := range c.data {
		if err := errors.Join(os.RemoveAll(d), os.Mkdir(d, 0o755)); err != nil {
			return err
		}
	}
	if c.format == nil {
		return nil
	}
	return c.format(ctx)
}

// Start starts the target of that name: tailrace, kafka, kafka-fsync, nats,
// nats-sync, limit, null, sendfile; anything else is the bootstrap address of a running
// cluster.
func Start(ctx context.Context, name string, o Options) (*Cluster, error) {
	o = o.withDefaults()
	start, ok := map[string]func(context.Context, Options) (*Cluster, error){
		"tailrace":    startTailrace,
		"kafka":       func(ctx context.Context, o Options) (*Cluster, error) { return startKafka(ctx, "kafka", o) },
		"kafka-fsync": func(ctx context.Context, o Options) (*Cluster, error) { return startKafka(ctx, "kafka-fsync", o) },
		"nats":        func(ctx context.Context, o Options) (*Cluster, error) { return startNATS(ctx, "nats", o) },
		"nats-sync":   func(ctx context.Context, o Options) (*Cluster, error) { return startNATS(ctx, "nats-sync", o) },
		"limit":       startLimit,
		"null":        startNull,
		"sendfile":    startSendfile,
	}[name]
	if !ok {
		return Join(ctx, name, nil, o)
	}
	c, err := start(ctx, o)
	if err != nil {
		if c != nil {
			err = errors.Join(err, c.outputs(), c.Stop())
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func (o Options) withDefaults() Options {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&o.Nodes, 3)
	set(&o.MinInSync, min(2, o.Nodes))
	set(&o.InSync, o.Nodes)
	set(&o.KafkaHeapMB, 512)
	if o.Ready == 0 {
		o.Ready = 90 * time.Second
	}
	return o
}

// outputs collects what the processes said last, for the error of a start.
func (c *Cluster) outputs() error {
	var errs []error
	for _, n := range c.Nodes {
		if out := n.proc().Output(); out != "" {
			errs = append(errs, fmt.Errorf("--- output of node %d ---\n%s", n.ID, out))
		}
	}
	return errors.Join(errs...)
}

// Join measures a cluster that runs already. pids, if known, are its
// processes on this machine.
func Join(ctx context.Context, bootstrap string, pids []int, o Options) (*Cluster, error) {
	o = o.withDefaults()
	c := &Cluster{Name: bootstrap, Protocol: "kafka", Bootstrap: []string{bootstrap}, Foreign: pids,
		Info: Info{Version: "running cluster", Fsync: "unknown", Replication: o.Nodes, InSync: o.MinInSync}}
	return c, c.waitKafka(ctx, 1, o.Ready)
}

// WaitReady returns when every node serves the Kafka protocol.
func (c *Cluster) WaitReady(ctx context.Context, timeout time.Duration) error {
	if c.Protocol != "kafka" {
		return c.waitNATS(ctx, timeout)
	}
	return c.waitKafka(ctx, max(1, len(c.Nodes)), timeout)
}

// pollEvery is how often readiness is asked for.
const pollEvery = 50 * time.Millisecond

// waitKafka returns when metadata names that many brokers and each of them
// answers.
func (c *Cluster) waitKafka(ctx context.Context, brokers int, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error
	for {
		if last = c.askAll(ctx, brokers); last == nil {
			return nil
		}
		if err := c.dead(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w (last: %w)", ctx.Err(), last)
		case <-time.After(pollEvery):
		}
	}
}

// dead reports a process that ended by itself.
func (c *Cluster) dead() error {
	for _, n := range c.Nodes {
		if n.Pid() == 0 {
			return fmt.Errorf("node %d ended while it was started", n.ID)
		}
	}
	return nil
}

func (c *Cluster) askAll(ctx context.Context, brokers int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, addr := range c.Bootstrap {
		cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RequestRetries(0), kgo.DialTimeout(time.Second))
		if err != nil {
			return err
		}
		md, err := kadm.NewClient(cl).BrokerMetadata(ctx)
		cl.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
		if len(md.Brokers) < brokers {
			return fmt.Errorf("%s knows %d of %d brokers", addr, len(md.Brokers), brokers)
		}
	}
	return nil
}
