package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/backoff"
)

// want is what policies ask for in a namespace.
type want int

const (
	// unchanged: create no WasmPlugin, and keep an existing one.
	unchanged want = iota
	present
	absent
)

// wanted is what the policies served ask for in a namespace. Pods come and
// go, and loading a filter takes seconds: where a policy names the namespace,
// the plugin stays when the last of its pods is gone. Where pods cannot be
// listed, every policy counts that may target some there.
func (k *keeper) wanted(namespace string) want {
	now := k.Now()
	workloads, known := k.pods.workloadsOf(namespace)
	switch {
	case k.targets.set == nil:
		return unchanged
	case !known:
		if !k.problems.any("list pods", "watch pods") {
			return unchanged // The first list is under way.
		}
		if k.targets.mayReach(namespace, now) {
			return present
		}
		return absent
	case k.targets.anyOf(workloads, now):
		return present
	case k.targets.anyNames(namespace, now):
		return unchanged
	}
	return absent
}

// reconcile creates, repairs and deletes the WasmPlugins of the namespaces in
// Keep. It does nothing until WasmPlugins were listed once.
func (k *keeper) reconcile(ctx context.Context) {
	plugins, synced := k.plugins.list()
	if !synced {
		return
	}
	byNamespace := map[string][]*wasmPlugin{}
	for _, plugin := range plugins {
		byNamespace[plugin.Namespace] = append(byNamespace[plugin.Namespace], plugin)
	}
	// All namespaces wait for the same replicas, which are asked at most once.
	asked := false
	waitsFor := sync.OnceValue(func() string {
		asked = true
		return k.rolloutPending(ctx)
	})
	for _, namespace := range k.Keep {
		if ctx.Err() != nil {
			return
		}
		next, message := k.plan(namespace, byNamespace[namespace], waitsFor)
		if next != nil {
			k.try(ctx, namespace, next)
		} else {
			k.problems.clear("wasmplugins" + inNamespace(namespace))
		}
		k.setMessage(namespace, message)
	}
	if !asked {
		k.rolloutSince, k.rolloutExpired = time.Time{}, false
	}
}

// step is a change to be made in a namespace.
type step struct {
	verb   string
	change func(context.Context) error
}

// plan returns the change that a namespace needs, if any, and a message for
// the status if something is wrong there. waitsFor returns why no plugin can
// name the filter yet, or "".
func (k *keeper) plan(namespace string, plugins []*wasmPlugin, waitsFor func() string) (next *step, message string) {
	var own *wasmPlugin
	var others []string
	taken := false
	for _, plugin := range plugins {
		switch {
		case plugin.managed:
			own = plugin
		case plugin.ours:
			others = append(others, plugin.Name)
		default:
			taken = true
		}
	}
	want := k.wanted(namespace)
	k.noteWanted(namespace, want)
	switch creates := own == nil && want == present; {
	case len(others) > 0:
		message = fmt.Sprintf("WasmPlugin %s leads to this control plane too, and hfi did not create it: requests to pods with two filters are faulted twice", strings.Join(others, ", "))
		if creates {
			return nil, message + "; so hfi creates none here"
		}
	case taken && creates:
		return nil, fmt.Sprintf("WasmPlugin %s leads to another control plane, and hfi did not create it: the name is taken, so hfi creates none here", PluginName)
	}
	switch {
	case own == nil && want != present:
		return nil, message
	case own != nil && want == absent:
		return &step{"delete", func(ctx context.Context) error { return k.prune(ctx, own) }}, message
	case k.SHA256 == "":
		return nil, "this daemon has no filter to serve: start it with --filter"
	}
	desired := k.desired(namespace)
	if own == nil {
		if reason := waitsFor(); reason != "" {
			return nil, reason
		}
		return &step{"create", func(ctx context.Context) error { return k.create(ctx, desired) }}, message
	}
	updated, changes := restored(own.object, desired)
	if updated == nil {
		return nil, message
	}
	if reason := waitsFor(); reason != "" {
		return nil, reason
	}
	return &step{"update", func(ctx context.Context) error { return k.repair(ctx, updated, changes) }}, message
}

func inNamespace(namespace string) string { return " in namespace " + namespace }

// attempt is the last change that was tried in a namespace.
type attempt struct {
	at time.Time
	// wait is the time from at until the next change may be tried.
	wait time.Duration
	// want is what policies asked for at the last pass.
	want want
	// repairs gives the waits after changes that succeeded, retries those after failures.
	repairs, retries *backoff.Waits
}

func (a *attempt) reset() {
	a.repairs.Reset()
	a.retries.Reset()
}

// noteWanted records what policies ask for in a namespace. If that changed,
// the next change is not a repair, and does not wait like one.
func (k *keeper) noteWanted(namespace string, want want) {
	last := k.attempts[namespace]
	if last == nil {
		last = &attempt{repairs: backoff.New(k.RepairMin, k.RepairMax), retries: backoff.New(k.RepairMin, k.RetryMax)}
		k.attempts[namespace] = last
	}
	if last.want != want {
		last.want, last.wait = want, min(last.wait, k.RepairMin)
		last.reset()
	}
}

// try makes a change within CallTimeout. If somebody keeps reverting hfi's
// changes, it waits longer before each.
func (k *keeper) try(ctx context.Context, namespace string, next *step) {
	now := k.Now()
	last := k.attempts[namespace]
	if since := now.Sub(last.at); since < last.wait {
		return
	} else if since > 2*k.RepairMax {
		last.reset()
	}
	tried := next.verb + " wasmplugins" + inNamespace(namespace)
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	err := next.change(limit)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) && next.verb != "create" {
		err = nil // The object changed since it was read; the watch will deliver its new state.
	}
	last.at = now
	if err != nil {
		last.wait = last.retries.NextBackOff()
	} else {
		last.retries.Reset()
		last.wait = last.repairs.NextBackOff()
	}
	k.problems.clear("wasmplugins"+inNamespace(namespace), tried) // Other verbs are no longer needed.
	k.recordResult(ctx, tried, err)
}

// desired is the WasmPlugin that hfi keeps in a namespace.
func (c *Cluster) desired(namespace string) *unstructured.Unstructured {
	port := c.baseURL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[c.baseURL.Scheme]
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": pluginResource.GroupVersion().String(),
		"kind":       pluginKind,
		"metadata": map[string]any{
			"name": PluginName, "namespace": namespace,
			"labels": map[string]any{labelManagedBy: managedBy, labelPartOf: "hfi"},
		},
		"spec": map[string]any{
			"url":    strings.TrimSuffix(c.ControlPlane, "/") + api.FilterModulePath(c.SHA256),
			"sha256": c.SHA256,
			// Before Istio's own filters; requests pass if the filter fails.
			"phase": "AUTHN", "failStrategy": "FAIL_OPEN",
			// Inbound requests only: by default Istio adds the filter to outbound ones too.
			"match":        []any{map[string]any{"mode": "SERVER"}},
			"pluginConfig": map[string]any{"control_plane_address": c.baseURL.Hostname() + ":" + port},
		},
	}}
}

// restored returns a copy of an object with the desired spec and labels, and
// the names of the fields that this changes; nil if none.
func restored(object, desired *unstructured.Unstructured) (updated *unstructured.Unstructured, changes []string) {
	has, _ := object.Object["spec"].(map[string]any)
	wants := desired.Object["spec"].(map[string]any)
	fields := slices.AppendSeq(slices.Collect(maps.Keys(has)), maps.Keys(wants))
	slices.Sort(fields)
	for _, field := range slices.Compact(fields) {
		if !reflect.DeepEqual(has[field], wants[field]) {
			changes = append(changes, "spec."+field)
		}
	}
	labels := object.GetLabels()
	for label, value := range desired.GetLabels() {
		if labels[label] != value {
			changes = append(changes, "label "+label)
		}
	}
	if len(changes) == 0 {
		return nil, nil
	}
	updated = object.DeepCopy()
	updated.Object["spec"] = desired.DeepCopy().Object["spec"]
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, desired.GetLabels())
	updated.SetLabels(labels)
	return updated, changes
}

// create uses Create and not server-side apply, which would take over a plugin
// that somebody else created under this name since the last list.
func (k *keeper) create(ctx context.Context, desired *unstructured.Unstructured) error {
	events := k.plugins.eventCount()
	created, err := k.client(desired.GetNamespace()).Create(ctx, desired, metav1.CreateOptions{FieldManager: managedBy})
	if err != nil {
		return err
	}
	k.Logger.Info("created a WasmPlugin", "namespace", created.GetNamespace(), "sha256", k.SHA256)
	k.plugins.setWritten(created, events)
	k.recordEvent(ctx, created, "Normal", "Created", "hfi created this WasmPlugin: policies target pods of this namespace")
	return nil
}

// repair uses Update and not server-side apply, which would keep fields that
// others added to the spec, such as a priority. The update names the resource
// version that was read, so it fails if the object changed since.
func (k *keeper) repair(ctx context.Context, updated *unstructured.Unstructured, changes []string) error {
	events := k.plugins.eventCount()
	repaired, err := k.client(updated.GetNamespace()).Update(ctx, updated, metav1.UpdateOptions{FieldManager: managedBy})
	if err != nil {
		return err
	}
	k.plugins.setWritten(repaired, events)
	k.Logger.Info("repaired a WasmPlugin", "namespace", repaired.GetNamespace(), "changed", changes)
	k.recordEvent(ctx, repaired, "Normal", "Repaired", "hfi restored what it manages: "+strings.Join(changes, ", "))
	return nil
}

func (k *keeper) prune(ctx context.Context, own *wasmPlugin) error {
	uid := own.object.GetUID()
	options := metav1.DeleteOptions{}
	if uid != "" {
		options.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	if err := k.client(own.Namespace).Delete(ctx, own.Name, options); err != nil {
		return err
	}
	k.Logger.Info("deleted a WasmPlugin", "namespace", own.Namespace)
	k.recordEvent(ctx, own.object, "Normal", "Pruned", "hfi deleted this WasmPlugin: no policy targets this namespace any more")
	return nil
}

// rolloutPending returns which replica does not serve this daemon's filter
// yet, as during a rollout of a new version: a sidecar that asks that replica
// would get no filter. It returns "" if all serve it, or after RolloutLimit.
func (k *keeper) rolloutPending(ctx context.Context) string {
	reason := k.replicaWithoutFilter(ctx)
	switch now := k.Now(); {
	case reason == "":
		k.rolloutSince, k.rolloutExpired = time.Time{}, false
	case k.rolloutSince.IsZero():
		k.rolloutSince = now
	case now.Sub(k.rolloutSince) > k.RolloutLimit:
		if !k.rolloutExpired {
			k.Logger.Warn("a replica still does not serve this filter; WasmPlugins name it anyway", "reason", reason)
		}
		k.rolloutExpired = true
		return ""
	}
	return reason
}

func (k *keeper) replicaWithoutFilter(ctx context.Context) string {
	if k.Replicas == nil {
		return ""
	}
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	for _, replica := range k.Replicas().List {
		if replica.URL == "" {
			continue
		}
		err := k.headFilter(limit, strings.TrimSuffix(replica.URL, "/")+api.FilterModulePath(k.SHA256))
		if err != nil {
			return fmt.Sprintf("waiting for replica %s to serve the filter %.12s: %v", replica.ID, k.SHA256, err)
		}
	}
	return ""
}

func (k *keeper) headFilter(ctx context.Context, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, address, nil)
	if err != nil {
		return err
	}
	response, err := k.HTTP.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New("it returned " + response.Status)
	}
	return nil
}
