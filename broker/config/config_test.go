package config

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func load(t *testing.T, yaml string, args ...string) (*Node, error) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFlags(flags)
	if yaml != "" {
		path := filepath.Join(t.TempDir(), "broker.yaml")
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	return Load(flags)
}

func mustLoad(t *testing.T, yaml string, args ...string) *Node {
	t.Helper()
	n, err := load(t, yaml, args...)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPrecedence(t *testing.T) {
	yaml := "id: 1\ndir: /file\nrack: file\nbootstrap-expect: 3\njoin: [a:1, 'b:2']\nmax-request-bytes: 8MiB\nidle-timeout: 5m\n"
	t.Setenv("TAILRACE_RACK", "env")
	t.Setenv("TAILRACE_DIR", "/env")
	t.Setenv("TAILRACE_PORT_9092_TCP", "an orchestrator's")
	n := mustLoad(t, yaml, "--dir", "/flag", "--max-in-flight=9")
	want := *Default()
	want.ID, want.Dir, want.Rack, want.BootstrapExpect = 1, "/flag", "env", 3
	want.Join, want.MaxRequestBytes, want.IdleTimeout, want.MaxInFlight = []string{"a:1", "b:2"}, 8<<20, 5*time.Minute, 9
	if !reflect.DeepEqual(*n, want) {
		t.Fatalf("got  %+v\nwant %+v", *n, want)
	}
}

// A flag that is given wins even where it says the default.
func TestFlagAtItsDefaultWins(t *testing.T) {
	t.Setenv("TAILRACE_KAFKA", "127.0.0.1:1234")
	t.Setenv("TAILRACE_INSECURE", "true")
	n := mustLoad(t, "", "--id=1", "--dir=d", "--kafka=127.0.0.1:9092", "--insecure=false")
	if n.Kafka != "127.0.0.1:9092" || n.Insecure {
		t.Fatalf("got %+v", n)
	}
}

func TestListsFromEverywhere(t *testing.T) {
	base := []string{"--id=1", "--dir=d"}
	want := []string{"a:1", "b:2"}
	for name, get := range map[string]func() *Node{
		"yaml list":     func() *Node { return mustLoad(t, "join:\n- a:1\n- b:2\n", base...) },
		"yaml text":     func() *Node { return mustLoad(t, "join: a:1, b:2\n", base...) },
		"flag":          func() *Node { return mustLoad(t, "", append(base, "--join=a:1,b:2")...) },
		"repeated flag": func() *Node { return mustLoad(t, "join: [c:3]", append(base, "--join=a:1", "--join", "b:2")...) },
		"environment":   func() *Node { t.Setenv("TAILRACE_JOIN", "a:1,b:2"); return mustLoad(t, "", base...) },
	} {
		if got := get().Join; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestConfigFileFromEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(path, []byte("id: 4\ndir: d"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TAILRACE_CONFIG", path)
	if n := mustLoad(t, ""); n.ID != 4 {
		t.Fatalf("got id %d", n.ID)
	}
}

func TestErrors(t *testing.T) {
	ok := []string{"--id=1", "--dir=d"}
	for _, tc := range []struct {
		name, yaml string
		args       []string
		want       string
	}{
		{"unknown key", "bootstrap_expect: 3", ok, `unknown key "bootstrap_expect"; did you mean "bootstrap-expect"?`},
		{"nested key", "kafka:\n  port: 1", ok, `unknown key "kafka/port"`},
		{"bad yaml", "id: [", ok, "configuration file"},
		{"empty value", "rack:", ok, "rack"},
		{"not a number", "id: one", ok[1:], `id: "one": want a whole number`},
		{"number too large", "id: 4294967297", ok[1:], "want a whole number"},
		{"bad bytes", "cache-bytes: -5", ok, "cache-bytes"},
		{"bad duration", "idle-timeout: 5", ok, "want a duration"},
		{"bad level", "log-level: loud", ok, "want one of debug, info, warn, error"},
		{"no file", "", append(ok, "--config=/does/not/exist"), "/does/not/exist does not exist"},
		{"no id", "", ok[1:], "id: want 0 or more"},
		{"no dir", "", ok[:1], "dir: required"},
		{"bad listener", "", append(ok, "--kafka=9092"), "kafka: \"9092\": want host:port"},
		{"port clash", "", append(ok, "--http=127.0.0.1:9092"), "http: port 9092 is taken by kafka"},
		{"port clash by wildcard", "", append(ok, "--insecure", "--advertise=h:1", "--kafka=0.0.0.0:8080"), "http: port 8080 is taken by kafka"},
		{"open kafka", "", append(ok, "--kafka=10.0.0.1:9092"), "kafka: 10.0.0.1:9092 is reachable"},
		{"open kafka with a secret", "", append(ok, "--secret-file=f", "--kafka=10.0.0.1:9092"), "kafka: 10.0.0.1:9092 is reachable"},
		{"open http", "", append(ok, "--http=:8080"), "http: :8080 is reachable"},
		{"open internal", "", append(ok, "--internal=10.0.0.1:9192"), "internal: 10.0.0.1:9192 is reachable from other machines: give the cluster a secret-file"},
		{"open gossip by name", "", append(ok, "--gossip=host.example:7946"), "gossip: host.example:7946 is reachable"},
		{"wildcard without advertise", "", append(ok, "--insecure", "--kafka=0.0.0.0:9092"), "advertise: required"},
		{"advertised wildcard", "", append(ok, "--advertise=0.0.0.0:9092"), "advertise: \"0.0.0.0:9092\""},
		{"bad join", "", append(ok, "--join=a"), "join: \"a\": want host:port"},
		{"alone in a crowd", "", append(ok, "--bootstrap-expect=3"), "join: needed"},
		{"limit", "", append(ok, "--max-request-bytes=1"), "max-request-bytes: 1: want 1048576 to"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := load(t, tc.yaml, tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	ok := []string{"--id=0", "--dir=d"}
	for _, args := range [][]string{
		{"--http=off", "--kafka=localhost:0", "--internal=[::1]:0", "--gossip=127.0.0.9:0"},
		{"--secret-file=f", "--internal=10.0.0.1:9192", "--gossip=10.0.0.1:7946"},
		{"--insecure", "--kafka=10.0.0.1:9092", "--http=:8080"},
		{"--bootstrap-expect=1"},
		{"--bootstrap-expect=3", "--join=h:1"},
		{"--internal=127.0.0.2:9092"}, // the same port on another address
	} {
		if _, err := load(t, "", append(ok, args...)...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	n := &Node{SecretFile: path}
	write := func(s string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Secret(); err == nil {
		t.Error("read a secret that is not there")
	}
	write("0123456789abcdef\n", 0o600)
	if b, err := n.Secret(); err != nil || string(b) != "0123456789abcdef" {
		t.Errorf("got %q, %v", b, err)
	}
	write("0123456789abcdef", 0o640)
	if _, err := n.Secret(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
	write("short", 0o600)
	if _, err := n.Secret(); err == nil || !strings.Contains(err.Error(), "at least 16") {
		t.Errorf("got %v", err)
	}
	if b, err := new(Node).Secret(); b != nil || err != nil {
		t.Errorf("no secret: %q, %v", b, err)
	}
}

func TestBytes(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "123": 123, "1KiB": 1024, "2 GiB": 2 << 30, "3MB": 3e6, "7B": 7} {
		if got, err := parseBytes(s); err != nil || got != want {
			t.Errorf("%s: got %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "x", "1.5GiB", "-1", "9999999999TiB", "KiB"} {
		if n, err := parseBytes(s); err == nil {
			t.Errorf("%q: got %d", s, n)
		}
	}
	for _, n := range []int64{0, 1, 1023, 1 << 10, 3 << 20, 5 << 40} {
		if got, err := parseBytes(formatBytes(n)); err != nil || got != n {
			t.Errorf("%d became %s", n, formatBytes(n))
		}
	}
}

func TestDocumentation(t *testing.T) {
	const path = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, []byte(Markdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != Markdown() {
		t.Fatal("docs/configuration.md is not current: go test ./broker/config -run TestDocumentation -update")
	}
}
