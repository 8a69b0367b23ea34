package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// diskKind is what the brokers' data lies on.
type diskKind uint8

const (
	plainDisk diskKind = iota // a directory
	smallDisk                 // a small tmpfs for each broker
	crashDisk                 // our FUSE file system, which can lose power
)

// smallDiskBytes is the size of a small disk.
const smallDiskBytes = 256 << 20

// dirPattern names working directories by the pid of their owner.
const dirPattern = "tailrace-faults-%d-*"

// workDir makes the directory of a run.
func workDir(parent string) (string, error) {
	return os.MkdirTemp(parent, fmt.Sprintf(dirPattern, os.Getpid()))
}

var ownedMount = regexp.MustCompile(`/tailrace-faults-(\d+)-\d+/`)

// sweepDirs unmounts what runs left behind whose process is gone. Their
// directories stay: they are evidence.
func sweepDirs() error {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return nil // no such thing on this system: nothing was mounted either
	}
	var errs []error
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if m := ownedMount.FindStringSubmatch(f[1] + "/"); m != nil && !alive(m[1]) {
			errs = append(errs, unix.Unmount(f[1], unix.MNT_DETACH))
		}
	}
	return errors.Join(errs...)
}

// disks are the brokers' disks.
type disks struct {
	base string
	kind diskKind
	dirs []string
}

func newDisks(base string, n int, kind diskKind) (*disks, error) {
	d := &disks{base: base, kind: kind}
	for i := range n {
		dir := filepath.Join(base, fmt.Sprintf("disk-%d", i+1))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return d, err
		}
		if kind == smallDisk {
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallDiskBytes)); err != nil {
				return d, fmt.Errorf("mount a small disk: %w", err)
			}
		}
		d.dirs = append(d.dirs, dir)
	}
	return d, nil
}

// dir is the disk of a broker.
func (d *disks) dir(i int) string { return d.dirs[i] }

// heal ends the faults of the disks.
func (d *disks) heal() error { return nil }

// close unmounts the disks; keep saves what is on them first.
func (d *disks) close(keep bool) error {
	var errs []error
	for _, dir := range d.dirs {
		if d.kind == plainDisk {
			continue
		}
		if keep {
			errs = append(errs, os.CopyFS(dir+"-kept", os.DirFS(dir)))
		}
		errs = append(errs, unix.Unmount(dir, unix.MNT_DETACH))
	}
	return errors.Join(errs...)
}
