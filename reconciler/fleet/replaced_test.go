package fleet

import (
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// Requests in a pod's name from elsewhere, however long they have gone on, do not take
// the place of the pod that replaces it under the same name.
func TestRequestsFromElsewhereDoNotInheritAPodsName(t *testing.T) {
	for _, replica := range []string{"a", "b"} {
		t.Run(replica, func(t *testing.T) {
			s, pod := ofPod(t)
			foreign := s.client(foreignAddress, 2)
			foreign.starts(replica, "made up", "new").Answered("", 0)
			for range 3 {
				pod.round("a", "1", "new")
				foreign.ask(replica, "made up", "new").Answered("", 0)
			}
			pod.ask("a", "1", "new").Left()
			for _, fleet := range s.fleet {
				fleet.PodGone("demo", "p")
			}
			wait := func() {
				for range 12 {
					s.advance(5 * time.Second)
					foreign.ask(replica, "made up", "new").Answered("", 0)
				}
			}
			wait() // for the new pod's image
			fresh := s.client("10.0.0.2", 3)
			fresh.starts("a", "2", "old")
			s.expect(want{api.FilterBehind, api.VMCounts{Total: 1, Behind: 1}, "old", 0, "a", "its only VM with other policies .*; requests in its name from 10.0.9.9 do not count, because it asks from 10.0.0.2"})
			wait()
			fresh.ask("a", "2", "old")
			s.expect(want{api.FilterBehind, api.VMCounts{Total: 1, Behind: 1}, "old", time.Minute, "a", "its only VM with other policies .*; requests in its name from 10.0.9.9 do not count, because it asks from 10.0.0.2"})
		})
	}
}

// News of a deleted pod may come after the first requests of the one that replaces
// it: those count.
func TestNewsOfADeletedPodMayBeLate(t *testing.T) {
	s, old := ofPod(t)
	old.ask("a", "1", "new").Left()
	pod := s.client("10.0.0.2", 2)
	pod.starts("a", "2", "new").Answered("", 0)
	s.advance(DefaultGrace / 2)
	for _, fleet := range s.fleet {
		fleet.PodGone("demo", "p")
	}
	for range 4 {
		pod.round("a", "2", "new")
	}
	foreign := s.client(foreignAddress, 3)
	foreign.starts("a", "made up", "old")
	pod.ask("a", "2", "new")
	if status := s.status(); status.Current != 1 || status.Items[0].VMs.Total != 1 {
		t.Errorf("it is %+v", status)
	}
}
