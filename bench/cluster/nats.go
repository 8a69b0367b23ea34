package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/tailrace/tailrace/bench/proc"
)

// NATSVersion is the release of nats-server that we compare with.
const NATSVersion = "v2.15.2"

// natsServer builds nats-server in a module of its own in the cache, once.
func natsServer(ctx context.Context) (string, error) {
	dir, done, err := cacheDir("nats-" + NATSVersion)
	bin := filepath.Join(dir, "nats-server")
	if err != nil || done {
		return bin, err
	}
	mod := "module bench/peer-nats\n\ngo 1.25\n\nrequire github.com/nats-io/nats-server/v2 " + NATSVersion + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		return "", err
	}
	err = proc.Run(ctx, proc.Spec{Name: "go build nats-server", Path: "go", Dir: dir, Env: []string{"GOFLAGS=-mod=mod", "GOWORK=off"},
		Args: []string{"build", "-o", bin, "github.com/nats-io/nats-server/v2"}})
	if err != nil {
		return "", err
	}
	return bin, markComplete(dir)
}

func natsConfig(id int, client, cluster string, routes []string, dir string, sync bool) string {
	js := fmt.Sprintf("store_dir: %q, max_file_store: 40GB", dir)
	if sync {
		js += ", sync_interval: always"
	}
	return fmt.Sprintf("server_name: n%d\nlisten: %s\njetstream { %s }\ncluster { name: c, listen: %s, routes: [%s] }\n",
		id, client, js, cluster, strings.Join(routes, ", "))
}

func startNATS(ctx context.Context, name string, o Options) (*Cluster, error) {
	bin, err := natsServer(ctx)
	if err != nil {
		return nil, err
	}
	c, err := newCluster(name, "nats", o)
	if err != nil {
		return nil, err
	}
	sync := name == "nats-sync"
	c.Info = Info{Version: "nats-server " + NATSVersion, Fsync: "every 2 minutes (NATS' default)", Replication: min(3, o.Nodes), InSync: min(3, o.Nodes)/2 + 1}
	if sync {
		c.Info.Fsync = "sync_interval: always"
	}
	ports, err := proc.FreePorts(2 * o.Nodes)
	if err != nil {
		return c, err
	}
	var routes []string
	for i := range o.Nodes {
		c.Bootstrap = append(c.Bootstrap, fmt.Sprintf("127.0.0.1:%d", ports[i]))
		routes = append(routes, fmt.Sprintf("\"nats://127.0.0.1:%d\"", ports[o.Nodes+i]))
	}
	for i := range o.Nodes {
		dir, err := c.nodeDir(i + 1)
		if err != nil {
			return c, err
		}
		f := filepath.Join(c.dir, fmt.Sprintf("n%d.conf", i+1))
		text := natsConfig(i+1, c.Bootstrap[i], fmt.Sprintf("127.0.0.1:%d", ports[o.Nodes+i]), routes, dir, sync)
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			return c, err
		}
		if err := c.addNode(int32(i+1), proc.Spec{Path: bin, Args: []string{"-c", f}, Dir: c.dir, Log: o.Log}); err != nil {
			return c, err
		}
	}
	return c, c.WaitReady(ctx, o.Ready)
}

// waitNATS returns when JetStream has a leader that answers on every node.
func (c *Cluster) waitNATS(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := c.askNATS()
		if err == nil {
			return nil
		}
		if err := c.dead(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w (last: %w)", ctx.Err(), err)
		case <-time.After(pollEvery):
		}
	}
}

func (c *Cluster) askNATS() error {
	for _, addr := range c.Bootstrap {
		nc, err := nats.Connect("nats://"+addr, nats.Timeout(2*time.Second), nats.NoReconnect())
		if err != nil {
			return err
		}
		js, err := nc.JetStream(nats.MaxWait(2 * time.Second))
		if err == nil {
			_, err = js.AccountInfo()
		}
		nc.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
	}
	return nil
}
