package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
)

// A sidecar that stops closes its requests. That is no alarm, though another
// replica answered a request of it and saw no other one.
func TestStoppedFilterIsNotSilent(t *testing.T) {
	s := newStage(t)
	s.round("a", "1", "new")
	leaving := s.ask("b", "1", "new")
	s.advance(15 * time.Second)
	leaving.Left()
	for range 700 {
		s.advance(time.Second)
		if status := s.status(); status.Silent > 0 {
			t.Fatalf("a filter is silent: %+v", status.Items)
		}
	}
	if status := s.status(); status.Connected != 0 {
		t.Errorf("a filter is still connected: %+v", status.Items)
	}
}

// A VM that traps while it waits counts as current for thirty seconds at most,
// whenever in its wait it does, and then as silent until it is forgotten.
func TestTrappedVMBecomesSilent(t *testing.T) {
	s := newStage(t)
	last := s.ask("a", "1", "new") // and traps at once
	s.advance(20 * time.Second)
	last.Answered("", 0)
	s.advance(10*time.Second - time.Millisecond)
	s.expect(want{api.FilterSilent, api.VMCounts{Total: 1, Current: 0, Behind: 0, Silent: 1}, "new", 10*time.Second - time.Millisecond, "a", "its only VM stopped asking 9 s ago: it is not enforcing; look at the sidecar's log"})
	s.advance(DefaultForget - 10*time.Second)
	if status := s.status(); status.Silent != 1 {
		t.Errorf("forgotten too soon: %+v", status)
	}
	s.advance(time.Second)
	if status := s.status(); status.Connected != 0 {
		t.Errorf("not forgotten: %+v", status)
	}
	if got := len(s.fleet["a"].seen()); got != 0 {
		t.Errorf("%d filters are kept in memory", got)
	}
}

// A trapped VM is reported as long as other VMs of the sidecar still ask on the
// connections that they had then, to any replica: the sidecar runs with a VM
// that enforces nothing. After a restart of the sidecar it is not reported.
func TestTrappedVMIsReportedWhileOthersAsk(t *testing.T) {
	s := newStage(t)
	sibling := s.ask("a", "sibling", "new")
	s.advance(time.Second)
	for range 3 {
		s.round("a", "trapped", "new")
	}
	sibling.Answered("", 0)
	for range 60 {
		for _, replica := range []string{"b", "a"} {
			s.round(replica, "sibling", "new")
		}
	}
	since := 40 * time.Minute
	s.ask("b", "sibling", "new")
	s.expect(want{api.FilterSilent, api.VMCounts{Total: 2, Current: 1, Behind: 0, Silent: 1}, "new", since, "a+b", "1 of 2 VMs stopped asking 2400 s ago: it is not enforcing; .*"})

	s = newStage(t)
	s.ask("a", "trapped", "new").Answered("", 0)
	s.advance(time.Minute)
	for range 60 {
		s.round("a", "after the restart", "new")
	}
	s.ask("a", "after the restart", "new")
	s.expect(want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1, Behind: 0, Silent: 0}, "new", 20 * time.Minute, "a", ""})
}

// What is silent is forgotten after some minutes once the others of its sidecar
// have reconnected, and if it had not asked for long.
func TestSilentVMsAreForgotten(t *testing.T) {
	for name, test := range map[string]struct {
		rounds  int
		sibling uint64
	}{"the sibling reconnects": {3, 2}, "it asked for a moment": {0, 1}} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			on := func(connection uint64) Request {
				fleet, caller := s.fleet["a"], Caller{Connection: connection}
				if request := fleet.Ask(podID("p"), "sibling", "new", caller); request.unconfirmed == nil {
					return request
				}
				return ask(fleet, podID("p"), "sibling", "new")
			}
			ask(s.fleet["a"], podID("p"), "sibling", "new")
			open := on(0)
			for range test.rounds {
				s.round("a", "silent", "new")
			}
			s.ask("a", "silent", "new").Answered("", 0)
			open.Answered("", 0)
			connection := uint64(0)
			if test.sibling == 2 {
				connection = 7
				first := s.fleet["a"].Ask(podID("p"), "sibling", "new", Caller{Connection: connection})
				first.Answered("", 0)
			}
			until := s.now.Add(DefaultForget)
			for s.now.Before(until) {
				request := on(connection)
				s.advance(20 * time.Second)
				if status := s.status(); status.Silent != 1 && s.now.Before(until) {
					t.Fatalf("%s before the end: %+v", until.Sub(s.now), status.Items)
				}
				request.Answered("", 0)
			}
			on(connection)
			s.advance(time.Second)
			if status := s.status(); status.Silent != 0 || status.Current != 1 {
				t.Errorf("afterwards: %+v", status.Items)
			}
		})
	}
}

// A pod closed its request to a replica that is lost too. The other replica
// knows only that it answered an earlier request: once the pod is deleted, that
// is no alarm.
func TestDeletedPodIsNotSilent(t *testing.T) {
	s := newStage(t)
	s.round("a", "1", "new")
	s.ask("b", "1", "new").Left()
	s.fleet["b"] = newFleet()
	s.advance(DefaultGrace + time.Second)
	if status := s.status(); status.Silent != 1 {
		t.Fatalf("before the pod is deleted: %+v", status)
	}
	s.fleet["a"].PodGone("demo", "another")
	s.fleet["a"].PodGone("another", "p")
	if status := s.status(); status.Silent != 1 {
		t.Errorf("other pods were deleted: %+v", status)
	}
	s.fleet["a"].PodGone("demo", "p")
	if status := s.status(); status.Connected != 0 {
		t.Errorf("the pod was deleted: %+v", status)
	}
	s.ask("a", "1", "new")
	if status := s.status(); status.Current != 1 {
		t.Errorf("the pod asks again: %+v", status)
	}
}

// Of two filters in one Envoy one is removed: its VMs are not silent because of
// what another replica saw of them earlier, however long the other filter asks.
func TestRemovedFilterIsNotSilentWhileOthersAsk(t *testing.T) {
	s := newStage(t)
	s.ask("a", "stays", "new").Answered("", 0)
	s.round("b", "leaves", "new")
	s.ask("a", "leaves", "new").Left()
	for range 100 {
		for _, replica := range []string{"b", "a"} {
			s.round(replica, "stays", "new")
			if status := s.status(); status.Silent > 0 {
				t.Fatalf("a filter is silent: %+v", status.Items)
			}
		}
	}
}

// The ages in a report grow with the age of the report.
func TestReportsAge(t *testing.T) {
	s := newStage(t)
	s.ask("b", "1", "new").Answered("", 0)
	seen := s.fleet["b"].seen()
	selections := func(selection.Workload) expected { return expected{digest: "new"} }
	for ago, state := range map[time.Duration]api.FilterState{0: api.FilterCurrent, DefaultGrace: api.FilterCurrent, DefaultGrace + 1: api.FilterSilent, -time.Second: api.FilterCurrent} {
		status := s.fleet["a"].merge(nil, []ReplicaReport{{Replica: "b", Filters: seen, Age: ago}}, "", selections)
		if got := status.Items[0].State; got != state {
			t.Errorf("in a report of %s ago it is %s, want %s", ago, got, state)
		}
	}
	// A VM that waits is not silent, though the travel time of the report makes
	// its older request look like the newer one.
	s = newStage(t)
	s.ask("a", "1", "new").Answered("", 0)
	s.advance(time.Millisecond)
	s.ask("b", "1", "new")
	s.advance(9 * time.Second)
	reports := []ReplicaReport{{Replica: "b", Filters: s.fleet["b"].seen(), Age: 5 * time.Millisecond}, {Replica: "a", Filters: s.fleet["a"].seen()}}
	if got := s.fleet["a"].merge(nil, reports, "", selections); got.Current != 1 {
		t.Errorf("a VM that waits is %+v", got.Items)
	}
	// Before the first state there is nothing to compare with.
	status := s.fleet["a"].merge(nil, []ReplicaReport{{Replica: "b", Filters: seen}}, "", nil)
	if got := status.Items[0]; got.State != api.FilterBehind || !strings.Contains(got.Message, "no verified set") {
		t.Errorf("without a state it is %+v", got)
	}
}

// A report of a daemon that is replaced by this release does not say which VMs
// are proven. One that stopped asking is silent anyway.
func TestVMsOfAnOlderReportAreProven(t *testing.T) {
	var limit answersLimit
	limit.entries.Store(2)
	report, err := readReport(strings.NewReader(`{"replica":"b","filters":[{"pod":"p","vms":[{"id":"1","state":"answered","ended_ago_ns":9000000000}]}]}`), &limit.entries)
	if err != nil {
		t.Fatal(err)
	}
	if status := newFleet().merge(nil, []ReplicaReport{*report}, "", nil); status.Silent != 1 {
		t.Errorf("the filter is %+v", status.Items)
	}
}

// VMs change their connections, and have asked only once on the new one: to
// another replica, or to the same one through a proxy. Those requests may be
// anybody's, so the VMs are behind, but neither silent nor gone.
func TestVMsOnNewConnectionsAreBehind(t *testing.T) {
	for name, end := range map[string]func(Request){
		"answered": func(r Request) { r.Answered("", 0) },
		"closed":   Request.Left,
	} {
		for _, replica := range []string{"a", "b"} {
			t.Run(name+" to "+replica, func(t *testing.T) {
				s := newStage(t)
				end(s.ask("a", "1", "new"))
				s.advance(time.Second)
				request := s.fleet[replica].Ask(podID("p"), "1", "new", Caller{Connection: 7})
				s.advance(19 * time.Second)
				behind := want{api.FilterBehind, api.VMCounts{Total: 1, Behind: 1}, "new", 20 * time.Second, "a", "its only VM asked on a new connection, and is confirmed by its next request there"}
				s.expect(behind)
				request.Answered("new", 0)
				s.expect(behind)
				s.advance(DefaultGrace)
				s.expect(want{behind.state, behind.vms, "new", 20*time.Second + DefaultGrace, "a", behind.message})
				s.fleet[replica].Ask(podID("p"), "1", "new", Caller{Connection: 7})
				if status := s.status(); status.Current != 1 {
					t.Errorf("after its second request it is %+v", status.Items)
				}
			})
		}
	}
}

// A filter outside the cluster that the daemon watches, in another cluster or
// in none, counts like all others once it has asked for long. A deleted pod's
// request that ends only afterwards is no alarm.
func TestFiltersOutsideTheClusterCount(t *testing.T) {
	s := newStage(t)
	exists := false
	s.fleet["a"].Pods = func() (func(string, string) bool, bool) {
		return func(string, string) bool { return exists }, true
	}
	s.round("a", "1", "new")
	if status := s.status(); status.Unknown != 1 || status.Connected != 0 {
		t.Errorf("at first: %+v", status)
	}
	s.round("a", "1", "new")
	s.ask("a", "1", "new").Answered("", 0)
	all := api.VMCounts{Total: 1, Current: 1}
	s.expect(want{api.FilterCurrent, all, "new", 40 * time.Second, "a", "the cluster has no such pod: .*"})
	s.advance(DefaultGrace + time.Second)
	s.expect(want{api.FilterSilent, api.VMCounts{Total: 1, Silent: 1}, "new", 9 * time.Second, "a", "its only VM stopped .*; the cluster has no such pod: .*"})
	request := s.ask("a", "1", "new")
	s.fleet["a"].PodGone("demo", "p")
	request.Answered("", 0)
	s.advance(DefaultGrace + time.Second)
	if status := s.status(); len(status.Items) != 0 {
		t.Errorf("after the pod is deleted: %+v", status)
	}
	exists = true
	s.ask("a", "1", "new").Answered("", 0)
	s.advance(DefaultGrace + time.Second)
	s.expect(want{api.FilterSilent, api.VMCounts{Total: 1, Silent: 1}, "new", 9 * time.Second, "a", "its only VM stopped [^;]*; look at the sidecar's log"})
}
