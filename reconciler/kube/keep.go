package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/boifi/hfi/internal/api"
)

// want is what is to become of the WasmPlugin of a namespace.
type want int

const (
	// leave: make none, and keep the one that is there.
	leave want = iota
	present
	absent
)

// wants says what policies ask for in a namespace. Pods come and go, and
// loading a filter takes seconds: where a policy names the namespace, the
// plugin outlives the last of its pods. Where pods cannot be seen, every
// policy counts that may have some there.
func (k *keeper) wants(namespace string) want {
	now := k.Now()
	workloads, known := k.pods.workloadsOf(namespace)
	switch {
	case k.targets.set == nil:
		return leave
	case !known:
		if !k.problems.about("list pods", "watch pods") {
			return leave // they are being listed
		}
		if k.targets.mayReach(namespace, now) {
			return present
		}
		return absent
	case k.targets.anyOf(workloads, now):
		return present
	case k.targets.names(namespace, now):
		return leave
	}
	return absent
}

// keep makes, repairs and removes the WasmPlugins in the namespaces that hfi
// was told of. Where it cannot see which there are, it does nothing.
func (k *keeper) keep(ctx context.Context) {
	plugins, synced := k.plugins.list()
	if !synced {
		return
	}
	byNamespace := map[string][]*plugin{}
	for _, one := range plugins {
		byNamespace[one.Namespace] = append(byNamespace[one.Namespace], one)
	}
	// All namespaces wait for the same replicas: they are asked once, if at all.
	asked := false
	waitsFor := sync.OnceValue(func() string {
		asked = true
		return k.notEverywhere(ctx)
	})
	for _, namespace := range k.Keep {
		if ctx.Err() != nil {
			return
		}
		next, message := k.plan(namespace, byNamespace[namespace], waitsFor)
		if next != nil {
			k.act(ctx, namespace, next)
		} else {
			k.problems.clear("wasmplugins" + inNamespace(namespace))
		}
		k.say(namespace, message)
	}
	if !asked {
		k.rolloutSince, k.rolloutOver = time.Time{}, false
	}
}

// step is a change to be made in a namespace.
type step struct {
	verb   string
	change func(context.Context) error
}

// plan finds what is to be done in one namespace, if anything, and says why it
// is not. What waitsFor gives is why no plugin can be made to name the filter yet.
func (k *keeper) plan(namespace string, plugins []*plugin, waitsFor func() string) (next *step, message string) {
	var own *plugin
	var others []string
	taken := false
	for _, one := range plugins {
		switch {
		case one.managed:
			own = one
		case one.leadsHome:
			others = append(others, one.Name)
		default:
			taken = true
		}
	}
	want := k.wants(namespace)
	k.wanted(namespace, want)
	switch makes := own == nil && want == present; {
	case len(others) > 0:
		message = fmt.Sprintf("WasmPlugin %s leads to this control plane too, and hfi did not make it: requests to pods with two filters are faulted twice", strings.Join(others, ", "))
		if makes {
			return nil, message + "; so hfi makes none here"
		}
	case taken && makes:
		return nil, fmt.Sprintf("WasmPlugin %s leads elsewhere, and hfi did not make it: the name is taken, so hfi makes none here", PluginName)
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
	updated, what := amended(own.object, desired)
	if updated == nil {
		return nil, message
	}
	if reason := waitsFor(); reason != "" {
		return nil, reason
	}
	return &step{"update", func(ctx context.Context) error { return k.repair(ctx, updated, what) }}, message
}

func inNamespace(namespace string) string { return " in namespace " + namespace }

// attempt is when something was last tried in a namespace, the wait until it
// may be again, and what was wanted there.
type attempt struct {
	at   time.Time
	wait time.Duration
	want want
}

// wanted notes what is wanted in a namespace. Where that has changed, what
// comes next is no fight with anybody, and has not to wait as if it were.
func (k *keeper) wanted(namespace string, want want) {
	if last := k.attempts[namespace]; last.want != want {
		k.attempts[namespace] = attempt{last.at, min(last.wait, k.RepairMin), want}
	}
}

// act tries one change within its limit. It does not fight: what is changed
// back each time is repaired ever more seldom.
func (k *keeper) act(ctx context.Context, namespace string, next *step) {
	now := k.Now()
	last := k.attempts[namespace]
	if since := now.Sub(last.at); since < last.wait {
		return
	} else if since > 2*k.RepairMax {
		last.wait = 0
	}
	tried := next.verb + " wasmplugins" + inNamespace(namespace)
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	err := next.change(limit)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) && next.verb != "create" {
		err = nil // somebody was faster: the watch tells what there is now
	}
	most := k.RepairMax
	if err != nil {
		most = k.RetryMax
	}
	k.attempts[namespace] = attempt{now, min(max(k.RepairMin, 2*last.wait), most), last.want}
	k.problems.clear("wasmplugins"+inNamespace(namespace), tried) // another verb is not tried any more
	k.noted(ctx, tried, err)
}

// desired is the WasmPlugin of a namespace as it is to be.
func (c *Cluster) desired(namespace string) *unstructured.Unstructured {
	port := c.home.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[c.home.Scheme]
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
			// Before Istio's own filters; and whatever breaks, requests go through.
			"phase": "AUTHN", "failStrategy": "FAIL_OPEN",
			// Without it the filter would stand before outgoing requests too.
			"match":        []any{map[string]any{"mode": "SERVER"}},
			"pluginConfig": map[string]any{"control_plane_address": c.home.Hostname() + ":" + port},
		},
	}}
}

// amended is the object with what is to be, and what that changes; nil if nothing.
func amended(object, desired *unstructured.Unstructured) (updated *unstructured.Unstructured, what []string) {
	has, _ := object.Object["spec"].(map[string]any)
	wants := desired.Object["spec"].(map[string]any)
	for _, field := range sortedKeys(has, wants) {
		if !reflect.DeepEqual(has[field], wants[field]) {
			what = append(what, "spec."+field)
		}
	}
	labels := object.GetLabels()
	for label, value := range desired.GetLabels() {
		if labels[label] != value {
			what = append(what, "label "+label)
		}
	}
	if len(what) == 0 {
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
	return updated, what
}

func (k *keeper) create(ctx context.Context, desired *unstructured.Unstructured) error {
	told := k.plugins.told()
	made, err := k.client(desired.GetNamespace()).Create(ctx, desired, metav1.CreateOptions{FieldManager: managedBy})
	if err != nil {
		return err
	}
	k.Logger.Info("made a WasmPlugin", "namespace", made.GetNamespace(), "sha256", k.SHA256)
	k.plugins.wrote(made, told)
	k.event(ctx, made, "Normal", "Created", "hfi made this WasmPlugin: policies target pods of this namespace")
	return nil
}

// repair writes the object with the resource version that it was read with: what was changed meanwhile is looked at first.
func (k *keeper) repair(ctx context.Context, updated *unstructured.Unstructured, what []string) error {
	told := k.plugins.told()
	made, err := k.client(updated.GetNamespace()).Update(ctx, updated, metav1.UpdateOptions{FieldManager: managedBy})
	if err != nil {
		return err
	}
	k.plugins.wrote(made, told)
	k.Logger.Info("repaired a WasmPlugin", "namespace", made.GetNamespace(), "changed", what)
	k.event(ctx, made, "Normal", "Repaired", "hfi set what it keeps: "+strings.Join(what, ", "))
	return nil
}

func (k *keeper) prune(ctx context.Context, own *plugin) error {
	uid := own.object.GetUID()
	options := metav1.DeleteOptions{}
	if uid != "" {
		options.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	if err := k.client(own.Namespace).Delete(ctx, own.Name, options); err != nil {
		return err
	}
	k.Logger.Info("removed a WasmPlugin", "namespace", own.Namespace)
	k.event(ctx, own.object, "Normal", "Pruned", "hfi removed this WasmPlugin: no policy targets this namespace any more")
	return nil
}

// notEverywhere says which replica does not serve this daemon's filter, as
// while a new version is rolled out: a sidecar would be sent to it by chance,
// and go without. Empty: all do, or it has lasted too long to wait for.
func (k *keeper) notEverywhere(ctx context.Context) string {
	reason := k.replicaWithout(ctx)
	switch now := k.Now(); {
	case reason == "":
		k.rolloutSince, k.rolloutOver = time.Time{}, false
	case k.rolloutSince.IsZero():
		k.rolloutSince = now
	case now.Sub(k.rolloutSince) > k.RolloutLimit:
		if !k.rolloutOver {
			k.Logger.Warn("a replica still does not serve this filter; it is used all the same", "reason", reason)
		}
		k.rolloutOver = true
		return ""
	}
	return reason
}

func (k *keeper) replicaWithout(ctx context.Context) string {
	if k.Replicas == nil {
		return ""
	}
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	for _, replica := range k.Replicas().List {
		if replica.URL == "" {
			continue
		}
		err := k.head(limit, strings.TrimSuffix(replica.URL, "/")+api.FilterModulePath(k.SHA256))
		if err != nil {
			return fmt.Sprintf("waiting for replica %s to serve the filter %.12s: %v", replica.ID, k.SHA256, err)
		}
	}
	return ""
}

func (k *keeper) head(ctx context.Context, address string) error {
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
		return errors.New("it answers " + response.Status)
	}
	return nil
}
