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

// untold are Events that could not be made, oldest first, and when that was tried last.
type untold struct {
	events []*unstructured.Unstructured
	at     time.Time
}

// maxUntold bounds them, in each namespace.
const maxUntold = 10

// event tells users of the cluster what was done, beside the object that it was done to.
func (k *keeper) event(ctx context.Context, object *unstructured.Unstructured, kind, reason, message string) {
	now := k.Now().UTC()
	at := now.Format(time.RFC3339)
	namespace := object.GetNamespace()
	waiting := k.untold[namespace]
	waiting.events = append(waiting.events, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata": map[string]any{"name": fmt.Sprintf("%s.%x", object.GetName(), now.UnixNano()), "namespace": namespace},
		"involvedObject": map[string]any{
			"apiVersion": pluginResource.GroupVersion().String(), "kind": pluginKind,
			"namespace": namespace, "name": object.GetName(), "uid": string(object.GetUID()), "resourceVersion": object.GetResourceVersion(),
		},
		"type": kind, "reason": reason, "message": reconciler.Cut(message, 1000),
		"source": map[string]any{"component": "hfid"}, "reportingComponent": "hfid", "reportingInstance": "",
		"firstTimestamp": at, "lastTimestamp": at, "count": int64(1),
	}})
	waiting.events = waiting.events[max(0, len(waiting.events)-maxUntold):]
	k.untold[namespace] = waiting
	k.tell(ctx, namespace)
}

// tell makes a namespace's Events, and keeps those that fail: the next one may
// be days away, and whether any can be made would be unknown until then.
func (k *keeper) tell(ctx context.Context, namespace string) {
	var err error
	waiting := k.untold[namespace]
	for err == nil && len(waiting.events) > 0 {
		_, err = k.Clients.Dynamic.Resource(eventResource).Namespace(namespace).Create(ctx, waiting.events[0], metav1.CreateOptions{FieldManager: managedBy})
		switch {
		case apierrors.IsAlreadyExists(err):
			err = nil // the answer before was lost
		case apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, namespaceTerminating):
			err = nil // the namespace goes, and with it who would read it
		}
		if err == nil {
			waiting.events = waiting.events[1:]
		}
	}
	k.noted(ctx, "create events"+inNamespace(namespace), err)
	waiting.at = k.Now()
	if k.untold[namespace] = waiting; err == nil {
		delete(k.untold, namespace)
	}
}

// tellAgain tries the Events that could not be made.
func (k *keeper) tellAgain(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	for namespace, waiting := range k.untold {
		if k.Now().Sub(waiting.at) >= k.RetryMax && limit.Err() == nil {
			k.tell(limit, namespace)
		}
	}
}
