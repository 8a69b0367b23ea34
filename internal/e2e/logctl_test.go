package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"gopkg.in/yaml.v3"
)

// shell runs the real logctl against a cluster.
type shell struct {
	t    testing.TB
	bin  string
	args []string // before every command line
}

func newShell(t testing.TB, c *cluster) *shell {
	_, logctl := build(t)
	return &shell{t: t, bin: logctl, args: []string{"-b", strings.Join(c.bootstrap(), ","), "--timeout", "60s"}}
}

// try runs one command line and returns what it printed and its exit code.
func (s *shell) try(stdin string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, append(slices.Clone(s.args), args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("logctl %v: %v", args, err)
	}
	if ctx.Err() != nil {
		s.t.Fatalf("logctl %v did not end within %v; stderr %q", args, patience, errOut.String())
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// must runs a command that has to succeed in silence.
func (s *shell) must(stdin string, args ...string) string {
	s.t.Helper()
	out, errOut, code := s.try(stdin, args...)
	if code != 0 || errOut != "" {
		s.t.Fatalf("logctl %s: exit %d, stderr %q", strings.Join(args, " "), code, errOut)
	}
	return out
}

// fails runs a command that has to fail with one line of explanation.
func (s *shell) fails(want int, stdin string, args ...string) (stderr string) {
	s.t.Helper()
	out, errOut, code := s.try(stdin, args...)
	if code != want {
		s.t.Errorf("logctl %s: exit %d, want %d; stderr %q", strings.Join(args, " "), code, want, errOut)
	}
	if out != "" || !strings.HasPrefix(errOut, "logctl: ") || strings.Count(errOut, "\n") != 1 {
		s.t.Errorf("logctl %s: not one line on standard error: stdout %q, stderr %q", strings.Join(args, " "), out, errOut)
	}
	return errOut
}

// document runs a command with -o json and with -o yaml, checks that each
// prints one document and that both have the same fields, and returns it.
func (s *shell) document(args ...string) map[string]any {
	s.t.Helper()
	var fromJSON, fromYAML map[string]any
	text := s.must("", append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(text), &fromJSON); err != nil {
		s.t.Fatalf("logctl %v -o json: %v in\n%s", args, err, text)
	}
	text = s.must("", append(args, "-o", "yaml")...)
	if err := yaml.Unmarshal([]byte(text), &fromYAML); err != nil {
		s.t.Fatalf("logctl %v -o yaml: %v in\n%s", args, err, text)
	}
	if j, y := shape(fromJSON), shape(fromYAML); j != y {
		s.t.Fatalf("logctl %v: JSON has the fields\n%s\nYAML\n%s", args, j, y)
	}
	return fromJSON
}

// shape lists the fields of a document, of lists those of the first element.
func shape(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var b strings.Builder
		for _, k := range slices.Sorted(maps.Keys(v)) {
			fmt.Fprintf(&b, "%s{%s}", k, shape(v[k]))
		}
		return b.String()
	case []any:
		if len(v) > 0 {
			return "[" + shape(v[0]) + "]"
		}
		return "[]"
	}
	return ""
}

// fields asserts the names in an object: they are an interface for scripts.
func fields(t testing.TB, what string, v any, want ...string) map[string]any {
	t.Helper()
	m, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("%s is %T, not an object", what, v)
	}
	if got := slices.Sorted(maps.Keys(m)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("%s has the fields %v, want %v", what, got, want)
	}
	return m
}

// first is the first element of a list that must have one.
func first(t testing.TB, what string, v any) any {
	t.Helper()
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		t.Fatalf("%s is %v, not a list of something", what, v)
	}
	return list[0]
}

// columns asserts a table's header and returns its rows as words.
func columns(t testing.TB, out, header string) [][]string {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if got := strings.Join(strings.Fields(lines[0]), " "); got != header {
		t.Errorf("table has the header %q, want %q", got, header)
	}
	var rows [][]string
	for _, l := range lines[1:] {
		if l == "" {
			break // another table follows
		}
		rows = append(rows, strings.Fields(l))
	}
	return rows
}

var (
	partitionFields = []string{"topic", "partition", "leader", "leader_epoch", "isr", "start_offset", "high_watermark", "replicas"}
	replicaFields   = []string{"broker", "state", "lag", "bytes", "log_end", "suspect", "damaged"}
	configFields    = []string{"name", "value", "source", "sensitive"}
	brokerFields    = []string{"id", "host", "port", "rack", "controller", "leaders", "replicas"}
)

// TestLogctlTopics goes through the life of a topic.
func TestLogctlTopics(t *testing.T) {
	c := sharedCluster(t)
	s := newShell(t, c)
	rows := columns(t, s.must("", "topic", "create", "ctl-life", "--partitions", "3", "--replicas", "3", "--config", "retention.ms=3600000"), "TOPIC PARTITIONS REPLICAS")
	if want := [][]string{{"ctl-life", "3", "3"}}; !reflect.DeepEqual(rows, want) {
		t.Errorf("created %v, want %v", rows, want)
	}
	// "create" returned, so every broker shows the topic with its leaders now.
	for _, n := range c.nodes {
		got := ask[*kmsg.MetadataResponse](t, n.kafka, 12, metadataOf("ctl-life")).Topics[0]
		if got.ErrorCode != 0 || len(got.Partitions) != 3 {
			t.Fatalf("broker %d shows code %d and %d partitions", n.id, got.ErrorCode, len(got.Partitions))
		}
		for _, p := range got.Partitions {
			if p.Leader < 0 || p.ErrorCode != 0 {
				t.Errorf("broker %d: partition %d has leader %d, code %d", n.id, p.Partition, p.Leader, p.ErrorCode)
			}
		}
	}
	list := s.document("topic", "list")
	fields(t, "topic list", list, "topics")
	fields(t, "a topic of the list", first(t, "topics", list["topics"]), "topic", "id", "partitions", "replicas", "leaderless_partitions", "under_replicated_partitions", "internal")
	rows = columns(t, s.must("", "topic", "list"), "TOPIC PARTITIONS REPLICAS LEADERLESS UNDER-REPLICATED")
	if !slices.ContainsFunc(rows, func(r []string) bool { return r[0] == "ctl-life" && r[1] == "3" && r[3] == "0" }) {
		t.Errorf("the list lacks the topic: %v", rows)
	}

	s.must("", "topic", "alter", "ctl-life", "--config", "segment.bytes=1048576", "--delete-config", "retention.ms", "--partitions", "4")
	doc := fields(t, "topic describe", s.document("topic", "describe", "ctl-life"), "topic", "id", "internal", "partitions", "configs")
	p := fields(t, "a partition", first(t, "partitions", doc["partitions"]), partitionFields...)
	fields(t, "a replica", first(t, "replicas", p["replicas"]), replicaFields...)
	fields(t, "a setting", first(t, "configs", doc["configs"]), configFields...)
	if n := len(doc["partitions"].([]any)); n != 4 {
		t.Errorf("%d partitions, want 4", n)
	}
	set := map[string]string{}
	for _, v := range doc["configs"].([]any) {
		kv := v.(map[string]any)
		set[kv["name"].(string)] = kv["value"].(string) + " " + kv["source"].(string)
	}
	if set["segment.bytes"] != "1048576 DYNAMIC_TOPIC_CONFIG" || set["retention.ms"] != "604800000 DEFAULT_CONFIG" {
		t.Errorf("segment.bytes is %q, retention.ms %q", set["segment.bytes"], set["retention.ms"])
	}
	columns(t, s.must("", "topic", "describe", "ctl-life"), "TOPIC PARTITION LEADER EPOCH ISR START HIGH-WATERMARK REPLICAS")

	deleted := s.must("", "topic", "delete", "ctl-life", "-o", "json")
	if strings.Join(strings.Fields(deleted), "") != `{"deleted":["ctl-life"]}` {
		t.Errorf("delete says %s", deleted)
	}
	s.fails(3, "", "topic", "describe", "ctl-life")
	s.fails(3, "", "topic", "delete", "ctl-life")
}

// TestLogctlStatus looks at the cluster, its brokers, partitions and settings.
func TestLogctlStatus(t *testing.T) {
	c := sharedCluster(t)
	s := newShell(t, c)
	s.must("", "topic", "create", "ctl-status", "--partitions", "2", "--replicas", "3")
	s.must("one\ntwo\n", "produce", "ctl-status", "--partition", "1")

	doc := fields(t, "cluster status", s.document("cluster", "status"), "cluster_id", "controller", "brokers", "topics", "partitions", "leaderless_partitions", "under_replicated_partitions")
	if n := len(doc["brokers"].([]any)); n != 3 || doc["cluster_id"] == "" {
		t.Errorf("%d brokers in cluster %q", n, doc["cluster_id"])
	}
	b := fields(t, "a broker", first(t, "brokers", doc["brokers"]), brokerFields...)
	if b["rack"] != rack(1) {
		t.Errorf("broker 1 is in %v", b["rack"])
	}
	if rows := columns(t, s.must("", "cluster", "status"), "CLUSTER CONTROLLER BROKERS TOPICS PARTITIONS LEADERLESS UNDER-REPLICATED"); len(rows) != 1 || rows[0][2] != "3" {
		t.Errorf("status %v", rows)
	}
	if rows := columns(t, s.must("", "broker", "list"), "BROKER ADDRESS RACK CONTROLLER LEADERS REPLICAS"); len(rows) != 3 || rows[1][1] != c.nodes[1].kafka {
		t.Errorf("brokers %v", rows)
	}
	fields(t, "broker list", s.document("broker", "list"), "brokers")
	described := fields(t, "broker describe", s.document("broker", "describe", "2"), append(slices.Clone(brokerFields), "configs")...)
	fields(t, "a broker's setting", first(t, "configs", described["configs"]), configFields...)

	list := fields(t, "partition list", s.document("partition", "list", "ctl-status"), "partitions")
	p := fields(t, "a partition", first(t, "partitions", list["partitions"]), partitionFields...)
	fields(t, "a replica", first(t, "replicas", p["replicas"]), replicaFields...)
	eventually(t, "partition list shows all in sync", func(context.Context) error {
		rows := columns(t, s.must("", "partition", "list", "ctl-status"), "TOPIC PARTITION LEADER EPOCH ISR START HIGH-WATERMARK REPLICAS")
		if len(rows) != 2 || len(strings.Split(rows[1][4], ",")) != 3 || rows[1][6] != "2" || strings.Count(strings.Join(rows[1], " "), "in-sync") != 2 {
			return fmt.Errorf("%v", rows)
		}
		return nil
	})

	s.must("", "config", "set", "topic", "ctl-status", "retention.ms=1234567")
	got := fields(t, "config get", s.document("config", "get", "topic", "ctl-status", "retention.ms"), "kind", "name", "configs")
	kv := fields(t, "a setting", first(t, "configs", got["configs"]), configFields...)
	if kv["value"] != "1234567" || kv["source"] != "DYNAMIC_TOPIC_CONFIG" {
		t.Errorf("retention.ms is %v", kv)
	}
	s.must("", "config", "set", "topic", "ctl-status", "--delete", "retention.ms")
	rows := columns(t, s.must("", "config", "get", "topic", "ctl-status", "retention.ms"), "SETTING VALUE SOURCE")
	if len(rows) != 1 || rows[0][1] != "604800000" {
		t.Errorf("retention.ms is %v", rows)
	}
	if rows := columns(t, s.must("", "config", "get", "broker", "3", "tailrace.http.advertised"), "SETTING VALUE SOURCE"); len(rows) != 1 || !strings.Contains(rows[0][1], c.nodes[2].http) {
		t.Errorf("broker 3 advertises %v, not %s", rows, c.nodes[2].http)
	}
}

// TestLogctlRecords writes with every option of produce and reads with every
// option of consume and tail.
func TestLogctlRecords(t *testing.T) {
	c := sharedCluster(t)
	s := newShell(t, c)
	s.must("", "topic", "create", "ctl-records", "--partitions", "2", "--replicas", "3")
	before := time.Now().Add(-time.Minute)
	out := s.must("a:1\nb:2\nplain\n", "produce", "ctl-records", "--key-delimiter", ":", "--header", "from=test", "--header", "n=1", "--partition", "0", "-o", "json")
	if strings.Join(strings.Fields(out), "") != `{"topic":"ctl-records","records":3,"bytes":9}` {
		t.Errorf("produce says %s", out)
	}
	s.must("c\t4\n", "produce", "ctl-records", "--key-delimiter", `\t`, "--partition", "1", "--compression", "zstd", "--acks", "1")

	same := func(want string, args ...string) {
		t.Helper()
		if got := s.must("", append([]string{"consume", "ctl-records"}, args...)...); got != want {
			t.Errorf("consume %v: %q, want %q", args, got, want)
		}
	}
	full := "0 0 a=1 1 1 from=test,n=1\n0 1 b=2 1 1 from=test,n=1\n0 2 =plain -1 5 from=test,n=1\n"
	format := []string{"--partition", "0", "--format", `%p %o %k=%s %K %S %h\n`}
	same(full, format...)
	for _, replica := range []string{"leader", "nearest", "any", "1", "2", "3"} {
		same(full, append([]string{"--replica", replica, "--rack", rack(2)}, format...)...)
	}
	first := func(args ...string) []string { return append([]string{"--partition", "0"}, args...) }
	same("1\n2\nplain\n", first("--from", "earliest")...)
	same("", first("--from", "latest")...)
	same("plain\n", first("--from", "-1")...)
	same("2\nplain\n", first("--from", "1")...)
	same("1\n2\nplain\n", first("--from", "@"+before.Format(time.RFC3339))...)
	same("1\n2\nplain\n", first("--from", "@"+strconv.FormatInt(before.UnixMilli(), 10))...)
	same("", first("--from", "@"+time.Now().Add(time.Hour).Format(time.RFC3339))...)
	same("1\n2\n", first("--count", "2")...)
	same("ctl-records\t%1", "--partition", "0", "--count", "1", "--format", `%t\t%%%v`)
	same("4\n", "--partition", "1")
	all := strings.Fields(s.must("", "consume", "ctl-records"))
	if slices.Sort(all); !slices.Equal(all, []string{"1", "2", "4", "plain"}) {
		t.Errorf("all partitions: %v", all)
	}
	last := strings.Fields(s.must("", "consume", "ctl-records", "--from", "-1"))
	if slices.Sort(last); !slices.Equal(last, []string{"4", "plain"}) {
		t.Errorf("the last of each partition: %v", last)
	}
	if n := len(strings.Fields(s.must("", "consume", "ctl-records", "--count", "3"))); n != 3 {
		t.Errorf("--count 3 in total gave %d", n)
	}
	stamp := strings.TrimSpace(s.must("", "consume", "ctl-records", "--partition", "0", "--count", "1", "--format", "%T"))
	if ms, err := strconv.ParseInt(stamp, 10, 64); err != nil || ms < before.UnixMilli() {
		t.Errorf("timestamp %q", stamp)
	}
	recordDocument(t, s.must("", "consume", "ctl-records", "--partition", "0", "--count", "1", "-o", "json"))

	tail := func(want string, args ...string) {
		t.Helper()
		if got := s.must("", append([]string{"tail", "ctl-records"}, args...)...); got != want {
			t.Errorf("tail %v: %q, want %q", args, got, want)
		}
	}
	tail("1\n2\nplain\n", "--from", "earliest", "--partition", "0", "--count", "3")
	tail("0:1 b=2\n", "--from", "earliest", "--key", "b", "--count", "1", "--format", `%p:%o %k=%s\n`)
	tail("1\n", "--from", "earliest", "--header", "from=test", "--header", "n", "--count", "1")
	for _, n := range c.nodes {
		tail("plain\n", "--http", "http://"+n.http, "--from", "-1", "--partition", "0", "--count", "1")
	}
	recordDocument(t, s.must("", "tail", "ctl-records", "--from", "0", "--partition", "0", "--count", "1", "-o", "json"))
}

// recordDocument checks the first record of ctl-records as JSON.
func recordDocument(t *testing.T, line string) {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(line), &doc); err != nil || strings.Count(line, "\n") != 1 {
		t.Fatalf("not one JSON document a line: %v in %q", err, line)
	}
	fields(t, "a record", doc, "topic", "partition", "offset", "timestamp", "key", "value", "headers")
	h := fields(t, "a header", first(t, "headers", doc["headers"]), "key", "value")
	if doc["key"] != "a" || doc["value"] != "1" || doc["offset"] != 0.0 || h["key"] != "from" || h["value"] != "test" {
		t.Errorf("record %s", line)
	}
}

// TestLogctlFollow: --follow and tail print what is written meanwhile, and an
// interrupt ends them well.
func TestLogctlFollow(t *testing.T) {
	c := sharedCluster(t)
	s := newShell(t, c)
	s.must("", "topic", "create", "ctl-follow", "--partitions", "1", "--replicas", "3")
	s.must("old\n", "produce", "ctl-follow")
	for _, args := range [][]string{
		{"consume", "ctl-follow", "--from", "earliest", "--follow"},
		{"consume", "ctl-follow", "--from", "latest", "--follow", "--replica", "2"},
		{"tail", "ctl-follow"},
	} {
		cmd := exec.Command(s.bin, append(slices.Clone(s.args), args...)...)
		var buf, errOut bytes.Buffer
		out := &lockedBuffer{b: &buf}
		cmd.Stdout, cmd.Stderr = out, &errOut
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		text := func() string { out.mu.Lock(); defer out.mu.Unlock(); return buf.String() }
		marker := strings.Join(args, "-")
		eventually(t, "a record shows while logctl "+marker+" runs", func(context.Context) error {
			s.must(marker+"\n", "produce", "ctl-follow")
			if !strings.Contains(text(), marker) {
				return fmt.Errorf("it printed %q", text())
			}
			return nil
		})
		if follows := args[0] == "consume" && args[3] == "earliest"; strings.Contains(text(), "old\n") != follows {
			t.Errorf("logctl %v printed %q", args, text())
		}
		cmd.Process.Signal(syscall.SIGINT)
		if err := cmd.Wait(); err != nil || errOut.Len() > 0 {
			t.Errorf("logctl %v after an interrupt: %v, stderr %q", args, err, errOut.String())
		}
	}
	if got := s.must("", "consume", "ctl-follow", "--follow", "--count", "1"); got != "old\n" {
		t.Errorf("--follow --count 1: %q", got)
	}
}

// TestLogctlExitCodes: 1 failure, 2 usage, 3 not found, 4 unavailable; each
// with one line that says what to do.
func TestLogctlExitCodes(t *testing.T) {
	c := sharedCluster(t)
	s := newShell(t, c)
	s.must("", "topic", "create", "ctl-codes", "--partitions", "1")
	for _, in := range []struct {
		code int
		line string
		say  string
	}{
		{1, "topic create ctl-codes", "exist"},
		{1, "topic create a/b", "name"},
		{1, "topic create ctl-codes-2 --replicas 4", "replication factor"},
		{1, "topic create ctl-codes-2 --config no.such.setting=1", "no.such.setting"},
		{1, "topic alter ctl-codes --config retention.ms=soon", "retention.ms"},
		{1, "topic alter ctl-codes --partitions 1", "partitions"},
		{2, "nonsense", "--help"},
		{2, "topic", "create"},
		{2, "topic create", "NAME"},
		{2, "topic list -o xml", "json"},
		{2, "topic alter ctl-codes", "--config"},
		{2, "consume ctl-codes --from soon", "earliest"},
		{2, "consume ctl-codes --replica follower", "leader"},
		{2, "consume ctl-codes --format %z", "%k"},
		{2, "produce ctl-codes --acks 2", "acks"},
		{2, "produce ctl-codes --header x", "NAME=VALUE"},
		{2, "tail ctl-codes --http ftp://x", "http"},
		{2, "broker describe one", "number"},
		{3, "topic describe no-such-topic", "no-such-topic"},
		{3, "topic delete no-such-topic", "no-such-topic"},
		{3, "topic alter no-such-topic --config retention.ms=1", "no-such-topic"},
		{3, "partition list no-such-topic", "no-such-topic"},
		{3, "consume no-such-topic", "no-such-topic"},
		{3, "consume ctl-codes --partition 7", "7"},
		{3, "produce no-such-topic", "no-such-topic"},
		{3, "produce ctl-codes --partition 7", "7"},
		{3, "tail no-such-topic", "no-such-topic"},
		{3, "tail ctl-codes --partition 7", "7"},
		{3, "broker describe 9", "9"},
		{3, "config get topic ctl-codes no.such.setting", "no.such.setting"},
		{3, "config get topic no-such-topic", "no-such-topic"},
	} {
		if say := s.fails(in.code, "x\n", strings.Fields(in.line)...); !strings.Contains(say, in.say) {
			t.Errorf("logctl %s says %q, nothing about %q", in.line, say, in.say)
		}
	}
	if got := s.fails(1, strings.Repeat("x", 1_100_000)+"\n", "produce", "ctl-codes", "--max-bytes", "2000000"); !strings.Contains(strings.ToLower(got), "large") {
		t.Errorf("an oversize record: %q", got)
	}
	if _, _, code := s.try("", "--help"); code != 0 {
		t.Errorf("--help: exit %d", code)
	}
}

// everyCommand needs the cluster; topic is a topic that exists.
func everyCommand(topic string) []string {
	return []string{
		"topic create another --partitions 1", "topic list", "topic describe " + topic, "topic delete " + topic,
		"topic alter " + topic + " --config retention.ms=1000000", "produce " + topic, "consume " + topic, "tail " + topic + " --count 1",
		"cluster status", "broker list", "broker describe 1", "partition list", "config get topic " + topic, "config set topic " + topic + " retention.ms=1000000",
	}
}

// quick bounds commands that promise an end within 5 s, on a slow machine.
const quick = 45 * time.Second

// TestLogctlUnreachable: nobody listens.
func TestLogctlUnreachable(t *testing.T) {
	_, bin := build(t)
	addr := freePorts(t, 1)[0]
	s := &shell{t: t, bin: bin, args: []string{"-b", addr, "--timeout", "1s"}}
	for _, line := range everyCommand("orders") {
		begin := time.Now()
		if say := s.fails(4, "x\n", strings.Fields(line)...); !strings.Contains(say, addr) {
			t.Errorf("logctl %s says %q, nothing about %s", line, say, addr)
		}
		if took := time.Since(begin); took > quick {
			t.Errorf("logctl %s took %v", line, took)
		}
	}
}

// TestLogctlWithoutQuorum: one broker of three is left.
func TestLogctlWithoutQuorum(t *testing.T) {
	build(t)
	c := &cluster{t: t, expect: 3}
	for range 3 {
		c.add()
	}
	for _, n := range c.nodes {
		n.start()
	}
	c.waitLive(3)
	c.createTopic("lonely", 3, 3, nil)
	newShell(t, c).must("x\n", "produce", "lonely")
	c.nodes[0].kill()
	c.nodes[2].kill()
	s := newShell(t, c)
	s.args = []string{"-b", strings.Join(c.bootstrap(), ",")} // with the usual timeout
	eventually(t, "the last broker knows that it is alone", func(context.Context) error {
		if _, _, code := s.try("", "cluster", "status"); code != 4 {
			return fmt.Errorf("exit %d", code)
		}
		return nil
	})
	s.args = append(s.args, "--timeout", "1500ms") // the usual one was tried above
	for _, line := range everyCommand("lonely") {
		begin := time.Now()
		s.fails(4, "x\n", strings.Fields(line)...)
		if took := time.Since(begin); took > quick {
			t.Errorf("logctl %s took %v", line, took)
		}
	}
}
