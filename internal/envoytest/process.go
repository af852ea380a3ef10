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

// CPU is the processor time, of all threads and of user and system, that the
// process has used so far. It is exact to the microsecond, where /proc's
// figures come in steps of ten milliseconds.
func (e *Envoy) CPU() (time.Duration, error) {
	// The clock of another process by its number: see clock_getcpuclockid(3),
	// and MAKE_PROCESS_CPUCLOCK in Linux's posix-timers.h.
	const scheduled = 2
	clock := int32(^e.PID()<<3 | scheduled)
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		return 0, fmt.Errorf("reading the processor time of Envoy: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// Memory is what a process holds in memory, in bytes.
type Memory struct {
	// Resident is now, Peak the most it ever was.
	Resident, Peak int64
}

// Memory is what the process holds in memory now.
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
