package etcd

import (
	"slices"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// snapshot is what the store's other goroutines and its callers see of the
// tracker after a step. It never changes.
type snapshot struct {
	view reconciler.StoreView
	// phase and revision are the cache's; revision is 0 while it is empty.
	phase    cachePhase
	revision int64
	epoch    reconciler.Epoch
	// replicas are those listed, by ID.
	replicas      []api.Replica
	replicaLostAt time.Time
	// superseded is closed when a later snapshot has something to notice.
	superseded chan struct{}
}

// snapshot takes a snapshot, all but superseded.
func (t *tracker) snapshot() *snapshot {
	taken := &snapshot{
		view: reconciler.StoreView{
			State: t.state, HeadVerified: t.headVerified() && t.epochStored(), Drift: t.driftView(), Health: t.health, AwaySince: t.awaySince,
		},
		phase: t.phase, epoch: t.epoch.value, replicaLostAt: t.replicaLostAt,
	}
	if t.cache == nil {
		return taken
	}
	taken.view.Forged = t.cache.forged()
	taken.view.History = t.cache.history.newest()
	taken.view.LeaderReport, taken.view.ReportLost, taken.view.ReportCurrent = t.cache.report.value, t.cache.report.lost, t.cache.reportCurrent()
	taken.revision = t.cache.revision
	leader, _ := t.cache.leader()
	taken.view.Leader = leader.id
	candidates := t.cache.candidateCounts()
	for _, id := range t.cache.listedReplicas(candidates) {
		registered := t.cache.replicas[id]
		replica := api.Replica{ID: id, URL: registered.url}
		if candidates[id] > 1 {
			replica.Error = "several daemons have this ID: give each its own --replica-id"
		} else if problem := peerProblem(registered.url, t.advertise); problem != "" {
			// It is not asked, and its address, which may be anything, not shown.
			replica.URL, replica.Error = "", problem
		}
		taken.replicas = append(taken.replicas, replica)
	}
	slices.SortFunc(taken.replicas, func(a, b api.Replica) int { return strings.Compare(a.ID, b.ID) })
	return taken
}
