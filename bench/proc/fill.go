package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// On a virtual machine whose host takes back free memory (free page reporting,
// ballooning), the first use of a page costs several times what the copy into it
// does. A server that has been up for a while has no such pages: its memory is
// full of page cache, and new pages are recycled ones. A Filler brings that about.

const (
	fillChunk = 1 << 20
	// fillStep is how much is read between two looks at the free memory, and timed.
	fillStep = 128 * fillChunk
	// fillProbe is how much is read to learn what new memory costs.
	fillProbe = 4 << 30
	// fillStall is how much may be read without the free memory falling by a
	// quarter of it: the file system keeps no pages of holes, or a limit of a
	// control group stands in the way.
	fillStall = 4 << 30
	// fillMargin stays free at least. It lies far above the kernel's watermarks,
	// so that filling evicts nothing.
	fillMargin = 1 << 30
)

// fillFloor is the free memory at which filling stops, of total bytes.
func fillFloor(total int64) int64 { return max(fillMargin, total/20) }

// Memory is what the kernel says of the machine's memory, in bytes.
type Memory struct {
	Total int64
	Free  int64 // used for nothing, not even for page cache
}

// ReadMemory reads /proc/meminfo.
func ReadMemory() (Memory, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Memory{}, err
	}
	return parseMemory(string(text))
}

func parseMemory(text string) (Memory, error) {
	var m Memory
	want := map[string]*int64{"MemTotal": &m.Total, "MemFree": &m.Free}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		v, ok := want[name]
		if !ok {
			continue
		}
		if _, err := fmt.Sscanf(rest, "%d kB", v); err != nil {
			return m, fmt.Errorf("/proc/meminfo: %q: %w", line, err)
		}
		*v <<= 10
		delete(want, name)
	}
	if len(want) > 0 {
		return m, fmt.Errorf("/proc/meminfo: %d of two fields are missing", len(want))
	}
	return m, nil
}

// Filler fills free memory with page cache: the pages of the holes of a sparse
// file, which are clean, cost no I/O, and are the first that the kernel recycles.
type Filler struct {
	// Dearest is what the first use of memory has cost so far, in seconds of CPU
	// per GiB: the dearest stretch, since memory that was freed a moment ago is cheap
	// anywhere. 0 until something was read.
	Dearest float64

	size, floor int64
	free        func() (int64, error)
	read        func(at, n int64) (read int64, err error) // bytes that came into the page cache
	cpu         func() (time.Duration, error)
	close       func() error
}

// NewFiller makes the sparse file, without a name, in dir.
func NewFiller(dir string) (*Filler, error) {
	m, err := ReadMemory()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "tailrace-bench-fill-")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Remove(f.Name()), f.Truncate(m.Total)); err != nil {
		return nil, errors.Join(fmt.Errorf("sparse file: %w", err), f.Close())
	}
	buf := make([]byte, fillChunk)
	return &Filler{size: m.Total, floor: fillFloor(m.Total), cpu: ownCPU, close: f.Close,
		free: func() (int64, error) { m, err := ReadMemory(); return m.Free, err },
		read: func(at, n int64) (int64, error) { return cacheRange(f, buf, at, n) }}, nil
}

// Close drops the file and with it the pages.
func (f *Filler) Close() error { return f.close() }

// Fill reads until no more than a twentieth of the memory, or 1 GiB, is free. What is
// cached still is skipped. It returns how much was read.
func (f *Filler) Fill(ctx context.Context) (read int64, err error) {
	free, err := f.free()
	if err != nil {
		return 0, err
	}
	high, stalled := free, int64(0) // where the free memory last fell from, or rose to, and what was read since
	for at := int64(0); free > f.floor; at += fillStep {
		if ctx.Err() != nil {
			return read, ctx.Err()
		}
		if at >= f.size || stalled > fillStall {
			return read, fmt.Errorf("filling memory: %d MiB are free after reading %d MiB, wanted %d MiB", free>>20, read>>20, f.floor>>20)
		}
		n, err := f.step(at)
		if err != nil {
			return read, fmt.Errorf("filling memory: %w", err)
		}
		read, stalled = read+n, stalled+n
		if free, err = f.free(); err != nil {
			return read, err
		}
		if high = max(high, free); free < high-stalled/4 {
			high, stalled = free, 0
		}
	}
	return read, nil
}

// Probe reads the first few GiB, as far as there is free memory, for Dearest.
func (f *Filler) Probe(ctx context.Context) error {
	for at := int64(0); at < fillProbe && ctx.Err() == nil; at += fillStep {
		free, err := f.free()
		if err != nil || free <= f.floor {
			return err
		}
		if _, err := f.step(at); err != nil {
			return fmt.Errorf("probing memory: %w", err)
		}
	}
	return ctx.Err()
}

// step reads one stretch of the file and times it, if most of it was not cached.
func (f *Filler) step(at int64) (read int64, err error) {
	start, err := f.cpu()
	if err != nil {
		return 0, err
	}
	want := min(fillStep, f.size-at)
	if read, err = f.read(at, want); err != nil || read < want/2 {
		return read, err
	}
	end, err := f.cpu()
	f.Dearest = max(f.Dearest, (end-start).Seconds()/(float64(read)/(1<<30)))
	return read, err
}

// cacheRange reads what is not cached of a range of a file, and returns how many bytes
// came into the page cache. A second read of a cached page would mark it as in use, and
// the kernel would recycle other pages first.
func cacheRange(f *os.File, buf []byte, at, n int64) (read int64, err error) {
	before, canTell := cached(f, at, n)
	for end, pos := at+n, at; pos < end; pos += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), end-pos)]
		if have, ok := cached(f, pos, int64(len(b))); ok && have >= int64(len(b)) {
			continue // from an earlier time, or by the kernel's reading ahead
		}
		m, err := f.ReadAt(b, pos)
		if err != nil {
			return read, err
		}
		read += int64(m)
	}
	if !canTell {
		return read, nil
	}
	after, _ := cached(f, at, n)
	return max(0, after-before), nil
}

// cached returns how many bytes of a range are in the page cache; the kernel can
// tell from 6.5 on.
func cached(f *os.File, at, n int64) (bytes int64, ok bool) {
	var st unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(at), Len: uint64(n)}, &st, 0)
	return int64(st.Cache) * int64(os.Getpagesize()), err == nil
}

// ownCPU is the user and system time of this process.
func ownCPU() (time.Duration, error) {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0, err
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), nil
}

// Virtual reports whether the processor says that a hypervisor is below it, which
// x86 does.
func Virtual() bool {
	text, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && hypervisorFlag(string(text))
}

func hypervisorFlag(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		if name, flags, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "flags" {
			return slices.Contains(strings.Fields(flags), "hypervisor")
		}
	}
	return false
}
