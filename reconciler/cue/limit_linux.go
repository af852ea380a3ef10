package cue

import "golang.org/x/sys/unix"

// memorySlack is how far the kernel's limit lies over that of watchMemory,
// in bytes: the Go runtime maps memory in large pieces before it uses it.
const memorySlack = 256 << 20

// limitMemory has the kernel refuse the process more memory than that. The
// Go runtime then ends it.
func limitMemory(limit int64) {
	most := uint64(limit + memorySlack)
	_ = unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: most, Max: most})
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}
