//go:build !wasm

package schema

// Verdict is what a commit holds.
type Verdict struct {
	// Set is nil if and only if there are Errors. The entries' origins have no commit.
	Set *Set
	// Errors are all there are, by place; Warnings do not make a commit
	// invalid, and have the delta's among them.
	Errors, Warnings []Problem
}
