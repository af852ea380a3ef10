package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/envoytest"
	"golang.org/x/sync/errgroup"
)

// sample is the number of requests to each sidecar in a measurement.
const sample = 40

// slow is the time from which a request counts as delayed. The demo's delay is 500 ms.
const slow = 500 * time.Millisecond

// outcome counts the results of requests to a service.
type outcome struct{ requests, slow, aborted int }

// push commits and pushes a change. It prints the time until the sidecars that
// it concerns enforce it, and then the status, of which sync.status must be sync.
func (s *demo) push(ctx context.Context, concerned []*sidecar, sync api.SyncState, change func(context.Context) error) error {
	before := map[*sidecar]int{}
	for _, sidecar := range concerned {
		before[sidecar] = sidecar.updates()
	}
	if err := change(ctx); err != nil {
		return err
	}
	if err := s.git(ctx, "push", "-q"); err != nil {
		return err
	}
	pushed := time.Now()
	for _, sidecar := range concerned {
		// Each Envoy runs the filter in two VMs: a worker's and the main thread's.
		for sidecar.updates() < before[sidecar]+2 {
			if time.Since(pushed) > waitLimit {
				return fmt.Errorf("%s did not apply the change within %s; its log ends with\n%s", sidecar.pod, waitLimit, sidecar.envoy.LogTail(20))
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
	if len(concerned) > 0 {
		fmt.Printf("  in force in %s %d ms after git push returned\n", names(concerned), time.Since(pushed).Milliseconds())
	}
	return s.printStatus(ctx, sync)
}

// printStatus prints the state of git, etcd and the sidecars once the daemon has
// validated the pushed commit.
func (s *demo) printStatus(ctx context.Context, sync api.SyncState) error {
	head, err := s.command(ctx, s.work, "git", "rev-parse", "HEAD").Output()
	if err != nil {
		return fmt.Errorf("git rev-parse HEAD: %w", err)
	}
	commit := strings.TrimSpace(string(head))
	seen, err := s.until(ctx, fmt.Sprintf("%s, with %.8s validated and all filters current", sync, commit), func(status status) bool {
		tried := status.Source.LastAttemptedRevision
		return tried != nil && tried.Commit == commit && status.Sync.Status == sync && status.Filters.Current == len(s.sidecars)
	})
	if err != nil {
		return err
	}
	fmt.Printf("  status: %s; git is at %.8s, etcd has %.8s, drift: %s; %d of %d sidecars enforce it\n",
		seen.Sync.Status, commit, seen.Sync.LastAppliedRevision.Commit, seen.Drift.Status, seen.Filters.Current, seen.Filters.Connected)
	return nil
}

func names(sidecars []*sidecar) string {
	var pods []string
	for _, sidecar := range sidecars {
		pods = append(pods, sidecar.pod)
	}
	return strings.Join(pods, ", ")
}

// updates counts the log lines of the sidecar's filter about new policies.
func (c *sidecar) updates() int {
	return strings.Count(c.envoy.Log(), "Received config update from control plane")
}

// measure sends requests to all sidecars concurrently, prints the results, and checks them.
func (s *demo) measure(ctx context.Context, check func(frontend, catalog outcome) error) error {
	reports := make([]*envoytest.Report, len(s.sidecars))
	var group errgroup.Group
	for i, sidecar := range s.sidecars {
		group.Go(func() (err error) {
			load := envoytest.Load{Request: envoytest.Request{URL: sidecar.envoy.URL() + "/ok"}, Requests: sample, Connections: sample / 2}
			reports[i], err = load.Run(ctx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("sending requests: %w", err)
	}
	outcomes := map[string]*outcome{"frontend": {}, "productcatalog": {}}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\nsidecar\trequests\t200\t503\t500 ms or more\tmedian\t")
	for i, sidecar := range s.sidecars {
		report := reports[i]
		if report.Errors > 0 {
			return fmt.Errorf("requests to %s failed: %s", sidecar.pod, report)
		}
		sum := outcomes[sidecar.service]
		sum.requests += sample
		sum.slow += report.Slower(slow)
		sum.aborted += report.Statuses[503]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%.1f ms\t\n", sidecar.pod, sample, report.Statuses[200], report.Statuses[503],
			report.Slower(slow), float64(report.Quantile(0.5).Microseconds())/1000)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return check(*outcomes["frontend"], *outcomes["productcatalog"])
}

// printHints prints commands to try.
func (s *demo) printHints() {
	title("It is all yours. In another terminal:")
	fmt.Printf(`
  cd %[1]s
  curl -s '%[2]s/v1/policies?service=frontend&namespace=demo'
  cp %[3]s/policies/frontend-delay.yaml policies/ && git add -A && git commit -qm "Delay" && git push -q
  curl -so /dev/null -w '%%{time_total}\n' %[4]s/     # half of them take 0.5 s
  git revert --no-edit HEAD && git push -q             # and now none of them does
  curl -s %[2]s/v1/status                              # git, etcd and every sidecar
  %[3]s/.tools/bin/etcdctl --endpoints %[5]s put /hfi/policies/stray '{}'
  curl -s %[2]s/v1/drift                               # seen, and not served
  %[3]s/bin/hfi --server %[2]s status

`, s.work, s.url, s.root, s.sidecars[0].envoy.URL(), s.etcd)
	for _, sidecar := range s.sidecars {
		fmt.Printf("  %-17s %s   its Envoy: %s\n", sidecar.pod, sidecar.envoy.URL(), sidecar.envoy.AdminURL())
	}
	fmt.Println("\nCtrl-C ends the demo and removes all of it.")
}

// title prints the title of a step, in bold on a terminal.
func title(text string) {
	bold, plain := "", ""
	if info, err := os.Stdout.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		bold, plain = "\033[1m", "\033[0m"
	}
	fmt.Printf("\n%s%s%s\n", bold, text, plain)
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ")
}
