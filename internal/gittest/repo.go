// Package gittest provides tests with repositories that the git command creates
// and pushes to, and with servers for them over HTTP and SSH.
package gittest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// commandLimit bounds each git command on a busy machine.
const commandLimit = 2 * time.Minute

// Repo is a bare repository with a work clone in which the test commits.
type Repo struct {
	t    testing.TB
	bare string
	work string
	// signing are settings with which commits are signed; nil: they are not.
	signing []string
	// date is the environment that sets the commits' date, if one is set.
	date []string
}

// New creates an empty bare repository with the default branch main, and a
// clone of it. Both are deleted at the end of the test.
func New(t testing.TB) *Repo {
	t.Helper()
	folder := t.TempDir()
	r := &Repo{t: t, bare: filepath.Join(folder, "policies.git"), work: filepath.Join(folder, "work")}
	run(t, folder, nil, nil, "init", "-q", "--bare", r.bare)
	run(t, folder, nil, nil, "init", "-q", r.work)
	r.Git("remote", "add", "origin", r.bare)
	return r
}

// Bare is the folder of the bare repository.
func (r *Repo) Bare() string { return r.bare }

// Work is the folder of the work clone.
func (r *Repo) Work() string { return r.work }

// Write writes files into the work clone. The keys are paths in it.
func (r *Repo) Write(files map[string]string) {
	r.t.Helper()
	for name, content := range files {
		file := filepath.Join(r.work, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Commit writes files and commits all changes in the work clone, which may be
// none. It returns the full hash.
func (r *Repo) Commit(message string, files map[string]string) string {
	r.t.Helper()
	r.Write(files)
	r.Git("add", "-A", ".")
	return r.commit(message)
}

// Remove deletes files or folders and commits.
func (r *Repo) Remove(message string, paths ...string) string {
	r.t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(filepath.Join(r.work, filepath.FromSlash(path))); err != nil {
			r.t.Fatal(err)
		}
	}
	return r.Commit(message, nil)
}

// commit commits the index, with the message unchanged.
func (r *Repo) commit(message string) string {
	r.t.Helper()
	args := []string{"commit", "-q", "--allow-empty", "--allow-empty-message", "--cleanup=verbatim", "-F", "-"}
	if r.signing != nil {
		args = append(append(slices.Clone(r.signing), args...), "-S")
	}
	r.GitInput(message, args...)
	return r.Head()
}

// Head returns the full hash of the work clone's commit.
func (r *Repo) Head() string {
	r.t.Helper()
	return r.Git("rev-parse", "HEAD")
}

// Push pushes the work clone's commit to the branch main.
func (r *Repo) Push() {
	r.t.Helper()
	r.Git("push", "-q", "origin", "HEAD:refs/heads/main")
}

// ForcePush sets the branch main to the work clone's commit.
func (r *Repo) ForcePush() {
	r.t.Helper()
	r.Git("push", "-q", "--force", "origin", "HEAD:refs/heads/main")
}

// Revert reverts a commit and returns the hash of the new one.
func (r *Repo) Revert(hash string) string {
	r.t.Helper()
	r.Git("revert", "--no-edit", hash)
	return r.Head()
}

// Git runs git in the work clone and returns its output without the final
// newline. A failure fails the test.
func (r *Repo) Git(args ...string) string {
	r.t.Helper()
	return strings.TrimSuffix(run(r.t, r.work, nil, r.date, args...), "\n")
}

// GitInput is Git with a standard input.
func (r *Repo) GitInput(input string, args ...string) string {
	r.t.Helper()
	return strings.TrimSuffix(run(r.t, r.work, []byte(input), r.date, args...), "\n")
}

// Server runs git in the bare repository.
func (r *Repo) Server(args ...string) string {
	r.t.Helper()
	return strings.TrimSuffix(run(r.t, r.bare, nil, nil, args...), "\n")
}

// Environment returns the environment for git commands in tests: without the
// machine's configuration, with a fixed author, without signatures and automatic gc.
func Environment() []string {
	var environment []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "GIT_") {
			environment = append(environment, variable)
		}
	}
	environment = append(environment,
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Ada Tester", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=Ada Tester", "GIT_COMMITTER_EMAIL=ada@example.com")
	settings := []string{
		"init.defaultBranch", "main", "commit.gpgsign", "false", "gc.auto", "0", "maintenance.auto", "false", "receive.autogc", "false",
		"core.autocrlf", "false", "core.quotePath", "false", "safe.directory", "*", "protocol.file.allow", "always", "advice.detachedHead", "false",
	}
	for i := 0; i < len(settings); i += 2 {
		n := strconv.Itoa(i / 2)
		environment = append(environment, "GIT_CONFIG_KEY_"+n+"="+settings[i], "GIT_CONFIG_VALUE_"+n+"="+settings[i+1])
	}
	return append(environment, "GIT_CONFIG_COUNT="+strconv.Itoa(len(settings)/2))
}

// Run runs git in a folder, like Repo.Git.
func Run(t testing.TB, folder string, args ...string) string {
	t.Helper()
	return strings.TrimSuffix(run(t, folder, nil, nil, args...), "\n")
}

// Input is Run with a standard input.
func Input(t testing.TB, folder, input string, args ...string) string {
	t.Helper()
	return strings.TrimSuffix(run(t, folder, []byte(input), nil, args...), "\n")
}

func run(t testing.TB, folder string, input []byte, environment []string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	command := exec.CommandContext(ctx, "git", args...)
	command.Dir, command.Env, command.Stdin = folder, append(Environment(), environment...), bytes.NewReader(input)
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	if err := command.Run(); err != nil {
		t.Fatalf("git %q in %s: %v\n%s%s", args, folder, err, out.String(), errs.String())
	}
	return out.String()
}
