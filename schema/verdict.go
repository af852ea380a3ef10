//go:build !wasm

package schema

// Verdict is the result of validating the policies of a commit.
type Verdict struct {
	// Set is nil if and only if there are Errors. The origins of its entries
	// have no commit.
	Set *Set
	// Errors and Warnings are sorted by place. Warnings do not make the commit
	// invalid. They include the warnings of the delta.
	Errors, Warnings []Problem
}
