package kube

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
)

// keeper does what only the leader does in the cluster. Only its goroutine
// uses the fields above mu.
type keeper struct {
	*Cluster
	// targets are by family.
	targets map[*family]*targets
	// due has the namespaces in Keep that must be planned, and from when on; allDueAt is when all were.
	due      map[string]time.Time
	allDueAt time.Time
	// first is the element of Keep at which the next pass begins, and reportAfter
	// the plugin after which the next writes of statuses do.
	first       int
	reportAfter podID
	// leftovers are the plugins of other kinds by namespace, and leftoversAt is when they were listed.
	leftovers   map[string][]string
	leftoversAt time.Time
	// listed is set once the plugins are known, and podsUnseen while the pods cannot be watched.
	listed, podsUnseen bool
	// unseenSince is when the pods were first found not to be watched, or zero.
	unseenSince time.Time
	// slots are by namespace and name.
	slots map[string]map[string]*slot
	// lacking are the replicas that did not serve the filter when they were last asked.
	lacking map[string]*lackingFilter
	// incompleteSince is when a replica first failed to report its filters, or zero.
	incompleteSince time.Time
	generations     map[podID]generationSeen
	// statusFailedAt is the time of the last failed write of a status, by namespace.
	statusFailedAt map[string]time.Time
	// pending is by namespace. No entry is empty.
	pending map[string]pendingEvents

	mu sync.Mutex
	// messages say what is wrong in a namespace, or why no plugin is created there.
	messages map[string]string
	// computed are the conditions last computed for each plugin, written or not.
	computed map[podID][]metav1.Condition
	checks   map[module]*moduleCheck
}

// generationSeen is a plugin's generation and the time when it was first seen.
type generationSeen struct {
	generation int64
	since      time.Time
}

func newKeeper(c *Cluster) *keeper {
	return &keeper{
		Cluster: c, targets: newTargets(), due: map[string]time.Time{}, slots: map[string]map[string]*slot{}, generations: map[podID]generationSeen{}, statusFailedAt: map[string]time.Time{}, pending: map[string]pendingEvents{},
		messages: map[string]string{}, computed: map[podID][]metav1.Condition{}, checks: map[module]*moduleCheck{},
	}
}

// run makes a pass after each change and every Interval, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	tick := time.NewTicker(k.Interval)
	defer tick.Stop()
	reported, idle := time.Time{}, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-k.wake:
			idle = false
			// A Deployment's pods come one by one: wait for the others.
			select {
			case <-ctx.Done():
				return
			case <-time.After(k.Settle):
			}
		}
		if !k.Leads() {
			k.stepDown()
			idle = false
			k.publish()
			continue
		}
		k.retryEvents(ctx)
		k.reconcile(ctx)
		wait := k.Interval / 2
		if idle {
			wait = k.Idle
		}
		if time.Since(reported) >= wait {
			idle = k.report(ctx)
			reported = time.Now()
		}
		k.publish()
	}
}

// publish makes the report known to the other replicas.
func (k *keeper) publish() {
	if k.Report != nil {
		k.Report(k.OwnReport())
	}
}

// stepDown drops what this replica found as the leader. The next leader reports instead.
func (k *keeper) stepDown() {
	k.problems.forgetLeaders()
	clear(k.pending)
	clear(k.slots)
	clear(k.due)
	k.lacking = nil
	k.leftovers, k.leftoversAt = nil, time.Time{}
	k.allDueAt, k.unseenSince = time.Time{}, time.Time{}
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.messages)
	clear(k.computed)
}

// setMessage sets a namespace's message in the status; "" removes it.
func (k *keeper) setMessage(namespace, message string) {
	k.mu.Lock()
	before := k.messages[namespace]
	if message == "" {
		delete(k.messages, namespace)
	} else {
		k.messages[namespace] = message
	}
	k.mu.Unlock()
	if message != before && message != "" {
		k.Logger.Warn("the plugins of a namespace need attention", "namespace", namespace, "message", message)
	}
}

func (k *keeper) client(namespace string) dynamic.ResourceInterface {
	return k.Clients.Dynamic.Resource(k.delivery().resource).Namespace(namespace)
}
