//go:build linux

package istio

import "testing"

// A policy applies to the requests of the service and namespace that it names, and
// to no others. Omitting one, or *, means any.
func targetingStory(t *testing.T, w *world) {
	w.pushAndWait(t)
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
		{"a service that does not exist", "cart", "demo", 200, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.pushAndWait(t, abort("targeted", c.service, c.namespace, 418, 100))
			for _, pod := range w.frontends(t) {
				w.all(t, pod, c.frontend)
			}
			w.all(t, w.catalog(t), c.catalog)
		})
	}
	t.Run("no selector", func(t *testing.T) {
		w.pushAndWait(t, "metadata: {name: targeted}\nspec: {rules: [{fault: {abort: {status: 418}}}]}\n")
		w.all(t, w.frontends(t)[0], 418)
		w.all(t, w.catalog(t), 418)
	})
}
