package kube

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"

	"github.com/boifi/hfi/internal/api"
)

// PluginName is the name of the WasmPlugins that hfi makes.
const PluginName = "hfi"

// labelManagedBy with managedBy marks what hfi made: nothing else is touched.
const (
	labelManagedBy = "app.kubernetes.io/managed-by"
	labelPartOf    = "app.kubernetes.io/part-of"
	managedBy      = "hfi"
)

// plugin is what is read of a WasmPlugin. It is never changed.
type plugin struct {
	podID
	object *unstructured.Unstructured
	// managed: hfi made it, if maybe for another control plane.
	managed bool
	// leadsHome: its filters ask this control plane, or come from it. What
	// does not is known only because it has the name of what hfi makes.
	leadsHome   bool
	url, sha256 string
	// pullSecret: sidecars have credentials for the registry.
	pullSecret   bool
	selector     map[string]string
	targetsOther bool
	created      time.Time
	generation   int64
	// observed is the generation that the status is of, or 0.
	observed   int64
	conditions []api.Condition
	// foreign are the conditions of others, to be kept.
	foreign []any
}

// Types of the conditions in a WasmPlugin's status.
const (
	// Loaded: every pod that the plugin is for has its filter in contact with this control plane.
	conditionLoaded api.ConditionType = "Loaded"
	// Current: every filter in contact has its present policies in force.
	conditionCurrent api.ConditionType = "Current"
)

// readPlugin gives nil for a WasmPlugin that has nothing to do with the control plane.
func readPlugin(object *unstructured.Unstructured, home *url.URL) *plugin {
	text := func(fields ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, fields...)
		return value
	}
	one := &plugin{
		podID: podID{Namespace: object.GetNamespace(), Name: object.GetName()}, object: object,
		managed: object.GetName() == PluginName && object.GetLabels()[labelManagedBy] == managedBy,
		url:     text("spec", "url"), sha256: strings.ToLower(text("spec", "sha256")), pullSecret: text("spec", "imagePullSecret") != "",
		created: object.GetCreationTimestamp().Time, generation: object.GetGeneration(),
	}
	one.leadsHome = sameHost(text("spec", "pluginConfig", "control_plane_address"), home) || servedBy(one.url, home)
	if !one.leadsHome && one.Name != PluginName {
		return nil
	}
	one.selector, _, _ = unstructured.NestedStringMap(object.Object, "spec", "selector", "matchLabels")
	references, _, _ := unstructured.NestedSlice(object.Object, "spec", "targetRefs")
	_, single, _ := unstructured.NestedMap(object.Object, "spec", "targetRef")
	one.targetsOther = single || len(references) > 0
	one.observed = number(object.Object, "status", "observedGeneration")
	listed, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, each := range listed {
		var condition struct {
			Type, Status, Reason, Message string
			LastTransitionTime            time.Time
		}
		encoded, err := json.Marshal(each)
		if err == nil {
			err = json.Unmarshal(encoded, &condition)
		}
		kind := api.ConditionType(condition.Type)
		if err != nil || kind != conditionLoaded && kind != conditionCurrent {
			one.foreign = append(one.foreign, each)
			continue
		}
		one.conditions = append(one.conditions, api.Condition{
			Type: kind, Status: condition.Status, Reason: condition.Reason, Message: condition.Message, LastTransitionTime: condition.LastTransitionTime,
		})
	}
	return one
}

// number reads what may be written as a number or, as protobuf does, as text.
func number(object map[string]any, fields ...string) int64 {
	value, _, _ := unstructured.NestedFieldNoCopy(object, fields...)
	var read int64
	_, _ = fmt.Sscan(fmt.Sprint(value), &read)
	return read
}

// sameHost says whether a filter's control_plane_address leads to the control plane.
func sameHost(address string, home *url.URL) bool {
	if address == "" {
		return false
	}
	if _, rest, found := strings.Cut(address, "://"); found {
		address = rest
	}
	host, _, _ := strings.Cut(address, "/")
	host, _, _ = strings.Cut(host, ":")
	return shortHost(host) == shortHost(home.Hostname())
}

// shortHost is SERVICE.NAMESPACE for any spelling of a Service's name.
func shortHost(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if service, _, found := strings.Cut(host, ".svc"); found {
		return service
	}
	return host
}

// servedBy says whether a module's URL is one of the control plane's own.
func servedBy(address string, home *url.URL) bool {
	at, err := url.Parse(address)
	return err == nil && (at.Scheme == "http" || at.Scheme == "https") && shortHost(at.Hostname()) == shortHost(home.Hostname()) &&
		strings.HasPrefix(at.Path, strings.TrimSuffix(home.Path, "/")+"/v1/filter")
}

// applies says whether the plugin is for a pod. A plugin in the mesh's root
// namespace is for every namespace's.
func (p *plugin) applies(one *pod, root string) bool {
	if one.Namespace != p.Namespace && p.Namespace != root {
		return false
	}
	for name, value := range p.selector {
		if has, found := one.labels[name]; !found || has != value {
			return false
		}
	}
	return true
}

// pluginStore knows the WasmPlugins of the control plane, and what else has
// their name. It is the store of a reflector.
type pluginStore struct {
	changed func()
	home    func() *url.URL

	mu      sync.Mutex
	synced  bool
	plugins map[podID]*plugin
	// news counts what the watch has told.
	news int
}

func newPluginStore(home func() *url.URL, changed func()) *pluginStore {
	return &pluginStore{changed: changed, home: home, plugins: map[podID]*plugin{}}
}

// Transformer drops who manages which field: it is the larger part of an object.
func (s *pluginStore) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		if plugin, ok := object.(*unstructured.Unstructured); ok {
			plugin.SetManagedFields(nil)
		}
		return object, nil
	}
}

// Add and the methods below are a reflector's.
func (s *pluginStore) Add(object any) error { return s.Update(object) }

// Update notes a WasmPlugin as it is now.
func (s *pluginStore) Update(object any) error {
	one, ok := object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("a WasmPlugin is expected, not %T", object)
	}
	s.mu.Lock()
	s.news++
	s.set(one)
	s.mu.Unlock()
	s.changed()
	return nil
}

// set notes a WasmPlugin; s.mu is held.
func (s *pluginStore) set(object *unstructured.Unstructured) {
	id := podID{Namespace: object.GetNamespace(), Name: object.GetName()}
	delete(s.plugins, id)
	if read := readPlugin(object, s.home()); read != nil {
		s.plugins[id] = read
	}
}

// told is how often the watch has told something.
func (s *pluginStore) told() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news
}

// wrote notes what the API server answered to a write, unless the watch has
// told something since told gave that number before the write. What it told may
// be later than the answer, such as that the object was deleted; the watch would
// not tell it again.
func (s *pluginStore) wrote(object *unstructured.Unstructured, told int) {
	s.mu.Lock()
	if s.news == told {
		s.set(object)
	}
	s.mu.Unlock()
	s.changed()
}

// Delete forgets a WasmPlugin.
func (s *pluginStore) Delete(object any) error {
	one, ok := object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("a WasmPlugin is expected, not %T", object)
	}
	s.mu.Lock()
	s.news++
	delete(s.plugins, podID{Namespace: one.GetNamespace(), Name: one.GetName()})
	s.mu.Unlock()
	s.changed()
	return nil
}

// Replace notes all WasmPlugins anew.
func (s *pluginStore) Replace(objects []any, _ string) error {
	all := map[podID]*plugin{}
	for _, object := range objects {
		one, ok := object.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("a WasmPlugin is expected, not %T", object)
		}
		if read := readPlugin(one, s.home()); read != nil {
			all[read.podID] = read
		}
	}
	s.mu.Lock()
	s.news++
	s.plugins, s.synced = all, true
	s.mu.Unlock()
	s.changed()
	return nil
}

// Resync has nothing to do.
func (s *pluginStore) Resync() error { return nil }

// list is by namespace and name; synced is false before all were seen once.
func (s *pluginStore) list() (plugins []*plugin, synced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.plugins), func(a, b *plugin) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}), s.synced
}
