package e2e

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// shared is a cluster for the tests that do no harm to it: starting one for
// each would only take time.
var shared struct {
	once sync.Once
	c    *cluster
}

// sharedCluster returns three running brokers, in racks 1 to 3. The caller must
// not stop them. Tests that use it do not run in parallel.
func sharedCluster(t *testing.T) *cluster {
	t.Helper()
	build(t)
	shared.once.Do(func() {
		c := &cluster{t: t, expect: 3, kept: filepath.Join(binaries.dir, "shared")}
		for i := range 3 {
			c.add("--rack", rack(i+1))
		}
		for _, n := range c.nodes {
			n.start()
		}
		shared.c = c
		c.waitLive(3)
	})
	if shared.c == nil {
		t.Fatal("the shared cluster did not start")
	}
	shared.c.t = t
	return shared.c
}

// closeShared ends the shared cluster, if a test started it.
func closeShared() {
	if shared.c == nil {
		return
	}
	for _, n := range shared.c.nodes {
		n.kill()
	}
	os.RemoveAll(shared.c.kept)
}
