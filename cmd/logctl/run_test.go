package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"gopkg.in/yaml.v3"
)

// shell runs logctl in-process against one fake cluster.
type shell struct {
	t     *testing.T
	seeds string
}

func newShell(t *testing.T, opts ...kfake.Opt) *shell {
	t.Helper()
	k, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return &shell{t: t, seeds: strings.Join(k.ListenAddrs(), ",")}
}

// try runs one command line, without -b, with generous time.
func (s *shell) try(stdin string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	var out, errOut bytes.Buffer
	args = append([]string{"-b", s.seeds, "--timeout", "60s"}, args...)
	code = run(args, strings.NewReader(stdin), &out, &errOut)
	return out.String(), errOut.String(), code
}

// must runs a command that has to succeed and returns its output.
func (s *shell) must(stdin string, args ...string) string {
	s.t.Helper()
	out, errOut, code := s.try(stdin, args...)
	if code != exitOK || errOut != "" {
		s.t.Fatalf("logctl %s: exit %d, stderr %q", strings.Join(args, " "), code, errOut)
	}
	return out
}

func TestCreateProduceConsume(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "orders", "--partitions", "2", "--replicas", "3", "--config", "retention.ms=60000")
	s.must("a:1\nb:2\nplain\n", "produce", "orders", "--key-delimiter", ":", "--header", "source=test", "--partition", "1")
	got := s.must("", "consume", "orders", "--format", `%t %p %o %k|%s|%v %K %S %h %%\n`)
	want := "orders 1 0 a|1|1 1 1 source=test %\norders 1 1 b|2|2 1 1 source=test %\norders 1 2 |plain|plain -1 5 source=test %\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	var list topicListDoc
	if err := json.Unmarshal([]byte(s.must("", "topic", "list", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Topics) != 1 || list.Topics[0].Topic != "orders" || list.Topics[0].Partitions != 2 {
		t.Errorf("got %+v", list)
	}
}

func TestUsage(t *testing.T) {
	s := newShell(t)
	for _, line := range []string{
		"nope", "topic", "topic nope", "topic create", "topic create a b", "topic create a --partitions x", "topic create a --partitions 0",
		"topic create a --config novalue", "topic alter a", "topic delete", "produce", "produce t --acks 2", "produce t --compression zip", "produce t --header x",
		"consume", "consume t --from soon", "consume t --replica follower", "consume t --format %q", "consume t --format 100%", "consume t --count -1", "consume t --partition -1",
		"consume t -o yaml", "tail t --http ftp://x", "tail t --from x", "config get topic", "config get queue x", "config set topic t", "config set topic t novalue",
		"config get broker one", "broker describe one", "cluster status extra", "cluster status -o xml", "cluster status --timeout 0s", "--nope",
	} {
		out, errOut, code := s.try("", strings.Fields(line)...)
		if code != exitUsage {
			t.Errorf("%s: exit %d, %q", line, code, errOut)
		}
		if out != "" || strings.Count(errOut, "\n") != 1 || !strings.HasPrefix(errOut, "logctl: ") {
			t.Errorf("%s: stdout %q, stderr %q", line, out, errOut)
		}
	}
}

func TestNotFound(t *testing.T) {
	s := newShell(t, kfake.SeedTopics(1, "t"))
	for _, line := range []string{
		"topic describe nope", "topic delete nope", "topic alter nope --config retention.ms=1", "topic alter nope --partitions 3", "produce nope", "produce t --partition 9",
		"consume nope", "consume t --partition 9", "partition list nope", "config get topic nope", "config get topic t no.such.setting", "config get broker 77", "broker describe 77",
		"config set topic nope retention.ms=1",
	} {
		_, errOut, code := s.try("", strings.Fields(line)...)
		if code != exitNotFound || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%s: exit %d, %q", line, code, errOut)
		}
	}
}

func TestFailure(t *testing.T) {
	s := newShell(t, kfake.SeedTopics(2, "t"))
	for _, line := range []string{"topic create t", "topic alter t --partitions 1", "consume t --from 99", "tail t"} {
		_, errOut, code := s.try("", strings.Fields(line)...)
		if code != exitFailure || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%s: exit %d, %q", line, code, errOut)
		}
	}
}

// TestUnavailable: nobody listens, or somebody listens and never answers.
func TestUnavailable(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, broker := range []string{"127.0.0.1:1", silent.Addr().String()} {
		for _, line := range []string{
			"topic list", "topic create t", "topic describe t", "topic delete t", "topic alter t --partitions 2", "cluster status", "broker list", "broker describe 1",
			"partition list", "config get topic t", "config set broker 1 a=b", "produce t", "consume t", "consume t --follow", "tail t", "tail t --http 127.0.0.1:1",
		} {
			var out, errOut bytes.Buffer
			begun := time.Now()
			code := run(append([]string{"-b", broker, "--timeout", "300ms"}, strings.Fields(line)...), strings.NewReader("x\n"), &out, &errOut)
			if code != exitUnavailable || strings.Count(errOut.String(), "\n") != 1 || out.Len() > 0 {
				t.Errorf("%s at %s: exit %d, %q", line, broker, code, errOut.String())
			}
			if took := time.Since(begun); took > 20*time.Second {
				t.Errorf("%s at %s took %v", line, broker, took)
			}
		}
	}
}

// TestProduceWithoutAcknowledgement: the cluster is there but does not
// acknowledge; the command ends in time and says what the topic lacks.
func TestProduceWithoutAcknowledgement(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	in, write := io.Pipe() // stays open: the end of input is not what ends it
	defer write.Close()
	go func() { _, _ = io.WriteString(write, "a\nb\n") }()
	var out, errOut bytes.Buffer
	code := run([]string{"-b", k.ListenAddrs()[0], "--timeout", "500ms", "produce", "t"}, in, &out, &errOut)
	if code != exitUnavailable || out.Len() > 0 || strings.Count(errOut.String(), "\n") != 1 {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out.String(), errOut.String())
	}
}

// TestConsumeStalls: the end that was seen at the start gets out of reach.
func TestConsumeStalls(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	s := &shell{t: t, seeds: k.ListenAddrs()[0]}
	s.must("a\n", "produce", "t")
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: -1})
	var out, errOut bytes.Buffer
	code := run([]string{"-b", s.seeds, "--timeout", "500ms", "consume", "t"}, nil, &out, &errOut)
	if code != exitUnavailable || !strings.Contains(errOut.String(), "before the end") {
		t.Errorf("exit %d, %q", code, errOut.String())
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestBrokenPipeIsQuiet(t *testing.T) {
	s := newShell(t, kfake.SeedTopics(1, "t"))
	s.must("a\nb\n", "produce", "t")
	for _, line := range []string{"consume t", "consume t --follow", "topic list", "topic list -o json", "topic list -o yaml", "--help"} {
		var errOut bytes.Buffer
		code := run(append([]string{"-b", s.seeds, "--timeout", "60s"}, strings.Fields(line)...), nil, brokenPipe{}, &errOut)
		if code != exitOK || errOut.Len() > 0 {
			t.Errorf("%s: exit %d, %q", line, code, errOut.String())
		}
	}
}

func TestConsumeRanges(t *testing.T) {
	s := newShell(t, kfake.SeedTopics(2, "t"))
	s.must("a0\na1\na2\n", "produce", "t", "--partition", "0")
	s.must("b0\nb1\nb2\n", "produce", "t", "--partition", "1", "--compression", "zstd", "--acks", "1")
	for line, want := range map[string]int{
		"consume t": 6, "consume t --partition 1": 3, "consume t --from -1": 2, "consume t --from -99": 6, "consume t --from 2": 2, "consume t --from latest": 0,
		"consume t --count 4": 4, "consume t --from @0": 6, "consume t --from @2001-01-01T00:00:00Z": 6, "consume t --follow --count 6": 6,
		"consume t --replica any": 6, "consume t --replica nearest --rack r1": 6, "consume t --replica 2": 6, "consume t --partition 0 --partition 1": 6, "consume t --partition 0,1": 6,
	} {
		out := s.must("", strings.Fields(line)...)
		if got := strings.Count(out, "\n"); got != want {
			t.Errorf("%s: %d records, want %d: %q", line, got, want, out)
		}
	}
	if out := s.must("", "consume", "t", "--count", "1", "--partition", "0", "--format", `%p\t%o\t%s|\x41\q`); out != "0\t0\ta0|A\\q" {
		t.Errorf("format: %q", out)
	}
}

func TestConsumeJSON(t *testing.T) {
	s := newShell(t, kfake.SeedTopics(1, "t"))
	s.must("k=v\n\xff\n", "produce", "t", "--key-delimiter", "=", "--header", "h=1")
	lines := strings.Split(strings.TrimSpace(s.must("", "consume", "t", "-o", "json")), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", lines)
	}
	var text, raw map[string]any
	if err := errors.Join(json.Unmarshal([]byte(lines[0]), &text), json.Unmarshal([]byte(lines[1]), &raw)); err != nil {
		t.Fatal(err)
	}
	if text["key"] != "k" || text["value"] != "v" || text["topic"] != "t" || text["offset"] != 0.0 {
		t.Errorf("%v", text)
	}
	if key, ok := raw["key"]; raw["value_b64"] != "/w==" || !ok || key != nil {
		t.Errorf("%v", raw)
	}
	if _, ok := raw["value"]; ok {
		t.Errorf("a value beside value_b64: %v", raw)
	}
}

// TestDocuments: every command's JSON is one document, its YAML says the same.
func TestDocuments(t *testing.T) {
	s := newShell(t, kfake.SeedTopics(2, "t", "u"))
	s.must("x\n", "produce", "t")
	for line, fields := range map[string][]string{
		"topic list":                           {"topics.topic", "topics.partitions", "topics.replicas", "topics.under_replicated_partitions"},
		"topic describe t":                     {"topic", "id", "partitions.leader", "configs.name"},
		"topic create made --partitions 2":     {"topic", "partitions", "replicas"},
		"topic alter t --config segment.ms=99": {"topic", "configs.value"},
		"topic delete u":                       {"deleted"},
		"cluster status":                       {"cluster_id", "controller", "brokers.id", "partitions", "leaderless_partitions"},
		"broker list":                          {"brokers.host", "brokers.port", "brokers.leaders"},
		"broker describe 1":                    {"id", "host", "configs.source"},
		"partition list t":                     {"partitions.topic", "partitions.isr", "partitions.high_watermark", "partitions.replicas.broker", "partitions.replicas.lag", "partitions.replicas.state", "partitions.replicas.log_end"},
		"config get topic t retention.ms":      {"kind", "name", "configs.name", "configs.value", "configs.source"},
		"config set topic t retention.ms=1000": {"kind", "configs.value"},
		"produce t":                            {"topic", "records", "bytes"},
	} {
		t.Run(line, func(t *testing.T) {
			args := strings.Fields(line)
			s := &shell{t: t, seeds: s.seeds}
			var doc, same any
			if err := json.Unmarshal([]byte(s.must("", append(args, "-o", "json")...)), &doc); err != nil {
				t.Fatal(err)
			}
			for _, f := range fields {
				if !has(doc, strings.Split(f, ".")) {
					t.Errorf("no field %s in %v", f, doc)
				}
			}
			if args[1] == "create" || args[1] == "delete" {
				return // cannot be said twice
			}
			if out := s.must("", args...); strings.Count(out, "\n") < 2 {
				t.Errorf("table: %q", out)
			}
			if err := yaml.Unmarshal([]byte(s.must("", append(args, "-o", "yaml")...)), &same); err != nil {
				t.Fatal(err)
			}
			if a, b := fmt.Sprintf("%T", doc), fmt.Sprintf("%T", same); a != b {
				t.Errorf("JSON is a %s, YAML a %s", a, b)
			}
			for _, f := range fields {
				if !has(same, strings.Split(f, ".")) {
					t.Errorf("no field %s in the YAML", f)
				}
			}
		})
	}
}

// has says whether a document has a field; in a list, every element must.
func has(doc any, path []string) bool {
	switch d := doc.(type) {
	case map[string]any:
		v, ok := d[path[0]]
		return ok && (len(path) == 1 || has(v, path[1:]))
	case []any:
		for _, e := range d {
			if !has(e, path) {
				return false
			}
		}
		return len(d) > 0
	}
	return false
}

func TestCompletion(t *testing.T) {
	s := newShell(t, kfake.SeedTopics(1, "orders"))
	if out := s.must("", "completion", "bash"); !strings.Contains(out, "logctl") {
		t.Error("no completion script")
	}
	out, _, code := s.try("", "__complete", "consume", "")
	if code != exitOK || !strings.Contains(out, "orders") {
		t.Errorf("completion of topics: exit %d %q", code, out)
	}
}
