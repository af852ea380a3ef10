package kube

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/boifi/hfi/reconciler"
)

// client-go's event recorder is not used: it drops an Event whose creation is
// denied, so the status would keep naming a permission that was granted since;
// and it needs the right to patch Events.

// pendingEvents are a namespace's Events that could not be created, oldest
// first, and the time of the last attempt.
type pendingEvents struct {
	events  []*unstructured.Unstructured
	triedAt time.Time
}

// maxPendingEvents bounds the pending Events of a namespace.
const maxPendingEvents = 10

// recordEvent creates an Event about an object.
func (k *keeper) recordEvent(ctx context.Context, object *unstructured.Unstructured, kind, reason, message string) {
	now := k.Now().UTC()
	at := now.Format(time.RFC3339)
	namespace := object.GetNamespace()
	pending := k.pending[namespace]
	pending.events = append(pending.events, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata": map[string]any{"name": fmt.Sprintf("%s.%x", object.GetName(), now.UnixNano()), "namespace": namespace},
		"involvedObject": map[string]any{
			"apiVersion": object.GetAPIVersion(), "kind": object.GetKind(),
			"namespace": namespace, "name": object.GetName(), "uid": string(object.GetUID()), "resourceVersion": object.GetResourceVersion(),
		},
		"type": kind, "reason": reason, "message": reconciler.Cut(message, 1000),
		"source": map[string]any{"component": "hfid"}, "reportingComponent": "hfid", "reportingInstance": "",
		"firstTimestamp": at, "lastTimestamp": at, "count": int64(1),
	}})
	pending.events = pending.events[max(0, len(pending.events)-maxPendingEvents):]
	k.pending[namespace] = pending
	k.sendEvents(ctx, namespace)
}

// sendEvents creates a namespace's pending Events, and keeps those that fail
// for the next attempt.
func (k *keeper) sendEvents(ctx context.Context, namespace string) {
	var err error
	pending := k.pending[namespace]
	for err == nil && len(pending.events) > 0 {
		_, err = k.Clients.Dynamic.Resource(eventResource).Namespace(namespace).Create(ctx, pending.events[0], metav1.CreateOptions{FieldManager: managedBy})
		switch {
		case apierrors.IsAlreadyExists(err):
			err = nil // An earlier attempt succeeded, and its answer was lost.
		case apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, namespaceTerminating):
			err = nil // The namespace is being deleted, and nobody will read the Event.
		}
		if err == nil {
			pending.events = pending.events[1:]
		}
	}
	k.recordResult(ctx, "create events"+inNamespace(namespace), err)
	pending.triedAt = k.Now()
	if k.pending[namespace] = pending; err == nil {
		delete(k.pending, namespace)
	}
}

// retryEvents tries again to create the pending Events, every RetryMax.
func (k *keeper) retryEvents(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	for namespace, pending := range k.pending {
		if k.Now().Sub(pending.triedAt) >= k.RetryMax && limit.Err() == nil {
			k.sendEvents(limit, namespace)
		}
	}
}
