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

// The WasmPlugin's status says on how many pods the filter is loaded, and on
// which not; and an Event says when that changes.
func TestPluginStatusTellsWhereTheFilterIsLoaded(t *testing.T) {
	plugin := pluginObject("demo", "by-hand", func(spec map[string]any) {
		spec["selector"] = map[string]any{"matchLabels": map[string]any{"app": "frontend"}}
	})
	plugin.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Reconciled", "status": "True"}}}
	s := newStage(t, nil, plugin)
	s.start(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "frontend", "b", nil), podOfDeployment("demo", "catalog", "c", nil))
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterBehind})
	s.eventually("one of two is loaded", func() bool {
		loaded := s.condition("demo", "by-hand", conditionLoaded)
		return loaded.Status == "False" && loaded.Reason == reasonNoContact && strings.Contains(loaded.Message, "loaded on 1 of 2 pods; no contact from frontend-abc12-b")
	})
	if current := s.condition("demo", "by-hand", conditionCurrent); current.Status != "False" || !strings.Contains(current.Message, "0 of 1") {
		t.Errorf("current is %+v", current)
	}
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent, "frontend-abc12-b": api.FilterCurrent})
	s.eventually("both are", func() bool {
		return s.condition("demo", "by-hand", conditionLoaded).Status == "True" && s.condition("demo", "by-hand", conditionCurrent).Status == "True"
	})
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent, "frontend-abc12-b": api.FilterSilent})
	s.eventually("one stopped", func() bool {
		loaded := s.condition("demo", "by-hand", conditionLoaded)
		return loaded.Status == "False" && strings.Contains(loaded.Message, "no more contact from frontend-abc12-b")
	})
	s.eventually("Events tell of it", func() bool {
		return slices.Contains(s.events(), reasonNoContact) && slices.Contains(s.events(), reasonLoaded)
	})
	conditions, _, _ := unstructured.NestedSlice(s.plugin("demo", "by-hand").Object, "status", "conditions")
	if len(conditions) != 3 || conditions[0].(map[string]any)["type"] != "Reconciled" {
		t.Errorf("another's condition is gone: %v", conditions)
	}
	if got := number(s.plugin("demo", "by-hand").Object, "status", "observedGeneration"); got != 1 {
		t.Errorf("the status is of generation %d", got)
	}
	// Nothing is written while nothing changes.
	writes := func() (n int) {
		for _, action := range s.objects.Actions() {
			if action.GetVerb() == "patch" {
				n++
			}
		}
		return n
	}
	s.quiet("nothing is written for nothing", writes)
}

// While all is well and nothing changes, the fleet is seldom asked for.
func TestAnIdleFleetIsLeftInPeace(t *testing.T) {
	var asked atomic.Int64
	s := newStage(t, func(s *stage) {
		s.Idle = time.Hour
		filters := s.Filters
		s.Filters = func(ctx context.Context) (api.FiltersStatus, error) {
			asked.Add(1)
			return filters(ctx)
		}
	}, pluginObject("demo", "by-hand", nil))
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	s.eventually("it is asked for until all is well", func() bool { return asked.Load() > 10 })
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	well := func() bool { return s.condition("demo", "by-hand", conditionCurrent).Status == "True" }
	s.eventually("all is well", well)
	s.quiet("it is asked for no more", func() int { return int(asked.Load()) })
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterBehind})
	s.serve("front=frontend/demo")
	s.eventually("what changes here is seen soon", func() bool { return !well() })
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	s.eventually("and so is that it is well again", well)
}

// A pod has the 30 s that loading may take, and so has a changed plugin to arrive.
func TestAPodHasTimeToLoad(t *testing.T) {
	s := newStage(t, nil, pluginObject("demo", "by-hand", nil))
	young := podOfDeployment("demo", "frontend", "a", nil)
	young.CreationTimestamp = metav1.NewTime(time.Now())
	s.start(young)
	s.eventually("it is waited for", func() bool {
		loaded := s.condition("demo", "by-hand", conditionLoaded)
		return loaded.Status == "Unknown" && loaded.Reason == reasonLoading && strings.Contains(loaded.Message, "waiting for frontend-abc12-a")
	})
	s.pass(22 * time.Second)
	s.holds("it still is", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Reason == reasonLoading })
	s.pass(8 * time.Second)
	s.eventually("in vain", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Reason == reasonNoContact })
}

// The reason of a load failure stands in the status: what the daemon can
// find out by itself is that the url does not work, or has another module.
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
		{"no such file", files.URL + "/none.wasm", "", reasonUnreachable, "the url answers 404 Not Found"},
		{"another module", files.URL + "/filter.wasm", strings.Repeat("0", 64), reasonDigest, "sha256 differs: spec says 000000000000…, and the module has " + right[:12]},
		{"nobody there", gone.URL + "/filter.wasm", "", reasonUnreachable, "the url cannot be reached from the control plane"},
		{"the right module", files.URL + "/filter.wasm", right, reasonNoContact, "look at the log of istio-proxy"},
		{"no such tag", artefact + ":none", "", reasonUnreachable, "the registry answers 404 Not Found"},
		{"no such digest", artefact + "@sha256:" + strings.Repeat("0", 64), "", reasonUnreachable, "the registry answers 404 Not Found"},
		{"another artefact", artefact + ":1", strings.Repeat("0", 64), reasonDigest, "sha256 differs: spec says 000000000000…, and the module has " + pushed[:12]},
		{"no registry there", "oci://" + strings.TrimPrefix(gone.URL, "http://") + "/hfi/filter:1", "", reasonUnreachable, "the registry cannot be reached from the control plane"},
		{"no reference", "oci://hfi/filter:a:b", "", reasonUnreachable, "the url cannot be read"},
		{"the right artefact", artefact + ":1", pushed, reasonNoContact, "look at the log of istio-proxy"},
		{"the right artefact, by digest", artefact + "@sha256:" + pushed, "", reasonNoContact, "look at the log of istio-proxy"},
		// A sidecar may have what the registry asks for.
		{"one that is not for all", "oci://registry.example.com/filter:1", "", reasonNoContact, "look at the log of istio-proxy"},
		{"an earlier filter of ours", "http://hfi-control-plane.boifi.svc.cluster.local:8080/v1/filter/" + right + ".wasm", right, reasonUnreachable, "answers 404: the control plane's filter is /v1/filter/" + filterDigest},
		{"ours with a digest of an earlier one", "http://hfi-control-plane.boifi:8080/v1/filter.wasm", right, reasonDigest, "sha256 differs"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newStage(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) {
				spec["url"] = c.url
				if c.sha256 != "" {
					spec["sha256"] = c.sha256
				}
			}))
			s.start(podOfDeployment("demo", "frontend", "a", nil))
			s.eventually("the reason is there", func() bool {
				loaded := s.condition("demo", "by-hand", conditionLoaded)
				return loaded.Status == "False" && loaded.Reason == c.reason && strings.Contains(loaded.Message, c.message) &&
					strings.Contains(loaded.Message, "no contact from frontend-abc12-a")
			})
			s.eventually("an Event tells it", func() bool { return slices.Contains(s.events(), c.reason) })
		})
	}
}

// pushFilter pushes an artefact, and gives the digest of its manifest.
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

// Where a plugin names credentials, a registry that knows nothing of its tag
// without them says nothing of what sidecars find.
func TestARegistryIsNotAskedWithoutThePluginsCredentials(t *testing.T) {
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer images.Close()
	s := newStage(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) {
		spec["url"], spec["imagePullSecret"] = "oci://"+strings.TrimPrefix(images.URL, "http://")+"/hfi/filter:1", "registry"
	}))
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	s.eventually("it is judged", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Status == "False" })
	s.holds("the registry is not blamed", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Reason == reasonNoContact })
}

// Istio's agent asks a registry without TLS too, and so does the daemon.
func TestARegistryWithoutTLS(t *testing.T) {
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer images.Close()
	s := newStage(t, func(s *stage) {
		s.HTTP = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, images.Listener.Addr().String())
		}}}
	}, pluginObject("demo", "by-hand", func(spec map[string]any) { spec["url"] = "oci://images.example.com/hfi/filter:1" }))
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	s.eventually("it answers", func() bool {
		return strings.Contains(s.condition("demo", "by-hand", conditionLoaded).Message, "the registry answers 404 Not Found")
	})
}

// A plugin that is changed to a module that is not there leaves sidecars with
// the one before: they stay in contact, and the failure shows all the same.
func TestALoadFailureBehindALoadedFilter(t *testing.T) {
	files := httptest.NewServer(http.NotFoundHandler())
	defer files.Close()
	s := newStage(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) { spec["url"] = files.URL + "/filter.wasm" }))
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	s.eventually("it shows", func() bool {
		loaded := s.condition("demo", "by-hand", conditionLoaded)
		return loaded.Status == "False" && loaded.Reason == reasonUnreachable && strings.Contains(loaded.Message, "those loaded have an earlier module")
	})
}

// What a module's URL answered once is not held against it for ever, even
// where every pod has its filter and nothing else asks for another look.
func TestALoadFailureThatIsOverIsForgotten(t *testing.T) {
	var up atomic.Bool
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer files.Close()
	s := newStage(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) { spec["url"] = files.URL + "/filter.wasm" }))
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	s.eventually("the failure shows", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Reason == reasonUnreachable })
	up.Store(true)
	s.pass(DefaultCheckEvery)
	s.eventually("it is over", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Status == "True" })
}

// While a replica does not tell which filters wait on it, nothing is called lost.
func TestNothingIsCalledLostWhileAReplicaIsSilent(t *testing.T) {
	s := newStage(t, nil, pluginObject("demo", "by-hand", nil))
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	s.eventually("it is loaded", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Status == "True" })
	s.set(func() { s.fleet = api.FiltersStatus{Complete: false} })
	s.holds("it still is", func() bool { return s.condition("demo", "by-hand", conditionLoaded).Status == "True" })
	s.pass(DefaultGrace + time.Second)
	s.eventually("after a while it is not known to be", func() bool {
		loaded := s.condition("demo", "by-hand", conditionLoaded)
		return loaded.Status == "False" && strings.Contains(loaded.Message, "may know more")
	})
}

// Two control planes in one cluster leave each other's plugins alone, whatever
// they are called: each would overwrite what the other one says of them.
func TestAPluginOfAnotherControlPlaneIsItsOwnToReport(t *testing.T) {
	elsewhere := func(namespace string) *unstructured.Unstructured {
		object := pluginObject(namespace, PluginName, func(spec map[string]any) {
			spec["url"] = "http://hfi-control-plane.staging:8080/v1/filter/" + filterDigest + ".wasm"
			spec["pluginConfig"] = map[string]any{"control_plane_address": "hfi-control-plane.staging:8080"}
		})
		object.SetLabels(map[string]string{labelManagedBy: managedBy})
		return object
	}
	clash := elsewhere("demo")
	clash.SetLabels(nil)
	s := newStage(t, nil, elsewhere("other"), clash, pluginObject("third", PluginName, nil))
	s.start(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("other", "frontend", "b", nil), podOfDeployment("third", "frontend", "c", nil))
	set := s.serve("front=frontend/*")
	s.eventually("what leads here is reported, wherever its module is", func() bool {
		return s.condition("third", PluginName, conditionLoaded).Reason == reasonNoContact
	})
	s.holds("what leads elsewhere is not", func() bool {
		for _, action := range s.objects.Actions() {
			if slices.Contains([]string{"create", "update", "delete", "patch"}, action.GetVerb()) && action.GetNamespace() != "third" {
				t.Fatalf("hfi did %s %s in namespace %s", action.GetVerb(), action.GetResource().Resource, action.GetNamespace())
			}
		}
		return true
	})
	told := map[string]string{}
	for _, row := range s.view(set).WasmPlugins {
		told[row.Namespace] = row.Message
		if row.Namespace == "demo" && (row.Managed || len(row.Conditions) > 0) {
			t.Errorf("what has the name in demo is shown as %+v", row)
		}
	}
	if _, shown := told["other"]; shown || len(told) != 2 {
		t.Errorf("the status tells of %v", told)
	}
	if !strings.Contains(told["demo"], "leads elsewhere") || !strings.Contains(told["demo"], "hfi makes none here") {
		t.Errorf("of a name that is taken it says %q", told["demo"])
	}
}

// A plugin in the mesh's root namespace is in front of every namespace's pods.
func TestPluginOfTheRootNamespace(t *testing.T) {
	s := newStage(t, nil, pluginObject(DefaultRootNamespace, "everywhere", nil))
	s.start(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("other", "frontend", "b", nil))
	s.eventually("it is for both", func() bool {
		return strings.Contains(s.condition(DefaultRootNamespace, "everywhere", conditionLoaded).Message, "loaded on 0 of 2 pods")
	})
}
