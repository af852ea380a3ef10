package istio

import "testing"

// A policy touches the requests of the service and namespace that it
// names, and no other; left out or * means any.
func targetingStory(t *testing.T, w *world) {
	w.settle(t)
	w.loadPlugin(t)
	for _, c := range []struct {
		name, service, namespace string
		frontend, catalog        int
	}{
		{"one service", "frontend", "demo", 418, 200},
		{"the other service", "productcatalog", "demo", 200, 418},
		{"any service of the namespace", "*", "demo", 418, 418},
		{"the service in any namespace", "frontend", "*", 418, 200},
		{"any at all", "*", "*", 418, 418},
		{"another namespace", "*", "staging", 200, 200},
		{"a service that is not there", "cart", "demo", 200, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.settle(t, abort("targeted", c.service, c.namespace, 418, 100))
			for _, pod := range w.frontends(t) {
				w.all(t, pod, c.frontend)
			}
			w.all(t, w.catalog(t), c.catalog)
		})
	}
	t.Run("no selector", func(t *testing.T) {
		w.settle(t, "metadata: {name: targeted}\nspec: {rules: [{fault: {abort: {status: 418}}}]}\n")
		w.all(t, w.frontends(t)[0], 418)
		w.all(t, w.catalog(t), 418)
	})
}
