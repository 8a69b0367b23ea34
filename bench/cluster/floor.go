package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/tailrace/tailrace/bench/proc"
)

// startLimit starts the limit program: three processes of this binary.
func startLimit(ctx context.Context, o Options) (*Cluster, error) {
	c, err := newCluster("limit", "kafka", o)
	if err != nil {
		return nil, err
	}
	c.NamedP = true
	c.Info = Info{Version: "limit program", Fsync: "before acknowledgement, every copy counted", Replication: o.Nodes, InSync: o.InSync}
	ports, err := proc.FreePorts(2 * o.Nodes)
	if err != nil {
		return c, err
	}
	var kafka, repl []string
	for i := range o.Nodes {
		kafka = append(kafka, fmt.Sprintf("127.0.0.1:%d", ports[i]))
		repl = append(repl, fmt.Sprintf("127.0.0.1:%d", ports[o.Nodes+i]))
	}
	c.Bootstrap = kafka
	for i := range o.Nodes {
		args := []string{"limit-node", "--id", fmt.Sprint(i), "--kafka", strings.Join(kafka, ","), "--repl", strings.Join(repl, ","),
			"--in-sync", fmt.Sprint(o.InSync), "--dir", filepath.Join(c.dir, fmt.Sprintf("n%d", i))}
		if err := c.addNode(int32(i), proc.Spec{Path: o.Self, Args: args, Log: o.Log}); err != nil {
			return c, err
		}
	}
	return c, c.WaitReady(ctx, o.Ready)
}

// startNull starts the null broker: one process of this binary.
func startNull(ctx context.Context, o Options) (*Cluster, error) {
	c, err := newCluster("null", "kafka", o)
	if err != nil {
		return nil, err
	}
	c.NamedP = true
	c.Info = Info{Version: "null broker", Fsync: "never, keeps nothing", Replication: 1, InSync: 1}
	ports, err := proc.FreePorts(1)
	if err != nil {
		return c, err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
	c.Bootstrap = []string{addr}
	if err := c.addNode(0, proc.Spec{Path: o.Self, Args: []string{"null-node", "--kafka", addr}, Log: o.Log}); err != nil {
		return c, err
	}
	return c, c.WaitReady(ctx, o.Ready)
}

// startSendfile starts the sendfile program: processes of this binary over one
// directory.
func startSendfile(ctx context.Context, o Options) (*Cluster, error) {
	c, err := newCluster("sendfile", "kafka", o)
	if err != nil {
		return nil, err
	}
	c.NamedP, c.RawOnly = true, true
	c.Info = Info{Version: "sendfile program", Fsync: "never; all processes serve one set of files", Replication: o.Nodes, InSync: 1}
	ports, err := proc.FreePorts(o.Nodes)
	if err != nil {
		return c, err
	}
	for _, p := range ports {
		c.Bootstrap = append(c.Bootstrap, fmt.Sprintf("127.0.0.1:%d", p))
	}
	for i := range o.Nodes {
		args := []string{"sendfile-node", "--id", fmt.Sprint(i), "--kafka", strings.Join(c.Bootstrap, ","), "--dir", c.dir}
		if err := c.addNode(int32(i), proc.Spec{Path: o.Self, Args: args, Log: o.Log}); err != nil {
			return c, err
		}
	}
	return c, c.WaitReady(ctx, o.Ready)
}
