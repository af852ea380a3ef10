package main

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/internal/api/client"
)

// changeFlags are the flags that apply and delete share.
type changeFlags struct {
	repo, branch, path string
	message            string
	noWait             bool
	allowPrune         bool
	dryRun             bool
}

func (f *changeFlags) register(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&f.repo, "repo", envOr("HFI_REPO", ""), "`URL` or folder of the repository to push to, or HFI_REPO (default: the daemon's)")
	flags.StringVar(&f.branch, "branch", "", "`branch` to push to (default: the daemon's)")
	flags.StringVar(&f.path, "path", "", "`folder` of the policies in the repository (default: the daemon's)")
	flags.StringVarP(&f.message, "message", "m", "", "commit `message` (default: names the policies)")
	flags.BoolVar(&f.noWait, "no-wait", false, "return after the push, without waiting until the daemon serves the commit")
	flags.BoolVar(&f.dryRun, "dry-run", false, "validate, and show what would be committed; push nothing")
	flags.BoolVar(&f.allowPrune, "allow-prune", false, "allow the commit to remove most policies (trailer hfi-allow-prune)")
}

// target is the repository, branch and folder to change: from the flags, else from
// the daemon's status. If the command will wait for the daemon, the daemon must
// answer before anything is pushed.
func (f *changeFlags) target(ctx context.Context, daemon *client.Client) (target, error) {
	to := target{f.repo, f.branch, f.path}
	wait := !f.noWait && !f.dryRun
	if wait || to.url == "" || to.branch == "" || to.path == "" {
		status, _, err := daemon.Status(ctx)
		if err != nil && (wait || to.url == "") {
			what := "asking the daemon which repository it follows"
			if to.url != "" {
				what = "asking the daemon to wait for (use --no-wait to push without it)"
			}
			return to, fmt.Errorf("%s: %w", what, err)
		}
		if err == nil {
			source := status.Source
			to = target{or(to.url, source.URL), or(to.branch, source.Branch), or(to.path, source.Path)}
		}
	}
	to.branch = strings.TrimPrefix(or(to.branch, "main"), "refs/heads/")
	to.path = path.Clean(strings.Trim(or(to.path, defaultPath), "/"))
	switch {
	case to.url == "":
		return to, usageError("the daemon does not say which repository it follows: set --repo or HFI_REPO")
	case strings.HasPrefix(to.url, "-"), strings.HasPrefix(to.branch, "-"):
		return to, usageError("--repo and --branch must not begin with a dash")
	case strings.HasPrefix(to.branch, "refs/"):
		return to, usageError("policies can be pushed to a branch only, not to %s: set --branch", to.branch)
	case to.path == ".." || strings.HasPrefix(to.path, "../") || slices.Contains(strings.Split(to.path, "/"), ".git"):
		return to, usageError("--path must be a folder in the repository, not %q", to.path)
	}
	return to, nil
}

func or(value, otherwise string) string {
	if value != "" {
		return value
	}
	return otherwise
}

// maxListed bounds the names in a line.
const maxListed = 10

// list joins names, and counts those that are too many for a line.
func list(names []string) string {
	if len(names) <= maxListed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), len(names)-maxListed)
}

// commitMessage is the message given, or one that names the action and the policies.
func (f *changeFlags) commitMessage(verb string, names []string) string {
	message := f.message
	if message == "" {
		message = fmt.Sprintf("%s policy %s", verb, names[0])
		if len(names) > 1 {
			message = fmt.Sprintf("%s %d policies\n\n%s", verb, len(names), strings.Join(names, "\n"))
		}
	}
	message = strings.TrimSpace(message) + "\n"
	if f.allowPrune {
		message += "\nhfi-allow-prune: true\n"
	}
	return message
}

// changeAnswer is the JSON output of apply and delete.
type changeAnswer struct {
	// Changed is false if the branch had the policies already; Commit is then the branch's head.
	Changed  bool     `json:"changed"`
	Commit   string   `json:"commit"`
	Branch   string   `json:"branch"`
	Policies []string `json:"policies"`
	// Served reports that the command waited and the daemon serves the commit.
	Served bool `json:"served"`
	// DryRun: nothing was pushed, and Commit is the branch's head. Diff is what would be committed.
	DryRun bool   `json:"dry_run,omitempty"`
	Diff   string `json:"diff,omitempty"`
}

// change pushes an edit of the named policies and waits until it is served.
func (a *app) change(ctx context.Context, f *changeFlags, verb string, names []string,
	edit func(context.Context, *clone) error,
) error {
	daemon, err := a.client()
	if err != nil {
		return err
	}
	to, err := f.target(ctx, daemon)
	if err != nil {
		return err
	}
	c, err := a.openClone(ctx, to)
	if err != nil {
		return err
	}
	defer c.Close()
	if f.dryRun {
		return a.preview(ctx, c, names, edit)
	}
	commit, err := a.publish(ctx, c, f.commitMessage(verb, names), func(ctx context.Context) error { return edit(ctx, c) })
	if err != nil {
		return err
	}
	answer := changeAnswer{Changed: commit != "", Commit: or(commit, c.base), Branch: to.branch, Policies: names}
	if !answer.Changed {
		a.say("No change: branch %s already has this, at %s.", to.branch, short(c.base))
		return a.printChange(answer)
	}
	a.say("Pushed %s to %s: %s.", short(commit), to.branch, strings.ToLower(verb)+" "+list(names))
	if !f.noWait {
		w := &waiter{app: a, daemon: daemon, commit: commit, contains: c.contains, pushedTo: to.branch}
		status, _, failure := w.wait(ctx)
		if failure != nil {
			if err := a.printChange(answer); err != nil {
				return err
			}
			return failure
		}
		answer.Served = true
		if a.output.forPeople() {
			return a.printServed(commit, status)
		}
	}
	return a.printChange(answer)
}

// printChange prints the answer in a format for programs.
func (a *app) printChange(answer changeAnswer) error {
	if done, err := a.names(answer.Policies); done {
		return err
	}
	_, err := a.value(answer)
	return err
}

// preview shows what an edit would commit.
func (a *app) preview(ctx context.Context, c *clone, names []string, edit func(context.Context, *clone) error) error {
	if err := edit(ctx, c); err != nil {
		return err
	}
	patch, err := c.staged(ctx, "--patch")
	if err != nil {
		return err
	}
	answer := changeAnswer{Changed: patch != "", Commit: c.base, Branch: c.target.branch, Policies: names, DryRun: true, Diff: patch}
	if !a.output.forPeople() {
		return a.printChange(answer)
	}
	if !answer.Changed {
		a.say("No change: branch %s already has this, at %s.", c.target.branch, short(c.base))
		return nil
	}
	for line := range strings.Lines(patch) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "+"):
			a.line(green, "%s", line)
		case strings.HasPrefix(line, "-"):
			a.line(red, "%s", line)
		default:
			fmt.Fprintln(a.stdout, clean(line))
		}
	}
	a.say("Dry run: nothing was pushed to %s.", c.target.branch)
	return nil
}

// say prints a line, unless the output format is for programs.
func (a *app) say(pattern string, args ...any) {
	if a.output.forPeople() {
		fmt.Fprintln(a.stdout, clean(fmt.Sprintf(pattern, args...)))
	}
}
