package fleet

import (
	"cmp"
	"fmt"
	"github.com/boifi/hfi/internal/api"
	"slices"
	"strings"
	"time"
)

// Selection is what a filter of some workload is to have in force.
type Selection struct {
	// Digest is the selection's; never empty.
	Digest string
	// Problem is why no filter of that workload can have it, or empty.
	Problem string
}

// Status puts together what all replicas have seen. Present gives a filter's
// present selection, and is asked once for each workload; it is nil if there
// is none to compare with. Doubt, if not empty, is why a VM of which nothing
// is heard may all the same wait somewhere: then nothing is called silent.
func (f *Fleet) Status(sightings []ReplicaReport, doubt string, present func(service, namespace string) Selection) api.FiltersStatus {
	return f.Whole(sightings, doubt, present).Bounded()
}

// Whole is Status with all Items, however many there are.
func (f *Fleet) Whole(sightings []ReplicaReport, doubt string, present func(service, namespace string) Selection) api.FiltersStatus {
	judge := &fleetJudge{fleet: f, now: f.Now(), doubt: doubt, present: present, selections: map[[2]string]Selection{}}
	status := api.FiltersStatus{Items: []api.FilterStatus{}, Replicas: []api.Replica{}}
	merger := &merger{index: map[string]int{}}
	for id, parts := range byFilter(sightings) {
		one, connected := judge.filter(id, merger.merge(parts))
		if !connected {
			continue
		}
		status.Connected++
		switch one.State {
		case api.FilterCurrent:
			status.Current++
		case api.FilterBehind:
			status.Behind++
		case api.FilterSilent:
			status.Silent++
		}
		status.Items = append(status.Items, one)
	}
	slices.SortFunc(status.Items, func(a, b api.FilterStatus) int {
		return cmp.Or(cmp.Compare(urgency(a.State), urgency(b.State)), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Service, b.Service), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Node, b.Node))
	})
	return status
}

func urgency(state api.FilterState) int {
	return slices.Index([]api.FilterState{api.FilterSilent, api.FilterBehind, api.FilterCurrent}, state)
}

// fleetJudge says how filters stand at one moment.
type fleetJudge struct {
	fleet      *Fleet
	now        time.Time
	doubt      string
	present    func(service, namespace string) Selection
	selections map[[2]string]Selection
}

func (j *fleetJudge) selection(id api.FilterID) Selection {
	if j.present == nil {
		return Selection{Problem: "there is no verified set of policies to compare with yet"}
	}
	key := [2]string{id.Service, id.Namespace}
	selection, known := j.selections[key]
	if !known {
		selection = j.present(id.Service, id.Namespace)
		j.selections[key] = selection
	}
	return selection
}

// tally is what a filter's VMs come to.
type tally struct {
	api.VMCounts
	// without counts those behind that have nothing in force, and late those of
	// which nothing is heard though they may wait somewhere.
	without, late int
	// silentFor and lateFor are for how long, at most, nothing is heard of one.
	silentFor, lateFor time.Duration
	// digest and inForce are of those that are current, or of one that is behind.
	digest  string
	inForce time.Duration
}

// filter says how a filter stands; connected is false if all its VMs have gone.
func (j *fleetJudge) filter(id api.FilterID, vms []mergedVM) (status api.FilterStatus, connected bool) {
	selection := j.selection(id)
	status = api.FilterStatus{FilterID: id, State: api.FilterCurrent, Replicas: []string{}}
	var t tally
	eldest := j.eldest(vms)
	for i := range vms {
		vm := &vms[i]
		if !j.count(vm, eldest, selection, &t) {
			continue
		}
		if !slices.Contains(status.Replicas, vm.replica) {
			status.Replicas = append(status.Replicas, vm.replica)
		}
	}
	slices.Sort(status.Replicas)
	status.Digest, status.VMs = t.digest, t.VMCounts
	since := t.inForce
	switch {
	case t.Silent > 0:
		status.State, since = api.FilterSilent, t.silentFor
	case t.Behind > 0:
		status.State = api.FilterBehind
	}
	status.Since = j.now.Add(-since).UTC().Truncate(time.Millisecond)
	status.Message = t.message(selection, j.doubt)
	return status, t.Total > 0
}

// eldest is how long ago the first request was of the eldest VM that still asks.
func (j *fleetJudge) eldest(vms []mergedVM) (ago time.Duration) {
	for i := range vms {
		if !j.over(&vms[i]) {
			ago = max(ago, vms[i].firstAgo())
		}
	}
	return ago
}

// over says whether a VM's last request ended so long ago that it should have asked again.
func (j *fleetJudge) over(vm *mergedVM) bool {
	return vm.State != VMWaiting && vm.EndedAgo > j.fleet.Grace
}

// count adds a VM; it is false if the VM has gone, or nobody needs to hear of it
// any more: if it stopped long ago, and eldest says that all that asks now began later.
func (j *fleetJudge) count(vm *mergedVM, eldest time.Duration, selection Selection, t *tally) bool {
	over := j.over(vm)
	if over && (vm.State == VMGone || vm.EndedAgo > j.fleet.Forget && eldest <= vm.EndedAgo) {
		return false
	}
	t.Total++
	inForce := vm.inForce()
	switch {
	case over && j.doubt == "" && vm.EndedAgo > j.fleet.Grace+vm.Retry:
		t.Silent++
		t.silentFor = max(t.silentFor, vm.EndedAgo)
		if t.Behind+t.Current == 0 {
			t.digest = vm.Digest
		}
		return true
	case !over && selection.Digest != "" && vm.Digest == selection.Digest:
		t.Current++
		if t.Behind == 0 && (t.Current == 1 || inForce < t.inForce) {
			t.digest, t.inForce = vm.Digest, inForce
		}
		return true
	}
	t.Behind++
	if over {
		t.late++
		t.lateFor = max(t.lateFor, vm.EndedAgo)
	} else if vm.Digest == "" {
		t.without++
	}
	// Of several, always the same one, whatever their order.
	if t.Behind == 1 || inForce > t.inForce || inForce == t.inForce && vm.Digest < t.digest {
		t.digest, t.inForce = vm.Digest, inForce
	}
	return true
}

// message says what is wrong, for a person.
func (t *tally) message(selection Selection, doubt string) string {
	var parts []string
	if t.Silent > 0 {
		verb := map[bool]string{true: "it is", false: "they are"}[t.Silent == 1]
		parts = append(parts, fmt.Sprintf("%s stopped asking %s ago: %s not enforcing; look at the sidecar's log", t.share(t.Silent), seconds(t.silentFor), verb))
	}
	if t.late > 0 {
		text := fmt.Sprintf("%s last heard of %s ago", t.share(t.late), seconds(t.lateFor))
		if doubt != "" {
			text += ", and may wait elsewhere: " + doubt
		}
		parts = append(parts, text)
	}
	if without := t.without; without > 0 {
		parts = append(parts, t.share(without)+" with no policies in force yet")
	}
	if others := t.Behind - t.late - t.without; others > 0 {
		parts = append(parts, t.share(others)+" with other policies in force than the present ones")
	}
	if t.Behind > 0 && selection.Problem != "" {
		parts = append(parts, selection.Problem)
	}
	return strings.Join(parts, "; ")
}

func (t *tally) share(count int) string {
	if t.Total == 1 {
		return "its only VM"
	}
	return fmt.Sprintf("%d of %d VMs", count, t.Total)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%d s", int(d.Seconds())) }
