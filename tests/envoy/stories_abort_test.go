package envoy

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// faulting returns a policy for any workload that faults each request for /NAME.
func faulting(name, fault string) string {
	return `
metadata: {name: ` + name + `}
spec:
  rules: [{match: {path: {exact: /` + name + `}}, fault: ` + fault + `}]`
}

// An abort responds instead of the upstream, with the policy's status, body and
//
// headers. An abort after a delay comes when the delay is over.
func TestAnAbortAnswersInTheUpstreamsPlace(t *testing.T) {
	w := mesh(t)
	w.push(t,
		faulting("full", `{abort: {status: 429, body: "not now", headers: {retry-after: "7", Content-Type: text/x-test}}}`),
		faulting("bare", `{abort: {status: 204}}`),
		faulting("delayed", `{delay_ms: 300, abort: {status: 504, body: late, headers: {x-one: "1", content-length: "99"}}}`))
	url := w.envoys["frontend-2"].URL()
	w.upstream.Reset()
	for _, http2 := range []bool{false, true} {
		c := client(t, http2)
		full := get(t, c, url+"/full")
		if full.Status != 429 || full.Body != "not now" || full.Header.Get("Retry-After") != "7" || full.Header.Get("Content-Type") != "text/x-test" {
			t.Errorf("full: %d %q %v", full.Status, full.Body, full.Header)
		}
		if bare := get(t, c, url+"/bare"); bare.Status != 204 || bare.Body != "" || bare.Header.Get("X-Hfi-Fault") != "bare" {
			t.Errorf("bare: %d %q %v", bare.Status, bare.Body, bare.Header)
		}
		delayed := get(t, c, url+"/delayed")
		if delayed.Status != 504 || delayed.Body != "late" || delayed.Header.Get("X-One") != "1" || delayed.Elapsed < 300*time.Millisecond {
			t.Errorf("delayed: %d %q %v after %s", delayed.Status, delayed.Body, delayed.Header, delayed.Elapsed)
		}
	}
	if seen := w.upstream.Count(); seen != 0 {
		t.Errorf("the upstream saw %d of the aborted requests", seen)
	}
}

// A gRPC request that is aborted gets HTTP 200 and the gRPC status, a plain request
//
// the HTTP status that corresponds to it.
func TestAnAbortByGRPCStatus(t *testing.T) {
	w := mesh(t)
	statuses := map[int]int{1: 499, 4: 504, 5: 404, 7: 403, 8: 429, 14: 503, 16: 401}
	var policies []string
	for status := range statuses {
		policies = append(policies, faulting(fmt.Sprintf("grpc-%d", status), fmt.Sprintf(`{abort: {grpc_status: %d, body: on purpose}}`, status)))
	}
	w.push(t, append(policies,
		faulting("later", `{delay_ms: 200, abort: {grpc_status: 14}}`),
		faulting("by-http", `{abort: {status: 503}}`))...)
	grpc, plain, url := client(t, true), client(t, false), w.envoys["frontend-1"].URL()
	call := func(path string) (answer *envoytest.Response, status, message string) {
		t.Helper()
		answer, err := grpc.GRPC(context.Background(), url+path, "message", nil)
		if err != nil {
			t.Fatal(err)
		}
		status, message = answer.GRPCStatus()
		return answer, status, message
	}
	for status, mapped := range statuses {
		path := fmt.Sprintf("/grpc-%d", status)
		if answer, got, message := call(path); answer.Status != 200 || got != fmt.Sprint(status) || message != "on purpose" {
			t.Errorf("gRPC status %d: a call gets %d with gRPC status %q %q", status, answer.Status, got, message)
		}
		if answer := get(t, plain, url+path); answer.Status != mapped || answer.Body != "on purpose" {
			t.Errorf("gRPC status %d: a plain request gets %d %q, not %d", status, answer.Status, answer.Body, mapped)
		}
	}
	if answer, got, _ := call("/later"); answer.Status != 200 || got != "14" || answer.Elapsed < 200*time.Millisecond {
		t.Errorf("after a delay: %d with gRPC status %q after %s", answer.Status, got, answer.Elapsed)
	}
	// 503 is UNAVAILABLE in gRPC's table.
	if answer, got, _ := call("/by-http"); answer.Status != 200 || got != "14" {
		t.Errorf("an abort with 503: a call gets %d with gRPC status %q", answer.Status, got)
	}
	if answer, got, _ := call("/untouched"); answer.Status != 200 || got == "14" || answer.Body != "\x00\x00\x00\x00\x07message" {
		t.Errorf("without a fault: %d with gRPC status %q, %q", answer.Status, got, answer.Body)
	}
}

// If several policies apply, the longest delay and the first abort in the order of
// the policies' names are injected.
func TestPoliciesCompose(t *testing.T) {
	w := mesh(t)
	on := func(name, path, fault string) string {
		return `
metadata: {name: ` + name + `}
spec:
  rules: [{match: {path: {prefix: ` + path + `}}, fault: ` + fault + `}]`
	}
	w.push(t,
		on("a-short", "/compose", `{delay_ms: 100}`),
		on("b-long", "/compose", `{delay_ms: 600}`),
		on("c-middle", "/compose/abort", `{delay_ms: 300, abort: {status: 418}}`),
		on("d-second", "/compose/abort", `{abort: {status: 500}}`),
		on("e-never", "/compose", `{percentage: 0, delay_ms: 60000, abort: {status: 501}}`))
	c, url := client(t, false), w.envoys["frontend-1"].URL()
	if answer := get(t, c, url+"/compose"); answer.Status != 200 || answer.Elapsed < 600*time.Millisecond || answer.Elapsed > 30*time.Second {
		t.Errorf("two delays: status %d after %s", answer.Status, answer.Elapsed)
	}
	answer := get(t, c, url+"/compose/abort")
	if answer.Status != 418 || answer.Header.Get("X-Hfi-Fault") != "c-middle" || answer.Elapsed < 600*time.Millisecond || answer.Elapsed > 30*time.Second {
		t.Errorf("three delays and two aborts: status %d by %q after %s", answer.Status, answer.Header.Get("X-Hfi-Fault"), answer.Elapsed)
	}
}

// After expires_at the filter stops the fault by itself, without a push or an update.
func TestAPolicyExpiresByItself(t *testing.T) {
	w := mesh(t)
	e := w.envoys["frontend-1"]
	for lifetime := 3 * time.Second; ; lifetime *= 4 {
		expires := time.Now().Add(lifetime)
		w.push(t, `
metadata: {name: brief}
spec:
  expires_at: `+expires.UTC().Format("2006-01-02T15:04:05.000Z")+`
  rules: [{fault: {abort: {status: 418}}}]`)
		before, updates := getOnce(t, e.URL()).Status, len(e.updates("hfi"))
		if !time.Now().Before(expires) && lifetime < time.Minute {
			continue // The machine was too slow to see the policy in force.
		}
		if before != 418 {
			t.Fatalf("before it expires: status %d", before)
		}
		c := client(t, false)
		testtool.Within(t, time.Until(expires)+testtool.WaitLimit/2, "the policy to expire", func() error {
			if status := get(t, c, e.URL()).Status; status == 418 {
				return errors.New("it is still in force")
			}
			return nil
		})
		if time.Now().Before(expires) {
			t.Error("it expired too early")
		}
		if more := len(e.updates("hfi")) - updates; more != 0 {
			t.Errorf("the filter got %d updates", more)
		}
		return
	}
}

// A dry run is counted and not injected. It does not affect other policies.
func TestADryRunIsCountedAndNotDone(t *testing.T) {
	w := mesh(t)
	w.push(t, `
metadata: {name: a-dry}
spec:
  dry_run: true
  rules: [{match: {path: {prefix: /dry}}, fault: {delay_ms: 3600000, abort: {status: 503}}}]`,
		faulting("dry-and-real", `{abort: {status: 418}}`))
	e := w.envoys["frontend-1"]
	before := w.counted(t, "frontend-1")
	c := client(t, false)
	for range 25 {
		if answer := get(t, c, e.URL()+"/dry"); answer.Status != 200 {
			t.Fatalf("a dry run changes the status to %d", answer.Status)
		}
	}
	if answer := get(t, c, e.URL()+"/dry-and-real"); answer.Status != 418 {
		t.Errorf("with a dry run and another policy: status %d", answer.Status)
	}
	after := w.counted(t, "frontend-1")
	for name, want := range map[string]float64{
		"hfi_faults_dry_run_aborts_total": 26, "hfi_faults_dry_run_delays_total": 26,
		"hfi_faults_aborts_total": 1, "hfi_faults_delays_total": 0,
	} {
		if got := after.Value(name) - before.Value(name); got != want || !after.Has(name) {
			t.Errorf("%s grew by %v, not %v (it is there: %t)", name, got, want, after.Has(name))
		}
	}
}
