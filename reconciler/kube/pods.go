package kube

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// pod is what is kept of a pod. It is immutable.
type pod struct {
	podID
	workload selection.Workload
	// waypoint is the name of the waypoint that it belongs to, or empty.
	waypoint string
	// labels are shared between pods of one workload.
	labels map[string]string
	// sidecar is set if it has a proxy of Istio's: a sidecar or, of a gateway, its own.
	sidecar bool
	// uncounted is set if it belongs to no workload, gateway or waypoint: see isOtherProxy.
	uncounted bool
	created   time.Time
}

// bySelection is the name of podStore's index.
const bySelection = "selection"

// podStore holds the cluster's pods, indexed by the selection keys that select
// them. It is a cache.ReflectorStore.
type podStore struct {
	changed func()
	// ambient is called with every pod of a waypoint.
	ambient func()
	// deleted is called with every pod that no longer exists.
	deleted func(podID)
	// pods holds *pod. Pods that are being deleted are not in it.
	pods cache.Indexer

	// mu guards writes to pods and the fields below.
	mu sync.Mutex
	// synced is set by the first list.
	synced bool
	// counts has the number of pods that a key selects: an Indexer cannot
	// count without copying all their keys.
	counts map[selection.Key]int
	// namespaces has every namespace with pods, and workloads counts the workloads in them.
	namespaces map[string]*namespacePods
	workloads  int
	// touched has the namespaces whose workloads or labels changed.
	touched map[string]struct{}
}

// namespacePods are a namespace's pods by workload.
type namespacePods struct {
	workloads map[string]*workloadPods
	// labelled counts, for each label but the volatile ones, the pods with it by workload. No entry is empty.
	labelled map[label]map[string]int
}

// label is a label's name and value.
type label struct{ name, value string }

// workloadPods are the pods of a workload.
type workloadPods struct {
	count int
	// labels are those of its newest pod, to be shared by the next.
	labels map[string]string
}

func newPodStore(changed, ambient func(), deleted func(podID)) *podStore {
	s := &podStore{changed: changed, ambient: ambient, deleted: deleted, touched: map[string]struct{}{}, pods: cache.NewIndexer(
		func(object any) (string, error) { return object.(*pod).String(), nil },
		cache.Indexers{
			bySelection: func(object any) ([]string, error) {
				var values []string
				if object.(*pod).uncounted {
					return nil, nil
				}
				for _, key := range object.(*pod).workload.Keys() {
					values = append(values, indexValue(key))
				}
				return values, nil
			},
		})}
	s.reset()
	return s
}

// everything selects the pods of all workloads, and everyGateway all others.
var (
	everything   = selection.Key{Service: schema.Any, Namespace: schema.Any}
	everyGateway = selection.Key{Service: schema.Any, Namespace: schema.Any, Gateway: schema.Any}
)

// indexValue is unambiguous, because no part can have a slash.
func indexValue(key selection.Key) string {
	return key.Service + "/" + key.Namespace + "/" + key.Gateway
}

// Each prefix comes before the names of gateways or waypoints among those of a namespace's
// workloads, which can have no slash.
const gatewayPrefix, waypointPrefix = "gateway/", "waypoint/"

// key names the pod's workload, gateway or waypoint among those of its namespace.
func (p *pod) key() string {
	switch {
	case p.waypoint != "":
		return waypointPrefix + p.waypoint
	case p.workload.Gateway != "":
		return gatewayPrefix + p.workload.Gateway
	}
	return p.workload.Service
}

func (s *podStore) reset() {
	for namespace := range s.namespaces {
		s.touched[namespace] = struct{}{}
	}
	s.counts, s.namespaces, s.workloads = map[selection.Key]int{}, map[string]*namespacePods{}, 0
}

// Transformer drops the metadata that podOf does not read, before the
// reflector keeps a whole list in memory.
func (s *podStore) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		meta, ok := object.(*metav1.PartialObjectMetadata)
		if !ok {
			return object, nil
		}
		trimmed := &metav1.PartialObjectMetadata{TypeMeta: meta.TypeMeta, ObjectMeta: metav1.ObjectMeta{
			Name: meta.Name, Namespace: meta.Namespace, UID: meta.UID, ResourceVersion: meta.ResourceVersion, GenerateName: meta.GenerateName,
			Labels: meta.Labels, OwnerReferences: meta.OwnerReferences, CreationTimestamp: meta.CreationTimestamp, DeletionTimestamp: meta.DeletionTimestamp,
		}}
		for _, name := range []string{annotationSidecar, annotationRevision} {
			if value, found := meta.Annotations[name]; found {
				metav1.SetMetaDataAnnotation(&trimmed.ObjectMeta, name, value[:0])
			}
		}
		if templates := meta.Annotations[annotationTemplates]; templates != "" {
			metav1.SetMetaDataAnnotation(&trimmed.ObjectMeta, annotationTemplates, templates)
		}
		return trimmed, nil
	}
}

// podOf reads a pod's metadata. stays is false for a pod that is being
// deleted, which needs no filter any more.
func podOf(object any) (read *pod, stays bool, err error) {
	meta, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return nil, false, fmt.Errorf("expected a pod's metadata, got %T", object)
	}
	_, proxy := meta.Annotations[annotationSidecar]
	workload := selection.Workload{Service: WorkloadName(&meta.ObjectMeta), Namespace: meta.Namespace}
	if gateway, is := gatewayName(&meta.ObjectMeta); is {
		workload.Service, workload.Gateway = "", gateway
		_, ofIstio := meta.Annotations[annotationRevision]
		proxy = proxy || ofIstio
	}
	var waypoint string
	if name, is := waypointName(&meta.ObjectMeta); is {
		waypoint = name
		workload.Service, workload.Waypoint, proxy = "", true, true
	}
	return &pod{
		podID:    podID{Namespace: meta.Namespace, Name: meta.Name},
		workload: workload, waypoint: waypoint,
		labels: meta.Labels, sidecar: proxy, uncounted: isOtherProxy(&meta.ObjectMeta), created: meta.CreationTimestamp.Time,
	}, meta.DeletionTimestamp == nil, nil
}

// Add implements cache.ReflectorStore.
func (s *podStore) Add(object any) error { return s.Update(object) }

// Update implements cache.ReflectorStore.
func (s *podStore) Update(object any) error {
	read, stays, err := podOf(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if stays {
		err = s.insert(read)
	} else {
		err = s.remove(read.podID)
	}
	s.mu.Unlock()
	s.changed()
	return err
}

// Delete implements cache.ReflectorStore.
func (s *podStore) Delete(object any) error {
	read, _, err := podOf(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	err = s.remove(read.podID)
	s.mu.Unlock()
	s.deleted(read.podID)
	s.changed()
	return err
}

// Replace implements cache.ReflectorStore.
func (s *podStore) Replace(objects []any, version string) error {
	pods := make([]any, 0, len(objects))
	exists := make(map[podID]bool, len(objects))
	for _, object := range objects {
		read, stays, err := podOf(object)
		if err != nil {
			return err
		}
		exists[read.podID] = true
		if stays {
			pods = append(pods, read)
		}
	}
	var missed []podID
	s.mu.Lock()
	for _, object := range s.pods.List() {
		if id := object.(*pod).podID; !exists[id] {
			missed = append(missed, id)
		}
	}
	s.reset()
	for _, object := range pods {
		s.count(object.(*pod))
	}
	err := s.pods.Replace(pods, version)
	s.synced = true
	s.mu.Unlock()
	for _, id := range missed {
		s.deleted(id)
	}
	s.changed()
	return err
}

// Resync implements cache.ReflectorStore.
func (s *podStore) Resync() error { return nil }

// insert adds or replaces a pod. The caller holds mu.
func (s *podStore) insert(added *pod) error {
	if before := s.get(added.podID); before != nil {
		if before.workload == added.workload && before.uncounted == added.uncounted && maps.Equal(before.labels, added.labels) {
			added.labels = before.labels
			return s.pods.Update(added)
		}
		s.uncount(before)
	}
	s.count(added)
	return s.pods.Update(added)
}

// remove does nothing if there is no such pod. The caller holds mu.
func (s *podStore) remove(id podID) error {
	before := s.get(id)
	if before == nil {
		return nil
	}
	s.uncount(before)
	return s.pods.Delete(before)
}

func (s *podStore) get(id podID) *pod {
	object, exists, _ := s.pods.GetByKey(id.String()) // A memory store has no errors.
	if !exists {
		return nil
	}
	return object.(*pod)
}

// count counts a pod and lets it share its workload's labels. The caller holds mu.
func (s *podStore) count(added *pod) {
	if added.uncounted {
		return
	}
	for _, key := range added.workload.Keys() {
		s.counts[key]++
	}
	if added.waypoint != "" {
		s.ambient()
	}
	s.touched[added.Namespace] = struct{}{}
	namespace := s.namespaces[added.Namespace]
	if namespace == nil {
		namespace = &namespacePods{workloads: map[string]*workloadPods{}, labelled: map[label]map[string]int{}}
		s.namespaces[added.Namespace] = namespace
	}
	name := added.key()
	workload := namespace.workloads[name]
	if workload == nil {
		workload = &workloadPods{}
		namespace.workloads[name] = workload
		s.workloads++
	}
	workload.count++
	if maps.Equal(workload.labels, added.labels) {
		added.labels = workload.labels
	}
	workload.labels = added.labels
	for each := range stable(added.labels) {
		counts := namespace.labelled[each]
		if counts == nil {
			counts = map[string]int{}
			namespace.labelled[each] = counts
		}
		counts[name]++
	}
}

// uncount reverts count. The caller holds mu.
func (s *podStore) uncount(removed *pod) {
	if removed.uncounted {
		return
	}
	for _, key := range removed.workload.Keys() {
		if s.counts[key]--; s.counts[key] == 0 {
			delete(s.counts, key)
		}
	}
	s.touched[removed.Namespace] = struct{}{}
	namespace := s.namespaces[removed.Namespace]
	name := removed.key()
	for each := range stable(removed.labels) {
		counts := namespace.labelled[each]
		if counts[name]--; counts[name] == 0 {
			delete(counts, name)
		}
		if len(counts) == 0 {
			delete(namespace.labelled, each)
		}
	}
	workload := namespace.workloads[name]
	if workload.count--; workload.count > 0 {
		return
	}
	s.workloads--
	if delete(namespace.workloads, name); len(namespace.workloads) == 0 {
		delete(s.namespaces, removed.Namespace)
	}
}

// takeTouched returns the namespaces whose workloads or labels changed since the last call.
func (s *podStore) takeTouched() map[string]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	touched := s.touched
	s.touched = map[string]struct{}{}
	return touched
}

// selectedCount is the number of pods that a key selects.
func (s *podStore) selectedCount(key selection.Key) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[key]
}

// selected returns the pods that a key selects, in no order.
func (s *podStore) selected(key selection.Key) []*pod {
	objects, _ := s.pods.ByIndex(bySelection, indexValue(key)) // The only error is an unknown index.
	pods := make([]*pod, len(objects))
	for i, object := range objects {
		pods[i] = object.(*pod)
	}
	return pods
}

// selectedWaypoint returns the pods of a waypoint, in no order.
func (s *podStore) selectedWaypoint(id podID) []*pod {
	return slices.DeleteFunc(s.selected(waypoints.key(waypointPrefix+id.Name, id.Namespace)), func(pod *pod) bool { return pod.waypoint != id.Name })
}

// workloadsOf returns the keys of a namespace's workloads, gateways and waypoints, in no order.
// known is false until pods were listed once.
func (s *podStore) workloadsOf(namespace string) (names []string, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in := s.namespaces[namespace]; in != nil {
		names = slices.Collect(maps.Keys(in.workloads))
	}
	return names, s.synced
}

// size costs the same for any number of pods.
func (s *podStore) size() (pods, workloads int, synced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[everything] + s.counts[everyGateway], s.workloads, s.synced
}
