package deploy_test

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Without the manager the daemon may look and tell, and change nothing that runs.
func TestOnlyTheManagerMayChangeWasmPlugins(t *testing.T) {
	base := built(t, "base")
	for _, rule := range only[*rbacv1.ClusterRole](t, base, "hfi-control-plane").Rules {
		allowed := []string{"get", "list", "watch"}
		switch {
		case slices.Equal(rule.Resources, []string{"wasmplugins/status"}):
			allowed = []string{"patch"}
		case slices.Equal(rule.Resources, []string{"events"}):
			allowed = []string{"create", "patch"}
		}
		for _, verb := range rule.Verbs {
			if !slices.Contains(allowed, verb) {
				t.Errorf("the base may %s %v", verb, rule.Resources)
			}
		}
		if slices.Contains(rule.Resources, "secrets") || slices.Contains(rule.Resources, "*") || slices.Contains(rule.APIGroups, "*") {
			t.Errorf("the base may read more than it needs: %+v", rule)
		}
	}
	manager := built(t, "overlays/wasmplugin-manager")
	rules := only[*rbacv1.ClusterRole](t, manager, "hfi-wasmplugin-manager").Rules
	if len(rules) != 1 || !slices.Equal(rules[0].Resources, []string{"wasmplugins"}) ||
		!slices.Equal(rules[0].Verbs, []string{"create", "update", "patch", "delete"}) {
		t.Errorf("the manager's rules are %+v", rules)
	}
	// The right holds in named namespaces, for the account that the daemon runs as.
	binding := only[*rbacv1.RoleBinding](t, manager, "hfi-wasmplugin-manager")
	if binding.Namespace == "" {
		t.Error("the RoleBinding has no namespace")
	}
	account := only[*rbacv1.ClusterRoleBinding](t, base, "hfi-control-plane").Subjects
	if len(account) != 1 || account[0].Namespace != "boifi" || !slices.Equal(binding.Subjects, account) {
		t.Errorf("rights go to %+v and %+v", account, binding.Subjects)
	}
}
