//go:build unix

package http

import "golang.org/x/sys/unix"

// fileLimit is how many files this process may have open. The Go runtime has
// raised the soft limit to the hard one.
func fileLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // the usual limit
	}
	return int(min(limit.Cur, 1<<30))
}
