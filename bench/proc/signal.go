package proc

import "syscall"

// Signal sends a signal to the process and its group. It does nothing once
// the process was reaped.
func (p *Proc) Signal(sig syscall.Signal) { p.signal(sig) }
