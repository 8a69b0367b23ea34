package proc

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func sh(t *testing.T, script string) *Proc {
	t.Helper()
	p, err := Start(Spec{Name: "sh", Path: "/bin/sh", Args: []string{"-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func waitOutput(t *testing.T, p *Proc, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(p.Output(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("output %q, want %q", p.Output(), want)
		}
	}
}

func TestStopAndKill(t *testing.T) {
	clean := sh(t, `trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done`)
	waitOutput(t, clean, "up")
	if err := clean.Stop(20 * time.Second); err != nil || clean.Alive() {
		t.Fatalf("stop: %v, alive %v", err, clean.Alive())
	}
	bad := sh(t, `trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done`)
	waitOutput(t, bad, "up")
	if err := bad.Stop(20 * time.Second); err == nil {
		t.Fatal("exit status 3 must be an error")
	}
	deaf := sh(t, `trap '' TERM; echo up; while :; do sleep 0.05; done`)
	waitOutput(t, deaf, "up")
	if err := deaf.Stop(50 * time.Millisecond); err == nil || deaf.Alive() {
		t.Fatalf("a process that ignores SIGTERM: %v, alive %v", err, deaf.Alive())
	}
	deaf.Kill() // again, harmless
}

// Children of a child die with its group.
func TestKillReachesTheGroup(t *testing.T) {
	p := sh(t, `sleep 1000 & echo child $!; wait`)
	waitOutput(t, p, "child ")
	KillAll()
	if p.Alive() {
		t.Fatal("still alive after KillAll")
	}
	// The whole group is gone, or about to be: signal 0 finds nobody.
	for deadline := time.Now().Add(20 * time.Second); syscall.Kill(-p.Pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the group outlived its leader")
		}
	}
}

func TestRunReportsOutput(t *testing.T) {
	err := Run(context.Background(), Spec{Name: "fail", Path: "/bin/sh", Args: []string{"-c", "echo why >&2; exit 1"}})
	if err == nil || !strings.Contains(err.Error(), "why") {
		t.Fatalf("error %v, want the output in it", err)
	}
	if _, err := Start(Spec{Name: "none", Path: "/does/not/exist"}); err == nil {
		t.Fatal("started nothing without an error")
	}
}

func TestUsageOfOurselves(t *testing.T) {
	m := NewMeter(func() []int { return []int{os.Getpid()} })
	deadline := time.Now().Add(20 * time.Second)
	for u, _ := ReadUsage(os.Getpid()); ; {
		now, err := ReadUsage(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now.CPU-u.CPU >= 0.05 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no CPU time was counted")
		}
	}
	if tot := m.Stop(); tot.CPU < 0.04 || tot.PeakRSS < 1<<20 || tot.SumRSS < tot.PeakRSS {
		t.Fatalf("usage %+v", tot)
	}
	if _, err := ReadUsage(-1); err == nil {
		t.Fatal("no such process")
	}
}

func TestFreePortsAreDistinct(t *testing.T) {
	ports, err := FreePorts(12)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range ports {
		if p == 0 || seen[p] {
			t.Fatalf("ports %v", ports)
		}
		seen[p] = true
	}
}
