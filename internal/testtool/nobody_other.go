//go:build !linux

package testtool

import "testing"

// AsNobody skips the test: the user for files is changed on Linux only.
func AsNobody(t testing.TB, _ string, _ func()) {
	t.Helper()
	t.Skip("the user for files is changed on Linux only")
}
