package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
)

// expected is what the filters of a workload are expected to enforce.
type expected struct {
	// digest is empty only if nothing is served yet.
	digest string
	// problem is why no filter of the workload can have it, or empty.
	problem string
}

// merge combines the reports, and what this replica knows in each shard, if own
// is set, into the state of each filter. Selections returns the current
// selection of a workload; it is nil if nothing is served yet.
// IncompleteReason, if not empty, is why a VM that no replica hears from may
// still wait on one: then no VM counts as silent.
func (f *Fleet) merge(own func(shard int) []FilterSeen, reports []ReplicaReport, incompleteReason string, selections func(selection.Workload) expected) api.FiltersStatus {
	e := &evaluation{
		fleet: f, now: f.Now(), incompleteReason: incompleteReason, selections: selections,
		cached: map[selection.Workload]expected{}, alone: map[string][]string{}, merger: merger{index: map[string]int{}},
	}
	if f.Pods != nil {
		if exist, known := f.Pods(); known {
			e.pods = exist
		}
	}
	status := api.FiltersStatus{Replicas: []api.Replica{}}
	// The report on the Kubernetes cluster needs the filters of all its pods.
	items := firstItems{first: []api.FilterStatus{}, needed: func(state api.FilterState) bool { return e.pods != nil && state != api.FilterUnknown }}
	groups := f.group(reports)
	for i := range f.shards {
		var known []FilterSeen
		if own != nil {
			known = own(i)
		}
		for id, parts := range groups.shard(i, known) {
			filter, connected := e.filter(id, parts)
			if !connected {
				continue
			}
			if filter.State != api.FilterUnknown {
				status.Connected++
			}
			switch filter.State {
			case api.FilterUnknown:
				status.Unknown++
			case api.FilterCurrent:
				status.Current++
			case api.FilterBehind:
				status.Behind++
			case api.FilterUnable:
				status.Unable++
			case api.FilterSilent:
				status.Silent++
			}
			items.add(filter)
		}
	}
	status.Items = items.list()
	return status
}

func urgency(state api.FilterState) int {
	return slices.Index([]api.FilterState{api.FilterSilent, api.FilterUnable, api.FilterBehind, api.FilterCurrent, api.FilterUnknown}, state)
}

// evaluation finds the states of filters at one moment.
type evaluation struct {
	fleet            *Fleet
	now              time.Time
	incompleteReason string
	selections       func(selection.Workload) expected
	cached           map[selection.Workload]expected
	// alone has for each replica a list of it alone: nearly all filters share one.
	alone  map[string][]string
	merger merger
	// pods reports whether a pod exists; nil if they are not known.
	pods func(namespace, name string) bool
}

// maxSelections bounds those that an evaluation keeps: clients can invent workloads.
const maxSelections = 10_000

func (e *evaluation) selection(id api.FilterID) expected {
	if e.selections == nil {
		return expected{problem: "there is no verified set of policies to compare with yet"}
	}
	workload := selection.Workload{Service: id.Service, Namespace: id.Namespace, Gateway: id.Gateway, Waypoint: id.Waypoint != ""}
	current, known := e.cached[workload]
	if !known {
		current = e.selections(workload)
		if len(e.cached) < maxSelections {
			e.cached[workload] = current
		}
	}
	return current
}

// tally counts a filter's VMs.
type tally struct {
	api.VMCounts
	// without counts those behind that enforce nothing, late those behind that
	// have not asked in time but may wait somewhere, and moved those behind that
	// have asked in time, but on a connection on which they are not confirmed yet.
	without, late, moved int
	// silentFor and lateFor are the longest times since the last request of a
	// silent and of a late VM.
	silentFor, lateFor time.Duration
	// digest and inForce are of the current VMs, or of one that is behind.
	digest  string
	inForce time.Duration
	// envoy and problem are of one VM that has said so.
	envoy, problem string
	// without are the directions that some VM that asks does not have.
	withoutInbound, withoutOutbound bool
}

// directions are those that all VMs that ask have.
func (t *tally) directions() (names []string) {
	if t.Current+t.Behind == 0 {
		return nil
	}
	if !t.withoutInbound {
		names = append(names, api.DirectionInbound)
	}
	if !t.withoutOutbound {
		names = append(names, api.DirectionOutbound)
	}
	return names
}

// direct notes the directions of a VM that asks.
func (t *tally) direct(d Directions) {
	t.withoutInbound = t.withoutInbound || !d.inbound()
	t.withoutOutbound = t.withoutOutbound || !d.outbound()
}

// filter returns the status of a filter; connected is false if all its VMs have gone.
func (e *evaluation) filter(id api.FilterID, parts []part) (status api.FilterStatus, connected bool) {
	owners := e.owners(parts)
	vms := e.merger.merge(parts, owners)
	selection := e.selection(id)
	status = api.FilterStatus{FilterID: id, State: api.FilterCurrent}
	var t tally
	lasted := false
	oldest := e.oldestAlive(vms)
	proof := slices.ContainsFunc(vms, func(vm mergedVM) bool { return !vm.Claimed && !e.overdue(&vm.VMSeen) })
	for i := range vms {
		vm := &vms[i]
		if vm.Claimed && proof {
			continue
		}
		if !e.count(vm, oldest, selection, &t) {
			continue
		}
		lasted = lasted || e.lasted(vm)
		switch {
		case status.Replicas == nil:
			status.Replicas = e.only(vm.replica)
		case !slices.Contains(status.Replicas, vm.replica):
			status.Replicas = append(status.Replicas, vm.replica)
		}
	}
	slices.Sort(status.Replicas)
	status.Digest, status.VMs, status.Envoy, status.Directions = t.digest, t.VMCounts, t.envoy, t.directions()
	since := t.inForce
	switch {
	case t.Silent > 0:
		status.State, since = api.FilterSilent, t.silentFor
	case t.Unable > 0:
		status.State = api.FilterUnable
	case t.Behind > 0:
		status.State = api.FilterBehind
	}
	status.Since = e.now.Add(-since).UTC().Truncate(time.Millisecond)
	status.Message = join(t.message(selection, e.incompleteReason), owners.message(parts))
	if e.unknown(id) {
		const why = "the cluster has no such pod: it is being deleted, runs in another cluster, or never existed"
		if lasted {
			status.Message = join(status.Message, why)
		} else {
			status.State, status.Message = api.FilterUnknown, why
		}
	}
	return status, t.Total > 0
}

// only is a list of one replica, which nobody may change.
func (e *evaluation) only(replica string) []string {
	list, known := e.alone[replica]
	if !known {
		list = []string{replica}
		e.alone[replica] = list
	}
	return list
}

// unknown reports whether the cluster certainly has no such pod.
func (e *evaluation) unknown(id api.FilterID) bool {
	return e.pods != nil && id.Pod != "" && !e.pods(id.Namespace, id.Pod)
}

// oldestAlive is how long ago the VM that has been connected for longest, of
// those that still ask, sent its first request on its connection.
func (e *evaluation) oldestAlive(vms []mergedVM) (ago time.Duration) {
	for i := range vms {
		if !e.overdue(&vms[i].VMSeen) {
			ago = max(ago, vms[i].connectedAgo(e.fleet.Forget))
		}
	}
	return ago
}

// overdue reports whether a VM should have sent its next request by now.
func (e *evaluation) overdue(vm *VMSeen) bool {
	return vm.State != VMWaiting && vm.EndedAgo > e.fleet.Grace
}

// moved reports whether an overdue VM, or somebody in its name at its address,
// asks on another connection.
func (e *evaluation) moved(vm *mergedVM) bool {
	claim := vm.claim
	return claim != nil && !differ(sourcePrefix(claim.Address), sourcePrefix(vm.Address)) && (claim.State == VMWaiting || claim.State == VMAnswered && claim.EndedAgo <= e.fleet.Grace+claim.Retry)
}

// gone reports whether a VM counts no more: it has left, or stopped asking
// without ever having proved that it is one, or is forgotten. One is forgotten
// after Forget, unless it asked for a while and another VM of its filter has
// asked since before then on the same connection: then the sidecar still runs.
func (e *evaluation) gone(vm *mergedVM, oldestAlive time.Duration) bool {
	switch {
	case !e.overdue(&vm.VMSeen), e.moved(vm):
		return false
	case vm.State == VMGone:
		return vm.EndedAgo > e.fleet.Grace+vm.Retry
	case vm.Unproven && vm.EndedAgo > e.fleet.Grace+vm.Retry:
		return vm.Claimed || e.incompleteReason == ""
	}
	return vm.EndedAgo > e.fleet.Forget && (!e.lasted(vm) || oldestAlive <= vm.EndedAgo)
}

// lasted reports whether a VM has asked for a while.
func (e *evaluation) lasted(vm *mergedVM) bool {
	return !vm.Claimed && vm.firstAgo()-vm.AskedAgo >= e.fleet.SettleTime
}

// count adds a VM to the tally. It returns false for one that is gone.
func (e *evaluation) count(vm *mergedVM, oldestAlive time.Duration, selection expected, t *tally) bool {
	overdue := e.overdue(&vm.VMSeen)
	if e.gone(vm, oldestAlive) {
		return false
	}
	t.Total++
	inForce := vm.inForce()
	moved := overdue && e.moved(vm)
	t.envoy = oneOf(t.envoy, vm.Envoy)
	switch {
	case overdue && !moved && e.incompleteReason == "" && vm.EndedAgo > e.fleet.Grace+vm.Retry:
		t.Silent++
		t.silentFor = max(t.silentFor, vm.EndedAgo)
		if t.Behind+t.Current == 0 {
			t.digest = vm.Digest
		}
		return true
	case !overdue && vm.Problem != "" && !vm.Unproven:
		t.Unable++
		t.problem = oneOf(t.problem, vm.Problem)
		return true
	case !overdue && vm.Problem == "" && selection.digest != "" && vm.Digest == selection.digest:
		t.Current++
		t.direct(vm.Directions)
		if t.Behind == 0 && (t.Current == 1 || inForce < t.inForce) {
			t.digest, t.inForce = vm.Digest, inForce
		}
		return true
	}
	t.Behind++
	t.direct(vm.Directions)
	switch {
	case moved:
		t.moved++
	case overdue:
		t.late++
		t.lateFor = max(t.lateFor, vm.EndedAgo)
	case vm.Digest == "", vm.Problem != "":
		t.without++
	}
	// The choice among several must not depend on their order.
	if t.Behind == 1 || inForce > t.inForce || inForce == t.inForce && vm.Digest < t.digest {
		t.digest, t.inForce = vm.Digest, inForce
	}
	return true
}

// oneOf is one of two texts that is not empty, if one is: the same in any order.
func oneOf(a, b string) string {
	if a == "" || b != "" && b < a {
		return b
	}
	return a
}

// message describes what is wrong.
func (t *tally) message(selection expected, incompleteReason string) string {
	var parts []string
	if t.Silent > 0 {
		verb := map[bool]string{true: "it is", false: "they are"}[t.Silent == 1]
		parts = append(parts, fmt.Sprintf("%s stopped asking %s ago: %s not enforcing; look at the sidecar's log", t.fraction(t.Silent), seconds(t.silentFor), verb))
	}
	if t.Unable > 0 {
		parts = append(parts, t.fraction(t.Unable)+" cannot inject faults: "+t.problem)
	}
	if t.late > 0 {
		text := fmt.Sprintf("%s last seen %s ago", t.fraction(t.late), seconds(t.lateFor))
		if incompleteReason != "" {
			text += ", and may wait elsewhere: " + incompleteReason
		}
		parts = append(parts, text)
	}
	if t.moved > 0 {
		parts = append(parts, t.fraction(t.moved)+" asked on a new connection, and is confirmed by its next request there")
	}
	if without := t.without; without > 0 {
		parts = append(parts, t.fraction(without)+" with no policies in force yet")
	}
	if others := t.Behind - t.late - t.moved - t.without; others > 0 {
		parts = append(parts, t.fraction(others)+" with other policies in force than the current ones")
	}
	if t.Behind > 0 && selection.problem != "" {
		parts = append(parts, selection.problem)
	}
	return strings.Join(parts, "; ")
}

func (t *tally) fraction(count int) string {
	if t.Total == 1 {
		return "its only VM"
	}
	return fmt.Sprintf("%d of %d VMs", count, t.Total)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%d s", int(d.Seconds())) }
