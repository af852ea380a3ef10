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
)

// pod is what is remembered of a pod. It is never changed.
type pod struct {
	podID
	workload selection.Workload
	// labels may be shared between pods of one workload.
	labels  map[string]string
	sidecar bool
	created time.Time
}

// podStore knows the pods of the cluster by the selector keys that they
// match: a change costs what one pod costs, and so does the question which
// pods a policy targets. It is the store of a reflector.
type podStore struct {
	changed func()
	// gone is told of every pod that is no more.
	gone func(podID)

	mu sync.Mutex
	// synced: it has had a whole list once.
	synced bool
	pods   map[podID]*pod
	// workloads and byKey have no empty entries; byKey[k] has the workloads
	// among whose Keys k is.
	workloads map[selection.Workload]map[podID]*pod
	byKey     map[selection.Key]map[selection.Workload]struct{}
	// inNamespace has the workloads of a namespace.
	inNamespace map[string]map[selection.Workload]struct{}
	// counts has the number of pods that a key selects.
	counts map[selection.Key]int
}

func newPodStore(changed func(), gone func(podID)) *podStore {
	s := &podStore{changed: changed, gone: gone}
	s.reset()
	return s
}

func (s *podStore) reset() {
	s.pods = map[podID]*pod{}
	s.workloads = map[selection.Workload]map[podID]*pod{}
	s.byKey = map[selection.Key]map[selection.Workload]struct{}{}
	s.inNamespace = map[string]map[selection.Workload]struct{}{}
	s.counts = map[selection.Key]int{}
}

// Transformer drops what no question needs, before a list is put together.
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
		if status, injected := meta.Annotations[annotationSidecar]; injected {
			trimmed.Annotations = map[string]string{annotationSidecar: status[:0]}
		}
		return trimmed, nil
	}
}

func podOf(object any) (*pod, bool, error) {
	meta, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return nil, false, fmt.Errorf("a pod's metadata is expected, not %T", object)
	}
	_, injected := meta.Annotations[annotationSidecar]
	return &pod{
		podID:    podID{Namespace: meta.Namespace, Name: meta.Name},
		workload: selection.Workload{Service: WorkloadName(&meta.ObjectMeta), Namespace: meta.Namespace},
		labels:   meta.Labels, sidecar: injected, created: meta.CreationTimestamp.Time,
		// One that is going needs no filter any more.
	}, meta.DeletionTimestamp == nil, nil
}

// Add and the methods below are a reflector's.
func (s *podStore) Add(object any) error { return s.Update(object) }

// Update notes a pod as it is now.
func (s *podStore) Update(object any) error {
	one, stays, err := podOf(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.remove(one.podID)
	if stays {
		s.insert(one)
	}
	s.mu.Unlock()
	s.changed()
	return nil
}

// Delete forgets a pod.
func (s *podStore) Delete(object any) error {
	one, _, err := podOf(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.remove(one.podID)
	s.mu.Unlock()
	s.gone(one.podID)
	s.changed()
	return nil
}

// Replace notes all pods anew.
func (s *podStore) Replace(objects []any, _ string) error {
	all := make([]*pod, 0, len(objects))
	there := make(map[podID]bool, len(objects))
	for _, object := range objects {
		one, stays, err := podOf(object)
		if err != nil {
			return err
		}
		there[one.podID] = true
		if stays {
			all = append(all, one)
		}
	}
	var missed []podID
	s.mu.Lock()
	for id := range s.pods {
		if !there[id] {
			missed = append(missed, id)
		}
	}
	s.reset()
	for _, one := range all {
		s.insert(one)
	}
	s.synced = true
	s.mu.Unlock()
	for _, id := range missed {
		s.gone(id)
	}
	s.changed()
	return nil
}

// Resync has nothing to do.
func (s *podStore) Resync() error { return nil }

func (s *podStore) insert(one *pod) {
	s.pods[one.podID] = one
	siblings := s.workloads[one.workload]
	if siblings == nil {
		siblings = map[podID]*pod{}
		s.workloads[one.workload] = siblings
		put(s.inNamespace, one.Namespace, one.workload)
		for _, key := range one.workload.Keys() {
			put(s.byKey, key, one.workload)
		}
	}
	for _, sibling := range siblings {
		if maps.Equal(sibling.labels, one.labels) {
			one.labels = sibling.labels
		}
		break
	}
	siblings[one.podID] = one
	for _, key := range one.workload.Keys() {
		s.counts[key]++
	}
}

func (s *podStore) remove(id podID) {
	one := s.pods[id]
	if one == nil {
		return
	}
	delete(s.pods, id)
	for _, key := range one.workload.Keys() {
		if s.counts[key]--; s.counts[key] == 0 {
			delete(s.counts, key)
		}
	}
	siblings := s.workloads[one.workload]
	if delete(siblings, id); len(siblings) > 0 {
		return
	}
	delete(s.workloads, one.workload)
	take(s.inNamespace, one.Namespace, one.workload)
	for _, key := range one.workload.Keys() {
		take(s.byKey, key, one.workload)
	}
}

// put and take keep a map of sets without empty ones.
func put[K, V comparable](sets map[K]map[V]struct{}, key K, value V) {
	if sets[key] == nil {
		sets[key] = map[V]struct{}{}
	}
	sets[key][value] = struct{}{}
}

func take[K, V comparable](sets map[K]map[V]struct{}, key K, value V) {
	if delete(sets[key], value); len(sets[key]) == 0 {
		delete(sets, key)
	}
}

// count is the number of pods that a key selects.
func (s *podStore) count(key selection.Key) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[key]
}

// selected are the pods that a key selects, in no order.
func (s *podStore) selected(key selection.Key) []*pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make([]*pod, 0, s.counts[key])
	for workload := range s.byKey[key] {
		for _, one := range s.workloads[workload] {
			found = append(found, one)
		}
	}
	return found
}

// workloadsOf are the workloads of a namespace; known is false before pods were seen.
func (s *podStore) workloadsOf(namespace string) (workloads []selection.Workload, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.inNamespace[namespace])), s.synced
}

func (s *podStore) size() (pods, workloads int, synced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pods), len(s.workloads), s.synced
}
