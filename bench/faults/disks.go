package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/tailrace/tailrace/bench/faults/crashfs"
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
	base   string
	kind   diskKind
	dirs   []string
	crash  []*crashfs.FS    // one for each broker, if that is the kind
	mounts []*crashfs.Mount // of crash
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
		if kind == crashDisk {
			f := crashfs.New(crashDiskBytes)
			m, err := f.Mount(dir)
			if err != nil {
				return d, err
			}
			d.crash, d.mounts = append(d.crash, f), append(d.mounts, m)
		}
	}
	return d, nil
}

// crashDiskBytes is what a disk that can lose power says its size is.
const crashDiskBytes = 64 << 30

// remount gives the brokers their disks back after a power cut. Their
// processes are gone.
func (d *disks) remount() error {
	var errs []error
	for i := range d.mounts {
		errs = append(errs, d.remountOne(i))
	}
	return errors.Join(errs...)
}

// remountOne is remount for one broker.
func (d *disks) remountOne(i int) error {
	if err := d.mounts[i].Unmount(); err != nil {
		return err
	}
	var err error
	d.mounts[i], err = d.crash[i].Mount(d.dirs[i])
	return err
}

// stats sums over the disks.
func (d *disks) stats() map[string]int {
	out := map[string]int{}
	for _, f := range d.crash {
		s := f.Stats()
		out["disk: syncs of files"] += int(s.Syncs)
		out["disk: syncs of directories"] += int(s.DirSyncs)
		out["disk: syncs made to fail"] += int(s.Failed)
		out["power cut: files with unsynced data"] += int(s.LostFiles)
		out["power cut: unsynced 4 KiB pages lost"] += int(s.LostPages)
		out["power cut: unsynced 4 KiB pages kept or torn"] += int(s.KeptPages)
		out["power cut: directory changes lost"] += int(s.LostNames)
	}
	return out
}

// dir is the disk of a broker.
func (d *disks) dir(i int) string { return d.dirs[i] }

// heal ends the faults of the disks.
func (d *disks) heal() error {
	for _, f := range d.crash {
		f.SetFaults(crashfs.Faults{})
	}
	var errs []error
	for _, dir := range d.dirs {
		if err := os.Remove(filepath.Join(dir, ballast)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ballast is a file that takes a disk's space away.
const ballast = "ballast"

// fill leaves about so many bytes free on a disk.
func (d *disks) fill(i int, leave int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dirs[i], &st); err != nil {
		return err
	}
	n := int64(st.Bavail)*st.Bsize - leave
	if n <= 0 {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(d.dirs[i], ballast), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, n), f.Close())
}

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
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it never was mounted
			errs = append(errs, fmt.Errorf("unmount %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}
