package cluster

import (
	"context"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/bench/limit"
	"github.com/tailrace/tailrace/bench/proc"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/tailrace/tailrace/bench/proc.init.func1.1")) // the forker lives as long as the program
}

// The peers' settings are the ones that make a comparison fair.
func TestPeerConfigurations(t *testing.T) {
	o := Options{}.withDefaults()
	plain := kafkaProperties(2, "v", "127.0.0.1:9", "127.0.0.1:8", "/d", o, false)
	for _, want := range []string{"node.id=2\n", "min.insync.replicas=2\n", "default.replication.factor=3\n", "unclean.leader.election.enable=false\n", "broker.rack=rack-2\n", "listeners=PLAINTEXT://127.0.0.1:9,CONTROLLER://127.0.0.1:8\n"} {
		if !strings.Contains(plain, want) {
			t.Errorf("no %q in\n%s", want, plain)
		}
	}
	if strings.Contains(plain, "flush") {
		t.Error("Kafka's default has no flush setting")
	}
	if fsync := kafkaProperties(2, "v", "k", "c", "/d", o, true); !strings.Contains(fsync, "log.flush.interval.messages=1\n") {
		t.Error("the fsync variant must flush every append")
	}
	if c := natsConfig(1, "a", "b", []string{`"r"`}, "/d", false); strings.Contains(c, "sync_interval") {
		t.Errorf("NATS' default has no sync setting: %s", c)
	}
	if c := natsConfig(1, "a", "b", []string{`"r"`}, "/d", true); !strings.Contains(c, "sync_interval: always") {
		t.Errorf("the sync variant must sync always: %s", c)
	}
}

func TestClusterID(t *testing.T) {
	for range 100 {
		id, err := randomClusterID()
		if err != nil || strings.HasPrefix(id, "-") {
			t.Fatalf("%q, %v", id, err)
		}
		if b, err := base64.RawURLEncoding.DecodeString(id); err != nil || len(b) != 16 {
			t.Fatalf("%q is not a Kafka Uuid", id)
		}
	}
}

// A process that dies while it is started is reported with what it said, at
// once and not after the time-out; nothing is left behind.
func TestStartThatFails(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	script := filepath.Join(tmp, "broker.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho port is taken\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Start(context.Background(), "tailrace", Options{Binary: script, Ready: time.Hour})
	if err == nil || !strings.Contains(err.Error(), "port is taken") {
		t.Fatalf("error %v, want the output in it", err)
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The documented command line reaches the broker, and its metrics address is
// known.
func TestTailraceCommandLine(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	script := filepath.Join(tmp, "broker.sh")
	out := filepath.Join(tmp, "args")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$@\" >> "+out+"\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() { // all three have written their line
		for ctx.Err() == nil {
			if b, _ := os.ReadFile(out); strings.Count(string(b), "\n") == 3 {
				cancel()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, err := Start(ctx, "tailrace", Options{Binary: script}); err == nil {
		t.Fatal("a sleeping script served the Kafka protocol")
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"run --id ", " --dir ", " --kafka 127.0.0.1:", " --internal 127.0.0.1:", " --gossip 127.0.0.1:", " --http 127.0.0.1:", " --join 127.0.0.1:", " --bootstrap-expect 3", " --rack rack-"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
}

func TestJoin(t *testing.T) {
	s, err := limit.StartNull("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := Join(context.Background(), s.Addr(), []int{os.Getpid()}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Pids(); len(got) != 1 || got[0] != os.Getpid() {
		t.Errorf("processes %v", got)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := Join(context.Background(), "127.0.0.1:1", nil, Options{Ready: 100 * time.Millisecond}); err == nil {
		t.Error("joined nobody")
	}
}

func TestExitStatusOfAJVM(t *testing.T) {
	for status, want := range map[int]bool{0: true, 143: true, 1: false} {
		n := &Node{termed: 143, spec: proc.Spec{Name: "sh", Path: "/bin/sh", Args: []string{"-c", "trap 'exit " + map[int]string{0: "0", 143: "143", 1: "1"}[status] + "' TERM; echo up; while :; do sleep 0.05; done"}}}
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(n.proc().Output(), "up") && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
		if err := n.Stop(20 * time.Second); (err == nil) != want {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

func TestCommit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
	if got := Commit(t.TempDir()); got != "unknown" {
		t.Errorf("outside a repository: %q", got)
	}
}
