// Package proc starts processes, ends them surely, and reads what they used
// from /proc. A process gets its own process group and dies with its parent.
package proc

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Proc is a running or ended child.
type Proc struct {
	Pid  int
	Name string
	tail *tailWriter
	done chan struct{} // closed when the process was reaped; err is set before
	err  error
}

// Spec says what to start.
type Spec struct {
	Name string
	Path string
	Args []string
	Dir  string
	Env  []string  // added to the parent's
	Log  io.Writer // where the output goes, beside the kept tail; may be nil
}

// running holds every child that was not reaped, for KillAll.
var running struct {
	sync.Mutex
	procs map[int]*Proc
}

// forker starts every child from one thread that never ends: the kernel sends
// the parent-death signal when the *thread* that forked dies.
var forker = sync.OnceValue(func() chan<- func() {
	ch := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range ch {
			f()
		}
	}()
	return ch
})

// Start starts a process in its own group.
func Start(s Spec) (*Proc, error) {
	p := &Proc{Name: s.Name, tail: &tailWriter{}, done: make(chan struct{})}
	cmd := exec.Command(s.Path, s.Args...)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var out io.Writer = p.tail
	if s.Log != nil {
		out = io.MultiWriter(s.Log, p.tail)
	}
	cmd.Stdout, cmd.Stderr = out, out
	errc := make(chan error)
	forker() <- func() { errc <- cmd.Start() }
	if err := <-errc; err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	p.Pid = cmd.Process.Pid
	running.Lock()
	if running.procs == nil {
		running.procs = map[int]*Proc{}
	}
	running.procs[p.Pid] = p
	running.Unlock()
	go func() {
		p.err = cmd.Wait()
		running.Lock()
		delete(running.procs, p.Pid)
		running.Unlock()
		close(p.done)
	}()
	return p, nil
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Alive reports whether the process has not ended yet.
func (p *Proc) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Output returns the last lines that the process wrote.
func (p *Proc) Output() string { return p.tail.String() }

// Kill sends SIGKILL to the process group and waits for the end.
func (p *Proc) Kill() { p.signal(syscall.SIGKILL); <-p.done }

// Stop sends SIGTERM, and SIGKILL after the grace. An exit status that is not
// zero is an error, with the end of the output.
func (p *Proc) Stop(grace time.Duration) error {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.Kill()
		return fmt.Errorf("%s did not stop within %s and was killed", p.Name, grace)
	}
	return p.err
}

// signal reaches the whole group, and only while the leader is not reaped: a
// pid that was reaped may belong to somebody else.
func (p *Proc) signal(sig syscall.Signal) {
	running.Lock()
	defer running.Unlock()
	if running.procs[p.Pid] == p {
		_ = syscall.Kill(-p.Pid, sig) // ESRCH: it ended by itself
	}
}

// KillAll ends every child that is still there. For the way out.
func KillAll() {
	running.Lock()
	var all []*Proc
	for _, p := range running.procs {
		all = append(all, p)
	}
	running.Unlock()
	for _, p := range all {
		p.Kill()
	}
}

// Run runs a command to its end; the error carries its output.
func Run(ctx context.Context, s Spec) error {
	p, err := Start(s)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.Kill()
		return ctx.Err()
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", s.Name, p.err, p.Output())
	}
	return nil
}

// tailKeep bounds the output that a Proc keeps.
const tailKeep = 8 << 10

// tailWriter keeps the end of what is written to it.
type tailWriter struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tailWriter) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if n := len(t.buf) - tailKeep; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(b), nil
}

func (t *tailWriter) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
