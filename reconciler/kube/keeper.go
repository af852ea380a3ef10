package kube

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/dynamic"

	"github.com/boifi/hfi/internal/api"
)

// keeper is what the leader does in the cluster. But for what mu guards, only
// its goroutine uses it.
type keeper struct {
	*Cluster
	targets targets
	// attempts are by namespace.
	attempts map[string]attempt
	// rolloutSince is since when some replica lacks the filter, or zero.
	rolloutSince time.Time
	// rolloutOver: it has been for longer than RolloutLimit, and that was said.
	rolloutOver bool
	// incompleteSince is since when not all replicas tell of their filters, or zero.
	incompleteSince time.Time
	// seen has the generation of each WasmPlugin and since when it is known.
	seen map[podID]sighting
	// told is when a status was last written in vain, by namespace.
	told map[string]time.Time
	// untold are by namespace, and none is empty.
	untold map[string]untold

	mu sync.Mutex
	// messages say, by namespace, why nothing is made there or what is wrong.
	messages map[string]string
	// judged are the conditions found last, whether or not they could be written.
	judged map[podID][]api.Condition
	// checks are of modules, by address and digest.
	checks map[module]*check
}

type sighting struct {
	generation int64
	since      time.Time
}

func newKeeper(c *Cluster) *keeper {
	return &keeper{
		Cluster: c, attempts: map[string]attempt{}, seen: map[podID]sighting{}, told: map[string]time.Time{}, untold: map[string]untold{},
		messages: map[string]string{}, judged: map[podID][]api.Condition{}, checks: map[module]*check{},
	}
}

// run looks whenever something changed, and from time to time, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	tick := time.NewTicker(k.Interval)
	defer tick.Stop()
	reported, idle := time.Time{}, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-k.moved:
			idle = false
			// A Deployment's pods come one by one.
			select {
			case <-ctx.Done():
				return
			case <-time.After(k.Settle):
			}
		}
		if !k.Leads() {
			k.rest()
			idle = false
			k.publish()
			continue
		}
		if state := k.served.Load(); state != nil {
			k.targets.update(state.Set)
		}
		k.tellAgain(ctx)
		k.keep(ctx)
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
		k.Report(k.Told())
	}
}

// rest forgets what was found as the leader: from now on another one says.
func (k *keeper) rest() {
	k.problems.rest()
	clear(k.untold)
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.messages)
	clear(k.judged)
}

// say keeps what is to be known of a namespace.
func (k *keeper) say(namespace, message string) {
	k.mu.Lock()
	before := k.messages[namespace]
	if message == "" {
		delete(k.messages, namespace)
	} else {
		k.messages[namespace] = message
	}
	k.mu.Unlock()
	if message != before && message != "" {
		k.Logger.Warn("a namespace whose WasmPlugin hfi keeps", "namespace", namespace, "message", message)
	}
}

func (k *keeper) client(namespace string) dynamic.ResourceInterface {
	return k.Clients.Dynamic.Resource(pluginResource).Namespace(namespace)
}

func sortedKeys(all ...map[string]any) []string {
	keys := map[string]struct{}{}
	for _, one := range all {
		for key := range one {
			keys[key] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(keys))
}
