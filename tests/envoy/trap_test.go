package envoy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/child"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// trapReportLimit bounds the time until a trapped VM is reported: the VM that asks for all
// names it for up to 6 s more, a request waits for up to 20 s, and a grace period of 8 s follows.
const trapReportLimit = 45 * time.Second

// If one of a sidecar's VMs traps under load, the status names that pod as not
// enforcing within trapReportLimit, hfi wait fails with that reason, and hfi get
// filters shows it. The request that trapped fails; its worker then lets requests
// through without faults, and the other worker continues. A sidecar that is stopped
// or killed at the same time is not reported as silent.
func TestATrappedVMIsReported(t *testing.T) {
	testtool.SlowOnly(t)
	t.Parallel()
	w := newWorld(t)
	sidecarOf := func(pod, module string, concurrency int) envoytest.Config {
		return envoytest.Config{
			Node: envoytest.Workload("frontend", "demo", pod), Concurrency: concurrency, Clusters: w.clusters(),
			Listeners: []envoytest.Listener{{
				Filters: []envoytest.Filter{envoytest.Wasm{File: module, Configuration: settings()}.Filter()},
				Routes:  []envoytest.Route{{Prefix: "/direct", Status: 200}, {}},
			}},
		}
	}
	w.start(t, map[string]envoytest.Config{
		"trapped": sidecarOf("trapped", hfidtest.TrapModule(t), 2),
		"stopped": sidecarOf("stopped", hfidtest.Module(t), 1),
	})
	trapped := w.envoys["trapped"]
	killed := trapKillable(t, sidecarOf("killed", hfidtest.Module(t), 1))
	commit, _ := w.push(t, outageSettled(1)...)
	w.daemon.WaitStatus("three filters", func(s *api.Status) bool {
		return s.Filters.Connected == 3 && s.Filters.Current == 3 && s.Filters.Silent == 0
	})
	trapWant(t, w, 0, []string{"is served", "3 filters are current"}, "wait", commit)

	// Requests that a VM is handling when it traps fail with it, whatever the filter
	// does. For /direct Envoy responds itself after the filter, so the VM holds none of
	// these requests, and none of them may fail.
	kept, passing := trapLoad(t, trapped.URL()+"/kept", 418), trapLoad(t, trapped.URL()+"/direct", 200)
	time.Sleep(time.Second) // of load without a trap, for comparison
	if faulted := kept.end(t); faulted[200] != 0 || faulted[418] == 0 {
		t.Fatalf("before the trap, each request should be faulted: %v", faulted)
	}
	kept = trapLoad(t, trapped.URL()+"/kept", 418, 200)

	// One connection, and so one worker.
	c := client(t, false)
	if answer := get(t, c, trapped.URL()+"/kept"); answer.Status != 418 {
		t.Fatalf("before the trap: %d", answer.Status)
	}
	answer, err := c.Do(context.Background(), envoytest.Request{URL: trapped.URL() + "/ok", Header: http.Header{"X-Hfi-Trap": {"1"}}})
	at := time.Now()
	if err != nil || answer.Status != 503 {
		t.Fatalf("the request that traps: %+v, %v", answer, err)
	}
	if err := trapped.WaitLog("Function: proxy_on_request_headers failed", envoytest.WaitLimit); err != nil {
		t.Fatal(err)
	}
	if err := w.envoys["stopped"].Stop(); err != nil {
		t.Fatal(err)
	}
	killed()
	for range 20 {
		if answer := get(t, c, trapped.URL()+"/kept"); answer.Status != 200 || answer.Header.Get("X-Hfi-Fault") != "" {
			t.Fatalf("a worker without its VM must let requests through: %d %v", answer.Status, answer.Header)
		}
	}

	reported := trapAwaitSilent(t, w, at)
	if reported > trapReportLimit {
		t.Errorf("it took %s until the trapped VM was reported", reported)
	}
	t.Logf("the trapped VM was reported after %s", reported.Round(100*time.Millisecond))
	reason := `pod demo/trapped is not enforcing: 1 of 3 VMs stopped asking \d+ s ago`
	trapWant(t, w, 9, []string{"is served, but " + reason}, "wait", "HEAD", "--timeout", "60s")
	trapWant(t, w, 0, []string{`demo +frontend +trapped +Silent +2/3 .*not enforcing`}, "get", "filters")
	trapWant(t, w, 0, []string{"0 of 1 current, 1 silent: not enforcing"}, "status")

	// The next commit reaches the VMs that still run, and is not enforced either.
	w.repo.Commit("Change", map[string]string{"policies/version.yaml": outageSettled(2)[2]})
	w.repo.Push()
	trapWant(t, w, 9, []string{"is served, but " + reason}, "wait", "HEAD", "--timeout", "60s")

	after, passed := kept.end(t), passing.end(t)
	if after[200] == 0 || after[418] == 0 {
		t.Errorf("one worker should let requests through, and the other still fault them: %v", after)
	}
	t.Logf("under load: before and after the trap %v for no policy; after it %v for policy kept", passed, after)
}

// trapAwaitSilent polls the status until the trapped pod is silent and the others
// are gone, and returns how long the first took. The others must never be reported
// as silent.
func trapAwaitSilent(t *testing.T, w *world, since time.Time) time.Duration {
	t.Helper()
	var reported time.Duration
	testtool.Within(t, testtool.WaitLimit, "the trapped pod is silent and the others have gone", func() error {
		filters := w.daemon.Status().Filters
		for _, one := range filters.Items {
			switch {
			case one.Pod != "trapped" && one.State == api.FilterSilent:
				t.Fatalf("wrongly reported as silent: %+v", one)
			case one.Pod == "trapped" && one.State == api.FilterSilent && reported == 0:
				reported = time.Since(since)
				if one.VMs.Silent != 1 || one.VMs.Current != 2 || !strings.Contains(one.Message, "not enforcing") {
					t.Errorf("one of three VMs has trapped, but the status has %+v", one)
				}
			}
		}
		if reported == 0 || filters.Connected != 1 || filters.Silent != 1 || filters.Current != 0 {
			return fmt.Errorf("the filters are %+v", filters)
		}
		return nil
	})
	return reported
}

// trapKillable starts an Envoy that the test may kill.
func trapKillable(t *testing.T, config envoytest.Config) (kill func()) {
	t.Helper()
	e, err := envoytest.Start(config, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = child.KillGroup(e.PID())
		if err := e.WaitExit(envoytest.WaitLimit); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(kill)
	return kill
}

// trapRequests is a running load.
type trapRequests struct {
	cancel context.CancelFunc
	done   chan struct{}
	report *envoytest.Report
	err    error
}

// trapLoad sends requests over enough connections that each worker has some.
// Responses with other than the wanted statuses are errors.
func trapLoad(t *testing.T, url string, statuses ...int) *trapRequests {
	ctx, cancel := context.WithCancel(context.Background())
	l := &trapRequests{cancel: cancel, done: make(chan struct{})}
	load := envoytest.Load{
		Request: envoytest.Request{URL: url}, Connections: 40, Rate: 200, Duration: time.Hour,
		Check: func(status int, _ http.Header, _ []byte, _ time.Duration) error {
			for _, wanted := range statuses {
				if status == wanted {
					return nil
				}
			}
			return fmt.Errorf("status %d", status)
		},
	}
	go func() {
		defer close(l.done)
		l.report, l.err = load.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-l.done
	})
	return l
}

// end ends the load, and returns the number of responses by status.
func (l *trapRequests) end(t *testing.T) map[int]int {
	t.Helper()
	l.cancel()
	<-l.done
	if !errors.Is(l.err, context.Canceled) {
		t.Errorf("the load ended unexpectedly: %v", l.err)
	}
	if l.report.Errors > 0 {
		t.Errorf("%s", l.report)
	}
	return l.report.Statuses
}

// trapWant runs hfi in the work clone, and checks its exit code and that its output matches all patterns.
func trapWant(t *testing.T, w *world, code int, patterns []string, arguments ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*hfidtest.WaitLimit)
	defer cancel()
	command := exec.CommandContext(ctx, hfidtest.Client(t), arguments...)
	command.Dir = w.repo.Work()
	command.Env = append(gittest.Environment(), "HFI_SERVER="+w.daemon.URL(), "TMPDIR="+t.TempDir())
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Run(); command.ProcessState == nil {
		t.Fatalf("hfi %v: %v", arguments, err)
	}
	if got := command.ProcessState.ExitCode(); got != code {
		t.Errorf("hfi %v: exit code %d, want %d:\n%s", arguments, got, code, out.String())
	}
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).Match(out.Bytes()) {
			t.Errorf("hfi %v: nothing like %q in\n%s", arguments, pattern, out.String())
		}
	}
}
