package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// devCluster is a running `broker dev` with ports of its own.
type devCluster struct {
	*process
	brokers, kafkaPort, httpPort int
	dir                          string
}

func startDev(t *testing.T, brokers, kafkaPort, httpPort int, dir string) *devCluster {
	t.Helper()
	bin, _ := build(t)
	d := &devCluster{brokers: brokers, kafkaPort: kafkaPort, httpPort: httpPort, dir: dir}
	d.process = launch(t, exec.Command(bin, d.args()...))
	d.says("Ctrl-C stops")
	return d
}

func (d *devCluster) args() []string {
	return []string{"dev", "--brokers", fmt.Sprint(d.brokers), "--dir", d.dir,
		"--kafka-port", fmt.Sprint(d.kafkaPort), "--http-port", fmt.Sprint(d.httpPort)}
}

// tried are the commands that dev prints, run as they are but with more time.
func (d *devCluster) tried(t *testing.T) []result {
	t.Helper()
	_, logctl := build(t)
	var out []result
	for line := range strings.Lines(d.stdout.String()) {
		if !strings.Contains(line, "go run ./cmd/logctl") {
			continue
		}
		sh := exec.Command("sh", "-c", strings.ReplaceAll(strings.TrimSpace(line), "go run ./cmd/logctl", logctl+" --timeout "+patience.String()))
		out = append(out, finish(t, sh, ""))
	}
	return out
}

// TestDev: what dev prints works as printed, Ctrl-C ends it with 0, a restart
// has the records, a second one on the same ports says what to do.
func TestDev(t *testing.T) {
	kafka, http := consecutivePorts(t, 3), consecutivePorts(t, 1)
	dir := filepath.Join(t.TempDir(), "dev")
	d := startDev(t, 3, kafka, http, dir)
	for i := range 3 {
		d.says(fmt.Sprintf("127.0.0.1:%d", kafka+i))
	}
	d.says(fmt.Sprintf("http://127.0.0.1:%d", http))
	ran := d.tried(t)
	if len(ran) != 3 {
		t.Fatalf("%d commands to try, want create, produce and consume:\n%s", len(ran), d.stdout.String())
	}
	for i, r := range ran {
		if r.code != 0 {
			t.Fatalf("command %d ends with %d: %s", i, r.code, r.stderr)
		}
	}
	if ran[2].stdout != "first record\n" {
		t.Fatalf("consume prints %q", ran[2].stdout)
	}
	checkConsole(t, http, 3)
	secondDev(t, d)

	if code := d.stop(syscall.SIGINT); code != 0 {
		t.Fatalf("exit code %d after Ctrl-C", code)
	}
	d = startDev(t, 3, kafka, http, dir)
	if ran := d.tried(t); ran[0].code != 1 || ran[2].stdout != "first record\nfirst record\n" {
		t.Fatalf("after a restart: create %+v, consume %+v", ran[0], ran[2])
	}
	if code := d.stop(syscall.SIGTERM); code != 0 {
		t.Fatalf("exit code %d after SIGTERM", code)
	}
}

// checkConsole looks at the page and at what it shows.
func checkConsole(t *testing.T, port, brokers int) {
	t.Helper()
	page := httpGet(t, fmt.Sprintf("http://127.0.0.1:%d/", port))
	if !strings.Contains(page, "<title>Tailrace</title>") {
		t.Errorf("the console is %q", page)
	}
	eventually(t, fmt.Sprintf("the console shows %d live brokers", brokers), func(context.Context) error {
		var view struct {
			Brokers []struct{ Alive bool } `json:"brokers"`
			Ready   bool                   `json:"ready"`
		}
		if err := json.Unmarshal([]byte(httpGet(t, fmt.Sprintf("http://127.0.0.1:%d/v1/cluster", port))), &view); err != nil {
			return err
		}
		alive := 0
		for _, b := range view.Brokers {
			if b.Alive {
				alive++
			}
		}
		if len(view.Brokers) != brokers || alive != brokers || !view.Ready {
			return fmt.Errorf("it shows %+v", view)
		}
		return nil
	})
}

func httpGet(t *testing.T, url string) string {
	t.Helper()
	c := http.Client{Timeout: patience}
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", url, resp.Status, b)
	}
	return string(b)
}

// secondDev starts another one on the same ports, and in the same directory.
func secondDev(t *testing.T, d *devCluster) {
	t.Helper()
	bin, _ := build(t)
	for _, tc := range []struct {
		name, flag string
		kafka      int
		http       int
	}{
		{"kafka", fmt.Sprintf("--kafka-port %d", d.kafkaPort), d.kafkaPort, consecutivePorts(t, 1)},
		{"http", fmt.Sprintf("--http-port %d", d.httpPort), consecutivePorts(t, 3), d.httpPort},
	} {
		dir := filepath.Join(t.TempDir(), "second")
		other := devCluster{brokers: 3, kafkaPort: tc.kafka, httpPort: tc.http, dir: dir}
		r := finish(t, exec.Command(bin, other.args()...), "")
		if r.code != 1 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, tc.flag) || !strings.Contains(r.stderr, "in use") {
			t.Errorf("%s port taken: exit %d, %q", tc.name, r.code, r.stderr)
		}
		if exists(t, dir) {
			t.Errorf("%s port taken: a directory was left behind", tc.name)
		}
	}
	same := devCluster{brokers: 3, kafkaPort: consecutivePorts(t, 3), httpPort: consecutivePorts(t, 1), dir: d.dir}
	r := finish(t, exec.Command(bin, same.args()...), "")
	if r.code != 1 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "in use by another process") {
		t.Errorf("directory taken: exit %d, %q", r.code, r.stderr)
	}
}

// TestDevSizes: other numbers of brokers, the factor that follows from them,
// and no port beside the printed ones on a fixed number.
func TestDevSizes(t *testing.T) {
	_, logctl := build(t)
	for _, tc := range []struct{ brokers, replicas int }{{1, 1}, {4, 3}} {
		t.Run(fmt.Sprint(tc.brokers), func(t *testing.T) {
			d := startDev(t, tc.brokers, consecutivePorts(t, tc.brokers), consecutivePorts(t, 1), filepath.Join(t.TempDir(), "dev"))
			b := net.JoinHostPort("127.0.0.1", fmt.Sprint(d.kafkaPort+tc.brokers-1)) // the last one
			r := finish(t, exec.Command(logctl, "-b", b, "--timeout", patience.String(), "topic", "create", "t", "-o", "json"), "")
			var created struct{ Partitions, Replicas int }
			if err := json.Unmarshal([]byte(r.stdout), &created); err != nil || r.code != 0 {
				t.Fatalf("create: exit %d, %q, %v", r.code, r.stderr, err)
			}
			if created.Partitions != 1 || created.Replicas != tc.replicas {
				t.Errorf("created %+v, want 1 partition and %d replicas", created, tc.replicas)
			}
			if r := finish(t, exec.Command(logctl, "-b", b, "--timeout", patience.String(), "produce", "t"), "one\n"); r.code != 0 {
				t.Fatalf("produce: %+v", r)
			}
			if r := finish(t, exec.Command(logctl, "-b", b, "--timeout", patience.String(), "consume", "t"), ""); r.stdout != "one\n" {
				t.Fatalf("consume: %+v", r)
			}
			entries, err := os.ReadDir(d.dir)
			if err != nil || len(entries) != tc.brokers {
				t.Errorf("%d directories for %d brokers (%v)", len(entries), tc.brokers, err)
			}
			if code := d.stop(syscall.SIGINT); code != 0 {
				t.Errorf("exit code %d after Ctrl-C", code)
			}
		})
	}
}

// TestDevUsage: a wrong command line ends with 2 and one line.
func TestDevUsage(t *testing.T) {
	bin, _ := build(t)
	for _, args := range [][]string{{"dev", "--brokers", "0"}, {"dev", "--brokers", "10"}, {"dev", "--nosuch"}, {"dev", "extra"}, {"nosuch"}, {"dev", "--log-level", "loud"}} {
		cmd := exec.Command(bin, args...)
		cmd.Dir = t.TempDir()
		r := finish(t, cmd, "")
		if r.code != 2 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "--help") {
			t.Errorf("%v: exit %d, %q", args, r.code, r.stderr)
		}
		if exists(t, filepath.Join(cmd.Dir, "tailrace-dev")) {
			t.Errorf("%v left a directory", args)
		}
	}
}
