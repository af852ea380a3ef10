package envoytest

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

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
