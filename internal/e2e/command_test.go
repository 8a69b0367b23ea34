package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tailrace/tailrace/bench/proc"
)

// lockedText collects output that is read while it is written.
type lockedText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// process is a command that runs beside the test.
type process struct {
	t              testing.TB
	cmd            *exec.Cmd
	stdout, stderr lockedText
	end            chan struct{}
}

// launch starts a command, which ends with the test at the latest.
func launch(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, end: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait(); close(p.end) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.end
		if t.Failed() {
			t.Logf("%s\nstdout: %s\nstderr: %s", cmd, tail(p.stdout.String(), 40), tail(p.stderr.String(), 40))
		}
	})
	return p
}

// says waits until standard output contains a text.
func (p *process) says(text string) { p.t.Helper(); p.shows(&p.stdout, text) }

// logs waits until standard error contains a text.
func (p *process) logs(text string) { p.t.Helper(); p.shows(&p.stderr, text) }

func (p *process) shows(out *lockedText, text string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%s says %q", p.cmd.Args, text), func(context.Context) error {
		if strings.Contains(out.String(), text) {
			return nil
		}
		select {
		case <-p.end:
			p.t.Fatalf("%s ended with %d: %s%s", p.cmd.Args, p.cmd.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String())
		default:
		}
		return errors.New("not yet")
	})
}

// stop sends a signal and returns the exit code.
func (p *process) stop(sig syscall.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("signal %v: %v", sig, err)
	}
	return p.wait()
}

// wait returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.end:
	case <-time.After(patience):
		p.t.Fatalf("%s did not end within %v", p.cmd.Args, patience)
	}
	return p.cmd.ProcessState.ExitCode()
}

// result is what a finished command left.
type result struct {
	stdout, stderr string
	code           int
}

// finish runs a command to its end, within patience.
func finish(t testing.TB, cmd *exec.Cmd, stdin string) result {
	t.Helper()
	cmd.Stdin = strings.NewReader(stdin)
	p := launch(t, cmd)
	code := p.wait()
	return result{p.stdout.String(), p.stderr.String(), code}
}

// consecutivePorts finds n free neighbouring ports, for TCP and UDP, outside of
// the range that the system gives to connections.
func consecutivePorts(t testing.TB, n int) int {
	t.Helper()
	for range 200 {
		base := 11000 + rand.IntN(20000)
		free := true
		for i := range n {
			if !proc.Free(base + i) {
				free = false
				break
			}
		}
		if free {
			return base
		}
	}
	t.Fatalf("no %d free neighbouring ports", n)
	return 0
}

// exists reports whether a path is there.
func exists(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}
