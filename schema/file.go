package schema

import (
	"cmp"
	"context"
	"fmt"
)

// File is a file of a policy repository at one commit, or a file that the
// commit took away.
type File struct {
	// Path is relative to the repository's root, with slashes, as git has it:
	// it may hold any byte but NUL.
	Path string
	// ID identifies the content: equal IDs, equal contents (git's blob hash).
	ID string
	// Deleted files have nothing but a Path.
	Deleted bool
	// Refusal says, for a person, why the file cannot hold a policy whatever
	// its name is: a symbolic link, a submodule. Empty otherwise.
	Refusal string
	// Read gives the content, if it has no more than limit bytes; else it reads
	// next to nothing, and the error is a *TooLarge. It may be called by several
	// goroutines at once, and not after the delta that the file came with is closed.
	Read func(ctx context.Context, limit int64) ([]byte, error)
}

// TooLarge says that a file has more bytes than may be read.
type TooLarge struct {
	// Size is the content's length in bytes.
	Size int64
}

func (e *TooLarge) Error() string { return fmt.Sprintf("the file has %d bytes", e.Size) }

// Problem is something wrong with a file, or worth a warning.
type Problem struct {
	File string `json:"file"`
	// Line and Column count from 1; 0 where the whole file is meant.
	Line   int `json:"line"`
	Column int `json:"column"`
	// Field is the path in the policy, for example spec.rules[0].fault.percentage.
	Field string `json:"field"`
	// Message is a sentence for a person, without file and field.
	Message string `json:"message"`
}

// String is FILE:LINE:COLUMN: FIELD: MESSAGE, without the parts that are not known.
func (p Problem) String() string {
	place := p.File
	if p.Line > 0 {
		place = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	if p.Field != "" {
		return fmt.Sprintf("%s: %s: %s", place, p.Field, p.Message)
	}
	return fmt.Sprintf("%s: %s", place, p.Message)
}

// CompareProblems orders problems by where they are.
func CompareProblems(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
		cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
}
