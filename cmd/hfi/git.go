package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// gitGrace is how long git may take to exit after a signal.
const gitGrace = 3 * time.Second

// repo runs the user's git command in a folder, with the user's own credentials,
// signing key and hooks.
type repo struct {
	// dir is the folder; empty means the current folder, with GIT_ variables left as they are.
	dir string
}

// git runs git and returns its standard output.
func (r repo) git(ctx context.Context, args ...string) (string, error) {
	return r.gitInput(ctx, nil, args...)
}

// gitInput is git with the given standard input.
func (r repo) gitInput(ctx context.Context, input io.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	command := r.command(ctx, args...)
	command.Stdin, command.Stdout, command.Stderr = input, &stdout, &limitedBuffer{&stderr}
	if err := command.Run(); err != nil {
		return "", gitFailed(ctx, args[0], err, stderr.String())
	}
	return stdout.String(), nil
}

func (r repo) command(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, "git", args...)
	command.Dir = r.dir
	command.Env = append(os.Environ(), "GIT_LFS_SKIP_SMUDGE=1")
	if r.dir != "" {
		command.Env = slices.DeleteFunc(command.Env, isLocalToRepo)
	}
	// On SIGTERM git removes its lock files; its children may hold the pipes for longer.
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = gitGrace
	return command
}

// isLocalToRepo reports whether a variable binds git to one repository, or changes
// how it takes paths: hfi may run in a hook of another. These are the variables of
// "git rev-parse --local-env-vars", except for those that pass configuration, in
// which CI systems give credentials; and some that git does not count there.
func isLocalToRepo(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return slices.Contains([]string{
		"GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_CONFIG",
		"GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE",
		"GIT_REPLACE_REF_BASE", "GIT_NO_REPLACE_OBJECTS",
		"GIT_NAMESPACE", "GIT_QUARANTINE_PATH", "GIT_ATTR_SOURCE",
		"GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
	}, name)
}

// located is the address of a repository as git takes it in any folder: a path that
// exists here is made absolute.
func located(address string) string {
	if _, err := os.Stat(address); err != nil {
		return address
	}
	absolute, err := filepath.Abs(address)
	if err != nil {
		return address
	}
	return absolute
}

// limitedBuffer keeps the first bytes written and discards the rest.
type limitedBuffer struct{ *bytes.Buffer }

func (b *limitedBuffer) Write(text []byte) (int, error) {
	if room := 64<<10 - b.Len(); room > 0 {
		b.Buffer.Write(text[:min(room, len(text))])
	}
	return len(text), nil
}

// gitError is a run of git that failed.
type gitError struct {
	verb string
	// said is git's error output in one line, without passwords.
	said string
	err  error
}

func (e *gitError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("git %s: %v", e.verb, e.err)
	}
	return fmt.Sprintf("git %s: %s", e.verb, e.said)
}
func (e *gitError) Unwrap() error { return e.err }

func gitFailed(ctx context.Context, verb string, err error, stderr string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("git %s: %w", verb, ctx.Err())
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("hfi runs the git command, which is not installed: %w", err)
	}
	return &gitError{verb, gitSaid(stderr), err}
}

var password = regexp.MustCompile(`://[^/@\s]+@`)

// gitSaid reduces git's error output to one line without hints and passwords.
func gitSaid(stderr string) string {
	var lines []string
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "hint:") || strings.HasPrefix(line, "Cloning into") {
			continue
		}
		lines = append(lines, strings.TrimPrefix(line, "fatal: "))
	}
	return withoutPassword(strings.Join(lines, "; "))
}

// withoutPassword removes user names and passwords from the URLs in a text.
func withoutPassword(text string) string { return password.ReplaceAllString(text, "://***@") }

// commitHash returns the full hash of a revision, or an error if there is no such commit.
func (r repo) commitHash(ctx context.Context, revision string) (string, error) {
	hash, err := r.git(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", revision+"^{commit}")
	if err != nil && ctx.Err() == nil && !errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("there is no commit %q in this repository", revision)
	}
	return strings.TrimSpace(hash), err
}

// contains reports whether commit is an ancestor of tip or tip itself; known is
// false if the repository lacks one of them, or the history in between.
func (r repo) contains(ctx context.Context, tip, commit string) (yes, known bool) {
	yes, known = r.reaches(ctx, tip, commit)
	if yes || !known {
		return yes, known
	}
	shallow, err := r.git(ctx, "rev-parse", "--is-shallow-repository")
	return false, err == nil && strings.TrimSpace(shallow) != "true"
}

// reaches is contains by what the repository has of the history.
func (r repo) reaches(ctx context.Context, tip, commit string) (yes, known bool) {
	_, err := r.git(ctx, "merge-base", "--is-ancestor", commit, tip)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return false, exit.ExitCode() == 1
	}
	return err == nil, err == nil
}
