package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// ticksPerSecond is USER_HZ, the unit of CPU times in /proc: 100 on every
// Linux port of today.
const ticksPerSecond = 100

// Usage is what one process has used since its start.
type Usage struct {
	CPU     float64 // seconds, user and system
	RSS     int64   // bytes, now
	Written int64   // bytes sent towards storage (write_bytes; page cache writes count when dirtied)
}

// ReadUsage reads /proc of a process. Written is 0 where /proc/<pid>/io may
// not be read.
func ReadUsage(pid int) (Usage, error) {
	var u Usage
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// The command may hold spaces and parentheses: fields count from the last ')'.
	i := bytes.LastIndexByte(stat, ')')
	f := bytes.Fields(stat[i+1:])
	if i < 0 || len(f) < 22 {
		return u, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	num := func(b []byte) int64 { n, _ := strconv.ParseInt(string(b), 10, 64); return n }
	u.CPU = float64(num(f[11])+num(f[12])) / ticksPerSecond
	u.RSS = num(f[21]) * int64(os.Getpagesize())
	if io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid)); err == nil {
		for line := range bytes.Lines(io) {
			if v, ok := bytes.CutPrefix(line, []byte("write_bytes:")); ok {
				u.Written = num(bytes.TrimSpace(v))
			}
		}
	}
	return u, nil
}

// Total is what a set of processes used during a window.
type Total struct {
	CPU     float64 `json:"cpu_seconds"`
	PeakRSS int64   `json:"peak_rss_bytes"` // of the largest process
	SumRSS  int64   `json:"sum_rss_bytes"`  // peak of the sum over processes
	Written int64   `json:"written_bytes"`
}

// sampleEvery is how often a Meter looks at resident memory.
const sampleEvery = 100 * time.Millisecond

// Meter measures a set of processes over a window, restarts included: a
// process that ends keeps what it had used when last seen.
type Meter struct {
	pids func() []int

	mu    sync.Mutex
	first map[int]Usage
	last  map[int]Usage
	total Total

	stop chan struct{}
	done chan struct{}
}

// NewMeter starts to measure the processes that pids returns, asked again at
// each sample.
func NewMeter(pids func() []int) *Meter {
	m := &Meter{pids: pids, first: map[int]Usage{}, last: map[int]Usage{}, stop: make(chan struct{}), done: make(chan struct{})}
	for _, pid := range pids() {
		if u, err := ReadUsage(pid); err == nil {
			m.first[pid] = u
		}
	}
	m.sample()
	go m.run()
	return m
}

func (m *Meter) run() {
	defer close(m.done)
	t := time.NewTicker(sampleEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			m.sample()
		case <-m.stop:
			return
		}
	}
}

func (m *Meter) sample() {
	var sum int64
	for _, pid := range m.pids() {
		u, err := ReadUsage(pid)
		if err != nil {
			continue // it ended; what it used until the last sample counts
		}
		sum += u.RSS
		m.mu.Lock()
		m.last[pid] = u
		m.total.PeakRSS = max(m.total.PeakRSS, u.RSS)
		m.mu.Unlock()
	}
	m.mu.Lock()
	m.total.SumRSS = max(m.total.SumRSS, sum)
	m.mu.Unlock()
}

// Stop ends the window and returns what was used in it.
func (m *Meter) Stop() Total {
	close(m.stop)
	<-m.done
	m.sample()
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.total
	for pid, u := range m.last {
		f := m.first[pid] // zero for a process that started in the window
		t.CPU += u.CPU - f.CPU
		t.Written += u.Written - f.Written
	}
	return t
}
