package deploy_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kubeschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/kube"
	"github.com/boifi/hfi/schema"
)

// deliveries have, by the kind of object that the daemon uses, its version and a
// value of --kube-delivery.
var deliveries = map[kubeschema.GroupVersionResource][2]string{
	{Group: "extensions.istio.io", Version: "v1alpha1", Resource: "wasmplugins"}:       {"WasmPlugin", kube.DeliverByWasmPlugin},
	{Group: "extensions.istio.io", Version: "v1alpha1", Resource: "trafficextensions"}: {"TrafficExtension", kube.DeliverByWasmPlugin},
	{Group: "networking.istio.io", Version: "v1alpha3", Resource: "envoyfilters"}:      {"EnvoyFilter", kube.DeliverByEnvoyFilter},
}

// The roles have exactly the rights that the daemon uses. Without the managers'
// they are to read, to write status and to create Events.
func TestRightsAreThoseThatAreUsed(t *testing.T) {
	base, reader := map[string]bool{}, map[string]bool{}
	managers := map[string]map[string]bool{"wasmplugin": {}, "envoyfilter": {}}
	for plugins, how := range deliveries {
		resource := plugins.Group + "/" + plugins.Resource
		used := rightsUsed(t, plugins)
		for _, verb := range []string{"create", "update", "delete"} {
			right := verb + " " + resource
			if !used[right] {
				t.Errorf("the daemon does not use the right to %s", right)
			}
			managers[how[1]][right] = true
			delete(used, right)
		}
		for right := range used {
			switch {
			case how[1] == kube.DeliverByEnvoyFilter && strings.Contains(right, resource):
				reader[right] = true
			case right == "list networking.istio.io/envoyfilters":
				// It looks for what another delivery has left, and without the right finds nothing.
			default:
				base[right] = true
			}
		}
	}
	compare := func(folder, role string, used map[string]bool) {
		t.Helper()
		if given := rightsGiven(only[*rbacv1.ClusterRole](t, built(t, folder), role)); !maps.Equal(given, used) {
			t.Errorf("%s grants %v, and the daemon uses %v", role, slices.Sorted(maps.Keys(given)), slices.Sorted(maps.Keys(used)))
		}
	}
	compare("base", "hfi-control-plane", base)
	compare("overlays/wasmplugin-manager", "hfi-wasmplugin-manager", managers["wasmplugin"])
	compare("overlays/envoyfilter-manager", "hfi-envoyfilter-manager", managers["envoyfilter"])
	compare("overlays/envoyfilter-manager", "hfi-envoyfilter-reader", reader)
	// The right is limited to a namespace, and given to the daemon's account.
	account := only[*rbacv1.ClusterRoleBinding](t, built(t, "base"), "hfi-control-plane").Subjects
	for _, how := range []string{"wasmplugin", "envoyfilter"} {
		binding := only[*rbacv1.RoleBinding](t, built(t, "overlays/"+how+"-manager"), "hfi-"+how+"-manager")
		if binding.Namespace == "" {
			t.Error("the RoleBinding has no namespace")
		}
		if len(account) != 1 || account[0].Namespace != "boifi" || !slices.Equal(binding.Subjects, account) {
			t.Errorf("the rights are given to %+v and %+v", account, binding.Subjects)
		}
	}
	if reads := only[*rbacv1.ClusterRoleBinding](t, built(t, "overlays/envoyfilter-manager"), "hfi-envoyfilter-reader"); !slices.Equal(reads.Subjects, account) {
		t.Errorf("the right to read EnvoyFilters is given to %+v", reads.Subjects)
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

// rightsUsed returns the rights that a daemon uses to create a plugin of a kind, repair
// another, delete both and report it all. The cluster has no WasmPlugins if that is not the kind.
func rightsUsed(t *testing.T, plugins kubeschema.GroupVersionResource) map[string]bool {
	how := deliveries[plugins]
	events := kubeschema.GroupVersionResource{Version: "v1", Resource: "events"}
	damaged := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": plugins.GroupVersion().String(), "kind": how[0],
		"metadata": map[string]any{"name": kube.PluginName + "-frontend", "namespace": "shop", "labels": map[string]any{"app.kubernetes.io/managed-by": "hfi"}},
	}}
	lists := map[kubeschema.GroupVersionResource]string{events: "EventList"}
	for each, how := range deliveries {
		lists[each] = how[0] + "List"
	}
	objects := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists, damaged)
	missing := func(action kubetesting.Action) bool {
		return action.GetResource().Resource == "wasmplugins" && how[0] != "WasmPlugin"
	}
	notFound := apierrors.NewNotFound(plugins.GroupResource(), "")
	objects.PrependReactor("*", "*", func(action kubetesting.Action) (bool, runtime.Object, error) { return missing(action), nil, notFound })
	objects.PrependWatchReactor("*", func(action kubetesting.Action) (bool, watch.Interface, error) { return missing(action), nil, notFound })
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var running []runtime.Object
	for _, namespace := range []string{"demo", "shop"} {
		running = append(running, &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Name: "frontend", Namespace: namespace, Labels: map[string]string{"app": "frontend"}}})
	}
	// With a waypoint, the daemon reads which Services use it.
	running = append(running, &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "waypoint", Namespace: "demo", Labels: map[string]string{"gateway.istio.io/managed": "istio.io-mesh-controller"}}})
	pods := metadatafake.NewSimpleMetadataClient(scheme, running...)

	cluster := kube.New(kube.Clients{Metadata: pods, Dynamic: objects})
	cluster.Leads = func() bool { return true }
	cluster.Filters = func(context.Context) (api.FiltersStatus, error) {
		return api.FiltersStatus{Complete: true}, nil
	}
	cluster.SHA256, cluster.Keep = "5f2c7e9a", []string{"demo", "shop"}
	cluster.Delivery, cluster.Linger = how[1], 0
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
	resource := plugins.Group + "/" + plugins.Resource
	until("create "+resource, "update "+resource, "patch "+resource+"/status", "create /events", "watch /services", "watch /namespaces")
	cluster.Serve(&reconciler.State{Set: schema.NewSet(), Revision: reconciler.Revision{Number: 2}})
	until("delete " + resource)
	return used()
}
