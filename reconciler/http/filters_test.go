package http

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/schema"
)

// vmHeaders identify a VM of a pod.
func vmHeaders(pod, vm string) []string {
	return []string{"X-Hfi-Node", "sidecar~" + pod, "X-Hfi-Pod", pod, "X-Hfi-Vm", vm}
}

// fakeVM sends requests as a filter's VM does, the next one right after each answer.
type fakeVM struct {
	stop context.CancelFunc
	done chan struct{}
}

// runVM starts a VM of service frontend in namespace demo. It sends its
// requests to the daemons in turn.
func runVM(t testing.TB, pod, vm, wait string, to ...*daemon) *fakeVM {
	ctx, cancel := context.WithCancel(context.Background())
	v := &fakeVM{stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(v.done)
		headers, more := vmHeaders(pod, vm), []string{}
		for i := 0; ctx.Err() == nil; i++ {
			got, err := to[i%len(to)].tryAsk(ctx, "GET /v1/policies?service=frontend&namespace=demo&wait="+wait, append(more, headers...)...)
			switch {
			case ctx.Err() != nil:
			case err != nil || got.code != 200 && got.code != 304:
				time.Sleep(10 * time.Millisecond) // it backs off, as a filter does
			default:
				more = []string{"If-None-Match", got.header.Get("ETag"), "X-Hfi-Revision", got.header.Get("X-Hfi-Revision")}
			}
		}
	}()
	t.Cleanup(v.leave)
	return v
}

// leave closes the VM's request, as a stopping Envoy does.
func (v *fakeVM) leave() {
	v.stop()
	<-v.done
}

// applies lets a VM of service frontend in namespace demo apply its policies,
// and ask no more.
func (d *daemon) applies(pod, vm string) {
	d.t.Helper()
	mine := d.onItsOwn()
	tag := mine.ask(frontendAsks, vmHeaders(pod, vm)...).expect(d.t, 200).header.Get("ETag")
	mine.ask(frontendAsks+"&wait=1ms", append(vmHeaders(pod, vm), "If-None-Match", tag)...).expect(d.t, 304)
}

func (d *daemon) filterStatus() api.FiltersStatus {
	d.t.Helper()
	var status struct{ Filters api.FiltersStatus }
	text := d.ask("GET /v1/status").expect(d.t, 200).body
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		d.t.Fatal(err)
	}
	return status.Filters
}

// awaitFilters waits until the filters are so many current, behind and silent.
func (d *daemon) awaitFilters(current, behind, silent int) api.FiltersStatus {
	d.t.Helper()
	var last api.FiltersStatus
	defer func() {
		if d.t.Failed() {
			d.t.Logf("the filters are %+v", last)
		}
	}()
	eventually(d.t, fmt.Sprintf("%d filters are current, %d behind, %d silent", current, behind, silent), func() bool {
		last = d.filterStatus()
		return last.Current == current && last.Behind == behind && last.Silent == silent
	})
	if last.Connected != current+behind+silent {
		d.t.Errorf("%d are connected", last.Connected)
	}
	return last
}

// A VM says which Envoy it runs in, and why it cannot enforce policies.
func TestAFilterSaysWhyItIsUnable(t *testing.T) {
	d := start(t, func(*Server) {})
	d.serve(stateOf(1, exampleSet()))
	mine := d.onItsOwn()
	said := append(vmHeaders("frontend-a", "1"), "X-Hfi-Envoy", "1.31", "X-Hfi-Error", `Envoy 1.31 is "too old"`)
	tag := mine.ask(frontendAsks, said...).expect(t, 200).header.Get("ETag")
	mine.ask(frontendAsks+"&wait=1ms", append(said, "If-None-Match", tag)...).expect(t, 304)
	status := d.filterStatus()
	if status.Unable != 1 || status.Connected != 1 || status.Items[0].State != api.FilterUnable || status.Items[0].Envoy != "1.31" ||
		status.Items[0].Message != `its only VM cannot inject faults: Envoy 1.31 is "too old"` {
		t.Errorf("the filters are %+v", status)
	}
	for name, value := range map[string]string{"X-Hfi-Envoy": strings.Repeat("1", 254), "X-Hfi-Error": "caf\xe9"} {
		d.ask(frontendAsks, append(vmHeaders("frontend-a", "1"), name, value)...).expect(t, 400)
	}
}

// A VM says which requests its filters see.
func TestAFilterSaysItsDirections(t *testing.T) {
	d := start(t, func(*Server) {})
	d.serve(stateOf(1, exampleSet()))
	for _, test := range []struct {
		header string
		want   []string
	}{{"outbound", []string{"outbound"}}, {"inbound,outbound", []string{"inbound", "outbound"}}, {"", []string{"inbound"}}} {
		mine := d.onItsOwn()
		said := vmHeaders("frontend-a", "1")
		if test.header != "" {
			said = append(said, "X-Hfi-Directions", test.header)
		}
		tag := mine.ask(frontendAsks, said...).expect(t, 200).header.Get("ETag")
		mine.ask(frontendAsks+"&wait=1ms", append(said, "If-None-Match", tag)...).expect(t, 304)
		if items := d.filterStatus().Items; len(items) != 1 || !slices.Equal(items[0].Directions, test.want) {
			t.Errorf("with %q the filters are %+v, want %v", test.header, items, test.want)
		}
	}
}

// The VMs with one FilterID are one filter. It is behind until each of them
// enforces the current policies, and then current.
func TestFiltersInStatus(t *testing.T) {
	d := start(t, func(s *Server) { s.fleet.ID = "one" })
	d.serve(stateOf(1, exampleSet()))
	if got := d.filterStatus(); got.Connected != 0 || !got.Complete || len(got.Replicas) != 1 || got.Replicas[0].ID != "one" {
		t.Errorf("without requests the filters are %+v", got)
	}
	began := time.Now()
	for _, vm := range []string{"a1", "a2", "a3"} {
		runVM(t, "frontend-a", vm, "20s", d)
	}
	runVM(t, "frontend-b", "b1", "20s", d)
	eventually(t, "all VMs are known", func() bool {
		status := d.awaitFilters(2, 0, 0)
		return status.Items[0].VMs == api.VMCounts{Total: 3, Current: 3}
	})
	check := func(state *reconciler.State) {
		t.Helper()
		status := d.awaitFilters(2, 0, 0)
		digest := strings.Trim(d.ask("GET /v1/policies?service=frontend&namespace=demo").header.Get("ETag"), `"`)
		for i, pod := range []string{"frontend-a", "frontend-b"} {
			item := status.Items[i]
			if item.Pod != pod || item.Node != "sidecar~"+pod || item.Service != "frontend" || item.Namespace != "demo" ||
				item.Digest != digest || item.Since.Before(began.Add(-time.Second)) || item.Since.After(time.Now()) || strings.Join(item.Replicas, " ") != "one" {
				t.Errorf("at %s: %+v", state.Revision, item)
			}
		}
	}
	check(stateOf(1, exampleSet()))
	// A VM that enforces other policies is behind.
	stuck := d.begin("GET /v1/policies?service=other&namespace=demo&wait=20s", append(vmHeaders("other", "x"), "If-None-Match", `"v1:strange"`)...)
	d.await(stuck)
	status := d.awaitFilters(2, 1, 0)
	if item := status.Items[0]; item.Pod != "other" || item.Digest != "v1:strange" || item.State != api.FilterBehind || item.Message == "" {
		t.Errorf("first is %+v", item)
	}
	for number := int64(2); number < 5; number++ {
		state := stateOf(number, exampleSet().With([]*schema.Entry{entry("front-demo", "frontend", "demo", 100+number)}, nil))
		d.serve(state)
		eventually(t, "two filters are current", func() bool { return d.filterStatus().Current >= 2 })
	}
	// The same list has its own route, and parameters are checked.
	var alone api.FiltersStatus
	if err := json.Unmarshal([]byte(d.ask("GET /v1/filters").expect(t, 200).body), &alone); err != nil || alone.Connected != 3 {
		t.Errorf("GET /v1/filters: %v, %+v", err, alone)
	}
	d.ask("GET /v1/filters?local=yes").expectError(t, 400, "bad_request")
	d.ask("GET /v1/filters?pod=x").expectError(t, 400, "bad_request")
}

// A VM that stops asking is silent; one that closes its request is forgotten.
func TestSilentAndGoneFilters(t *testing.T) {
	d := start(t, func(s *Server) {
		s.fleet.ID = "one"
		s.fleet.Grace = 300 * time.Millisecond
	})
	d.serve(stateOf(1, exampleSet()))
	leaving := runVM(t, "frontend-leaves", "1", "20s", d)
	runVM(t, "frontend-stays", "1", "20s", d)
	d.awaitFilters(2, 0, 0)
	leaving.leave()
	d.awaitFilters(1, 0, 0)
	d.applies("frontend-trapped", "1")
	status := d.awaitFilters(1, 0, 1)
	if item := status.Items[0]; item.Pod != "frontend-trapped" || item.State != api.FilterSilent || !strings.Contains(item.Message, "not enforcing") {
		t.Errorf("first is %+v", item)
	}
	if got := d.sample(`hfi_filters{state="silent"}`) + d.sample(`hfi_filters{state="current"}`) + d.sample(`hfi_filters{state="behind"}`) + d.sample(`hfi_filters_complete`); got != "1101" {
		t.Errorf("the metrics are %s", got)
	}
}

// A VM waits no longer than MaxFilterWait, since one that has stopped counts
// as alive for that time. The limit does not apply to other clients.
func TestFilterWaitIsCapped(t *testing.T) {
	if DefaultMaxFilterWait+fleet.DefaultGrace >= 30*time.Second {
		t.Error("a VM that has stopped would count as alive for thirty seconds or more")
	}
	d := start(t, func(s *Server) { s.MaxFilterWait = 50 * time.Millisecond })
	d.serve(stateOf(1, exampleSet()))
	tag := d.ask(frontendWaits).header.Get("ETag")
	d.await(d.begin("GET /v1/policies?service=frontend&namespace=demo&wait=10m", append(vmHeaders("p", "1"), "If-None-Match", tag)...)).expect(t, 304)
	waits := d.begin(frontendWaits, "If-None-Match", tag)
	d.noAnswer(waits)
	d.serve(stateOf(2, schema.NewSet()))
	d.await(waits).expect(t, 200)
}

// The identity of a VM is checked: complete, bounded, and UTF-8.
func TestFilterHeadersAreChecked(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(1, exampleSet()))
	const mine = "GET /v1/policies?service=frontend&namespace=demo"
	long := strings.Repeat("x", 253)
	d.ask(mine, "X-Hfi-Node", long, "X-Hfi-Pod", long, "X-Hfi-Vm", long, "If-None-Match", `"`+long+`"`).expect(t, 200)
	d.ask("GET /v1/policies?service=", "X-Hfi-Vm", "1").expect(t, 200)
	for _, headers := range [][]string{
		{"X-Hfi-Vm", long + "x"}, {"X-Hfi-Vm", "1", "X-Hfi-Node", long + "x"}, {"X-Hfi-Vm", "1", "X-Hfi-Pod", long + "x"},
		{"X-Hfi-Vm", "1", "If-None-Match", `"` + long + `x"`}, {"X-Hfi-Vm", ""}, {"X-Hfi-Vm", "1", "X-Hfi-Vm", "2"},
		{"X-Hfi-Vm", "1", "X-Hfi-Pod", "a", "X-Hfi-Pod", "b"}, {"X-Hfi-Vm", "\xff"}, {"X-Hfi-Vm", "1\t2"}, {"X-Hfi-Vm", "1\u0085"}, {"X-Hfi-Vm", "1", "If-None-Match", "\"\xff\""},
	} {
		d.ask(mine, headers...).expectError(t, 400, "bad_request")
	}
	d.ask("GET /v1/policies", "X-Hfi-Vm", "1").expectError(t, 400, "bad_request")
	d.ask(mine+"%ff", "X-Hfi-Vm", "1").expectError(t, 400, "bad_request")
	d.ask(mine+"%00", "X-Hfi-Vm", "1").expectError(t, 400, "bad_request")
	if got := d.filterStatus().Connected; got != 2 {
		t.Errorf("%d filters are known, want those of the 2 valid requests", got)
	}
}

// A filter whose policies are too large is behind, with a message.
func TestFilterWithTooLargeASelection(t *testing.T) {
	d := start(t, nil)
	set := exampleSet()
	for i := range 5 {
		set = set.With([]*schema.Entry{entryFrom(fmt.Sprintf(
			`{"metadata":{"name":"big%d"},"spec":{"selector":{"service":"frontend"},"rules":[{"fault":{"abort":{"status":503,"body":%q}}}]}}`,
			i, strings.Repeat("x", 900_000)))}, nil)
	}
	d.serve(stateOf(1, set))
	d.ask("GET /v1/policies?service=frontend&namespace=demo", append(vmHeaders("p", "1"), "Accept", program.MediaType)...).expectError(t, 500, "too_large")
	status := d.awaitFilters(0, 1, 0)
	if item := status.Items[0]; !strings.Contains(item.Message, `the 9 policies of service "frontend" in namespace "demo" cannot be served: they take`) || !strings.Contains(item.Message, "at most 4194304") {
		t.Errorf("the message is %q", item.Message)
	}
}

// One VM asks for all of its Envoy, and names the others with their states.
func TestOneVMAsksForOthers(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(1, exampleSet()))
	mine := d.onItsOwn()
	tag := mine.ask(frontendAsks, append(vmHeaders("a", "1"), "X-Hfi-Vms", "2=none, 3=none")...).expect(t, 200).header.Get("ETag")
	ask := func(others string) {
		t.Helper()
		mine.ask(frontendAsks+"&wait=1ms", append(vmHeaders("a", "1"), "If-None-Match", tag, "X-Hfi-Vms", others)...).expect(t, 304)
	}
	ask("2, 3=none,4=" + `"v1:other"`)
	if got := d.awaitFilters(0, 1, 0); got.Items[0].VMs != (api.VMCounts{Total: 4, Current: 2, Behind: 2}) {
		t.Errorf("the filter is %+v", got.Items[0])
	}
	ask("2,3,4=" + tag)
	if got := d.awaitFilters(1, 0, 0); got.Items[0].VMs != (api.VMCounts{Total: 4, Current: 4}) {
		t.Errorf("the filter is %+v", got.Items[0])
	}

	for name, others := range map[string][]string{
		"empty":                  {""},
		"an empty name":          {"1,,2"},
		"another state":          {"2=ready"},
		"an open quote":          {`2="v1:`},
		"a long name":            {strings.Repeat("x", maxName+1)},
		"a long tag":             {`2="` + strings.Repeat("x", maxName+1) + `"`},
		"no UTF-8":               {"\xff"},
		"more than MaxVMs":       {"x" + strings.Repeat(",x", api.MaxVMs)},
		"given more than once":   {"2", "3"},
		"only a separator":       {","},
		"a tag that has a comma": {`2="a,b"`},
	} {
		headers := vmHeaders("b", "1")
		for _, value := range others {
			headers = append(headers, "X-Hfi-Vms", value)
		}
		if got := d.ask(frontendAsks, headers...); got.code != 400 || !strings.Contains(got.body, "X-Hfi-Vms") {
			t.Errorf("%s: %d %s", name, got.code, got.body)
		}
	}
}
