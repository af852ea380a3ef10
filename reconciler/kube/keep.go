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
	"github.com/boifi/hfi/schema"
)

// maxRounds bounds how often a namespace is planned in one pass. One round
// creates plugins, and the next deletes what they replace.
const maxRounds = 3

// reconcile creates, repairs and deletes the plugins of the namespaces in Keep
// for which anything changed or is due. It does nothing until plugins were listed once.
func (k *keeper) reconcile(ctx context.Context) {
	k.markDue()
	if !k.listed {
		return
	}
	k.findLeftovers(ctx)
	// All namespaces wait for the same replicas, which are asked at most once.
	waitsFor := sync.OnceValue(func() string { return k.rolloutPending(ctx) })
	left := k.MaxChanges
	// A pass begins where the last one ended, so that none waits for another's failures.
	first := k.first
	for i := range k.Keep {
		if ctx.Err() != nil {
			return
		}
		at := (first + i) % len(k.Keep)
		namespace := k.Keep[at]
		if due, is := k.due[namespace]; !is || due.After(k.Now()) {
			continue
		}
		before := left
		next := k.keepNamespace(ctx, namespace, waitsFor, &left)
		if before > 0 && left <= 0 {
			k.first = at + 1
		}
		if k.due[namespace] = next; next.IsZero() {
			delete(k.due, namespace)
		}
	}
	if left <= 0 {
		k.notify()
	}
}

// markDue adds the namespaces of which policies, pods or plugins changed to due,
// and from time to time all, because policies expire.
func (k *keeper) markDue() {
	now := k.Now()
	var changed map[string]struct{}
	if state := k.served.Load(); state != nil {
		changed = k.serve(state.Set)
	}
	pods := k.pods.takeTouched()
	maps.Copy(pods, k.bindings.takeTouched())
	plugins, synced := k.plugins.takeTouched()
	k.listed = synced
	_, anywhere := changed[schema.Any]
	_, root := plugins[k.RootNamespace]
	unseen := k.problems.any("list pods", "watch pods")
	switch {
	case !unseen:
		k.unseenSince = time.Time{}
	case k.unseenSince.IsZero():
		k.unseenSince = now
	}
	all := anywhere || root || unseen != k.podsUnseen || now.Sub(k.allDueAt) >= allDueEvery*k.Interval
	if k.podsUnseen = unseen; all {
		k.allDueAt = now
	}
	for _, namespace := range k.Keep {
		_, byPolicy := changed[namespace]
		_, byPod := pods[namespace]
		_, byPlugin := plugins[namespace]
		if all || byPolicy || byPod || byPlugin {
			k.due[namespace] = time.Time{}
		}
	}
}

// allDueEvery is the number of Intervals after which all namespaces are due.
const allDueEvery = 15

// keepNamespace makes the changes that a namespace needs, and returns when it is
// due again, or zero. It tries at most left changes, and subtracts them: all
// that are left after one that failed slowly, as the next would.
func (k *keeper) keepNamespace(ctx context.Context, namespace string, waitsFor func() string, left *int) (next time.Time) {
	var made plan
	pending := false
	for range maxRounds {
		made = k.planFor(namespace, waitsFor)
		done := 0
		pending = false
		k.failedLast(made.steps)
		for _, each := range made.steps {
			if *left <= 0 || ctx.Err() != nil || !k.Leads() {
				pending = true
				continue
			}
			switch k.try(ctx, each) {
			case succeeded:
				done++
				*left--
			case failed:
				pending = true
				*left--
			case failedSlowly:
				pending = true
				*left = 0
			case waits:
				pending = true
			}
		}
		if done == 0 {
			break
		}
		pending = true // until the next round finds nothing to do
	}
	k.reportSteps(ctx, namespace, made.steps)
	message := made.message()
	k.setMessage(namespace, message)
	if pending || message != "" {
		made.again(k.Now().Add(k.Interval / 2))
	}
	return made.at
}

// failedLast puts changes that failed when last tried after the others, the
// latest at the end, so that each is tried in turn.
func (k *keeper) failedLast(steps []step) {
	failedAt := func(s step) time.Time {
		if last := k.slot(s.podID); last.err != nil {
			return last.at
		}
		return time.Time{}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return failedAt(a).Compare(failedAt(b)) })
}

// reportSteps records the failures of the changes that a namespace still needs,
// one for each verb, and forgets those of others.
func (k *keeper) reportSteps(ctx context.Context, namespace string, steps []step) {
	failures := map[string]error{}
	for _, each := range steps {
		if err := k.slot(each.podID).err; err != nil {
			failures[each.verb+" "+k.delivery().resource.Resource+inNamespace(namespace)] = err
		}
	}
	k.problems.clear(" "+k.delivery().resource.Resource+inNamespace(namespace), slices.Collect(maps.Keys(failures))...)
	for tried, err := range failures {
		k.recordResult(ctx, tried, err)
	}
}

func inNamespace(namespace string) string { return " in namespace " + namespace }

// slot is what the leader remembers of a plugin that it keeps or may have to keep.
type slot struct {
	// at is the time of the last change that was tried, wait the time from then
	// until the next may be tried, and err its failure.
	at   time.Time
	wait time.Duration
	err  error
	// checked is the plugin as it was when it needed no change.
	checked *filterPlugin
	// want is what policies asked for at the last pass, and unwantedSince since when that is absent.
	want          want
	unwantedSince time.Time
	// repairs gives the waits after changes that succeeded, retries those after failures.
	repairs, retries *backoff.Waits
}

func (s *slot) reset() {
	s.repairs.Reset()
	s.retries.Reset()
}

// slot returns the slot of a plugin.
func (k *keeper) slot(id podID) *slot {
	in := k.slots[id.Namespace]
	if in == nil {
		in = map[string]*slot{}
		k.slots[id.Namespace] = in
	}
	known := in[id.Name]
	if known == nil {
		known = &slot{repairs: backoff.New(k.RepairMin, k.RepairMax), retries: backoff.New(k.RepairMin, k.RetryMax), unwantedSince: k.Now()}
		in[id.Name] = known
	}
	return known
}

// note records what policies ask for. If that changed, the next change of the
// plugin is not a repair, and does not wait like one.
func (p *planner) note(name string, want want) {
	last := p.slot(podID{Namespace: p.namespace, Name: name})
	if last.want == want {
		return
	}
	if want == absent {
		last.unwantedSince = p.now
	}
	last.want, last.wait = want, min(last.wait, p.RepairMin)
	last.reset()
}

// forget drops the slots of the family's plugins that neither exist nor are wanted.
func (p *planner) forget(d demand) {
	for name := range p.slots[p.namespace] {
		if p.family.mayWant(name) && p.own[name] == nil && d.workloads[name] == absent && name != p.family.name {
			delete(p.slots[p.namespace], name)
		}
	}
}

// outcome is what became of a change.
type outcome int

const (
	// waits: too little time has passed since it was last tried.
	waits outcome = iota
	succeeded
	failed
	// failedSlowly: it failed after much of CallTimeout, as with a webhook that does not answer.
	failedSlowly
)

// try makes a change within CallTimeout. If somebody
// keeps reverting hfi's changes, it waits longer before each.
func (k *keeper) try(ctx context.Context, next step) outcome {
	now := k.Now()
	last := k.slot(next.podID)
	if since := now.Sub(last.at); since < last.wait {
		return waits
	} else if since > 2*k.RepairMax {
		last.reset()
	}
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	started := time.Now()
	err := next.change(limit)
	if ctx.Err() != nil {
		return failed // The daemon stops, which is not the cluster's failure.
	}
	raced := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) && next.verb != "create"
	if raced {
		err = nil // The object changed since it was read; the watch will deliver its new state.
	}
	if last.at, last.err = now, err; err != nil {
		last.wait = last.retries.NextBackOff()
		if k.slow(started) {
			return failedSlowly
		}
		return failed
	}
	last.retries.Reset()
	last.wait = last.repairs.NextBackOff()
	if raced {
		return failed
	}
	return succeeded
}

// slow says whether a request that started then took so long that a pass cannot have many such.
func (c *Cluster) slow(started time.Time) bool { return time.Since(started) >= c.CallTimeout/2 }

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
	k.Logger.Info("created a "+created.GetKind(), "namespace", created.GetNamespace(), "name", created.GetName(), "sha256", k.SHA256)
	k.plugins.setWritten(created, events)
	k.recordEvent(ctx, created, "Normal", "Created", "hfi created this "+created.GetKind()+": policies target pods that it selects")
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
	k.Logger.Info("repaired a "+repaired.GetKind(), "namespace", repaired.GetNamespace(), "name", repaired.GetName(), "changed", changes)
	k.recordEvent(ctx, repaired, "Normal", "Repaired", "hfi restored what it manages: "+strings.Join(changes, ", "))
	return nil
}

func (k *keeper) prune(ctx context.Context, own *filterPlugin, because string) error {
	events := k.plugins.eventCount()
	uid := own.object.GetUID()
	options := metav1.DeleteOptions{}
	if uid != "" {
		options.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	if err := k.client(own.Namespace).Delete(ctx, own.Name, options); err != nil {
		return err
	}
	k.plugins.setDeleted(own.podID, events)
	k.Logger.Info("deleted a "+own.object.GetKind(), "namespace", own.Namespace, "name", own.Name, "reason", because)
	k.recordEvent(ctx, own.object, "Normal", "Pruned", "hfi deleted this "+own.object.GetKind()+": "+because)
	return nil
}

// rolloutPending returns which replica does not serve this daemon's filter
// yet, as during a rollout of a new version: a sidecar that asks that replica
// would get no filter. It returns "" if all serve it, except those that did not
// for RolloutLimit: none is waited for again until it has served it.
func (k *keeper) rolloutPending(ctx context.Context) (reason string) {
	if k.Replicas == nil {
		return ""
	}
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	replicas := k.Replicas().List
	failures := make([]error, len(replicas))
	var asked sync.WaitGroup // all at once, so that a slow one does not use up the others' time
	for i, replica := range replicas {
		if replica.URL != "" {
			asked.Go(func() {
				failures[i] = k.headFilter(limit, strings.TrimSuffix(replica.URL, "/")+api.FilterModulePath(k.SHA256))
			})
		}
	}
	asked.Wait()
	if ctx.Err() != nil {
		return ctx.Err().Error()
	}
	now, lacking := k.Now(), map[string]*lackingFilter{}
	for i, replica := range replicas {
		if failures[i] == nil {
			continue
		}
		id := replica.ID + " " + replica.URL
		known := k.lacking[id]
		if known == nil {
			known = &lackingFilter{since: now}
		}
		lacking[id] = known
		switch {
		case now.Sub(known.since) <= k.RolloutLimit:
			if reason == "" {
				reason = fmt.Sprintf("waiting for replica %s to serve the filter %.12s: %v", replica.ID, k.SHA256, failures[i])
			}
		case !known.expired:
			known.expired = true
			k.Logger.Warn("a replica still does not serve this filter; plugins name it anyway", "replica", replica.ID, "reason", failures[i])
		}
	}
	k.lacking = lacking
	return reason
}

// lackingFilter is a replica that was found not to serve the filter.
type lackingFilter struct {
	since time.Time
	// expired is set once that lasted longer than RolloutLimit and was logged.
	expired bool
}

func (k *keeper) headFilter(ctx context.Context, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, address, nil)
	if err != nil {
		return err
	}
	client := *k.HTTP
	// A replica answers itself; its address may be another writer's.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New("it returned " + response.Status)
	}
	return nil
}
