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

	"github.com/boifi/hfi/schema"
)

// The label labelManagedBy with the value managedBy marks what hfi created.
// hfi changes nothing else but plugins' status.
const (
	labelManagedBy = "app.kubernetes.io/managed-by"
	labelPartOf    = "app.kubernetes.io/part-of"
	managedBy      = "hfi"
)

// filterPlugin is what is read of a plugin. It is immutable.
type filterPlugin struct {
	podID
	pluginSpec
	// family is the one that it belongs to.
	family *family
	object *unstructured.Unstructured
	// managed is set if hfi created it, maybe for another control plane.
	managed bool
	// ours is set if its filters ask this control plane or are loaded from it.
	// Others are kept only if they have a name that hfi may want to use.
	ours       bool
	created    time.Time
	generation int64
	// observedGeneration is the generation that the status describes, or 0.
	observedGeneration int64
	// conditions are hfi's. No element may be changed in place.
	conditions []metav1.Condition
	// otherConditions are those of others, which writeStatus keeps.
	otherConditions []any
}

// Types of hfi's conditions in a plugin's status.
const (
	// conditionLoaded: the filter of every pod that the plugin applies to is in contact with this control plane.
	conditionLoaded = "Loaded"
	// conditionCurrent: every filter in contact enforces its current policies.
	conditionCurrent = "Current"
)

// readPlugin returns nil for a plugin that neither is ours nor has a name of ours.
func readPlugin(by *delivery, object *unstructured.Unstructured, home *url.URL) *filterPlugin {
	named := familyOf(object.GetName())
	plugin := &filterPlugin{
		podID: podID{Namespace: object.GetNamespace(), Name: object.GetName()}, pluginSpec: by.read(object), object: object,
		managed: named != nil && object.GetLabels()[labelManagedBy] == managedBy,
		created: object.GetCreationTimestamp().Time, generation: object.GetGeneration(),
	}
	plugin.ours = leadsTo(plugin.controlPlane, home) || servedBy(plugin.url, home)
	if !plugin.ours && named == nil {
		return nil
	}
	plugin.family = familyOfDirection(plugin.direction)
	if plugin.managed {
		plugin.family = named
	}
	if len(plugin.selector) == 1 && plugin.selector[labelGateway] != "" && !plugin.managed && plugin.family == inbound {
		plugin.family = gateways
	}
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

// isOf says whether the plugin counts for a family. One that hfi did not create may count for
// several.
func (p *filterPlugin) isOf(f *family) bool {
	switch {
	case p.managed:
		return p.family == f
	case f == waypoints:
		return p.inWaypoints && cmp.Or(p.direction, schema.Inbound) == schema.Inbound
	case f != gateways:
		return p.family == f || slices.Contains(p.further, f)
	}
	return p.inGateways && p.family != outbound && p.family != unknown
}

// appliesTo says whether the plugin applies to a pod. A plugin in the mesh's
// root namespace applies to pods of every namespace, except to waypoints.
func (p *filterPlugin) appliesTo(pod *pod, root string) bool {
	switch {
	case pod.waypoint != "":
		if pod.Namespace != p.Namespace || !p.isOf(waypoints) {
			return false
		}
	case pod.Namespace != p.Namespace && p.Namespace != root,
		p.managed && p.family == waypoints,
		!p.isOf(gateways) && pod.workload.Gateway != "",
		p.family == gateways && pod.workload.Gateway == "":
		return false
	}
	for name, value := range p.selector {
		if has, found := pod.labels[name]; !found || has != value {
			return false
		}
	}
	return true
}

// pluginStore holds the plugins that are ours or have a name of ours. It is a
// cache.ReflectorStore.
type pluginStore struct {
	changed func()
	home    func() *url.URL
	by      func() *delivery

	mu      sync.Mutex
	synced  bool
	plugins map[string]map[string]*filterPlugin // by namespace and name
	// touched has the namespaces whose plugins changed.
	touched map[string]struct{}
	// events counts the events of the watch. setAt is the last of each plugin, and
	// removedAt the last that removed any.
	events    int
	setAt     map[podID]int
	removedAt int
}

func newPluginStore(home func() *url.URL, by func() *delivery, changed func()) *pluginStore {
	return &pluginStore{changed: changed, home: home, by: by, plugins: map[string]map[string]*filterPlugin{}, touched: map[string]struct{}{}, setAt: map[podID]int{}}
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
		return fmt.Errorf("expected a plugin, got %T", object)
	}
	s.mu.Lock()
	s.events++
	s.set(plugin)
	if id := (podID{Namespace: plugin.GetNamespace(), Name: plugin.GetName()}); s.plugins[id.Namespace][id.Name] != nil {
		s.setAt[id] = s.events
	}
	s.mu.Unlock()
	s.changed()
	return nil
}

// set stores a plugin. The caller holds mu.
func (s *pluginStore) set(object *unstructured.Unstructured) {
	namespace, name := object.GetNamespace(), object.GetName()
	read := readPlugin(s.by(), object, s.home())
	if read == nil {
		s.remove(namespace, name)
		return
	}
	if s.plugins[namespace] == nil {
		s.plugins[namespace] = map[string]*filterPlugin{}
	}
	s.plugins[namespace][name] = read
	s.touched[namespace] = struct{}{}
}

// remove forgets a plugin. The caller holds mu.
func (s *pluginStore) remove(namespace, name string) {
	if _, known := s.plugins[namespace][name]; !known {
		return
	}
	s.touched[namespace] = struct{}{}
	s.removedAt = s.events
	delete(s.setAt, podID{Namespace: namespace, Name: name})
	if delete(s.plugins[namespace], name); len(s.plugins[namespace]) == 0 {
		delete(s.plugins, namespace)
	}
}

// eventCount is the number of events of the watch so far.
func (s *pluginStore) eventCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events
}

// setWritten stores the API server's answer to a write, unless there was an
// event of this plugin, or a deletion, since eventCount returned before the write.
// That event may be newer than the answer, and the watch would not send it again.
func (s *pluginStore) setWritten(object *unstructured.Unstructured, eventsBefore int) {
	s.mu.Lock()
	if max(s.setAt[podID{Namespace: object.GetNamespace(), Name: object.GetName()}], s.removedAt) <= eventsBefore {
		s.set(object)
	}
	s.mu.Unlock()
	s.changed()
}

// setDeleted forgets a plugin that was deleted, unless there was an event of it
// since eventCount returned before that, which may be of another of its name.
func (s *pluginStore) setDeleted(id podID, eventsBefore int) {
	s.mu.Lock()
	if s.setAt[id] <= eventsBefore {
		s.remove(id.Namespace, id.Name)
	}
	s.mu.Unlock()
	s.changed()
}

// Delete implements cache.ReflectorStore.
func (s *pluginStore) Delete(object any) error {
	plugin, ok := object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("expected a plugin, got %T", object)
	}
	s.mu.Lock()
	s.events++
	s.removedAt = s.events
	s.remove(plugin.GetNamespace(), plugin.GetName())
	s.mu.Unlock()
	s.changed()
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *pluginStore) Replace(objects []any, _ string) error {
	s.mu.Lock()
	defer s.changed()
	defer s.mu.Unlock()
	s.events++
	for namespace := range s.plugins {
		s.touched[namespace] = struct{}{}
	}
	s.removedAt = s.events
	s.plugins, s.setAt = map[string]map[string]*filterPlugin{}, map[podID]int{}
	for _, object := range objects {
		plugin, ok := object.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("expected a plugin, got %T", object)
		}
		s.set(plugin)
	}
	s.synced = true
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *pluginStore) Resync() error { return nil }

// list returns the plugins by namespace and name. synced is false until they
// were listed once.
func (s *pluginStore) list() (plugins []*filterPlugin, synced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, in := range s.plugins {
		plugins = slices.AppendSeq(plugins, maps.Values(in))
	}
	slices.SortFunc(plugins, byName)
	return plugins, s.synced
}

// in returns the plugins of a namespace, by name.
func (s *pluginStore) in(namespace string) []*filterPlugin {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.plugins[namespace]), byName)
}

// name says whether a plugin that hfi created for this control plane names a filter.
func (s *pluginStore) name(sha256 string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, in := range s.plugins {
		for _, plugin := range in {
			if plugin.managed && plugin.ours && plugin.sha256 == sha256 {
				return true
			}
		}
	}
	return false
}

func byName(a, b *filterPlugin) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// takeTouched returns the namespaces whose plugins changed since the last call.
func (s *pluginStore) takeTouched() (touched map[string]struct{}, synced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	touched = s.touched
	s.touched = map[string]struct{}{}
	return touched, s.synced
}
