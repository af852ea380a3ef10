package envoytest

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the CPU time that the process has used so far: of all threads, user and system. It
// is exact to a microsecond, while the values in /proc are in steps of ten milliseconds.
func (e *Envoy) CPU() (time.Duration, error) {
	// The CPU clock of another process: see clock_getcpuclockid(3), and
	// MAKE_PROCESS_CPUCLOCK in Linux's posix-timers.h.
	const scheduled = 2
	clock := int32(^e.PID()<<3 | scheduled)
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		return 0, fmt.Errorf("reading the processor time of Envoy: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
