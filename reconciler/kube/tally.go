package kube

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/boifi/hfi/internal/api"
)

// podTally counts the pods that a plugin applies to by their filters' state.
type podTally struct {
	pods, loaded, current int
	// waiting are the names of pods without contact that still have time to
	// load the filter, missing of those without, silent of those whose contact
	// ended, and behind of those that do not enforce their current policies.
	waiting, missing, silent, behind []string
}

// add counts a pod. due is set if its filter should be in contact by now.
func (t *podTally) add(pod *pod, contact filterContact, due bool) {
	t.pods++
	switch {
	case contact.state == api.FilterCurrent:
		t.loaded++
		t.current++
	case contact.state == api.FilterBehind, contact.state == api.FilterUnable:
		t.loaded++
		t.behind = append(t.behind, pod.Name)
	case contact.state == api.FilterSilent:
		t.silent = append(t.silent, pod.Name)
	case due:
		t.missing = append(t.missing, pod.Name)
	default:
		t.waiting = append(t.waiting, pod.Name)
	}
}

func (t *podTally) sort() {
	for _, list := range [][]string{t.waiting, t.missing, t.silent, t.behind} {
		slices.Sort(list)
	}
}

func (t *podTally) loadedCondition(podsKnown bool, module moduleCheck) metav1.Condition {
	condition := metav1.Condition{Type: conditionLoaded, Status: metav1.ConditionFalse}
	parts := []string{fmt.Sprintf("loaded on %d of %d pods", t.loaded, t.pods)}
	for _, group := range []struct {
		what string
		pods []string
	}{{"no contact from ", t.missing}, {"no more contact from ", t.silent}, {"waiting for ", t.waiting}} {
		if len(group.pods) > 0 {
			parts = append(parts, group.what+names(group.pods))
		}
	}
	without := len(t.missing) + len(t.silent)
	switch bad := module.reason != "" && (module.conclusive || without > 0); {
	case bad:
		condition.Reason = module.reason
		if t.loaded > 0 {
			parts = append(parts, "pods that have loaded it run an earlier module")
		}
		parts = append(parts, module.message)
	case !podsKnown:
		condition.Status, condition.Reason = metav1.ConditionUnknown, reasonPodsUnknown
		parts = []string{"the cluster's pods cannot be listed"}
	case t.pods == 0:
		condition.Status, condition.Reason = metav1.ConditionUnknown, reasonNoPods
		parts = []string{"it applies to no pod with a sidecar"}
	case t.loaded == t.pods:
		condition.Status, condition.Reason = metav1.ConditionTrue, reasonLoaded
	case without == 0:
		condition.Status, condition.Reason = metav1.ConditionUnknown, reasonLoading
	default:
		condition.Reason = reasonNoContact
		parts = append(parts, "look at the log of istio-proxy there: the module may not load, or a Sidecar resource hides the control plane")
	}
	condition.Message = strings.Join(parts, "; ")
	return condition
}

func (t *podTally) currentCondition() metav1.Condition {
	condition := metav1.Condition{Type: conditionCurrent, Status: metav1.ConditionTrue, Reason: "Current",
		Message: fmt.Sprintf("%d of %d filters enforce their current policies", t.current, t.loaded)}
	switch {
	case t.loaded == 0:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionUnknown, "NoFilters", "no filter is in contact"
	case t.current < t.loaded:
		condition.Status, condition.Reason = metav1.ConditionFalse, "Behind"
		condition.Message += "; not yet: " + names(t.behind)
	}
	return condition
}

// names joins names, and abbreviates a long list.
func names(pods []string) string {
	const most = 5
	if len(pods) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(pods[:most], ", "), len(pods)-most)
	}
	return strings.Join(pods, ", ")
}
