//go:build unix

package hfidtest

import "syscall"

// Freeze suspends the daemon until Thaw.
func (d *Daemon) Freeze() {
	d.t.Helper()
	d.signal(syscall.SIGSTOP)
}

// Thaw resumes a frozen daemon.
func (d *Daemon) Thaw() {
	d.t.Helper()
	d.signal(syscall.SIGCONT)
}

func (d *Daemon) signal(signal syscall.Signal) {
	d.t.Helper()
	run := d.current()
	if run == nil {
		d.t.Fatal("the daemon does not run")
	}
	if err := run.process.Signal(signal); err != nil {
		d.t.Fatal(err)
	}
}
