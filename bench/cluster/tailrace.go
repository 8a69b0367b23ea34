package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tailrace/tailrace/bench/proc"
)

// ModuleDir finds the directory of our go.mod from the working directory up.
func ModuleDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(b), "module github.com/tailrace/tailrace") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("run this inside Tailrace's source tree, or name a broker with --broker-binary")
		}
		dir = up
	}
}

// Commit returns the version control revision of a source directory, with
// "-dirty" if it was changed.
func Commit(dir string) string {
	git := func(args ...string) string {
		out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	rev := git("rev-parse", "--short=12", "HEAD")
	if rev == "" {
		return "unknown"
	}
	if git("status", "--porcelain", "--untracked-files=no") != "" {
		rev += "-dirty"
	}
	return rev
}

func startTailrace(ctx context.Context, o Options) (*Cluster, error) {
	c, err := newCluster("tailrace", "kafka", o)
	if err != nil {
		return nil, err
	}
	binary := o.Binary
	c.Info = Info{Version: "binary " + binary, Fsync: "before acknowledgement, every in-sync replica", Replication: o.Nodes, InSync: o.MinInSync}
	if binary == "" {
		if binary, err = buildBroker(ctx, c, &o); err != nil {
			return c, err
		}
		c.Info.Version = Commit(o.Module)
	}
	ports, err := proc.FreePorts(4 * o.Nodes)
	if err != nil {
		return c, err
	}
	addr := func(i, kind int) string { return fmt.Sprintf("127.0.0.1:%d", ports[4*i+kind]) }
	var gossip []string
	for i := range o.Nodes {
		gossip = append(gossip, addr(i, 2))
		c.Bootstrap = append(c.Bootstrap, addr(i, 0))
	}
	for i := range o.Nodes {
		dir, err := c.nodeDir(i + 1)
		if err != nil {
			return c, err
		}
		if o.SlowDisk && i == o.Nodes-1 {
			if err := c.mountSlowDisk(int32(i+1), dir); err != nil {
				return c, err
			}
		}
		args := []string{"run", "--id", fmt.Sprint(i + 1), "--dir", dir, "--kafka", addr(i, 0), "--internal", addr(i, 1),
			"--gossip", addr(i, 2), "--http", addr(i, 3), "--join", strings.Join(gossip, ","),
			"--bootstrap-expect", fmt.Sprint(o.Nodes), "--rack", Rack(i)}
		if err := c.addNode(int32(i+1), proc.Spec{Path: binary, Args: args, Dir: c.dir, Log: o.Log}); err != nil {
			return c, err
		}
		c.Nodes[i].Ready = "http://" + addr(i, 3) + "/readyz"
		c.Nodes[i].Metrics = "http://" + addr(i, 3) + "/metrics"
	}
	return c, c.WaitReady(ctx, o.Ready)
}

// Rack is the rack of the i-th node of every target, from 0.
func Rack(i int) string { return fmt.Sprintf("rack-%d", i+1) }

func buildBroker(ctx context.Context, c *Cluster, o *Options) (string, error) {
	if o.Module == "" {
		dir, err := ModuleDir()
		if err != nil {
			return "", err
		}
		o.Module = dir
	}
	out := filepath.Join(c.dir, "broker")
	return out, proc.Run(ctx, proc.Spec{Name: "go build", Path: "go", Args: []string{"build", "-o", out, "./cmd/broker"}, Dir: o.Module})
}
