package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// repo is a work tree of policies, one per file and a hundred per folder, and the
// bare repository that it is pushed to.
type repo struct{ work, bare string }

func newRepo(folder string, policies int) (*repo, error) {
	r := &repo{work: filepath.Join(folder, "work"), bare: filepath.Join(folder, "policies.git")}
	for i := range policies {
		if err := r.write(i, 100); err != nil {
			return nil, err
		}
	}
	for _, args := range [][]string{
		{"init", "-q", "--bare", "-b", "main", r.bare}, {"-C", r.work, "init", "-q", "-b", "main"},
		{"-C", r.work, "add", "-A"}, {"-C", r.work, "commit", "-q", "-m", "All policies"},
		{"-C", r.work, "remote", "add", "origin", r.bare}, {"-C", r.work, "push", "-q", "origin", "main"},
	} {
		if _, err := git(args...); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *repo) file(i int) string {
	return filepath.Join(r.work, "policies", fmt.Sprintf("team-%03d", i/100), fmt.Sprintf("policy-%05d.yaml", i))
}

// service returns the service that a policy targets.
func service(i int) string { return fmt.Sprintf("service-%02d", i%100) }

func (r *repo) write(i, delay int) error {
	file := r.file(i)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, fmt.Appendf(nil, `metadata:
  name: policy-%05d
spec:
  selector:
    service: %s
    namespace: demo
  rules:
    - match:
        path: {prefix: /api/v%d}
      fault:
        delay_ms: %d
        percentage: 12.5
`, i, service(i), i, delay), 0o644)
}

// prepare writes one policy, commits it, and pushes the commit to another branch
// than the one that the daemon follows: only the ref then remains to be updated.
func (r *repo) prepare(i, delay int) (hash string, err error) {
	if err := r.write(i, delay); err != nil {
		return "", err
	}
	if _, err := git("-C", r.work, "commit", "-q", "-m", "Change one policy", "--", r.file(i)); err != nil {
		return "", err
	}
	if _, err := git("-C", r.work, "push", "-q", "origin", "HEAD:refs/heads/next"); err != nil {
		return "", err
	}
	return git("-C", r.work, "rev-parse", "HEAD")
}

// move sets main to a commit that the bare repository has, as git does: by renaming a lock file.
func (r *repo) move(hash string) error {
	ref := filepath.Join(r.bare, "refs", "heads", "main")
	if err := os.WriteFile(ref+".lock", []byte(hash+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(ref+".lock", ref)
}

func git(args ...string) (string, error) { return tool("git", args...) }

func tool(name string, args ...string) (string, error) {
	command := exec.Command(name, args...)
	command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=bench", "GIT_AUTHOR_EMAIL=bench@example.com", "GIT_COMMITTER_NAME=bench", "GIT_COMMITTER_EMAIL=bench@example.com")
	output, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args[:min(len(args), 4)], " "), err, output)
	}
	return strings.TrimSpace(string(output)), nil
}
