package kube

import (
	"cmp"
	"iter"
	"maps"
	"slices"
)

// volatileLabels have a value of their own for each pod, each revision of a
// workload or each version of Istio: no plugin selects by them.
var volatileLabels = map[string]bool{
	labelTemplateHash: true, labelRolloutHash: true, "controller-revision-hash": true, "pod-template-generation": true,
	"statefulset.kubernetes.io/pod-name": true, "apps.kubernetes.io/pod-index": true,
	"controller-uid": true, "batch.kubernetes.io/controller-uid": true, "batch.kubernetes.io/job-completion-index": true,
	"istio.io/rev": true, "security.istio.io/tlsMode": true, "service.istio.io/canonical-revision": true,
}

// labelRank orders labels by how likely they are to tell a workload from others
// for as long as it exists. Labels that are not named have unnamedRank; those
// that change with versions come last.
var labelRank = map[string]int{
	"app": 1, "app.kubernetes.io/name": 2, "k8s-app": 3, "app.kubernetes.io/instance": 4, "app.kubernetes.io/component": 5, "name": 6,
	labelWorkload: 7, "service.istio.io/canonical-name": 8,
	"version": 101, "app.kubernetes.io/version": 102, "helm.sh/chart": 103, "deployment": 104, "job-name": 105, "batch.kubernetes.io/job-name": 106,
}

const unnamedRank = 100

// stable returns the labels that are not volatile.
func stable(labels map[string]string) iter.Seq[label] {
	return func(yield func(label) bool) {
		for name, value := range labels {
			if !volatileLabels[name] && !yield(label{name, value}) {
				return
			}
		}
	}
}

// selectorOf returns labels that all pods of a workload have, and together no
// pod of another workload of the namespace; found is false if there are none
// such. It returns the current ones if they still do, so that a selector
// changes only if it must.
//
// The workload's own spec.selector would do as well, and would need the right
// to read each kind of workload.
func (s *podStore) selectorOf(namespace, workload string, current map[string]string) (selector map[string]string, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.namespaces[namespace]
	if in == nil || in.workloads[workload] == nil {
		return nil, false
	}
	if in.only(workload, current) {
		return current, true
	}
	var common []label
	for each := range stable(in.workloads[workload].labels) {
		if in.common(each, workload) {
			common = append(common, each)
		}
	}
	slices.SortFunc(common, func(a, b label) int {
		return cmp.Or(cmp.Compare(rankOf(a, workload), rankOf(b, workload)), cmp.Compare(a.name, b.name))
	})
	selector = map[string]string{}
	others := in.workloads
	var left map[string]bool
	for _, each := range common {
		narrowed := map[string]bool{}
		for other := range in.labelled[each] {
			if left == nil || left[other] {
				narrowed[other] = true
			}
		}
		if left != nil && len(narrowed) == len(left) || left == nil && len(narrowed) == len(others) && len(others) > 1 {
			continue // It tells the workload from no other.
		}
		left = narrowed
		if selector[each.name] = each.value; len(left) == 1 {
			return selector, true
		}
	}
	return nil, false
}

func rankOf(l label, workload string) int {
	if l.name == labelGateway && gateways.has(workload) {
		return 0 // See targetedGateway.
	}
	if rank, named := labelRank[l.name]; named {
		return rank
	}
	return unnamedRank
}

// common says whether all pods of a workload have a label.
func (in *namespacePods) common(l label, workload string) bool {
	return in.labelled[l][workload] == in.workloads[workload].count
}

// only says whether a selector selects all pods of a workload and none of another.
func (in *namespacePods) only(workload string, selector map[string]string) bool {
	if len(selector) == 0 {
		return false
	}
	for name, value := range selector {
		if !in.common(label{name, value}, workload) {
			return false
		}
	}
	for other := range in.selected(selector) {
		if other != workload {
			return false
		}
	}
	return true
}

// selected returns the workloads of which some pods have each label of a
// selector that is not volatile: if several labels are given, they may be on different pods.
func (in *namespacePods) selected(selector map[string]string) iter.Seq[string] {
	return func(yield func(string) bool) {
		var rarest map[string]int
		var rest []label
		first := true
		for each := range stable(selector) {
			rest = append(rest, each)
			if counts := in.labelled[each]; first || len(counts) < len(rarest) {
				rarest, first = counts, false
			}
		}
		if first {
			for workload := range in.workloads {
				if !yield(workload) {
					return
				}
			}
			return
		}
		for workload := range rarest {
			all := !slices.ContainsFunc(rest, func(l label) bool { return in.labelled[l][workload] == 0 })
			if all && !yield(workload) {
				return
			}
		}
	}
}

// workloadsSelected returns the workloads of a namespace that may have pods with these labels.
func (s *podStore) workloadsSelected(namespace string, selector map[string]string) map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	workloads := map[string]bool{}
	if in := s.namespaces[namespace]; in != nil {
		maps.Insert(workloads, func(yield func(string, bool) bool) {
			for workload := range in.selected(selector) {
				if !yield(workload, true) {
					return
				}
			}
		})
	}
	return workloads
}
