package hfidtest

// Freeze skips the test: Windows cannot suspend a process.
func (d *Daemon) Freeze() {
	d.t.Helper()
	d.t.Skip("Windows cannot suspend a process")
}

// Thaw does nothing.
func (d *Daemon) Thaw() {}
