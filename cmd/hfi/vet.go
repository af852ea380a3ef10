package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/reconciler/cue"
	"github.com/boifi/hfi/schema"
)

// defaultPath is the default policy folder in a repository, the same as hfid's.
const defaultPath = "policies"

func newVet(a *app) *cobra.Command {
	var path string
	command := &cobra.Command{
		Use:   "vet DIR",
		Short: "Validate policies as the daemon does",
		Long: `Validate every policy under DIR, the work tree of a policy repository, exactly as the
daemon does. Each problem is a line FILE:LINE:COLUMN: FIELD: MESSAGE.
The exit code is 3 if there is any error; warnings do not count.

The policies are those in --path in DIR; the default is DIR/policies if that folder
exists, else DIR itself.`,
		Example: `  hfi vet .
  hfi vet ~/src/chaos --path faults/production
  hfi vet . -o json | jq -r '.errors[].message'`,
		Args: exactly(1, "DIR, the folder to validate"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := args[0]
			if path == "" {
				path = guessPath(dir)
			}
			if info, err := os.Stat(filepath.Join(dir, path)); err != nil {
				return fmt.Errorf("validating policies: %w", err)
			} else if !info.IsDir() {
				return fmt.Errorf("validating policies: %s is a file, and vet takes a folder", filepath.Join(dir, path))
			}
			verdict, err := a.vet(cmd.Context(), dir, path)
			if err != nil {
				return err
			}
			return a.printVerdict(dir, verdict)
		},
	}
	command.Flags().StringVar(&path, "path", "", "`folder` of the policies in DIR")
	return command
}

func guessPath(dir string) string {
	if info, err := os.Stat(filepath.Join(dir, defaultPath)); err == nil && info.IsDir() {
		return defaultPath
	}
	return "."
}

// vet validates a folder, and shows progress.
func (a *app) vet(ctx context.Context, dir, path string) (*schema.Verdict, error) {
	bar := a.progress(ctx, "Validating policies")
	defer bar.Stop()
	verdict, err := cue.Dir(ctx, dir, path)
	if err != nil {
		return nil, fmt.Errorf("validating the policies in %s: %w", path, err)
	}
	return verdict, nil
}

// vetAnswer is the JSON output of vet. Files are relative to DIR.
type vetAnswer struct {
	Valid    bool             `json:"valid"`
	Policies int              `json:"policies"`
	Errors   []schema.Problem `json:"errors"`
	Warnings []schema.Problem `json:"warnings"`
}

func (a *app) printVerdict(dir string, verdict *schema.Verdict) error {
	answer := vetAnswer{Valid: verdict.Set != nil, Errors: orEmpty(verdict.Errors), Warnings: orEmpty(verdict.Warnings)}
	if verdict.Set != nil {
		answer.Policies = verdict.Set.Len()
	}
	done, err := a.value(answer)
	if err != nil {
		return err
	}
	if !done {
		a.printProblems(a.stdout, dir, verdict)
		if answer.Valid {
			fmt.Fprintf(a.stdout, "%s\n", a.paint(green, plural(answer.Policies, "policy, valid", "policies, all valid")))
		}
	}
	if answer.Valid {
		return nil
	}
	return invalid(verdict.Errors)
}

// invalid is the error that summarizes the printed problems.
func invalid(problems []schema.Problem) error {
	files := map[string]bool{}
	for _, problem := range problems {
		files[problem.File] = true
	}
	return &exitError{exitInvalid, fmt.Errorf("%s in %s",
		plural(len(problems), "error", "errors"), plural(len(files), "file", "files"))}
}

// printProblems prints errors and warnings, one a line, with file names relative to the current folder.
func (a *app) printProblems(w io.Writer, dir string, verdict *schema.Verdict) {
	for _, problem := range verdict.Errors {
		fmt.Fprintln(w, clean(under(dir, problem).String()))
	}
	for _, problem := range verdict.Warnings {
		problem.Message = "warning: " + problem.Message
		fmt.Fprintln(w, paint(w, yellow, clean(under(dir, problem).String())))
	}
}

func under(dir string, problem schema.Problem) schema.Problem {
	if dir != "" && problem.File != "" {
		problem.File = filepath.Join(dir, problem.File)
	}
	return problem
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
