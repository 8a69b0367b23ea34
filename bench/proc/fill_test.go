package proc

import (
	"context"
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const gib = int64(1) << 30

// machine is a made-up memory that a Filler works on.
type machine struct {
	free  int64
	yield float64 // free memory that one byte read uses up
	hot   int64   // bytes at the start of the file that are cached still
	reads int64
	err   error
	spent time.Duration
}

func (m *machine) filler(total int64) *Filler {
	return &Filler{size: total, floor: fillFloor(total), free: func() (int64, error) { return m.free, nil },
		cpu: func() (time.Duration, error) { return m.spent, nil }, close: func() error { return nil },
		read: func(at, n int64) (int64, error) {
			if m.err != nil {
				return 0, m.err
			}
			if at < m.hot {
				return 0, nil
			}
			m.reads++
			m.spent += m.cost(at, n)
			m.free -= int64(float64(n) * m.yield)
			return n, nil
		}}
}

// cost is 3 s/GiB in the second GiB of the file and 0.3 elsewhere.
func (m *machine) cost(at, n int64) time.Duration {
	perGiB := 0.3
	if at/gib == 1 {
		perGiB = 3
	}
	return time.Duration(perGiB * float64(n) / float64(gib) * 1e9)
}

// Dear memory stands out though cheap memory comes first.
func TestProbe(t *testing.T) {
	for _, tc := range []struct {
		free    int64
		dearest float64
		reads   int64
	}{
		{20 * gib, 3, fillProbe / fillStep}, {2 * gib, 0.3, gib / fillStep}, {gib / 2, 0, 0},
	} {
		m := &machine{free: tc.free, yield: 1}
		f := m.filler(20 * gib)
		if err := f.Probe(context.Background()); err != nil || math.Abs(f.Dearest-tc.dearest) > 0.01 || m.reads != tc.reads {
			t.Errorf("%+v: %v s/GiB, %d reads, %v", tc, f.Dearest, m.reads, err)
		}
	}
}

func TestFillStopsAtTheFloor(t *testing.T) {
	for _, tc := range []struct {
		total, free, hot int64
		yield            float64
	}{
		{24 * gib, 22 * gib, 0, 1},
		{24 * gib, 22 * gib, 0, 0.5}, // somebody else frees memory meanwhile
		{24 * gib, 4 * gib, 18 * gib, 1},
		{100 * gib, 90 * gib, 0, 1},
		{24 * gib, gib / 2, 0, 1}, // full already
	} {
		m := &machine{free: tc.free, yield: tc.yield, hot: tc.hot}
		if tc.yield < 1 {
			tc.total *= 2 // room in the file for what does not count
		}
		floor := fillFloor(tc.total)
		read, err := m.filler(tc.total).Fill(context.Background())
		if err != nil || m.free > floor {
			t.Errorf("%+v: %d MiB free, %v", tc, m.free>>20, err)
		}
		if want := int64(float64(max(0, tc.free-floor)) / tc.yield); read < want || read > want+fillStep {
			t.Errorf("%+v: read %d MiB, want %d", tc, read>>20, want>>20)
		}
	}
}

func TestFillFloor(t *testing.T) {
	if f := fillFloor(8 * gib); f != gib {
		t.Errorf("8 GiB: %d", f)
	}
	if f := fillFloor(100 * gib); f != 5*gib {
		t.Errorf("100 GiB: %d", f)
	}
}

// A file system that keeps no pages of holes must not be read for ever.
func TestFillGivesUp(t *testing.T) {
	m := &machine{free: 900 * gib, yield: 0}
	if _, err := m.filler(1000 * gib).Fill(context.Background()); err == nil || m.reads > fillStall/fillStep+1 {
		t.Errorf("%v after %d reads", err, m.reads)
	}
	all := &machine{free: 3 * gib, yield: 1, hot: math.MaxInt64}
	if _, err := all.filler(4 * gib).Fill(context.Background()); err == nil {
		t.Error("all is cached, much is free, and no error")
	}
	broken := &machine{free: 3 * gib, err: unix.EIO}
	if _, err := broken.filler(4 * gib).Fill(context.Background()); !errors.Is(err, unix.EIO) {
		t.Errorf("read error: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := (&machine{free: 3 * gib, yield: 1}).filler(4 * gib).Fill(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Memory that is freed elsewhere while it is filled is filled too.
func TestFillGoesOnWhenMemoryIsFreed(t *testing.T) {
	m := &machine{free: 6 * gib, yield: 1}
	f := m.filler(40 * gib)
	read := f.read
	f.read = func(at, n int64) (int64, error) {
		if at == gib {
			m.free += 20 * gib
		}
		return read(at, n)
	}
	if _, err := f.Fill(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestParseMemory(t *testing.T) {
	m, err := parseMemory("MemTotal:       24683684 kB\nMemFree:         1024 kB\nBuffers: 1 kB\n")
	if err != nil || m != (Memory{Total: 24683684 << 10, Free: 1 << 20}) {
		t.Errorf("%+v, %v", m, err)
	}
	for _, bad := range []string{"", "MemTotal: 1 kB\n", "MemTotal: x kB\nMemFree: 1 kB\n"} {
		if _, err := parseMemory(bad); err == nil {
			t.Errorf("%q was parsed", bad)
		}
	}
	if m, err := ReadMemory(); err != nil || m.Total < m.Free || m.Free <= 0 {
		t.Errorf("this machine: %+v, %v", m, err)
	}
}

// What is in the page cache is skipped.
func TestCacheRangeSkips(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, fillChunk)
	if _, err := f.Write(buf); err != nil { // dirty: nobody takes it away meanwhile
		t.Fatal(err)
	}
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Len: 1}, &unix.Cachestat_t{}, 0); err != nil {
		t.Logf("this kernel does not tell what is cached (%v): all is read", err)
		return
	}
	if err := f.Truncate(2 * fillChunk); err != nil {
		t.Fatal(err)
	}
	if n, err := cacheRange(f, buf, 0, 2*fillChunk); err != nil || n != fillChunk {
		t.Errorf("read %d bytes, %v; want the hole only", n, err)
	}
}

// The real file has no name, so that nothing can leave it behind.
func TestFillerFile(t *testing.T) {
	dir := t.TempDir()
	f, err := NewFiller(dir)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the directory holds %v, %v", left, err)
	}
	if n, err := f.read(3*fillChunk, 2*fillChunk); err != nil || n != 2*fillChunk {
		t.Errorf("read %d, %v", n, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.read(0, fillChunk); err == nil {
		t.Error("a closed file was read")
	}
	if _, err := NewFiller("/does/not/exist"); err == nil || strings.Contains(err.Error(), "sparse") {
		t.Errorf("no directory: %v", err)
	}
}

func TestHypervisorFlag(t *testing.T) {
	for text, want := range map[string]bool{
		"processor : 0\nflags\t\t: fpu vme hypervisor lahf_lm\n": true,
		"processor : 0\nflags\t\t: fpu vme hypervisors\n":        false,
		"processor : 0\nFeatures : fp asimd\n":                   false,
	} {
		if hypervisorFlag(text) != want {
			t.Errorf("%q: want %v", text, want)
		}
	}
}
