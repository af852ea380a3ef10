package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/oci"
)

// The WasmPlugin's status has on how many pods the filter is loaded and on
// which it is not, and Events report changes.
func TestPluginStatusCountsLoadedFilters(t *testing.T) {
	plugin := pluginObject("demo", "by-hand", func(spec map[string]any) {
		spec["selector"] = map[string]any{"matchLabels": map[string]any{"app": "frontend"}}
	})
	plugin.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Reconciled", "status": "True"}}}
	s := newFixture(t, nil, plugin)
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "frontend", "b", nil), podOfDeployment("demo", "catalog", "c", nil))
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterBehind})
	s.eventually("one of two filters is loaded", func() bool {
		loaded := s.condition("demo", "by-hand", conditionLoaded)
		return loaded.Status == "False" && loaded.Reason == reasonNoContact && strings.Contains(loaded.Message, "loaded on 1 of 2 pods; no contact from frontend-abc12-b")
	})
	if current := s.condition("demo", "by-hand", conditionCurrent); current.Status != "False" || !strings.Contains(current.Message, "0 of 1") {
		t.Errorf("current is %+v", current)
	}
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent, "frontend-abc12-b": api.FilterCurrent})
	s.eventually("both are loaded", func() bool {
		return s.condition("demo", "by-hand", conditionLoaded).Status == "True" && s.condition("demo", "by-hand", conditionCurrent).Status == "True"
	})
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent, "frontend-abc12-b": api.FilterSilent})
	s.eventually("one contact ended", func() bool {
		loaded := s.condition("demo", "by-hand", conditionLoaded)
		return loaded.Status == "False" && strings.Contains(loaded.Message, "no more contact from frontend-abc12-b")
	})
	s.eventually("Events report it", func() bool {
		return slices.Contains(s.attemptedEvents(), reasonNoContact) && slices.Contains(s.attemptedEvents(), reasonLoaded)
	})
	conditions, _, _ := unstructured.NestedSlice(s.plugin("demo", "by-hand").Object, "status", "conditions")
	if len(conditions) != 3 || conditions[0].(map[string]any)["type"] != "Reconciled" {
		t.Errorf("a condition of others was removed: %v", conditions)
	}
	if got := number(s.plugin("demo", "by-hand").Object, "status", "observedGeneration"); got != 1 {
		t.Errorf("the status observes generation %d", got)
	}
	// No status is written while nothing changes.
	writes := func() (n int) {
		for _, action := range s.objects.Actions() {
			if action.GetVerb() == "patch" {
				n++
			}
		}
		return n
	}
	s.quiet("no status is written", writes)
}

// Writers that go through protobuf, as Istio's do, write observedGeneration as
// text: the conditions are still read as hfi's, and not written a second time.
func TestConditionsWithTextForANumber(t *testing.T) {
	own := func(kind string, generation any) map[string]any {
		return map[string]any{"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-03-01T12:00:00Z", "observedGeneration": generation}
	}
	object := pluginObject("demo", "by-hand", nil)
	object.Object["status"] = map[string]any{"conditions": []any{
		map[string]any{"type": "Reconciled", "status": "True", "observedGeneration": "3"}, own(conditionLoaded, "3"), own(conditionCurrent, int64(3)),
	}}
	home, err := url.Parse(DefaultControlPlane)
	if err != nil {
		t.Fatal(err)
	}
	plugin := readPlugin(wasmPlugins, object, home)
	if plugin == nil || len(plugin.conditions) != 2 || len(plugin.otherConditions) != 1 {
		t.Fatalf("the plugin is read as %+v", plugin)
	}
	for _, condition := range plugin.conditions {
		if condition.ObservedGeneration != 3 || condition.Status != metav1.ConditionTrue || condition.LastTransitionTime.IsZero() {
			t.Errorf("a condition is read as %+v", condition)
		}
	}
}

// While all conditions are True and nothing changes, Filters is called every Idle only.
func TestFiltersIsCalledRarelyWhileIdle(t *testing.T) {
	var asked atomic.Int64
	s := newFixture(t, func(s *fixture) {
		s.Idle = time.Hour
		filters := s.Filters
		s.Filters = func(ctx context.Context) (api.FiltersStatus, error) {
			asked.Add(1)
			return filters(ctx)
		}
	}, pluginObject("demo", "by-hand", nil))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.eventually("Filters is called until all conditions are True", func() bool { return asked.Load() > 10 })
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	well := func() bool { return s.condition("demo", "by-hand", conditionCurrent).Status == "True" }
	s.eventually("all conditions are True", well)
	s.quiet("Filters is not called", func() int { return int(asked.Load()) })
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterBehind})
	s.serve("front=frontend/demo")
	s.eventually("a change of policies ends the idle state", func() bool { return !well() })
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	s.eventually("the condition is True again", well)
}

// A pod has Grace to load its filter, from its start and from a change of its plugin.
func TestAPodHasTimeToLoad(t *testing.T) {
	s := newFixture(t, nil, pluginObject("demo", "by-hand", nil))
	young := podOfDeployment("demo", "frontend", "a", nil)
	young.CreationTimestamp = metav1.NewTime(time.Now())
	s.addPods(young)
	s.eventually("the pod is waited for", func() bool {
		loaded := s.condition("demo", "by-hand", conditionLoaded)
		return loaded.Status == "Unknown" && loaded.Reason == reasonLoading && strings.Contains(loaded.Message, "waiting for frontend-abc12-a")
	})
	s.advance(22 * time.Second)
	s.consistently("the pod is still waited for", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Reason == reasonLoading })
	s.advance(8 * time.Second)
	s.eventually("the pod lacks contact", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Reason == reasonNoContact })
}

// The status has the reason of a load failure as far as the daemon can find it:
// that the url does not work, or has another module.
func TestReasonOfALoadFailure(t *testing.T) {
	sum := sha256.Sum256([]byte("module"))
	right := hex.EncodeToString(sum[:])
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/filter.wasm" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte("module"))
	}))
	defer files.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer images.Close()
	artefact := "oci://" + strings.TrimPrefix(images.URL, "http://") + "/hfi/filter"
	pushed := pushFilter(t, artefact+":1")
	for _, c := range []struct {
		what, url, sha256, reason, message string
	}{
		{"no such file", files.URL + "/none.wasm", "", reasonUnreachable, "the url returned 404 Not Found"},
		{"another module", files.URL + "/filter.wasm", strings.Repeat("0", 64), reasonDigest, "sha256 differs: spec says 000000000000…, and the module has " + right[:12]},
		{"no server", gone.URL + "/filter.wasm", "", reasonUnreachable, "the url cannot be reached from the control plane"},
		{"the right module", files.URL + "/filter.wasm", right, reasonNoContact, "look at the log of istio-proxy"},
		{"no such tag", artefact + ":none", "", reasonUnreachable, "the registry returned 404 Not Found"},
		{"no such digest", artefact + "@sha256:" + strings.Repeat("0", 64), "", reasonUnreachable, "the registry returned 404 Not Found"},
		{"another artefact", artefact + ":1", strings.Repeat("0", 64), reasonDigest, "sha256 differs: spec says 000000000000…, and the module has " + pushed[:12]},
		{"no registry", "oci://" + strings.TrimPrefix(gone.URL, "http://") + "/hfi/filter:1", "", reasonUnreachable, "the registry cannot be reached from the control plane"},
		{"no reference", "oci://hfi/filter:a:b", "", reasonUnreachable, "the url is invalid"},
		{"the right artefact", artefact + ":1", pushed, reasonNoContact, "look at the log of istio-proxy"},
		{"the right artefact, by digest", artefact + "@sha256:" + pushed, "", reasonNoContact, "look at the log of istio-proxy"},
		// A sidecar may have the credentials.
		{"a private registry", "oci://registry.example.com/filter:1", "", reasonNoContact, "look at the log of istio-proxy"},
		{"an earlier filter of ours", "http://hfi-control-plane.boifi.svc.cluster.local:8080/v1/filter/" + right + ".wasm", right, reasonUnreachable, "returns 404: the control plane's filter is /v1/filter/" + filterDigest},
		{"our url with an earlier digest", "http://hfi-control-plane.boifi:8080/v1/filter.wasm", right, reasonDigest, "sha256 differs"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newFixture(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) {
				spec["url"] = c.url
				if c.sha256 != "" {
					spec["sha256"] = c.sha256
				}
			}))
			s.addPods(podOfDeployment("demo", "frontend", "a", nil))
			s.eventually("the status has the reason", func() bool {
				loaded := s.condition("demo", "by-hand", conditionLoaded)
				return loaded.Status == "False" && loaded.Reason == c.reason && strings.Contains(loaded.Message, c.message) &&
					strings.Contains(loaded.Message, "no contact from frontend-abc12-a")
			})
			s.eventually("an Event has the reason", func() bool { return slices.Contains(s.attemptedEvents(), c.reason) })
		})
	}
}

// pushFilter pushes an artefact and returns the digest of its manifest.
func pushFilter(t *testing.T, address string) string {
	t.Helper()
	to, err := name.ParseReference(strings.TrimPrefix(address, "oci://"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := oci.Filter("1", []byte("module"))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, image, remote.WithTransport(&http.Transport{DisableKeepAlives: true})); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.Hex
}

// The registry of a plugin with a pull secret is not checked: the daemon lacks
// those credentials, and sidecars may get another answer.
func TestRegistryWithPullSecretIsNotChecked(t *testing.T) {
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer images.Close()
	s := newFixture(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) {
		spec["url"], spec["imagePullSecret"] = "oci://"+strings.TrimPrefix(images.URL, "http://")+"/hfi/filter:1", "registry"
	}))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.eventually("the conditions are written", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Status == "False" })
	s.consistently("the reason is not the registry", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Reason == reasonNoContact })
}

// A registry without TLS is asked over HTTP, as Istio's agent does.
func TestRegistryWithoutTLS(t *testing.T) {
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer images.Close()
	s := newFixture(t, func(s *fixture) {
		s.HTTP = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, images.Listener.Addr().String())
		}}}
	}, pluginObject("demo", "by-hand", func(spec map[string]any) { spec["url"] = "oci://images.example.com/hfi/filter:1" }))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.eventually("the registry answers", func() bool {
		return strings.Contains(s.condition("demo", "by-hand", conditionLoaded).Message, "the registry returned 404 Not Found")
	})
}

// If a plugin changes to a module that cannot be loaded, sidecars keep the one
// before and stay in contact. The failure is reported nevertheless.
func TestLoadFailureWithAnEarlierModuleLoaded(t *testing.T) {
	files := httptest.NewServer(http.NotFoundHandler())
	defer files.Close()
	s := newFixture(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) { spec["url"] = files.URL + "/filter.wasm" }))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	s.eventually("the failure is reported", func() bool {
		loaded := s.condition("demo", "by-hand", conditionLoaded)
		return loaded.Status == "False" && loaded.Reason == reasonUnreachable && strings.Contains(loaded.Message, "pods that have loaded it run an earlier module")
	})
}

// A failed check of a module is repeated, even if every pod has its filter.
func TestFailedModuleCheckIsRepeated(t *testing.T) {
	var up atomic.Bool
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer files.Close()
	s := newFixture(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) { spec["url"] = files.URL + "/filter.wasm" }))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	s.eventually("the failure is reported", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Reason == reasonUnreachable })
	up.Store(true)
	s.advance(DefaultCheckEvery)
	s.eventually("the failure is cleared", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Status == "True" })
}

// While a replica does not report its filters, none counts as lost for Grace.
func TestNoFilterIsLostWhileAReplicaIsSilent(t *testing.T) {
	s := newFixture(t, nil, pluginObject("demo", "by-hand", nil))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	s.eventually("the filter is loaded", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Status == "True" })
	s.set(func() { s.fleet = api.FiltersStatus{Complete: false} })
	s.consistently("the filter still counts as loaded", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Status == "True" })
	s.advance(DefaultGrace + time.Second)
	s.eventually("after Grace the filter counts as not loaded", func() bool {
		loaded := s.condition("demo", "by-hand", conditionLoaded)
		return loaded.Status == "False" && strings.Contains(loaded.Message, "may know more")
	})
}

// Two control planes in one cluster do not write to each other's plugins,
// whatever their names: each would overwrite the other's status.
func TestPluginOfAnotherControlPlaneIsNotReported(t *testing.T) {
	elsewhere := func(namespace string) *unstructured.Unstructured {
		object := pluginObject(namespace, frontPlugin, func(spec map[string]any) {
			spec["url"] = "http://hfi-control-plane.staging:8080/v1/filter/" + filterDigest + ".wasm"
			spec["pluginConfig"] = map[string]any{"control_plane_address": "hfi-control-plane.staging:8080"}
		})
		object.SetLabels(map[string]string{labelManagedBy: managedBy})
		return object
	}
	clash := elsewhere("demo")
	clash.SetLabels(nil)
	s := newFixture(t, nil, elsewhere("other"), clash, pluginObject("third", PluginName, nil))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("other", "frontend", "b", nil), podOfDeployment("third", "frontend", "c", nil))
	set := s.serve("front=frontend/*")
	s.eventually("a plugin that leads here is reported, wherever its module is", func() bool {
		return s.condition("third", PluginName, conditionLoaded).Reason == reasonNoContact
	})
	s.consistently("a plugin that leads elsewhere is not", func() bool {
		for _, action := range s.objects.Actions() {
			if slices.Contains([]string{"create", "update", "delete", "patch"}, action.GetVerb()) && action.GetNamespace() != "third" {
				t.Fatalf("hfi sent %s %s in namespace %s", action.GetVerb(), action.GetResource().Resource, action.GetNamespace())
			}
		}
		return true
	})
	messages := map[string]string{}
	for _, row := range s.view(set).WasmPlugins {
		messages[row.Namespace] = row.Message
		if row.Namespace == "demo" && (row.Managed || len(row.Conditions) > 0) {
			t.Errorf("the plugin with our name in demo is shown as %+v", row)
		}
	}
	if _, shown := messages["other"]; shown || len(messages) != 2 {
		t.Errorf("the status lists %v", messages)
	}
	if !strings.Contains(messages["demo"], "refers to another control plane") || !strings.Contains(messages["demo"], "hfi creates none here") {
		t.Errorf("the message about a taken name is %q", messages["demo"])
	}
}

// A plugin in the mesh's root namespace applies to the pods of every namespace.
func TestPluginOfTheRootNamespace(t *testing.T) {
	s := newFixture(t, nil, pluginObject(DefaultRootNamespace, "everywhere", nil))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("other", "frontend", "b", nil))
	s.eventually("it applies to both", func() bool {
		return strings.Contains(s.condition(DefaultRootNamespace, "everywhere", conditionLoaded).Message, "loaded on 0 of 2 pods")
	})
}
