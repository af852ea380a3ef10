package deploy_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kubeschema "k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	metadatafake "k8s.io/client-go/metadata/fake"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/kube"
	"github.com/boifi/hfi/schema"
)

// The roles have exactly the rights that the daemon uses. Without the manager's
// they are to read, to write status and to create Events.
func TestRightsAreThoseThatAreUsed(t *testing.T) {
	used := rightsUsed(t)
	changes := map[string]bool{}
	for _, verb := range []string{"create", "update", "delete"} {
		right := verb + " extensions.istio.io/wasmplugins"
		if !used[right] {
			t.Errorf("the daemon does not use the right to %s", right)
		}
		changes[right] = true
		delete(used, right)
	}
	base := built(t, "base")
	if given := rightsGiven(only[*rbacv1.ClusterRole](t, base, "hfi-control-plane")); !maps.Equal(given, used) {
		t.Errorf("the base grants %v, and the daemon uses %v", slices.Sorted(maps.Keys(given)), slices.Sorted(maps.Keys(used)))
	}
	manager := built(t, "overlays/wasmplugin-manager")
	if given := rightsGiven(only[*rbacv1.ClusterRole](t, manager, "hfi-wasmplugin-manager")); !maps.Equal(given, changes) {
		t.Errorf("the manager grants %v, and the daemon uses %v", slices.Sorted(maps.Keys(given)), slices.Sorted(maps.Keys(changes)))
	}
	// The right is limited to a namespace, and given to the daemon's account.
	binding := only[*rbacv1.RoleBinding](t, manager, "hfi-wasmplugin-manager")
	if binding.Namespace == "" {
		t.Error("the RoleBinding has no namespace")
	}
	account := only[*rbacv1.ClusterRoleBinding](t, base, "hfi-control-plane").Subjects
	if len(account) != 1 || account[0].Namespace != "boifi" || !slices.Equal(binding.Subjects, account) {
		t.Errorf("the rights are given to %+v and %+v", account, binding.Subjects)
	}
}

// rightsGiven returns a role's rights, each written VERB GROUP/RESOURCE.
func rightsGiven(role *rbacv1.ClusterRole) map[string]bool {
	given := map[string]bool{}
	for _, rule := range role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					given[verb+" "+group+"/"+resource] = true
				}
			}
		}
	}
	return given
}

// rightsUsed returns the rights that a daemon uses to create a WasmPlugin, repair
// another, delete both and report it all.
func rightsUsed(t *testing.T) map[string]bool {
	plugins := kubeschema.GroupVersionResource{Group: "extensions.istio.io", Version: "v1alpha1", Resource: "wasmplugins"}
	events := kubeschema.GroupVersionResource{Version: "v1", Resource: "events"}
	damaged := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin",
		"metadata": map[string]any{"name": kube.PluginName, "namespace": "shop", "labels": map[string]any{"app.kubernetes.io/managed-by": "hfi"}},
	}}
	objects := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[kubeschema.GroupVersionResource]string{plugins: "WasmPluginList", events: "EventList"}, damaged)
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var running []runtime.Object
	for _, namespace := range []string{"demo", "shop"} {
		running = append(running, &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Name: "frontend", Namespace: namespace}})
	}
	pods := metadatafake.NewSimpleMetadataClient(scheme, running...)

	cluster := kube.New(kube.Clients{Metadata: pods, Dynamic: objects})
	cluster.Leads = func() bool { return true }
	cluster.Filters = func(context.Context) (api.FiltersStatus, error) {
		return api.FiltersStatus{Complete: true}, nil
	}
	cluster.SHA256, cluster.Keep = "5f2c7e9a", []string{"demo", "shop"}
	cluster.Interval, cluster.RepairMin = 10*time.Millisecond, time.Millisecond
	if err := cluster.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	}()
	used := func() map[string]bool {
		rights := map[string]bool{}
		for _, action := range slices.Concat(objects.Actions(), pods.Actions()) {
			resource := action.GetResource().Resource
			if part := action.GetSubresource(); part != "" {
				resource += "/" + part
			}
			rights[fmt.Sprintf("%s %s/%s", action.GetVerb(), action.GetResource().Group, resource)] = true
		}
		return rights
	}
	until := func(rights ...string) {
		t.Helper()
		testtool.Within(t, testtool.WaitLimit, "the rights are used", func() error {
			if all := used(); slices.ContainsFunc(rights, func(right string) bool { return !all[right] }) {
				return fmt.Errorf("timed out: the daemon uses only %v", slices.Sorted(maps.Keys(all)))
			}
			return nil
		})
	}
	policy, err := schema.Parse([]byte(`{"metadata":{"name":"front"},"spec":{"selector":{"service":"frontend","namespace":"*"},"rules":[{"fault":{"delay_ms":5}}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	cluster.Serve(&reconciler.State{Set: schema.NewSet(schema.NewEntry(policy, schema.Origin{})), Revision: reconciler.Revision{Number: 1}})
	until("create extensions.istio.io/wasmplugins", "update extensions.istio.io/wasmplugins", "patch extensions.istio.io/wasmplugins/status", "create /events")
	cluster.Serve(&reconciler.State{Set: schema.NewSet(), Revision: reconciler.Revision{Number: 2}})
	until("delete extensions.istio.io/wasmplugins")
	return used()
}
