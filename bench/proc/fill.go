package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	// fillCheck is how much is read between two looks at the free memory.
	fillCheck = 64 * fillChunk
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
	Total     int64
	Free      int64 // used for nothing, not even for page cache
	Available int64 // free, or page cache that can be dropped
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
	want := map[string]*int64{"MemTotal": &m.Total, "MemFree": &m.Free, "MemAvailable": &m.Available}
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
		return m, fmt.Errorf("/proc/meminfo: %d of three fields are missing", len(want))
	}
	return m, nil
}

// Scarce reports whether so little is free that there is nothing to fill, nor
// to learn about what free memory costs.
func (m Memory) Scarce() bool { return m.Free < 2*fillFloor(m.Total) }

// Filler fills free memory with page cache: the pages of the holes of a sparse
// file, which are clean, cost no I/O, and are the first that the kernel recycles.
type Filler struct {
	size, floor int64
	free        func() (int64, error)
	read        func(at, n int64) (read int64, err error) // bytes that came into the page cache
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
	return &Filler{size: m.Total, floor: fillFloor(m.Total), close: f.Close,
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
	for at := int64(0); free > f.floor; at += fillCheck {
		if ctx.Err() != nil {
			return read, ctx.Err()
		}
		if at >= f.size || stalled > fillStall {
			return read, fmt.Errorf("filling memory: %d MiB are free after reading %d MiB, wanted %d MiB", free>>20, read>>20, f.floor>>20)
		}
		n, err := f.read(at, min(fillCheck, f.size-at))
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

// cacheRange reads what is not cached of a range of a file. A second read of a cached
// page would mark it as in use, and the kernel would recycle other pages first.
func cacheRange(f *os.File, buf []byte, at, n int64) (read int64, err error) {
	for end := at + n; at < end; at += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), end-at)]
		if cached(f, at, int64(len(b))) {
			continue
		}
		m, err := f.ReadAt(b, at)
		if err != nil {
			return read, err
		}
		read += int64(m)
	}
	return read, nil
}

// cached reports whether every page of a range is in the page cache; false where
// the kernel (before 6.5) cannot tell.
func cached(f *os.File, at, n int64) bool {
	var st unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(at), Len: uint64(n)}, &st, 0)
	page := int64(os.Getpagesize())
	return err == nil && int64(st.Cache) >= (n+page-1)/page
}

const (
	probeRegion  = 256 << 20
	probeRegions = 4
)

// ProbeNewMemory returns what the first use of memory costs this process, in
// seconds of CPU per GiB: the dearest of a few regions, since a region that somebody
// has just freed is as cheap as anywhere. A quarter of the memory is touched at most.
func ProbeNewMemory() (float64, error) {
	m, err := ReadMemory()
	if err != nil {
		return 0, err
	}
	worst := 0.0
	var regions [][]byte // all held to the end: a region given back would be met again
	defer func() {
		for _, b := range regions {
			_ = unix.Munmap(b) // of a mapping that Mmap returned; there is nothing to do about a failure
		}
	}()
	size := min(probeRegion, m.Available/(4*probeRegions)) &^ (fillChunk - 1)
	if size <= 0 {
		return 0, fmt.Errorf("%d MiB of memory are available", m.Available>>20)
	}
	for range probeRegions {
		b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return 0, fmt.Errorf("map %d MiB: %w", size>>20, err)
		}
		regions = append(regions, b)
		cpu, err := touch(b)
		if err != nil {
			return 0, err
		}
		worst = max(worst, cpu.Seconds()/(float64(size)/(1<<30)))
	}
	return worst, nil
}

// touch writes to every page and returns the process' CPU time for it.
func touch(b []byte) (time.Duration, error) {
	start, err := ownCPU()
	if err != nil {
		return 0, err
	}
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	end, err := ownCPU()
	return end - start, err
}

// ownCPU is the user and system time of this process.
func ownCPU() (time.Duration, error) {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0, err
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), nil
}
