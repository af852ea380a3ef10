package kube

import (
	"context"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxLeftovers bounds the objects read of each kind that is not in use.
const maxLeftovers = 500

// findLeftovers looks, every CheckEvery, for plugins that hfi created of a kind
// that it does not use any more: their pods have two filters. hfi need not
// have the right to list such a kind, and then finds none.
func (k *keeper) findLeftovers(ctx context.Context) {
	now := k.Now()
	if !k.leftoversAt.IsZero() && now.Sub(k.leftoversAt) < k.CheckEvery {
		return
	}
	k.leftoversAt = now
	found := map[string][]string{}
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	for _, by := range []*delivery{wasmPlugins, trafficExtensions, envoyFilters} {
		if by == k.delivery() {
			continue
		}
		list, err := k.Clients.Dynamic.Resource(by.resource).List(limit, metav1.ListOptions{LabelSelector: labelManagedBy + "=" + managedBy, Limit: maxLeftovers})
		if err != nil {
			continue
		}
		for i := range list.Items {
			if plugin := readPlugin(by, &list.Items[i], k.baseURL); plugin != nil && plugin.managed && plugin.ours {
				found[plugin.Namespace] = append(found[plugin.Namespace], by.kind+" "+plugin.Name)
			}
		}
	}
	for _, namespace := range k.Keep {
		if !slices.Equal(found[namespace], k.leftovers[namespace]) {
			k.due[namespace] = time.Time{}
		}
	}
	k.leftovers = found
}
