package kube

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// PluginName is the name of the WasmPlugins that hfi creates.
const PluginName = "hfi"

// The label labelManagedBy with the value managedBy marks what hfi created.
// hfi changes nothing else but WasmPlugins' status.
const (
	labelManagedBy = "app.kubernetes.io/managed-by"
	labelPartOf    = "app.kubernetes.io/part-of"
	managedBy      = "hfi"
)

// wasmPlugin is what is read of a WasmPlugin. It is immutable.
type wasmPlugin struct {
	podID
	object *unstructured.Unstructured
	// managed is set if hfi created it, maybe for another control plane.
	managed bool
	// ours is set if its filters ask this control plane or are loaded from it.
	// Others are kept only if they have the name PluginName.
	ours        bool
	url, sha256 string
	// pullSecret is set if sidecars have credentials for the registry.
	pullSecret bool
	selector   map[string]string
	// targetsNoPods is set if it is for a gateway or a Service.
	targetsNoPods bool
	created       time.Time
	generation    int64
	// observedGeneration is the generation that the status describes, or 0.
	observedGeneration int64
	// conditions are hfi's. No element may be changed in place.
	conditions []metav1.Condition
	// otherConditions are those of others, which writeStatus keeps.
	otherConditions []any
}

// Types of hfi's conditions in a WasmPlugin's status.
const (
	// conditionLoaded: the filter of every pod that the plugin applies to is in contact with this control plane.
	conditionLoaded = "Loaded"
	// conditionCurrent: every filter in contact enforces its current policies.
	conditionCurrent = "Current"
)

// readPlugin returns nil for a WasmPlugin that neither is ours nor has our name.
func readPlugin(object *unstructured.Unstructured, home *url.URL) *wasmPlugin {
	text := func(fields ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, fields...)
		return value
	}
	plugin := &wasmPlugin{
		podID: podID{Namespace: object.GetNamespace(), Name: object.GetName()}, object: object,
		managed: object.GetName() == PluginName && object.GetLabels()[labelManagedBy] == managedBy,
		url:     text("spec", "url"), sha256: strings.ToLower(text("spec", "sha256")), pullSecret: text("spec", "imagePullSecret") != "",
		created: object.GetCreationTimestamp().Time, generation: object.GetGeneration(),
	}
	plugin.ours = leadsTo(text("spec", "pluginConfig", "control_plane_address"), home) || servedBy(plugin.url, home)
	if !plugin.ours && plugin.Name != PluginName {
		return nil
	}
	plugin.selector, _, _ = unstructured.NestedStringMap(object.Object, "spec", "selector", "matchLabels")
	references, _, _ := unstructured.NestedSlice(object.Object, "spec", "targetRefs")
	_, single, _ := unstructured.NestedMap(object.Object, "spec", "targetRef")
	plugin.targetsNoPods = single || len(references) > 0
	plugin.observedGeneration = number(object.Object, "status", "observedGeneration")
	listed, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, each := range listed {
		fields, _ := each.(map[string]any)
		if fields["type"] != conditionLoaded && fields["type"] != conditionCurrent {
			plugin.otherConditions = append(plugin.otherConditions, each)
			continue
		}
		// What is ours and cannot be read is written again.
		if condition, err := readCondition(fields); err == nil {
			plugin.conditions = append(plugin.conditions, condition)
		}
	}
	return plugin
}

// readCondition reads a condition, in which observedGeneration may be text.
func readCondition(fields map[string]any) (condition metav1.Condition, err error) {
	fields = maps.Clone(fields)
	fields["observedGeneration"] = number(fields, "observedGeneration")
	err = runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &condition)
	return condition, err
}

// number reads an integer that is written as a number or, as protobuf does, as text.
func number(object map[string]any, fields ...string) int64 {
	value, _, _ := unstructured.NestedFieldNoCopy(object, fields...)
	var read int64
	_, _ = fmt.Sscan(fmt.Sprint(value), &read)
	return read
}

// leadsTo says whether a filter's control_plane_address has the control plane's host.
func leadsTo(address string, home *url.URL) bool {
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

// servedBy says whether the control plane serves a module's URL.
func servedBy(address string, home *url.URL) bool {
	at, err := url.Parse(address)
	return err == nil && (at.Scheme == "http" || at.Scheme == "https") && shortHost(at.Hostname()) == shortHost(home.Hostname()) &&
		strings.HasPrefix(at.Path, strings.TrimSuffix(home.Path, "/")+"/v1/filter")
}

// appliesTo says whether the plugin applies to a pod. A plugin in the mesh's
// root namespace applies to pods of every namespace.
func (p *wasmPlugin) appliesTo(pod *pod, root string) bool {
	if pod.Namespace != p.Namespace && p.Namespace != root {
		return false
	}
	for name, value := range p.selector {
		if has, found := pod.labels[name]; !found || has != value {
			return false
		}
	}
	return true
}

// pluginStore holds the WasmPlugins that are ours or have our name. It is a
// cache.ReflectorStore.
type pluginStore struct {
	changed func()
	home    func() *url.URL

	mu      sync.Mutex
	synced  bool
	plugins map[podID]*wasmPlugin
	// events counts the events of the watch.
	events int
}

func newPluginStore(home func() *url.URL, changed func()) *pluginStore {
	return &pluginStore{changed: changed, home: home, plugins: map[podID]*wasmPlugin{}}
}

// Transformer drops the managed fields, which are the larger part of an object.
func (s *pluginStore) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		if plugin, ok := object.(*unstructured.Unstructured); ok {
			plugin.SetManagedFields(nil)
		}
		return object, nil
	}
}

// Add implements cache.ReflectorStore.
func (s *pluginStore) Add(object any) error { return s.Update(object) }

// Update implements cache.ReflectorStore.
func (s *pluginStore) Update(object any) error {
	plugin, ok := object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("expected a WasmPlugin, got %T", object)
	}
	s.mu.Lock()
	s.events++
	s.set(plugin)
	s.mu.Unlock()
	s.changed()
	return nil
}

// set stores a WasmPlugin. The caller holds mu.
func (s *pluginStore) set(object *unstructured.Unstructured) {
	id := podID{Namespace: object.GetNamespace(), Name: object.GetName()}
	delete(s.plugins, id)
	if read := readPlugin(object, s.home()); read != nil {
		s.plugins[id] = read
	}
}

// eventCount is the number of events of the watch so far.
func (s *pluginStore) eventCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events
}

// setWritten stores the API server's answer to a write, unless there was an
// event since eventCount returned before the write. That event may be newer than
// the answer, such as a deletion, and the watch would not send it again.
func (s *pluginStore) setWritten(object *unstructured.Unstructured, eventsBefore int) {
	s.mu.Lock()
	if s.events == eventsBefore {
		s.set(object)
	}
	s.mu.Unlock()
	s.changed()
}

// Delete implements cache.ReflectorStore.
func (s *pluginStore) Delete(object any) error {
	plugin, ok := object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("expected a WasmPlugin, got %T", object)
	}
	s.mu.Lock()
	s.events++
	delete(s.plugins, podID{Namespace: plugin.GetNamespace(), Name: plugin.GetName()})
	s.mu.Unlock()
	s.changed()
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *pluginStore) Replace(objects []any, _ string) error {
	all := map[podID]*wasmPlugin{}
	for _, object := range objects {
		plugin, ok := object.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("expected a WasmPlugin, got %T", object)
		}
		if read := readPlugin(plugin, s.home()); read != nil {
			all[read.podID] = read
		}
	}
	s.mu.Lock()
	s.events++
	s.plugins, s.synced = all, true
	s.mu.Unlock()
	s.changed()
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *pluginStore) Resync() error { return nil }

// list returns the plugins by namespace and name. synced is false until they
// were listed once.
func (s *pluginStore) list() (plugins []*wasmPlugin, synced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.plugins), func(a, b *wasmPlugin) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}), s.synced
}
