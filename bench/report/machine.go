package report

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/tailrace/tailrace/bench/stats"
	"golang.org/x/sys/unix"
)

// Machine is where a run took place.
type Machine struct {
	CPU       string  `json:"cpu"`
	Cores     int     `json:"cores"`
	MemoryGiB float64 `json:"memory_gib"`
	Kernel    string  `json:"kernel"`
	Go        string  `json:"go"`
	SyncP50   float64 `json:"fdatasync_p50_ms"` // of a 4 KiB append to the disk that holds the data
	SyncP99   float64 `json:"fdatasync_p99_ms"`
	NewMemory float64 `json:"new_memory_cpu_s_per_gib,omitempty"` // of the first use, the dearest stretch met; 0: not timed
	Filled    bool    `json:"memory_filled"`                      // free memory was filled with page cache before each round
}

// probeSyncs is the number of synced appends that time the disk.
const probeSyncs = 300

// ThisMachine describes the machine and times the disk of dir.
func ThisMachine(dir string) (Machine, error) {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), CPU: field("/proc/cpuinfo", "model name")}
	var kb float64
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kb); err == nil {
		m.MemoryGiB = kb / (1 << 20)
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var err error
	m.SyncP50, m.SyncP99, err = probeDisk(dir)
	return m, err
}

// field returns the value of the first "name : value" line of a /proc file.
func field(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if k, v, ok := strings.Cut(sc.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func probeDisk(dir string) (p50, p99 float64, err error) {
	f, err := os.CreateTemp(dir, "fdatasync-")
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 4096)
	times := make([]float64, 0, probeSyncs)
	for range probeSyncs {
		if _, err := f.Write(block); err != nil {
			return 0, 0, err
		}
		t := time.Now()
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, 0, err
		}
		times = append(times, float64(time.Since(t))/1e6)
	}
	return stats.Quantile(times, 0.5), stats.Quantile(times, 0.99), nil
}

// String is one line for reports.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %.0f GiB, Linux %s, %s, fdatasync p50 %.3f ms p99 %.3f ms, %s",
		m.CPU, m.Cores, m.MemoryGiB, m.Kernel, m.Go, m.SyncP50, m.SyncP99, m.memory())
}

// memory says what new memory costs here and whether rounds had to pay for it.
func (m Machine) memory() string {
	cost, filled := "first use of memory not timed", "free memory left as it was"
	if m.NewMemory > 0 {
		cost = fmt.Sprintf("first use of memory up to %.2f CPU s/GiB", m.NewMemory)
	}
	if m.Filled {
		filled = "free memory filled with page cache before each round"
	}
	return cost + ", " + filled
}
