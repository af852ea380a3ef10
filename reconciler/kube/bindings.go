package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// Labels by which a Service, or a namespace for its Services, chooses a waypoint, which is in
// the same namespace if they do not say otherwise.
const (
	labelUseWaypoint          = "istio.io/use-waypoint"
	labelUseWaypointNamespace = "istio.io/use-waypoint-namespace"
	// noWaypoint is a Service's choice of none.
	noWaypoint = "none"
)

// choice is what the labels of a Service or of a namespace say. Without a choice, a
// Service has that of its namespace.
type choice struct {
	made bool
	// waypoint is zero for none. Its namespace is empty if the labels do not name one.
	waypoint podID
}

// choiceOf reads the labels as istiod does (GetUseWaypoint in its serviceregistry/ambient).
// The Services of waypoints and east-west gateways use none.
func choiceOf(object *metav1.PartialObjectMetadata) choice {
	name, made := object.Labels[labelUseWaypoint]
	switch {
	case object.Labels[labelManagedGateway] == managedWaypoint, object.Labels[labelManagedGateway] == managedEastWest, name == noWaypoint:
		return choice{made: true}
	case !made:
		return choice{}
	}
	return choice{true, podID{Namespace: object.Labels[labelUseWaypointNamespace], Name: name}}
}

// bindings are the waypoints that the cluster's Services use.
type bindings struct {
	changed func()

	mu sync.Mutex
	// services has the choices by namespace and name.
	services   map[string]map[string]choice
	namespaces map[string]choice
	// servicesListed and namespacesListed are set by the first lists.
	servicesListed, namespacesListed bool
	// waypoints counts, for each selection key, the Services with it that use a waypoint, and keys
	// the opposite, without the keys of policies that do not apply in the waypoint. No entry is empty.
	waypoints map[selection.Key]map[podID]int
	keys      map[podID]map[selection.Key]int
	// touched has the namespaces of waypoints with a change.
	touched map[string]struct{}
}

func newBindings(changed func()) *bindings {
	return &bindings{
		changed: changed, services: map[string]map[string]choice{}, namespaces: map[string]choice{},
		waypoints: map[selection.Key]map[podID]int{}, keys: map[podID]map[selection.Key]int{}, touched: map[string]struct{}{},
	}
}

// appliesIn says whether policies with a key apply in a waypoint: its filter has those for
// services of its own namespace, or of any.
func appliesIn(key selection.Key, waypoint podID) bool {
	return key.Namespace == schema.Any || key.Namespace == waypoint.Namespace
}

// waypointOf is the waypoint that a Service uses, or zero. The caller holds mu.
func (b *bindings) waypointOf(namespace, name string) (waypoint podID) {
	chosen := b.services[namespace][name]
	if !chosen.made {
		chosen = b.namespaces[namespace]
	}
	if chosen.waypoint.Name == "" {
		return podID{}
	}
	if chosen.waypoint.Namespace == "" {
		chosen.waypoint.Namespace = namespace
	}
	return chosen.waypoint
}

// add adds a number, which may be negative, to the counts of a Service. The caller holds mu.
func (b *bindings) add(namespace, name string, number int) {
	waypoint := b.waypointOf(namespace, name)
	if waypoint == (podID{}) {
		return
	}
	b.touched[waypoint.Namespace] = struct{}{}
	for _, key := range (selection.Workload{Service: name, Namespace: namespace}).Keys() {
		addTo(b.waypoints, key, waypoint, number)
		if appliesIn(key, waypoint) {
			addTo(b.keys, waypoint, key, number)
		}
	}
}

func addTo[A, B comparable](counts map[A]map[B]int, a A, b B, number int) {
	if counts[a] == nil {
		counts[a] = map[B]int{}
	}
	if counts[a][b] += number; counts[a][b] == 0 {
		delete(counts[a], b)
	}
	if len(counts[a]) == 0 {
		delete(counts, a)
	}
}

// setService sets a Service's choice; nil is for one that does not exist. The caller holds mu.
func (b *bindings) setService(id podID, chosen *choice) {
	before, known := b.services[id.Namespace][id.Name]
	if chosen != nil && known && before == *chosen {
		return
	}
	if known {
		b.add(id.Namespace, id.Name, -1)
		delete(b.services[id.Namespace], id.Name)
	}
	if chosen == nil {
		if len(b.services[id.Namespace]) == 0 {
			delete(b.services, id.Namespace)
		}
		return
	}
	if b.services[id.Namespace] == nil {
		b.services[id.Namespace] = map[string]choice{}
	}
	b.services[id.Namespace][id.Name] = *chosen
	b.add(id.Namespace, id.Name, 1)
}

// setNamespace sets a namespace's choice; nil is for one that does not exist. The caller holds mu.
func (b *bindings) setNamespace(id podID, chosen *choice) {
	if chosen == nil {
		chosen = &choice{}
	}
	if b.namespaces[id.Name] == *chosen {
		return
	}
	for name := range b.services[id.Namespace] {
		b.add(id.Namespace, name, -1)
	}
	if b.namespaces[id.Name] = *chosen; !chosen.made {
		delete(b.namespaces, id.Name)
	}
	for name := range b.services[id.Namespace] {
		b.add(id.Namespace, name, 1)
	}
}

// waypointsOf returns the waypoints of the Services that a key selects, by namespace and name.
func (b *bindings) waypointsOf(key selection.Key) []podID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Keys(b.waypoints[key]), func(a, b podID) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}

// keysIn returns the keys of the policies that apply to Services in each waypoint of a namespace. known is
// false until Services and namespaces were listed once.
func (b *bindings) keysIn(namespace string) (keys map[string][]selection.Key, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	keys = map[string][]selection.Key{}
	for waypoint, counts := range b.keys {
		if waypoint.Namespace == namespace {
			for key := range counts {
				keys[waypoint.Name] = append(keys[waypoint.Name], key)
			}
		}
	}
	return keys, b.servicesListed && b.namespacesListed
}

// takeTouched returns the namespaces of waypoints whose Services changed since the last call.
func (b *bindings) takeTouched() map[string]struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	touched := b.touched
	b.touched = map[string]struct{}{}
	return touched
}

// choices is a cache.ReflectorStore of the choices of Services or namespaces.
type choices struct {
	*bindings
	set func(podID, *choice)
	// all returns those that are known.
	all    func() []podID
	listed *bool
}

func (b *bindings) ofServices() *choices {
	return &choices{b, b.setService, func() (all []podID) {
		for namespace, in := range b.services {
			for name := range in {
				all = append(all, podID{Namespace: namespace, Name: name})
			}
		}
		return all
	}, &b.servicesListed}
}

func (b *bindings) ofNamespaces() *choices {
	return &choices{b, b.setNamespace, func() (all []podID) {
		for name := range b.namespaces {
			all = append(all, podID{Namespace: name, Name: name})
		}
		return all
	}, &b.namespacesListed}
}

// Transformer drops all but the labels, before the reflector keeps a whole list in memory.
func (c *choices) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		meta, ok := object.(*metav1.PartialObjectMetadata)
		if !ok {
			return object, nil
		}
		return &metav1.PartialObjectMetadata{TypeMeta: meta.TypeMeta, ObjectMeta: metav1.ObjectMeta{
			Name: meta.Name, Namespace: meta.Namespace, UID: meta.UID, ResourceVersion: meta.ResourceVersion, Labels: meta.Labels,
		}}, nil
	}
}

// read returns the ID of a Service or a namespace, which is in itself.
func (c *choices) read(object any) (id podID, chosen choice, err error) {
	meta, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return id, chosen, fmt.Errorf("expected metadata, got %T", object)
	}
	id = podID{Namespace: meta.Namespace, Name: meta.Name}
	if id.Namespace == "" {
		id.Namespace = id.Name
	}
	return id, choiceOf(meta), nil
}

// Add implements cache.ReflectorStore.
func (c *choices) Add(object any) error { return c.Update(object) }

// Update implements cache.ReflectorStore.
func (c *choices) Update(object any) error {
	id, chosen, err := c.read(object)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.set(id, &chosen)
	c.mu.Unlock()
	c.changed()
	return nil
}

// Delete implements cache.ReflectorStore.
func (c *choices) Delete(object any) error {
	id, _, err := c.read(object)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.set(id, nil)
	c.mu.Unlock()
	c.changed()
	return nil
}

// Replace implements cache.ReflectorStore.
func (c *choices) Replace(objects []any, _ string) error {
	exists := make(map[podID]choice, len(objects))
	for _, object := range objects {
		id, chosen, err := c.read(object)
		if err != nil {
			return err
		}
		exists[id] = chosen
	}
	c.mu.Lock()
	for _, id := range c.all() {
		if _, found := exists[id]; !found {
			c.set(id, nil)
		}
	}
	for id, chosen := range exists {
		c.set(id, &chosen)
	}
	*c.listed = true
	c.mu.Unlock()
	c.changed()
	return nil
}

// Resync implements cache.ReflectorStore.
func (c *choices) Resync() error { return nil }
