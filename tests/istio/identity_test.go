//go:build linux

package istio

import (
	"fmt"
	"testing"
	"time"
)

// Each filter knows the workload of its sidecar from the node metadata, which
// Istio's injector derives from the pod's owners: it is the Deployment, not its
// ReplicaSet or Pod.
func identityStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	w.loadPlugin(t)
	expected := map[string]string{w.catalog(t).name: "productcatalog"}
	for _, pod := range w.frontends(t) {
		expected[pod.name] = "frontend"
	}
	eventually(t, "the identities of all filters", 30*time.Second, func() error {
		filters, err := w.filters()
		if err != nil {
			return err
		}
		if len(filters.Items) != len(expected) {
			return fmt.Errorf("%d filters", len(filters.Items))
		}
		for _, filter := range filters.Items {
			if filter.Namespace != "demo" || filter.Service == "" || expected[filter.Pod] != filter.Service {
				return fmt.Errorf("a filter reports its identity as %+v", filter.FilterID)
			}
		}
		return nil
	})
}
