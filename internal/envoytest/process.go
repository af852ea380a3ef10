package envoytest

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
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

// Memory is the memory use of a process in bytes.
type Memory struct {
	// Resident is the current value, Peak the maximum so far.
	Resident, Peak int64
}

// Memory returns the memory use of the process.
func (e *Envoy) Memory() (Memory, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", e.PID()))
	if err != nil {
		return Memory{}, fmt.Errorf("reading the memory of Envoy: %w", err)
	}
	defer file.Close()
	var memory Memory
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		number, ofKibibytes := strings.CutSuffix(strings.TrimSpace(value), " kB")
		if !ofKibibytes {
			continue
		}
		kibibytes, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("reading %s of Envoy: %w", name, err)
		}
		switch name {
		case "VmRSS":
			memory.Resident = kibibytes << 10
		case "VmHWM":
			memory.Peak = kibibytes << 10
		}
	}
	if memory.Resident == 0 {
		return Memory{}, fmt.Errorf("process %d has no memory: Envoy ended", e.PID())
	}
	return memory, nil
}
