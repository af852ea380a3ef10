// Command demo is what "make demo" runs: a policy repository, the daemon with
// its embedded etcd, and four Envoys with the filter, all on loopback. It pushes
// and reverts faults, and shows after each commit what requests get. Then it
// waits for Ctrl-C, or ends with -script. It fails if a result differs from what
// is expected, and leaves nothing behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/boifi/hfi/internal/api"
)

func main() {
	script := flag.Bool("script", false, "end after the last step, and do not stay up")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, *script); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, script bool) (err error) {
	folder, err := os.MkdirTemp("", "hfi-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	began := time.Now()
	fmt.Println("Starting hfid with its embedded etcd, and four Envoys with the filter …")
	s, err := open(ctx, folder)
	defer func() { s.close(err != nil && ctx.Err() == nil) }()
	if err != nil {
		return err
	}
	fmt.Printf("… up after %.1f s: %s\n", time.Since(began).Seconds(), s.url)
	if err := s.play(ctx); err != nil {
		return err
	}
	fmt.Printf("\nAll of it took %.0f s.\n", time.Since(began).Seconds())
	if script {
		fmt.Println("\nDone: everything was as promised.")
		return nil
	}
	s.printHints()
	<-ctx.Done()
	return nil
}

// play runs the demo's steps. Each returns an error if its result is not as expected.
func (s *demo) play(ctx context.Context) error {
	steps := []func(context.Context) error{s.noFaultsYet, s.delay, s.abort, s.invalid, s.revert, s.drift, s.agree}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *demo) noFaultsYet(ctx context.Context) error {
	title("0. Requests pass: there is no fault yet")
	return s.measure(ctx, func(frontend, catalog outcome) error {
		return expect(frontend.slow+frontend.aborted+catalog.slow+catalog.aborted == 0, "a request was faulted without a policy")
	})
}

func (s *demo) delay(ctx context.Context) error {
	title("1. git push: half of frontend's requests take 500 ms more")
	policy, err := os.ReadFile(filepath.Join(s.root, "policies", delayFile))
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n", indent(string(policy)))
	if err := s.push(ctx, s.frontends(), api.Synced, s.commit(delayFile, policy, "Delay half of frontend")); err != nil {
		return err
	}
	return s.measure(ctx, func(frontend, catalog outcome) error {
		// 120 requests at 50 %: results outside these bounds are rarer than one in a million.
		return expect(frontend.slow >= 33 && frontend.slow <= 87 && catalog.slow == 0,
			"%d of frontend's %d and %d of productcatalog's were delayed", frontend.slow, frontend.requests, catalog.slow)
	})
}

const (
	delayFile = "frontend-delay.yaml"
	abortFile = "productcatalog-abort.yaml"
)

const abortPolicy = `metadata:
  name: productcatalog-abort
spec:
  selector: {service: productcatalog, namespace: demo}
  rules:
    - fault:
        abort: {status: 503}
`

func (s *demo) abort(ctx context.Context) error {
	title("2. git push: productcatalog answers 503")
	fmt.Printf("\n%s\n", indent(abortPolicy))
	if err := s.push(ctx, s.catalogs(), api.Synced, s.commit(abortFile, []byte(abortPolicy), "Abort productcatalog")); err != nil {
		return err
	}
	return s.measure(ctx, func(frontend, catalog outcome) error {
		return expect(frontend.slow > 0 && frontend.aborted == 0 && catalog.aborted == catalog.requests,
			"%d of productcatalog's %d and %d of frontend's were aborted", catalog.aborted, catalog.requests, frontend.aborted)
	})
}

func (s *demo) invalid(ctx context.Context) error {
	title("3. An invalid commit changes nothing, and the status locates the mistake")
	bad := []byte("metadata:\n  name: frontend-delay\nspec:\n  rules:\n    - fault:\n        delay_ms: 500\n        percentage: 150\n")
	if err := s.push(ctx, nil, api.OutOfSync, s.commit(delayFile, bad, "Make a mistake")); err != nil {
		return err
	}
	seen, err := s.until(ctx, "the mistake", func(status status) bool { return len(status.Source.Errors) > 0 })
	if err != nil {
		return err
	}
	for _, problem := range seen.Source.Errors {
		fmt.Printf("  %s:%d:%d: %s: %s\n", problem.File, problem.Line, problem.Column, problem.Field, problem.Message)
	}
	return s.measure(ctx, func(frontend, catalog outcome) error {
		return expect(frontend.slow > 0 && catalog.aborted == catalog.requests, "the faults in force changed")
	})
}

func (s *demo) revert(ctx context.Context) error {
	title("4. git revert: all of it is taken back")
	revert := func(ctx context.Context) error {
		return s.git(ctx, "revert", "--no-edit", "HEAD", "HEAD~1", "HEAD~2")
	}
	if err := s.push(ctx, s.sidecars, api.Synced, revert); err != nil {
		return err
	}
	seen, err := s.until(ctx, "the restored state", func(status status) bool {
		return len(status.History) > 0 && status.History[0].Restores != ""
	})
	if err != nil {
		return err
	}
	fmt.Printf("  history: %.8s %q restores the state of %.8s\n", seen.History[0].Commit, seen.History[0].Subject, seen.History[0].Restores)
	return s.noFaults(ctx)
}

func (s *demo) noFaults(ctx context.Context) error {
	return s.measure(ctx, func(frontend, catalog outcome) error {
		return expect(frontend.slow+frontend.aborted+catalog.slow+catalog.aborted == 0, "a fault is still in force")
	})
}

func (s *demo) drift(ctx context.Context) error {
	title("5. A write to etcd behind its back is drift: shown, and not served")
	const stray = `{"metadata":{"name":"stray"},"spec":{"rules":[{"fault":{"abort":{"status":500}}}]}}`
	if err := s.etcdctl(ctx, "put", "/hfi/policies/stray", stray); err != nil {
		return err
	}
	seen, err := s.until(ctx, "drift", func(status status) bool { return status.Drift.Status == "Detected" })
	if err != nil {
		return err
	}
	fmt.Printf("\n  etcdctl put /hfi/policies/stray …\n  drift: %s, %s %s\n", seen.Drift.Status, seen.Drift.Items[0].Kind, seen.Drift.Items[0].Key)
	if err := s.noFaults(ctx); err != nil {
		return err
	}
	if err := s.etcdctl(ctx, "del", "/hfi/policies/stray"); err != nil {
		return err
	}
	_, err = s.until(ctx, "the end of the drift", func(status status) bool { return status.Drift.Status == "None" })
	return err
}

func (s *demo) agree(ctx context.Context) error {
	title("6. git, etcd and every sidecar agree")
	if err := s.command(ctx, s.work, s.program("hfi"), "--server", s.url, "wait", "--timeout", "60s", "HEAD").Run(); err != nil {
		return fmt.Errorf("hfi wait HEAD: %w", err)
	}
	fmt.Println()
	command := s.command(ctx, s.work, s.program("hfi"), "--server", s.url, "status")
	command.Stdout = os.Stdout
	return command.Run()
}

func expect(holds bool, format string, arguments ...any) error {
	if holds {
		return nil
	}
	return fmt.Errorf(format, arguments...)
}
