package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// loneArgs is the command line of a broker that founds a cluster of its own
// on free ports, with later flags winning.
func loneArgs(t *testing.T, id int, dir string, more ...string) []string {
	t.Helper()
	p := freePorts(t, 4)
	return append([]string{"run", "--id", fmt.Sprint(id), "--dir", dir, "--kafka", p[0], "--internal", p[1], "--gossip", p[2], "--http", p[3],
		"--join", p[2], "--bootstrap-expect", "1", "--log-format", "json"}, more...)
}

// lone starts such a broker and waits until it serves.
func lone(t *testing.T, args []string, env ...string) *process {
	t.Helper()
	bin, _ := build(t)
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), env...)
	p := launch(t, cmd)
	p.logs(`"message":"serving"`)
	return p
}

// valueOf is the value of a flag in a command line; the last one wins.
func valueOf(args []string, flag string) string {
	v := ""
	for i, a := range args[:len(args)-1] {
		if a == flag {
			v = args[i+1]
		}
	}
	return v
}

// TestRefusals: what cannot start says why in one line, with the exit code of
// its kind, and leaves nothing behind.
func TestRefusals(t *testing.T) {
	bin, _ := build(t)
	dir := t.TempDir()
	held := lone(t, loneArgs(t, 1, filepath.Join(dir, "held")))
	heldArgs := held.cmd.Args[1:]
	file := filepath.Join(dir, "file")
	write(t, file, "no directory")
	unknown := filepath.Join(dir, "unknown.yaml")
	write(t, unknown, "bootstrap-expekt: 3\n")

	fresh := filepath.Join(dir, "fresh")
	for _, tc := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"kafka port", loneArgs(t, 2, fresh, "--kafka", valueOf(heldArgs, "--kafka")), 1, []string{"--kafka " + valueOf(heldArgs, "--kafka"), "in use"}},
		{"internal port", loneArgs(t, 2, fresh, "--internal", valueOf(heldArgs, "--internal")), 1, []string{"--internal", "in use"}},
		{"gossip port", loneArgs(t, 2, fresh, "--gossip", valueOf(heldArgs, "--gossip")), 1, []string{"--gossip", "in use"}},
		{"http port", loneArgs(t, 2, fresh, "--http", valueOf(heldArgs, "--http")), 1, []string{"--http", "in use"}},
		{"directory in use", loneArgs(t, 1, valueOf(heldArgs, "--dir")), 1, []string{"in use by another process"}},
		{"directory is a file", loneArgs(t, 2, file), 1, []string{file, "not a directory", "--dir"}},
		{"directory below a file", loneArgs(t, 2, filepath.Join(file, "d")), 1, []string{file, "not a directory", "--dir"}},
		{"unknown key", loneArgs(t, 2, fresh, "--config", unknown), 2, []string{unknown, "bootstrap-expekt", `"bootstrap-expect"`, "--help"}},
		{"no such file", loneArgs(t, 2, fresh, "--config", filepath.Join(dir, "nosuch.yaml")), 2, []string{"nosuch.yaml", "does not exist"}},
		{"kafka beyond loopback", loneArgs(t, 2, fresh, "--kafka", "0.0.0.0:0", "--advertise", "127.0.0.1:1"), 2, []string{"kafka", "--insecure"}},
		{"http beyond loopback", loneArgs(t, 2, fresh, "--http", "0.0.0.0:0"), 2, []string{"http", "--insecure"}},
		{"gossip beyond loopback", loneArgs(t, 2, fresh, "--gossip", "0.0.0.0:0", "--advertise-gossip", "127.0.0.1:1"), 2, []string{"gossip", "secret-file"}},
		{"no id", []string{"run", "--dir", fresh}, 2, []string{"id", "--help"}},
		{"no directory", []string{"run", "--id", "2"}, 2, []string{"dir", "--help"}},
		{"unknown flag", loneArgs(t, 2, fresh, "--nosuch"), 2, []string{"--nosuch", "broker run --help"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := finish(t, exec.Command(bin, tc.args...), "")
			if r.code != tc.code {
				t.Errorf("exit code %d, want %d", r.code, tc.code)
			}
			if strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "broker: ") || r.stdout != "" {
				t.Errorf("not one line: stdout %q, stderr %q", r.stdout, r.stderr)
			}
			for _, want := range tc.says {
				if !strings.Contains(r.stderr, want) {
					t.Errorf("%q lacks %q", r.stderr, want)
				}
			}
			if exists(t, fresh) {
				t.Error("a data directory was left behind")
			}
		})
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "no directory" {
		t.Errorf("the file that was named as directory is %q now (%v)", b, err)
	}
	if code := held.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("the broker that was in the way ends with %d", code)
	}
}

// nobody is the customary user without rights.
const nobody = 65534

// TestUnreadableDirectory: a directory without permissions is named. The
// superuser can read every directory, so the broker then runs as nobody.
func TestUnreadableDirectory(t *testing.T) {
	bin, _ := build(t)
	root, err := os.MkdirTemp("", "tailrace-unreadable-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	dir := filepath.Join(root, "data")
	if err := errors.Join(os.Chmod(root, 0o755), os.Mkdir(dir, 0)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, loneArgs(t, 1, dir)...)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	r := finish(t, cmd, "")
	if r.code != 1 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, dir) || !strings.Contains(r.stderr, "permission") {
		t.Errorf("exit %d, %q", r.code, r.stderr)
	}
}

// TestForeignDirectory: a data directory serves its own broker id in its own
// cluster only, and is as it was afterwards.
func TestForeignDirectory(t *testing.T) {
	bin, _ := build(t)
	dir := filepath.Join(t.TempDir(), "one")
	args := loneArgs(t, 1, dir)
	b := lone(t, args)
	id := clusterID(t, valueOf(args, "--http"))
	if code := b.stop(syscall.SIGTERM); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	r := finish(t, exec.Command(bin, append(args, "--id", "2")...), "")
	if r.code != 1 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "belongs to broker 1, not 2") {
		t.Errorf("as broker 2: exit %d, %q", r.code, r.stderr)
	}

	otherArgs := loneArgs(t, 2, filepath.Join(t.TempDir(), "two"))
	lone(t, otherArgs)
	lost := launch(t, exec.Command(bin, append(args, "--join", valueOf(otherArgs, "--gossip"))...))
	if code := lost.wait(); code != 1 {
		t.Errorf("in another cluster: exit code %d", code)
	}
	lines := strings.Split(strings.TrimSpace(lost.stderr.String()), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "broker: ") || !strings.Contains(last, id) || !strings.Contains(last, "--join") {
		t.Errorf("in another cluster: the last line is %q", last)
	}
	if n := liveBrokers(t, valueOf(otherArgs, "--http")); n != 1 {
		t.Errorf("the other cluster shows %d brokers", n)
	}

	lone(t, args)
	if again := clusterID(t, valueOf(args, "--http")); again != id {
		t.Errorf("cluster %s became %s", id, again)
	}
}

// TestSettings: a flag wins over the environment, the environment over the file.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	p := freePorts(t, 4)
	path := filepath.Join(dir, "broker.yaml")
	write(t, path, fmt.Sprintf("id: 7\ndir: %s\nkafka: %s\ninternal: %s\ngossip: %s\nhttp: %s\njoin: [%s]\nbootstrap-expect: 3\nrack: of-file\nlog-format: console\n",
		filepath.Join(dir, "data"), p[0], p[1], p[2], p[3], p[2]))
	b := lone(t, []string{"run", "--id", "9"}, "TAILRACE_CONFIG="+path, "TAILRACE_ID=8", "TAILRACE_RACK=of-environment",
		"TAILRACE_BOOTSTRAP_EXPECT=1", "TAILRACE_LOG_FORMAT=json", "TAILRACE_UNRELATED=ignored")
	view := cluster1(t, p[3])
	if view.Self != 9 || len(view.Brokers) != 1 || view.Brokers[0].Rack != "of-environment" || fmt.Sprintf("127.0.0.1:%d", view.Brokers[0].Port) != p[0] {
		t.Errorf("the broker took %+v; want id 9 of the flag, the environment's rack, the file's addresses", view)
	}
	if code := b.stop(syscall.SIGINT); code != 0 {
		t.Errorf("exit code %d after SIGINT", code)
	}
}

// TestWaitingBrokerStops: a founder without its peers says what it waits for,
// and a signal ends it with 0.
func TestWaitingBrokerStops(t *testing.T) {
	bin, _ := build(t)
	args := loneArgs(t, 1, filepath.Join(t.TempDir(), "data"), "--bootstrap-expect", "3")
	b := launch(t, exec.Command(bin, args...))
	b.logs("waiting for 2 more of 3")
	if code := b.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestFoundOnce: three processes found one cluster, in whatever order they
// start; the same command lines find it again with its topics.
func TestFoundOnce(t *testing.T) {
	c := &cluster{t: t, expect: 3}
	for range 3 {
		c.add()
	}
	for _, i := range []int{2, 0, 1} {
		c.nodes[i].start()
	}
	c.waitLive(3)
	c.createTopic("kept", 3, 3, nil)
	id := clusterID(t, c.nodes[0].http)
	for _, nd := range c.nodes {
		if got := clusterID(t, nd.http); got != id {
			t.Errorf("broker %d is in cluster %s, broker 1 in %s", nd.id, got, id)
		}
	}
	for _, nd := range c.nodes {
		nd.terminate()
		if code := nd.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("broker %d ends with %d after SIGTERM", nd.id, code)
		}
	}
	for _, nd := range c.nodes {
		nd.start()
	}
	c.waitLive(3)
	c.waitInSync("kept", 3)
	for _, nd := range c.nodes {
		if got := clusterID(t, nd.http); got != id {
			t.Errorf("after a restart broker %d is in cluster %s, before in %s", nd.id, got, id)
		}
	}
}

// clusterView is what the tests need of /v1/cluster.
type clusterView struct {
	Cluster string `json:"cluster_id"`
	Self    int    `json:"self"`
	Brokers []struct {
		ID    int    `json:"id"`
		Port  int    `json:"port"`
		Rack  string `json:"rack"`
		Alive bool   `json:"alive"`
	} `json:"brokers"`
}

// cluster1 asks one broker once it is ready.
func cluster1(t *testing.T, addr string) clusterView {
	t.Helper()
	var v clusterView
	eventually(t, addr+" is ready", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	if err := json.Unmarshal([]byte(httpGet(t, "http://"+addr+"/v1/cluster")), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func clusterID(t *testing.T, addr string) string {
	t.Helper()
	v := cluster1(t, addr)
	if v.Cluster == "" {
		t.Fatalf("%s has no cluster id", addr)
	}
	return v.Cluster
}

func liveBrokers(t *testing.T, addr string) int {
	t.Helper()
	n := 0
	for _, b := range cluster1(t, addr).Brokers {
		if b.Alive {
			n++
		}
	}
	return n
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
