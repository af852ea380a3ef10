package cue

import "golang.org/x/sys/unix"

// memorySlack is the difference between the kernel's limit and watchMemory's, in
// bytes. The Go runtime maps memory in large pieces before it uses it.
const memorySlack = 256 << 20

// limitMemory sets the kernel's limit on the memory of this process. At the
// limit the Go runtime ends the process.
func limitMemory(limit int64) {
	most := uint64(limit + memorySlack)
	_ = unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: most, Max: most})
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}
