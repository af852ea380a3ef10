//go:build !unix

package http

// fileLimit is how many files this process may have open: some systems have no limit.
func fileLimit() int { return 1 << 30 }
