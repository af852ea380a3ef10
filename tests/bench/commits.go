package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// commitsBefore are the commits after which memory is read first: what a
// daemon needs to work at all is then in use.
const commitsBefore = 500

// commitsFollowed measures by how much the daemon's memory grows while it
// follows many commits, each of which changes one policy of 100.
func commitsFollowed(ctx context.Context, c config) (rows []row, err error) {
	const policies = 100
	r, d, end, err := serving(ctx, policies)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	hashes, err := r.history(policies, c.commits)
	if err != nil {
		return nil, err
	}
	var before float64
	for n, hash := range hashes {
		if err := r.move(hash); err != nil {
			return nil, err
		}
		err := until(ctx, time.Minute, "commit "+hash+" is served", func() bool {
			response, _, err := get(ctx, d.url+"/v1/policies?service=none&namespace=none", nil)
			return err == nil && response.Header.Get("X-Hfi-Commit") == hash
		})
		if err != nil {
			return nil, err
		}
		if n+1 == commitsBefore {
			if before, err = d.memory("VmRSS"); err != nil {
				return nil, err
			}
		}
	}
	after, err := d.memory("VmRSS")
	if err != nil {
		return nil, err
	}
	return []row{{
		fmt.Sprintf("the daemon's memory after %d commits, over that after %d, including the embedded etcd", c.commits, commitsBefore),
		fmt.Sprintf("%.0f MB (%.0f, %.0f)", after-before, after, before), "≤ 40 MB", after-before <= 40, true,
	}}, nil
}

// history adds commits to the bare repository that follow main, and returns
// them, oldest first. What is left is to move the ref.
func (r *repo) history(policies, commits int) ([]string, error) {
	var b strings.Builder
	b.WriteString("reset refs/heads/next\nfrom refs/heads/main\n\n")
	for n := range commits {
		i := n % policies
		content := fmt.Sprintf("metadata:\n  name: policy-%05d\nspec:\n  selector: {service: %s, namespace: demo}\n  rules:\n    - fault: {delay_ms: %d}\n", i, service(i), n%1000+101)
		fmt.Fprintf(&b, "commit refs/heads/next\ncommitter bench <bench@example.com> %d +0000\ndata 17\nChange one policy\nM 100644 inline policies/team-%03d/policy-%05d.yaml\ndata %d\n%s\n",
			time.Now().Unix(), i/100, i, len(content), content)
	}
	command := exec.Command("git", "-C", r.bare, "fast-import", "--quiet")
	command.Stdin = strings.NewReader(b.String())
	if output, err := command.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("git fast-import: %w: %s", err, output)
	}
	listed, err := git("-C", r.bare, "rev-list", "--reverse", "main..next")
	return strings.Fields(listed), err
}
