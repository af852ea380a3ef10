package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/reconciler/cue"
	"github.com/boifi/hfi/schema"
)

// defaultPath is the default policy folder in a repository, the same as hfid's.
const defaultPath = "policies"

func newVet(a *app) *cobra.Command {
	var path, limits string
	command := &cobra.Command{
		Use:   "vet [DIR|FILE|-]",
		Short: "Validate policies as the daemon does",
		Long: `Validate every policy under DIR, the work tree of a policy repository, exactly as the
daemon does; or the policies in one YAML or JSON file, or on standard input (-).
Without an argument it is the repository of the current folder. Each problem is a line FILE:LINE:COLUMN: FIELD: MESSAGE.
The exit code is 3 if there is any error; warnings do not count.

The limits in the repository's limits.cue hold, and those in the file of --limits, which
is meant for the one that the daemon has. One file is held against --limits alone.

The policies are those in --path in DIR; the default is DIR/policies if that folder
exists, else DIR itself.`,
		Example: `  hfi vet
  hfi vet frontend.yaml
  kubectl get configmap chaos -o jsonpath='{.data.policy}' | hfi vet -
  hfi vet ~/src/chaos --path faults/production
  hfi vet . --limits limits-of-production.cue
  hfi vet . -o json | jq -r '.errors[].message'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if limits != "" {
				var err error
				if limits, err = filepath.Abs(limits); err == nil {
					_, err = os.Stat(limits)
				}
				if err != nil {
					return fmt.Errorf("reading --limits: %w", err)
				}
			}
			if len(args) == 0 {
				return a.vetFolder(ctx, repositoryHere(ctx), path, limits)
			}
			info, err := os.Stat(args[0])
			switch {
			case args[0] != "-" && err != nil:
				return fmt.Errorf("validating policies: %w", err)
			case args[0] != "-" && info.IsDir():
				return a.vetFolder(ctx, args[0], path, limits)
			case path != "":
				return usageError("--path requires a folder, and %s is not one", shown(args[0]))
			}
			return a.vetFile(ctx, args[0], limits)
		},
	}
	command.Flags().StringVar(&path, "path", "", "`folder` of the policies in DIR (default: policies if it exists, else DIR itself)")
	command.Flags().StringVar(&limits, "limits", "", "CUE `file` with limits, as hfid --limits has (default: none)")
	return command
}

// repositoryHere is the top of the repository of the current folder or, outside of
// one, that folder; relative if it is not far.
func repositoryHere(ctx context.Context) string {
	up, err := repo{}.git(ctx, "rev-parse", "--show-cdup")
	if up = strings.TrimSpace(up); err != nil || up == "" {
		return "."
	}
	return filepath.Clean(up)
}

// vetFolder validates a work tree, and prints the verdict.
func (a *app) vetFolder(ctx context.Context, dir, path, limits string) error {
	if path == "" {
		path = guessPath(dir)
	}
	folder := filepath.Join(dir, path)
	if info, err := os.Stat(folder); err != nil {
		return fmt.Errorf("validating policies: %w", err)
	} else if !info.IsDir() {
		return usageError("--path must be a folder, and %s is a file", folder)
	}
	verdict, err := a.vetWith(ctx, dir, path, limits)
	if err != nil {
		return err
	}
	overlooked, err := overlookedPolicies(ctx, dir, folder)
	if err != nil && !errors.Is(err, fs.ErrPermission) { // The verdict names such a folder.
		return fmt.Errorf("validating policies: %w", err)
	}
	if verdict.Set != nil && verdict.Set.Len() == 0 {
		overlooked = append(overlooked, schema.Problem{File: filepath.ToSlash(path),
			Message: "no policy in this folder: policies are in .yaml, .yml and .json files, and in CUE packages"})
	}
	verdict.Warnings = append(verdict.Warnings, overlooked...)
	return a.printVerdict(dir, verdict)
}

// vetFile validates one file by itself, and prints the verdict.
func (a *app) vetFile(ctx context.Context, file, limits string) error {
	if strings.HasSuffix(file, ".cue") {
		return usageError("%s belongs to a CUE package: give the folder of the repository", file)
	}
	text, err := a.readInput(file)
	if err != nil {
		return err
	}
	// The daemon goes by the extension. What has none of a policy is judged by its content.
	name := "policy" + extension(isJSON(text))
	if isPolicyFile(file) {
		name = "policy" + filepath.Ext(file)
	}
	verdict, err := a.vetAloneWith(ctx, name, text, limits)
	if err != nil {
		return err
	}
	for _, problems := range [][]schema.Problem{verdict.Errors, verdict.Warnings} {
		for i, problem := range problems {
			if problem.File == defaultPath+"/"+name {
				problems[i].File = shown(file)
			}
			problems[i].Message = strings.ReplaceAll(problem.Message, defaultPath+"/"+name, shown(file))
		}
	}
	if verdict.Set != nil && verdict.Set.Len() == 0 {
		verdict.Warnings = append(verdict.Warnings, schema.Problem{File: shown(file), Message: "no policy in this file"})
	}
	// What comes from a pipe has no name to keep.
	if info, err := os.Lstat(file); file != "-" && err == nil && info.Mode().IsRegular() && !isPolicyFile(file) {
		if warning := overlookedPolicy(file, text); warning != nil {
			verdict.Warnings = append(verdict.Warnings, *warning)
		}
	}
	return a.printVerdict("", verdict)
}

// overlookedPolicies warns of files in the policy folder that look like policies,
// and that the daemon does not read because of their names.
func overlookedPolicies(ctx context.Context, dir, folder string) ([]schema.Problem, error) {
	var found []schema.Problem
	err := walkPolicies(ctx, folder, func(file string) error {
		if isPolicyFile(file) || filepath.Ext(file) == ".cue" {
			return nil
		}
		if info, err := os.Stat(file); err != nil || info.Size() > maxPolicyFile {
			return err
		}
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrPermission) {
			return nil // It may be anything.
		}
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if warning := overlookedPolicy(filepath.ToSlash(relative), text); warning != nil {
			found = append(found, *warning)
		}
		return nil
	})
	return found, err
}

// overlookedPolicy is the warning for a file with a name that the daemon does not
// read, if it looks like a policy.
func overlookedPolicy(file string, text []byte) *schema.Problem {
	docs := splitDocuments(text)
	if !slices.ContainsFunc(docs, func(doc document) bool { return doc.name != "" && bytes.Contains(doc.text, []byte("spec")) }) {
		return nil
	}
	base := filepath.Base(file)
	return &schema.Problem{File: file, Message: fmt.Sprintf(
		"this file is not read, and looks like a policy: rename it to %s", strings.TrimSuffix(base, filepath.Ext(base))+extension(docs[0].json))}
}

func guessPath(dir string) string {
	if info, err := os.Stat(filepath.Join(dir, defaultPath)); err == nil && info.IsDir() {
		return defaultPath
	}
	return "."
}

// vet validates a folder, and shows progress.
func (a *app) vet(ctx context.Context, dir, path string) (*schema.Verdict, error) {
	return a.vetWith(ctx, dir, path, "")
}

// vetWith is vet with a file of limits, or "".
func (a *app) vetWith(ctx context.Context, dir, path, limits string) (*schema.Verdict, error) {
	bar := a.progress(ctx, "Validating policies")
	defer bar.Stop()
	verdict, err := cue.Dir(ctx, dir, path, limits)
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
			fmt.Fprintf(a.stdout, "%s\n", a.paint(green, validCount(answer.Policies)))
		}
	}
	if answer.Valid {
		return nil
	}
	return invalid(verdict.Errors)
}

func validCount(n int) string {
	if n == 0 {
		return "0 policies, valid"
	}
	return plural(n, "policy, valid", "policies, all valid")
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
	if dir != "" && problem.File != "" && !filepath.IsAbs(problem.File) { // that of --limits is absolute
		problem.File = filepath.Join(dir, problem.File)
	}
	if strings.HasPrefix(problem.File, "..") {
		// The folder may be below dir: ../policies/a.yaml is then a.yaml.
		here, errHere := os.Getwd()
		file, errFile := filepath.Abs(problem.File)
		if nearer, err := filepath.Rel(here, file); cmp.Or(errHere, errFile, err) == nil {
			problem.File = nearer
		}
	}
	return problem
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
