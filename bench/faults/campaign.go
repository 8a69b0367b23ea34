// Package faults runs campaigns of faults against real broker processes under
// load, and judges what the clients saw by internal/history.
//
// A campaign starts brokers in network namespaces of their own (or on loopback
// where that is not allowed), puts two kinds of producer and three kinds of
// reader on them, lets one nemesis do its worst, heals everything, waits until
// every partition can be written again, reads every replica to its end and
// checks the history: nothing acknowledged may be lost, doubled, reordered or
// told differently by two replicas.
package faults

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/bench/cluster"
	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/internal/history"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Options say what a campaign does. Zero values mean the defaults.
type Options struct {
	Nemesis      string
	Seed         uint64
	Rounds       int           // faults; 0: as many as fit into Duration
	Duration     time.Duration // of the faults; 30 s
	Brokers      int           // 3; some nemeses want 5
	Partitions   int           // of each of the two topics; 3
	RawClients   int           // per key; 2
	FranzClients int           // 2
	Rate         float64       // records per second of one client; 25
	RecordSize   int           // largest value, bytes; 4096
	Loopback     bool          // do not try namespaces
	Binary       string        // a broker to use; empty: build one
	Tags         string        // build tags of that broker
	Dir          string        // where to work; empty: a temporary directory
	Keep         bool          // keep the directory of a valid run too
	LogLevel     string        // of the brokers; info
	Recovery     time.Duration // B9: how soon all must be well after the last fault; 30 s
	Out          io.Writer     // what happens; nil: nothing is said
}

func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.Brokers, 3)
	def(&o.Partitions, 3)
	def(&o.RawClients, 2)
	def(&o.FranzClients, 2)
	def(&o.RecordSize, 4096)
	if o.Rate == 0 {
		o.Rate = 25
	}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano()) % 1_000_000_007
	}
	if o.Duration == 0 {
		o.Duration = 30 * time.Second
	}
	if o.Recovery == 0 {
		o.Recovery = 30 * time.Second
	}
	if o.LogLevel == "" {
		o.LogLevel = "info"
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	return o
}

// reserve is the disk reserve of a broker, bytes: small, since some brokers
// live on small disks.
func (o Options) reserve() int64 { return 24 << 20 }

// longestFault bounds a single fault, for patience of clients.
func (o Options) longestFault() time.Duration { return 30 * time.Second }

// Result is what a campaign found.
type Result struct {
	Nemesis    string
	Seed       uint64
	Commit     string
	Network    string
	Brokers    int
	Took       time.Duration
	Acted      map[string]int // how often each fault, and each reaction to it, happened
	NextAck    []float64      // killleader: seconds from the kill to the next acknowledgement
	Writable   time.Duration  // from the last fault until every partition acknowledged a new write
	Report     *history.Report
	Anomalies  []string // beside the history
	Kept       string   // directory with history, logs and data; empty if it was removed
	SkipReason string   // the nemesis cannot run here
}

// Valid reports whether nothing bad was found.
func (r *Result) Valid() bool {
	return r.SkipReason != "" || r.Report != nil && r.Report.Valid() && len(r.Anomalies) == 0
}

// topicSpec is one topic of the load.
type topicSpec struct {
	name string
	sync int // sync.replicas; 0: all
}

var topics = []topicSpec{{name: "all"}, {name: "two", sync: 2}}

// campaign is one run.
type campaign struct {
	o      Options
	out    io.Writer
	dir    string
	binary string
	net    network
	disks  *disks
	nodes  []*node
	keys   []tp
	rec    *history.Recorder
	topo   *topology
	write  *writers
	read   *readers
	result *Result
	flips  []*bitFlip // of nemesis flip; only its rounds and the verdict use it

	lastFault atomic.Int64 // on the history's clock; 0: faults go on

	mu        sync.Mutex
	acted     map[string]int
	anomalies []string
}

// Run runs one campaign. The error says why it could not be run; what it found
// is in the result.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	o = o.withDefaults()
	nem, ok := nemeses[o.Nemesis]
	if !ok {
		return nil, fmt.Errorf("no nemesis %q; there are: %s", o.Nemesis, strings.Join(Names(), ", "))
	}
	o.Brokers = max(o.Brokers, nem.brokers)
	c := &campaign{o: o, out: o.Out, rec: history.NewRecorder(), acted: map[string]int{}, result: &Result{Nemesis: o.Nemesis, Seed: o.Seed, Brokers: o.Brokers}}
	begun := time.Now()
	defer func() { err = errors.Join(err, c.close(err)) }()
	if err := c.prepare(ctx, nem); err != nil || c.result.SkipReason != "" {
		return c.result, err
	}
	if err := c.run(ctx, nem); err != nil {
		return c.result, err
	}
	c.result.Took = time.Since(begun)
	return c.result, nil
}

// Names lists the nemeses.
func Names() []string {
	var names []string
	for n := range nemeses {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// rand returns a source of its own for each part of the run, so that the
// schedule does not depend on how the parts interleave.
func (c *campaign) rand(part string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(part)) // a hash never fails
	return rand.New(rand.NewPCG(c.o.Seed, h.Sum64()))
}

func (c *campaign) logf(format string, args ...any) {
	fmt.Fprintf(c.out, "%7.2fs "+format+"\n", append([]any{float64(c.rec.Now()) / 1e9}, args...)...)
}

// count notes that something acted.
func (c *campaign) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acted[what]++
}

// anomaly notes something that must not happen and that the history does not
// show.
func (c *campaign) anomaly(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.anomalies) < 100 {
		c.anomalies = append(c.anomalies, fmt.Sprintf("%.2fs ", float64(c.rec.Now())/1e9)+fmt.Sprintf(format, args...))
	}
}

func (c *campaign) size(rng *rand.Rand) int {
	return valueOverhead + rng.IntN(max(c.o.RecordSize-valueOverhead, 1))
}

func (c *campaign) topicNames() []string {
	var names []string
	for _, t := range topics {
		names = append(names, t.name)
	}
	return names
}

func (c *campaign) syncTarget(topic string) int {
	for _, t := range topics {
		if t.name == topic {
			return t.sync
		}
	}
	return 0
}

func (c *campaign) keyOf(k tp) history.Key { return c.rec.Key(k.String()) }

func (c *campaign) bootstrap() []string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.kafka())
	}
	return out
}

// prepare builds and starts everything up to a cluster with topics.
func (c *campaign) prepare(ctx context.Context, nem nemesis) error {
	var err error
	if err = sweepDirs(); err != nil {
		return err
	}
	if c.dir, err = workDir(c.o.Dir); err != nil {
		return err
	}
	if c.net, err = newNetwork(c.o.Brokers, c.o.Loopback, nem.cuts); err != nil {
		return err
	}
	c.result.Network = c.net.String()
	if c.result.SkipReason = nem.unavailable(c); c.result.SkipReason != "" {
		return nil
	}
	c.logf("nemesis %s, seed %d, %d brokers in %s", c.o.Nemesis, c.o.Seed, c.o.Brokers, c.net)
	if err := c.build(ctx); err != nil {
		return err
	}
	if c.disks, err = newDisks(c.dir, c.o.Brokers, nem.disk); err != nil {
		return err
	}
	for i := range c.o.Brokers {
		if err := c.addNode(i); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	return c.createTopics(ctx)
}

func (c *campaign) build(ctx context.Context) error {
	module, err := cluster.ModuleDir()
	if err != nil && c.o.Binary == "" {
		return err
	}
	c.result.Commit = cluster.Commit(module)
	if c.binary = c.o.Binary; c.binary != "" {
		return nil
	}
	c.binary = filepath.Join(c.dir, "broker")
	args := []string{"build", "-o", c.binary}
	if c.o.Tags != "" {
		args = append(args, "-tags", c.o.Tags)
	}
	return proc.Run(ctx, proc.Spec{Name: "go build", Path: "go", Args: append(args, "./cmd/broker"), Dir: module})
}

func (c *campaign) addNode(i int) error {
	log, err := os.OpenFile(filepath.Join(c.dir, fmt.Sprintf("broker-%d.log", i+1)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	c.nodes = append(c.nodes, &node{c: c, ix: i, dir: filepath.Join(c.disks.dir(i), "data"), log: log})
	return nil
}

// startPatience bounds the founding of the cluster.
const startPatience = 45 * time.Second

func (c *campaign) createTopics(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.bootstrap()...), kgo.DisableClientMetrics(), kgo.MetadataMinAge(50*time.Millisecond), kgo.DialTimeout(dialTimeout))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if err := c.awaitMembers(ctx); err != nil {
		return err
	}
	s := func(v string) *string { return &v }
	for _, t := range topics {
		configs := map[string]*string{"segment.bytes": s("1048576"), "retention.ms": s("-1"), "min.insync.replicas": s("2")}
		if t.sync > 0 {
			configs["sync.replicas"] = s(fmt.Sprint(t.sync))
		}
		for {
			_, err := adm.CreateTopic(ctx, int32(c.o.Partitions), 3, configs, t.name)
			if err == nil || errors.Is(err, kerr.TopicAlreadyExists) {
				break
			}
			if !pause(ctx, 100*time.Millisecond) {
				return fmt.Errorf("create topic %s: %w", t.name, err)
			}
		}
		for p := range c.o.Partitions {
			k := tp{t.name, int32(p)}
			c.keyOf(k)
			c.keys = append(c.keys, k)
		}
	}
	return nil
}

// awaitMembers returns when every broker shows all of them. It asks raw: a
// franz-go client may answer from what it remembers.
func (c *campaign) awaitMembers(ctx context.Context) error {
	for _, n := range c.nodes {
		for {
			live, err := liveBrokers(n)
			if live == c.o.Brokers {
				break
			}
			if err := c.surprises(); err != nil {
				return err
			}
			if !pause(ctx, 50*time.Millisecond) {
				return fmt.Errorf("broker %d shows %d of %d brokers after %s (%v)", n.id(), live, c.o.Brokers, startPatience, err)
			}
		}
	}
	return nil
}

// liveBrokers is how many brokers one of them shows.
func liveBrokers(n *node) (int, error) {
	conn, err := dialRaw(n.kafka())
	if err != nil {
		return 0, err
	}
	defer conn.close()
	resp, err := conn.do(metadataRequest(nil), readTimeout)
	if err != nil {
		return 0, err
	}
	return len(resp.(*kmsg.MetadataResponse).Brokers), nil
}

// surprises reports a broker that ended by itself.
func (c *campaign) surprises() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.surprise())
	}
	return errors.Join(errs...)
}

// run is the campaign proper.
func (c *campaign) run(ctx context.Context, nem nemesis) error {
	c.topo, c.write, c.read = newTopology(c), &writers{c: c, watches: map[history.Key][]*watch{}}, newReaders(c)
	side, endSide := context.WithCancel(ctx)
	defer endSide()
	load, endLoad := context.WithCancel(ctx)
	defer endLoad()
	var bg sync.WaitGroup
	defer bg.Wait()
	defer endSide()
	bg.Go(func() { c.topo.run(side) })
	if err := c.await(ctx, "all replicas in sync", startPatience, c.topo.seen); err != nil {
		return err
	}
	c.write.start(load)
	c.read.start(load)
	pause(ctx, time.Second)
	err := c.faults(ctx, nem)
	if err == nil {
		err = c.recover(ctx)
	}
	endLoad()
	c.write.wait()
	c.read.wait()
	if err != nil {
		return err
	}
	return c.judge(ctx)
}

// seen reports whether every partition is known and whole.
func (t *topology) seen() bool { return len(t.all()) == len(t.c.keys) && t.full() }

// await polls until ok.
func (c *campaign) await(ctx context.Context, what string, patience time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !ok() {
		if !pause(ctx, 10*time.Millisecond) {
			return fmt.Errorf("%s: not within %s", what, patience)
		}
	}
	return nil
}

// faults lets the nemesis act until its rounds or its time are over, with
// quiet periods between.
func (c *campaign) faults(ctx context.Context, nem nemesis) error {
	rng := c.rand("nemesis")
	end := time.Now().Add(c.o.Duration)
	for round := 1; ctx.Err() == nil; round++ {
		if c.o.Rounds > 0 && round > c.o.Rounds || c.o.Rounds == 0 && time.Now().After(end) {
			break
		}
		if err := nem.round(ctx, c, rng); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := c.surprises(); err != nil {
			c.anomaly("%v", err)
		}
		if c.found() {
			break // what comes next only blurs it
		}
		pause(ctx, c.quiet(rng))
	}
	return ctx.Err()
}

func (c *campaign) quiet(rng *rand.Rand) time.Duration {
	return 300*time.Millisecond + time.Duration(rng.Int64N(int64(2*time.Second)))
}
