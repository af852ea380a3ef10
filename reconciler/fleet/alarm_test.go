package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// A sidecar that stops closes its requests, at whichever replica: no alarm,
// though another replica saw it answered and not come back.
func TestFilterThatLeavesIsNoAlarm(t *testing.T) {
	s := newStage(t)
	s.round("a", "1", "new")
	leaving := s.ask("b", "1", "new")
	s.pass(15 * time.Second)
	leaving.Left()
	for range 700 {
		s.pass(time.Second)
		if status := s.status(); status.Silent > 0 {
			t.Fatalf("an alarm: %+v", status.Items)
		}
	}
	if status := s.status(); status.Connected != 0 {
		t.Errorf("it is still there: %+v", status.Items)
	}
}

// A VM that traps while it waits is not counted as current for longer than
// thirty seconds, whenever in its wait it does; it is named until it is
// forgotten.
func TestTrappedVMIsNotCurrentForLong(t *testing.T) {
	s := newStage(t)
	last := s.ask("a", "1", "new") // and traps at once
	s.pass(20 * time.Second)
	last.Answered(0)
	s.pass(10*time.Second - time.Millisecond)
	s.expect(want{api.FilterSilent, api.VMCounts{Total: 1, Current: 0, Behind: 0, Silent: 1}, "new", 10*time.Second - time.Millisecond, "a", "its only VM stopped asking 9 s ago: it is not enforcing; look at the sidecar's log"})
	s.pass(DefaultForget - 10*time.Second)
	if status := s.status(); status.Silent != 1 {
		t.Errorf("forgotten too soon: %+v", status)
	}
	s.pass(time.Second)
	if status := s.status(); status.Connected != 0 {
		t.Errorf("not forgotten: %+v", status)
	}
	if got := len(s.fleet["a"].seen()); got != 0 {
		t.Errorf("%d filters are kept in memory", got)
	}
}

// A worker's VM that trapped is told of for as long as its siblings go on,
// at whichever replica: the sidecar runs on with a VM that enforces nothing.
// Once the sidecar was started anew it is not.
func TestTrappedVMIsToldOfWhileItsSiblingsGoOn(t *testing.T) {
	s := newStage(t)
	s.ask("a", "sibling", "new").Answered(0)
	s.pass(time.Second)
	s.ask("a", "trapped", "new").Answered(0)
	for range 60 {
		for _, replica := range []string{"b", "a"} {
			s.round(replica, "sibling", "new")
		}
	}
	since := 40 * time.Minute
	s.ask("b", "sibling", "new")
	s.expect(want{api.FilterSilent, api.VMCounts{Total: 2, Current: 1, Behind: 0, Silent: 1}, "new", since, "a+b", "1 of 2 VMs stopped asking 2400 s ago: it is not enforcing; .*"})

	s = newStage(t)
	s.ask("a", "trapped", "new").Answered(0)
	s.pass(time.Minute)
	for range 60 {
		s.round("a", "of the next life", "new")
	}
	s.ask("a", "of the next life", "new")
	s.expect(want{api.FilterCurrent, api.VMCounts{Total: 1, Current: 1, Behind: 0, Silent: 0}, "new", 20 * time.Minute, "a", ""})
}

// A pod left while it asked a replica that is gone now too, with what it knew:
// the other, which knows only that it once answered, raises no alarm.
func TestPodThatIsNoMoreIsNoAlarm(t *testing.T) {
	s := newStage(t)
	s.round("a", "1", "new")
	s.ask("b", "1", "new").Left()
	s.fleet["b"] = newFleet()
	s.pass(DefaultGrace + time.Second)
	if status := s.status(); status.Silent != 1 {
		t.Fatalf("without a word of the pod: %+v", status)
	}
	s.fleet["a"].PodGone("demo", "another")
	s.fleet["a"].PodGone("another", "p")
	if status := s.status(); status.Silent != 1 {
		t.Errorf("other pods went: %+v", status)
	}
	s.fleet["a"].PodGone("demo", "p")
	if status := s.status(); status.Connected != 0 {
		t.Errorf("the pod went: %+v", status)
	}
	s.ask("a", "1", "new")
	if status := s.status(); status.Current != 1 {
		t.Errorf("it is back: %+v", status)
	}
}

// Of two filters in one Envoy one is taken away: what another replica saw of
// its VMs earlier makes no alarm, however long the other's go on.
func TestVMThatLeftIsNoAlarmWhileOthersGoOn(t *testing.T) {
	s := newStage(t)
	s.ask("a", "stays", "new").Answered(0)
	s.round("b", "leaves", "new")
	s.ask("a", "leaves", "new").Left()
	for range 100 {
		for _, replica := range []string{"b", "a"} {
			s.round(replica, "stays", "new")
			if status := s.status(); status.Silent > 0 {
				t.Fatalf("an alarm: %+v", status.Items)
			}
		}
	}
}

// Ages from a replica are of when it told them.
func TestSightingsAge(t *testing.T) {
	s := newStage(t)
	s.ask("b", "1", "new").Answered(0)
	seen := s.fleet["b"].seen()
	present := func(string, string) Selection { return Selection{Digest: "new"} }
	for ago, state := range map[time.Duration]api.FilterState{0: api.FilterCurrent, DefaultGrace: api.FilterCurrent, DefaultGrace + 1: api.FilterSilent, -time.Second: api.FilterCurrent} {
		status := s.fleet["a"].merge([]ReplicaReport{{Replica: "b", Filters: seen, Age: ago}}, "", present)
		if got := status.Items[0].State; got != state {
			t.Errorf("told %s ago it is %s, want %s", ago, got, state)
		}
	}
	// A VM that waits is not silent, though on the way between the replicas its
	// older request came to look like the newer one.
	s = newStage(t)
	s.ask("a", "1", "new").Answered(0)
	s.pass(time.Millisecond)
	s.ask("b", "1", "new")
	s.pass(9 * time.Second)
	reports := []ReplicaReport{{Replica: "b", Filters: s.fleet["b"].seen(), Age: 5 * time.Millisecond}, {Replica: "a", Filters: s.fleet["a"].seen()}}
	if got := s.fleet["a"].merge(reports, "", present); got.Current != 1 {
		t.Errorf("a VM that waits is %+v", got.Items)
	}
	// Before anything is served there is nothing to agree with.
	status := s.fleet["a"].merge([]ReplicaReport{{Replica: "b", Filters: seen}}, "", nil)
	if got := status.Items[0]; got.State != api.FilterBehind || !strings.Contains(got.Message, "no verified set") {
		t.Errorf("without a set it is %+v", got)
	}
}
