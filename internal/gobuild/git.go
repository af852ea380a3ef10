package gobuild

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Commit is the commit that a work tree has checked out, followed by "-dirty" if
// there are changes on top of it. It is empty for a folder that git knows nothing
// of, or without git.
func Commit(ctx context.Context, source string) (string, error) {
	commit, err := git(ctx, source, "rev-parse", "HEAD")
	if err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		return "", nil
	}
	changes, err := git(ctx, source, "status", "--porcelain")
	if err != nil {
		return "", fmt.Errorf("looking for changes on top of %s: %w", commit, err)
	}
	if changes != "" {
		commit += "-dirty"
	}
	return commit, nil
}

// EpochVariable is the environment variable that says when sources were last
// changed, in seconds since Unix time began: see reproducible-builds.org.
const EpochVariable = "SOURCE_DATE_EPOCH"

// Time is when the sources were last changed: what EpochVariable says or, if it
// is not set, when the commit that is checked out was made.
func Time(ctx context.Context, source string) (time.Time, error) {
	text, what := os.Getenv(EpochVariable), EpochVariable
	if text == "" {
		var err error
		if text, err = git(ctx, source, "log", "-1", "--format=%ct"); err != nil {
			return time.Time{}, fmt.Errorf("finding out when the sources were changed (without git, set %s): %w", EpochVariable, err)
		}
		what = "the commit's time"
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	// Before 1980 zip files have no times.
	if at := time.Unix(seconds, 0).UTC(); err == nil && at.Year() >= 1980 && at.Year() < 2100 {
		return at, nil
	}
	return time.Time{}, fmt.Errorf("%s must be seconds since 1970 and lie between 1980 and 2100, not %q", what, text)
}

// git runs git in a folder, and gives what it printed.
func git(ctx context.Context, source string, arguments ...string) (string, error) {
	command := exec.CommandContext(ctx, "git", arguments...)
	command.Dir = source
	var stderr strings.Builder
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", arguments[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(output)), nil
}
