package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// How often a push is retried after another push won the race, and the first and
// the longest pause between retries; each pause is a random part of that.
const (
	pushTries    = 10
	pushPause    = 100 * time.Millisecond
	maxPushPause = 3 * time.Second
)

// target is the branch that a change goes to.
type target struct {
	url, branch string
	// path is the policy folder, relative to the repository's root, clean; "." is the root.
	path string
}

// clone is a temporary clone of a target's branch, with depth one. Its work tree
// has the policy folder and the CUE module, byte for byte.
type clone struct {
	repo
	target target
	// base is the branch's commit that is checked out.
	base string
	// located are the files that may define a policy, by its name: see locate.
	located map[string][]string
}

// openClone makes a clone in a temporary folder. The caller removes it with Close.
func (a *app) openClone(ctx context.Context, to target) (*clone, error) {
	dir, err := os.MkdirTemp("", "hfi-")
	if err != nil {
		return nil, fmt.Errorf("creating a temporary folder for a clone: %w", err)
	}
	c := &clone{repo: repo{filepath.Join(dir, "clone")}, target: to}
	a.step("Cloning %s", withoutPassword(to.url))
	if err := c.open(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *clone) open(ctx context.Context) error {
	// Without --no-local, git ignores --depth for a folder.
	_, err := repo{filepath.Dir(c.dir)}.git(ctx, "clone", "--quiet", "--origin", "origin", "--no-local", "--depth", "1", "--no-tags", "--single-branch",
		"--no-checkout", "--branch", c.target.branch, "--", located(c.target.url), c.dir)
	if err != nil {
		return fmt.Errorf("cloning branch %s of %s: %w", c.target.branch, withoutPassword(c.target.url), err)
	}
	info := filepath.Join(c.dir, ".git", "info")
	if err := os.MkdirAll(info, 0o755); err != nil {
		return fmt.Errorf("setting up the temporary clone: %w", err)
	}
	// No attribute or filter may change a byte: what is validated is what is committed.
	files := map[string]string{"attributes": "* -text -eol -filter -ident -working-tree-encoding\n"}
	if c.target.path != "." {
		files["sparse-checkout"] = "/*\n!/*/\n/" + escapePattern(c.target.path) + "/\ncue.mod/\n*.cue\n"
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(info, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("setting up the temporary clone: %w", err)
		}
	}
	for _, setting := range [][2]string{{"core.autocrlf", "false"}, {"core.sparseCheckout", "true"}, {"core.sparseCheckoutCone", "false"}} {
		if setting[0] != "core.autocrlf" && c.target.path == "." {
			continue
		}
		if _, err := c.git(ctx, "config", setting[0], setting[1]); err != nil {
			return fmt.Errorf("setting up the temporary clone: %w", err)
		}
	}
	return c.moveTo(ctx, "HEAD")
}

// escapePattern escapes the special characters of git's patterns.
func escapePattern(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// moveTo resets the branch and the work tree to a commit.
func (c *clone) moveTo(ctx context.Context, commit string) error {
	if _, err := c.git(ctx, "reset", "--quiet", "--hard", commit); err != nil {
		return fmt.Errorf("checking out the policies: %w", err)
	}
	base, err := c.commitHash(ctx, "HEAD")
	c.base = base
	return err
}

// Close removes the clone. It retries: a background process of git may still write to the folder.
func (c *clone) Close() {
	for range 5 {
		if os.RemoveAll(filepath.Dir(c.dir)) == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// staged is the difference between the base and the index, as git diff shows it.
func (c *clone) staged(ctx context.Context, flags ...string) (string, error) {
	changed, err := c.git(ctx, append([]string{"diff", "--cached", "--no-color", "--no-ext-diff", "--no-textconv"}, flags...)...)
	if err != nil {
		return "", fmt.Errorf("comparing with the branch: %w", err)
	}
	return changed, nil
}

// commit commits the index and returns the hash, or an empty string if the index
// equals the base.
func (c *clone) commit(ctx context.Context, message string) (string, error) {
	changed, err := c.staged(ctx, "--name-only", "-z")
	if err != nil || changed == "" {
		return "", err
	}
	if _, err := c.gitInput(ctx, strings.NewReader(message), "commit", "--quiet", "--file", "-"); err != nil {
		return "", fmt.Errorf("committing: %w", err)
	}
	return c.commitHash(ctx, "HEAD")
}

// push pushes a commit. If another push won the race, it resets the clone to the
// branch's new commit and returns retry.
func (c *clone) push(ctx context.Context, commit string) (retry bool, err error) {
	branch := "refs/heads/" + c.target.branch
	_, failure := c.git(ctx, "push", "--quiet", "origin", commit+":"+branch)
	if failure == nil {
		return false, nil
	}
	// The branch's position tells why it failed: git's messages depend on version and language.
	if _, err := c.git(ctx, "fetch", "--quiet", "--depth", "1", "--no-tags", "origin", branch); err != nil {
		return false, fmt.Errorf("pushing to %s: %w", c.target.branch, failure)
	}
	now, err := c.commitHash(ctx, "FETCH_HEAD")
	switch {
	case err != nil:
		return false, fmt.Errorf("pushing to %s: %w", c.target.branch, err)
	case now == commit:
		return false, nil
	case now == c.base:
		return false, fmt.Errorf("pushing to %s: %w", c.target.branch, failure)
	}
	return true, c.moveTo(ctx, now)
}

// publish applies an edit to the branch's newest commit and pushes it, and retries
// while other pushes win the race. The commit is empty if edit changed nothing.
func (a *app) publish(ctx context.Context, c *clone, message string, edit func(context.Context) error) (commit string, err error) {
	wait := pushPause
	for range pushTries {
		if err := edit(ctx); err != nil {
			return "", err
		}
		commit, err := c.commit(ctx, message)
		if err != nil || commit == "" {
			return "", err
		}
		a.step("Pushing to %s", c.target.branch)
		retry, err := c.push(ctx, commit)
		if err != nil {
			return "", err
		}
		if !retry {
			return commit, nil
		}
		if !pause(ctx, rand.N(wait)) {
			return "", ctx.Err()
		}
		wait = min(2*wait, maxPushPause)
	}
	return "", fmt.Errorf("another push to %s came first, %d times in a row: try again", c.target.branch, pushTries)
}

// contains is repo.contains; it first fetches the commits that the clone lacks.
// That the clone is shallow does not matter: its history begins before the commit.
func (c *clone) contains(ctx context.Context, tip, commit string) (yes, known bool) {
	if _, err := c.commitHash(ctx, tip); err != nil {
		// If the fetch fails the commit stays unknown, and so it is reported.
		_, _ = c.git(ctx, "fetch", "--quiet", "--no-tags", "origin", "refs/heads/"+c.target.branch)
		if _, err := c.commitHash(ctx, tip); err != nil {
			return false, false
		}
	}
	return c.reaches(ctx, tip, commit)
}

// write writes a file to the work tree and the index. It follows no symbolic link
// out of the clone.
func (c *clone) write(ctx context.Context, file string, text []byte) error {
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return fmt.Errorf("opening the temporary clone: %w", err)
	}
	defer root.Close()
	if err := root.MkdirAll(path.Dir(file), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := root.WriteFile(file, text, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	// --force: commit the file even if .gitignore matches it.
	if _, err := c.git(ctx, "--literal-pathspecs", "add", "--force", "--", file); err != nil {
		return fmt.Errorf("adding %s: %w", file, err)
	}
	return nil
}

// remove removes a file from the work tree and the index.
func (c *clone) remove(ctx context.Context, file string) error {
	if _, err := c.git(ctx, "--literal-pathspecs", "rm", "--quiet", "--force", "--", file); err != nil {
		return fmt.Errorf("removing %s: %w", file, err)
	}
	return nil
}

// keepFolder adds a placeholder file if the policy folder is empty: git stores no
// empty folders, and the daemon reports a missing folder as an error.
func (c *clone) keepFolder(ctx context.Context) error {
	if c.hasFolder() {
		return nil
	}
	return c.write(ctx, path.Join(c.target.path, ".gitkeep"), nil)
}

// hasFolder reports whether the policy folder exists.
func (c *clone) hasFolder() bool {
	_, err := os.Stat(filepath.Join(c.dir, filepath.FromSlash(c.target.path)))
	return err == nil
}

// read reads a file of the work tree.
func (c *clone) read(file string) ([]byte, error) {
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return nil, fmt.Errorf("opening the temporary clone: %w", err)
	}
	defer root.Close()
	return root.ReadFile(file)
}
