package schema

import (
	"cmp"
	"context"
	"fmt"
)

// File is a file of a policy repository at one commit, or a file that the
// commit deleted.
type File struct {
	// Path is relative to the repository's root, with slashes, as in git: it
	// may contain any byte except NUL.
	Path string
	// ID identifies the content: files with equal IDs have equal contents. It
	// is git's blob hash.
	ID string
	// Deleted reports that the file was deleted. Only Path is set then.
	Deleted bool
	// Refusal is a message that says why the file cannot contain a policy,
	// whatever its name is: it is a symbolic link, or may not be read. Empty otherwise.
	Refusal string
	// Read returns the content if it has at most limit bytes. Otherwise the error
	// is a *TooLarge, and the content is not read. Several goroutines may call
	// Read at once, until the delta that contains the file is closed.
	Read func(ctx context.Context, limit int64) ([]byte, error)
}

// TooLarge is the error for a file that is larger than the limit given to File.Read.
type TooLarge struct {
	// Size is the length of the content in bytes.
	Size int64
}

func (e *TooLarge) Error() string { return fmt.Sprintf("the file has %d bytes", e.Size) }

// Problem is an error or a warning about a file.
type Problem struct {
	File string `json:"file"`
	// Line and Column count from 1. They are 0 if the problem concerns the whole file.
	Line   int `json:"line"`
	Column int `json:"column"`
	// Field is the path of the field in the policy, for example
	// spec.rules[0].fault.percentage.
	Field string `json:"field"`
	// Message is a sentence that says what is wrong. It names neither file nor field path.
	Message string `json:"message"`
}

// String returns FILE:LINE:COLUMN: FIELD: MESSAGE, without the parts that are not set.
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

// CompareProblems orders problems by file, line, column, field and message.
func CompareProblems(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
		cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
}
