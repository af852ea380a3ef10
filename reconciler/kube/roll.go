package kube

import (
	"fmt"
	"slices"
	"strings"

	"github.com/boifi/hfi/internal/api"
)

// roll is a plugin's pods, called.
type roll struct {
	pods, loaded, current int
	// waiting are young; missing should have been heard of; silent were.
	waiting, missing, silent, behind []string
}

func (t *roll) add(one *pod, has contact, due bool) {
	t.pods++
	switch {
	case has.state == api.FilterCurrent:
		t.loaded++
		t.current++
	case has.state == api.FilterBehind:
		t.loaded++
		t.behind = append(t.behind, one.Name)
	case has.state == api.FilterSilent:
		t.silent = append(t.silent, one.Name)
	case due:
		t.missing = append(t.missing, one.Name)
	default:
		t.waiting = append(t.waiting, one.Name)
	}
}

func (t *roll) sort() {
	for _, list := range [][]string{t.waiting, t.missing, t.silent, t.behind} {
		slices.Sort(list)
	}
}

func (t *roll) loadedCondition(podsKnown bool, module check) api.Condition {
	condition := api.Condition{Type: conditionLoaded, Status: "False"}
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
	switch bad := module.reason != "" && (module.certain || without > 0); {
	case bad:
		condition.Reason = module.reason
		if t.loaded > 0 {
			parts = append(parts, "those loaded have an earlier module")
		}
		parts = append(parts, module.message)
	case !podsKnown:
		condition.Status, condition.Reason = "Unknown", reasonPodsUnknown
		parts = []string{"which pods there are cannot be seen"}
	case t.pods == 0:
		condition.Status, condition.Reason = "Unknown", reasonNoPods
		parts = []string{"there is no pod with a sidecar for it"}
	case t.loaded == t.pods:
		condition.Status, condition.Reason = "True", reasonLoaded
	case without == 0:
		condition.Status, condition.Reason = "Unknown", reasonLoading
	default:
		condition.Reason = reasonNoContact
		parts = append(parts, "look at the log of istio-proxy there: the module may not load, or a Sidecar resource hides the control plane")
	}
	condition.Message = strings.Join(parts, "; ")
	return condition
}

func (t *roll) currentCondition() api.Condition {
	condition := api.Condition{Type: conditionCurrent, Status: "True", Reason: "Current",
		Message: fmt.Sprintf("%d of %d filters have their present policies in force", t.current, t.loaded)}
	switch {
	case t.loaded == 0:
		condition.Status, condition.Reason, condition.Message = "Unknown", "NoFilters", "no filter is in contact"
	case t.current < t.loaded:
		condition.Status, condition.Reason = "False", "Behind"
		condition.Message += "; not yet: " + names(t.behind)
	}
	return condition
}

// names lists some of many.
func names(pods []string) string {
	const most = 5
	if len(pods) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(pods[:most], ", "), len(pods)-most)
	}
	return strings.Join(pods, ", ")
}
