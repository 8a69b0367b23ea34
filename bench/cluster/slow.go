package cluster

import (
	"errors"
	"fmt"
	"time"

	"github.com/tailrace/tailrace/bench/faults/crashfs"
)

// slowDiskBytes is the size that a slow disk says it has. What is on it lies
// in this process' memory.
const slowDiskBytes = 64 << 30

// slowDisk is a FUSE disk under one node, whose syncs can be made slow.
type slowDisk struct {
	fs    *crashfs.FS
	mount *crashfs.Mount
}

// mountSlowDisk puts the data directory of a node on a disk that Slow governs.
func (c *Cluster) mountSlowDisk(id int32, dir string) error {
	fs := crashfs.New(slowDiskBytes)
	m, err := fs.Mount(dir)
	if err != nil {
		return fmt.Errorf("%w (a slow disk needs /dev/fuse and the right to mount)", err)
	}
	c.slow, c.SlowNode = &slowDisk{fs, m}, id
	return nil
}

// Slow makes every sync on the slow disk take so much longer; 0 heals it.
func (c *Cluster) Slow(d time.Duration) error {
	if c.slow == nil {
		return errors.New("the cluster was not started with a slow disk")
	}
	c.slow.fs.SetFaults(crashfs.Faults{SyncDelay: d})
	return nil
}

// unmountSlowDisk takes the disk away once its node has ended.
func (c *Cluster) unmountSlowDisk() error {
	if c.slow == nil {
		return nil
	}
	return c.slow.mount.Unmount()
}
