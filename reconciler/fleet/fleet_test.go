package fleet

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler/served"
)

// stage has the fleets of two replicas, with a clock that only the test advances.
type stage struct {
	t     *testing.T
	now   time.Time
	fleet map[string]*Fleet
	// incompleteReason and problem are arguments of merge.
	incompleteReason, problem string
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), fleet: map[string]*Fleet{}}
	for _, replica := range []string{"a", "b"} {
		fleet := newFleet()
		fleet.Now = func() time.Time { return s.now }
		s.fleet[replica] = fleet
	}
	return s
}

// newFleet is a fleet that serves nothing and has no peers.
func newFleet() *Fleet { return New("a", served.New()) }

// seen is all that a replica remembers.
func (f *Fleet) seen() (filters []FilterSeen) {
	known := f.known()
	for shard := range f.shards {
		for _, filter := range known(shard) {
			filter.VMs = slices.Clone(filter.VMs)
			filters = append(filters, filter)
		}
	}
	return filters
}

func (s *stage) advance(d time.Duration) { s.now = s.now.Add(d) }

func podID(pod string) api.FilterID {
	return api.FilterID{Node: "sidecar~" + pod, Pod: pod, Service: "frontend", Namespace: "demo"}
}

// ask begins a request of a VM. The first time, the VM has asked before, and
// was given the policies that it has now.
func ask(fleet *Fleet, id api.FilterID, vm, digest string) Request {
	request := fleet.Ask(id, vm, digest, Caller{})
	if request.unconfirmed == nil {
		return request
	}
	request.Answered(digest, 0)
	return fleet.Ask(id, vm, digest, Caller{})
}

// ask begins a request of a VM of pod p to a replica.
func (s *stage) ask(replica, vm, digest string) Request {
	return ask(s.fleet[replica], podID("p"), vm, digest)
}

// refuse begins a request of a VM that has taken the policies, and says why it cannot
// enforce them.
func (s *stage) refuse(replica, vm, digest, why string) Request {
	request := s.ask(replica, vm, digest)
	request.Describe(Description{Envoy: "1.31", Problem: why})
	return request
}

// round is a request that is answered after 20 s, without a change.
func (s *stage) round(replica, vm, digest string) {
	request := s.ask(replica, vm, digest)
	s.advance(20 * time.Second)
	request.Answered("", 0)
}

func (s *stage) status() api.FiltersStatus {
	var reports []ReplicaReport
	for _, replica := range []string{"a", "b"} {
		reports = append(reports, ReplicaReport{Replica: replica, Filters: s.fleet[replica].seen()})
	}
	return s.fleet["a"].merge(nil, reports, s.incompleteReason, func(selection.Workload) expected { return expected{digest: "new", problem: s.problem} }).Bounded()
}

// want describes a filter. Since is an age, and message a regular expression.
type want struct {
	state    api.FilterState
	vms      api.VMCounts
	digest   string
	since    time.Duration
	replicas string
	message  string
}

func (s *stage) expect(w want) {
	s.t.Helper()
	status := s.status()
	if len(status.Items) != 1 || status.Connected != 1 {
		s.t.Fatalf("there are %d filters (%d listed), want 1", status.Connected, len(status.Items))
	}
	got := status.Items[0]
	since := s.now.Sub(got.Since)
	if got.State != w.state || got.VMs != w.vms || got.Digest != w.digest || since != w.since || strings.Join(got.Replicas, "+") != w.replicas {
		s.t.Errorf("got %s %+v digest %q since %s at %v, want %+v", got.State, got.VMs, got.Digest, since, got.Replicas, w)
	}
	if !regexp.MustCompile("^" + w.message + "$").MatchString(got.Message) {
		s.t.Errorf("the message is %q, want %q", got.Message, w.message)
	}
	counts := map[api.FilterState]int{
		api.FilterCurrent: status.Current, api.FilterBehind: status.Behind, api.FilterUnable: status.Unable, api.FilterSilent: status.Silent,
	}
	if counts[w.state] != 1 || status.Current+status.Behind+status.Unable+status.Silent != 1 {
		s.t.Errorf("%s is counted %+v", w.state, counts)
	}
}

// A VM asks b, which answers at once, and then a, which answers after a wait.
// The report of b takes longer to arrive than the VM took to go on to a, so its
// ages look smaller than they are. The VM is not silent before it asks again.
func TestSlowReportMakesNoVMSilent(t *testing.T) {
	s := newStage(t)
	s.ask("b", "1", "").Answered("", 0)
	s.advance(time.Millisecond)
	request := s.ask("a", "1", "new")
	s.advance(20 * time.Second)
	request.Answered("", 0)
	late := s.fleet["b"].seen()
	s.advance(3 * time.Millisecond)
	reports := []ReplicaReport{{Replica: "a", Filters: s.fleet["a"].seen()}, {Replica: "b", Filters: late}}
	status := s.fleet["a"].merge(nil, reports, "", func(selection.Workload) expected { return expected{digest: "new"} })
	if status.Current != 1 || status.Silent != 0 {
		t.Errorf("the filter is %+v", status.Items)
	}
}

// The state of a filter follows from the requests of its VMs.
func TestFilterStates(t *testing.T) {
	for name, test := range map[string]struct {
		play func(*stage)
		want want
	}{
		"all wait with the current policies": {func(s *stage) {
			s.ask("a", "1", "new")
			s.advance(5 * time.Second)
			s.ask("a", "2", "new")
			s.advance(time.Second)
		}, want{api.FilterCurrent, api.VMCounts{Total: 2, Current: 2, Behind: 0, Silent: 0}, "new", time.Second, "a", ""}},
		"one has other policies": {func(s *stage) {
			s.ask("a", "1", "new")
			s.ask("a", "2", "old")
			s.advance(3 * time.Second)
		}, want{api.FilterBehind, api.VMCounts{Total: 2, Current: 1, Behind: 1, Silent: 0}, "old", 3 * time.Second, "a", "1 of 2 VMs with other policies in force than the current ones"}},
		"one cannot enforce them": {func(s *stage) {
			s.ask("a", "1", "new")
			s.refuse("a", "2", "new", "Envoy 1.31 is not supported")
			s.refuse("a", "3", "new", "no address")
		}, want{api.FilterUnable, api.VMCounts{Total: 3, Current: 1, Unable: 2}, "new", 0, "a", "2 of 3 VMs cannot inject faults: Envoy 1.31 is not supported"}},
		"one cannot enforce them, and waits on another replica": {func(s *stage) {
			s.refuse("b", "1", "new", "no address")
		}, want{api.FilterUnable, api.VMCounts{Total: 1, Unable: 1}, "", 0, "b", "its only VM cannot inject faults: no address"}},
		"one could not, and can": {func(s *stage) {
			request := s.refuse("a", "1", "new", "no address")
			request.Answered("", 0)
			request = s.ask("a", "1", "new")
			request.Describe(Description{Envoy: "1.40"})
		}, want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1}, "new", 0, "a", ""}},
		"one says that it cannot, and has proved nothing": {func(s *stage) {
			request := s.fleet["a"].Ask(podID("p"), "1", "", Caller{})
			request.Answered("new", 0)
			request = s.fleet["a"].Ask(podID("p"), "1", "other", Caller{})
			request.Describe(Description{Envoy: "1.31", Problem: "no address"})
		}, want{api.FilterBehind, api.VMCounts{Total: 1, Behind: 1}, "other", 0, "a", "its only VM with no policies in force yet"}},
		"one cannot, and another stopped": {func(s *stage) {
			s.ask("a", "1", "new").Answered("", 0)
			s.advance(9 * time.Second)
			s.refuse("a", "2", "new", "no address")
		}, want{api.FilterSilent, api.VMCounts{Total: 2, Unable: 1, Silent: 1}, "new", 9 * time.Second, "a", "1 of 2 VMs stopped asking 9 s ago: .*; 1 of 2 VMs cannot inject faults: no address"}},
		"one has no policies": {func(s *stage) {
			s.ask("a", "1", "new")
			s.ask("a", "2", "")
		}, want{api.FilterBehind, api.VMCounts{Total: 2, Current: 1, Behind: 1, Silent: 0}, "", 0, "a", "1 of 2 VMs with no policies in force yet"}},
		"none can have the current policies": {func(s *stage) {
			s.problem = "they take 5 MiB"
			s.ask("a", "1", "old").Answered("", 0)
		}, want{api.FilterBehind, api.VMCounts{Total: 1, Current: 0, Behind: 1, Silent: 0}, "old", 0, "a", "its only VM with other policies in force than the current ones; they take 5 MiB"}},
		"answered, and expected to ask again": {func(s *stage) {
			s.ask("a", "1", "new").Answered("", 0)
			s.advance(DefaultGrace)
		}, want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1, Behind: 0, Silent: 0}, "new", DefaultGrace, "a", ""}},
		"one stopped": {func(s *stage) {
			s.ask("a", "1", "new").Answered("", 0)
			s.advance(9 * time.Second)
			s.ask("a", "2", "new")
			s.ask("a", "3", "old")
		}, want{api.FilterSilent, api.VMCounts{Total: 3, Current: 1, Behind: 1, Silent: 1}, "old", 9 * time.Second, "a",
			"1 of 3 VMs stopped asking 9 s ago: it is not enforcing; look at the sidecar's log; 1 of 3 VMs with other .*"}},
		"all stopped": {func(s *stage) {
			s.ask("a", "1", "new").Answered("", 0)
			s.advance(4 * time.Second)
			s.ask("a", "2", "new").Answered("", 0)
			s.advance(10 * time.Second)
		}, want{api.FilterSilent, api.VMCounts{Total: 2, Current: 0, Behind: 0, Silent: 2}, "new", 14 * time.Second, "a", "2 of 2 VMs stopped asking 14 s ago: they are not enforcing; .*"}},
		"one stopped and asks again": {func(s *stage) {
			s.ask("a", "1", "new").Answered("", 0)
			s.advance(time.Minute)
			s.ask("a", "1", "new")
		}, want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1, Behind: 0, Silent: 0}, "new", time.Minute, "a", ""}},
		"stopped, or waiting on a replica that does not answer": {func(s *stage) {
			s.ask("a", "1", "new").Answered("", 0)
			s.advance(9 * time.Second)
			s.incompleteReason = "replica b does not answer"
		}, want{api.FilterBehind, api.VMCounts{Total: 1, Current: 0, Behind: 1, Silent: 0}, "new", 9 * time.Second, "a", "its only VM last seen 9 s ago, and may wait elsewhere: replica b does not answer"}},
		"asked to retry later": {func(s *stage) {
			s.ask("a", "1", "new").Answered("", 30*time.Second)
			s.advance(30 * time.Second)
		}, want{api.FilterBehind, api.VMCounts{Total: 1, Current: 0, Behind: 1, Silent: 0}, "new", 30 * time.Second, "a", "its only VM last seen 30 s ago"}},
		"asked to retry later, and did not": {func(s *stage) {
			s.ask("a", "1", "new").Answered("", 30*time.Second)
			s.advance(39 * time.Second)
		}, want{api.FilterSilent, api.VMCounts{Total: 1, Current: 0, Behind: 0, Silent: 1}, "new", 39 * time.Second, "a", "its only VM stopped asking 39 s ago: .*"}},
		"one closed its request, within the grace period": {func(s *stage) {
			s.ask("a", "1", "new")
			s.ask("a", "2", "old").Left()
			s.advance(DefaultGrace)
		}, want{api.FilterBehind, api.VMCounts{Total: 2, Current: 1, Behind: 1, Silent: 0}, "old", DefaultGrace, "a", "1 of 2 VMs with other .*"}},
		"one closed its request long ago": {func(s *stage) {
			s.ask("a", "1", "new")
			s.ask("a", "2", "old").Left()
			s.advance(DefaultGrace + 1*time.Millisecond)
		}, want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1, Behind: 0, Silent: 0}, "new", DefaultGrace + 1*time.Millisecond, "a", ""}},
		"an older request ends after a newer one began": {func(s *stage) {
			older := s.ask("a", "1", "new")
			s.ask("a", "1", "new")
			older.Left()
			s.advance(19 * time.Second)
		}, want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1, Behind: 0, Silent: 0}, "new", 19 * time.Second, "a", ""}},
		"the current policies came into force": {func(s *stage) {
			s.round("a", "1", "old")
			s.ask("a", "1", "new")
			s.advance(2 * time.Second)
		}, want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1, Behind: 0, Silent: 0}, "new", 2 * time.Second, "a", ""}},

		// A load balancer may send each request to another replica.
		"answered by one replica, waiting on the other": {func(s *stage) {
			s.round("a", "1", "new")
			s.ask("b", "1", "new")
			s.advance(15 * time.Second)
		}, want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1, Behind: 0, Silent: 0}, "new", 35 * time.Second, "b", ""}},
		"VMs on several replicas": {func(s *stage) {
			s.ask("b", "1", "new")
			s.ask("a", "2", "new")
		}, want{api.FilterCurrent, api.VMCounts{Total: 2, Current: 2, Behind: 0, Silent: 0}, "new", 0, "a+b", ""}},
		"the newest request counts": {func(s *stage) {
			s.round("a", "1", "new")
			s.round("b", "1", "old")
		}, want{api.FilterBehind, api.VMCounts{Total: 1, Current: 0, Behind: 1, Silent: 0}, "old", 20 * time.Second, "b", ".*other policies.*"}},
		"stopped after the other replica's answer": {func(s *stage) {
			s.round("a", "1", "new")
			s.round("b", "1", "new")
			s.advance(9 * time.Second)
		}, want{api.FilterSilent, api.VMCounts{Total: 1, Current: 0, Behind: 0, Silent: 1}, "new", 9 * time.Second, "b", "its only VM stopped .*"}},
		"back to earlier policies: in force since then": {func(s *stage) {
			s.round("a", "1", "new")
			s.round("b", "1", "old")
			s.round("a", "1", "new")
			s.ask("b", "1", "new")
		}, want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1, Behind: 0, Silent: 0}, "new", 20 * time.Second, "b", ""}},
		"there and back between replicas: in force since the first": {func(s *stage) {
			s.round("a", "1", "old")
			s.round("b", "1", "new")
			s.round("a", "1", "new")
			s.ask("b", "1", "new")
		}, want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1, Behind: 0, Silent: 0}, "new", 40 * time.Second, "b", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			test.play(s)
			s.expect(test.want)
		})
	}
}

// The list begins with silent filters and those behind, and is bounded. The
// counts include all filters.
func TestFilterListIsBounded(t *testing.T) {
	s := newStage(t)
	fleet := s.fleet["a"]
	for i := range 2 * api.MaxFilterItems {
		ask(fleet, podID(fmt.Sprintf("current-%04d", i)), "1", "new")
	}
	ask(fleet, podID("z-behind"), "1", "old")
	ask(fleet, podID("y-behind"), "1", "old")
	ask(fleet, podID("z-silent"), "1", "new").Answered("", 0)
	s.advance(9 * time.Second)
	status := s.status()
	if status.Connected != 2*api.MaxFilterItems+3 || status.Current != 2*api.MaxFilterItems || status.Behind != 2 || status.Silent != 1 || len(status.Items) != api.MaxFilterItems {
		t.Errorf("got %d, %d, %d, %d and %d items", status.Connected, status.Current, status.Behind, status.Silent, len(status.Items))
	}
	var first []string
	for _, item := range status.Items[:5] {
		first = append(first, item.Pod)
	}
	if want := []string{"z-silent", "y-behind", "z-behind", "current-0000", "current-0001"}; !slices.Equal(first, want) {
		t.Errorf("the list begins with %v", first)
	}
}

// Invented names take a bounded amount of memory: beyond MaxVMs, VMs are not
// remembered, which is reported, until others are forgotten.
func TestFleetIsBounded(t *testing.T) {
	s := newStage(t)
	fleet := s.fleet["a"]
	fleet.MaxVMs = 100
	count := func() (vms int) {
		for _, filter := range fleet.seen() {
			for _, vm := range filter.VMs {
				if !vm.Claimed {
					vms++
				}
			}
		}
		return vms
	}
	for i := range 100 {
		ask(fleet, podID(fmt.Sprint("p", i)), "0", "new").Answered("", 0)
	}
	if fleet.full() || count() != 100 {
		t.Fatalf("full: %v at %d", fleet.full(), count())
	}
	for i := range 10_000 {
		ask(fleet, podID(fmt.Sprint("invented", i)), "1", "new").Answered("", 0)
	}
	if !fleet.full() || count() != 100 {
		t.Errorf("full: %v at %d", fleet.full(), count())
	}
	// The remembered ones are still updated.
	ask(fleet, podID("p0"), "0", "newer")
	s.advance(DefaultForget + time.Second)
	ask(fleet, podID("late"), "1", "new")
	if fleet.full() || count() != 2 {
		t.Errorf("full: %v at %d, want the one that waits and the new one", fleet.full(), count())
	}
	if got := fleet.count.Load(); got != 2 {
		t.Errorf("%d VMs are counted, want 2", got)
	}
}

// Many VMs ask while their status is merged. Meant for -race.
func TestConcurrentRequests(t *testing.T) {
	fleet := newFleet()
	var work sync.WaitGroup
	for worker := range 8 {
		work.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for range 500 {
				request := ask(fleet, podID(fmt.Sprint(random.IntN(20))), fmt.Sprint(random.IntN(3)), []string{"new", "old"}[random.IntN(2)])
				if random.IntN(3) == 0 {
					request.Left()
				} else {
					request.Answered("", 0)
				}
			}
		})
	}
	for range 20 {
		status := fleet.merge(nil, []ReplicaReport{{Filters: fleet.seen()}}, "", func(selection.Workload) expected { return expected{digest: "new"} })
		if status.Silent > 0 || status.Connected > 20 {
			t.Errorf("got %d, %d of them silent", status.Connected, status.Silent)
		}
	}
	work.Wait()
	if got := fleet.count.Load(); got != 60 {
		t.Errorf("%d VMs are counted, want 60", got)
	}
}

// The cost of one request, with 30,000 VMs remembered.
func BenchmarkFleetAsk(b *testing.B) {
	fleet := newFleet()
	ids := make([]api.FilterID, 10_000)
	for i := range ids {
		ids[i] = podID(fmt.Sprint("pod-", i))
		for _, vm := range []string{"1", "2", "3"} {
			ask(fleet, ids[i], vm, "new")
		}
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(ids)); pb.Next(); i++ {
			ask(fleet, ids[i%len(ids)], "2", "new").Answered("", 0)
		}
	})
}

// The cost of merging the status of 10,000 filters with 30,000 VMs.
func BenchmarkFleetStatus(b *testing.B) {
	fleet := newFleet()
	for i := range 10_000 {
		for _, vm := range []string{"1", "2", "3"} {
			ask(fleet, podID(fmt.Sprint("pod-", i)), vm, "new")
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		fleet.merge(nil, []ReplicaReport{{Filters: fleet.seen()}}, "", func(selection.Workload) expected { return expected{digest: "new"} })
	}
}
