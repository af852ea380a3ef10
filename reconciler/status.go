package reconciler

import (
	"fmt"
	"strings"

	"github.com/boifi/hfi/internal/api"
)

// Ready reports whether this replica can serve, the state of etcd, and why it
// cannot serve.
func (r *Reconciler) Ready() (ready bool, etcd api.EtcdStatus, reason string) {
	etcd = reportedHealth(r.Store.View().Health)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.served == nil {
		reason = "no verified set of policies yet"
		if r.keptError != nil {
			reason += ", and none on disk: " + r.keptError.Error()
		}
		return false, etcd, reason
	}
	return true, etcd, ""
}

// Leads reports whether this replica is the leader, as far as it knows.
func (r *Reconciler) Leads() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.own != nil
}

// Status is what this replica knows at this moment. What only the leader sees
// comes from the leader's last report.
func (r *Reconciler) Status() api.Status {
	view := r.Store.View()
	r.mu.Lock()
	defer r.mu.Unlock()
	report, fresh := r.leaderReport(view)
	status := api.Status{
		Source: report.Source, Etcd: reportedHealth(view.Health), Drift: r.driftStatus(view, report),
		Filters: api.FiltersStatus{Items: []api.FilterStatus{}},
		History: view.History,
		Replica: api.ReplicaStatus{ID: r.ID, Role: "follower", Leader: report.Leader},
	}
	switch {
	case r.own != nil:
		status.Replica.Role = "leader"
	case !fresh || report.Leader == r.ID:
		// The report is old, or this replica's own from when it led. Which
		// replica leads now, if any, is not known.
		status.Replica.Leader = ""
	}
	sync, reason := r.syncStatus(view, status.Drift, report, fresh)
	status.Sync = sync
	status.Conditions = r.deriveConditions(view, status, reason, report)
	r.complete(&status)
	return status
}

// reportedHealth is a store's health for the status, where a store that raises
// an alarm is not healthy, as etcdctl has it.
func reportedHealth(health api.EtcdStatus) api.EtcdStatus {
	health.Healthy = health.Healthy && len(health.Alarms) == 0
	return health
}

// complete sets what a report does not say, and empty lists in place of nil,
// which JSON would show as null.
func (r *Reconciler) complete(s *api.Status) {
	if s.Source.URL == "" {
		s.Source.URL, s.Source.Branch, s.Source.Path = r.URL, r.Branch, r.Path
	}
	// A leader of an earlier version lists all problems and has no totals.
	s.Source.ErrorsTotal = max(s.Source.ErrorsTotal, len(s.Source.Errors))
	s.Source.WarningsTotal = max(s.Source.WarningsTotal, len(s.Source.Warnings))
	*s = s.WithLists()
}

// leaderReport returns this replica's own report while it leads, else the
// leader's last one; fresh says whether it is the present leader's, and that
// one still reports. The caller holds the lock.
func (r *Reconciler) leaderReport(view *StoreView) (report LeaderReport, fresh bool) {
	if r.own != nil {
		return *r.own, true
	}
	last := view.LeaderReport
	if last == nil {
		return LeaderReport{}, false
	}
	now := r.Now()
	if !last.At.Equal(r.lastReport) {
		// Its age is measured by this replica's clock, since the leader's may
		// differ. Only of the first one is it not known when it was written.
		seen := now
		if r.lastReport.IsZero() && last.At.Before(now) {
			seen = last.At
		}
		r.lastReport, r.lastReportSeen = last.At, seen
	}
	return *last, view.ReportCurrent && now.Sub(r.lastReportSeen) < 3*r.Interval
}

func (r *Reconciler) driftStatus(view *StoreView, report LeaderReport) api.Drift {
	drift := view.Drift
	drift.Mode, drift.Heal = r.DriftMode, report.Heal
	if !view.Health.Healthy {
		// The items are those seen last; they may have changed since.
		drift.Status = api.DriftUnknown
	}
	return drift
}

// syncStatus says whether git and etcd agree, and the reason in one word. The caller holds the lock.
func (r *Reconciler) syncStatus(view *StoreView, drift api.Drift, report LeaderReport, fresh bool) (status api.SyncStatus, reason string) {
	status = api.SyncStatus{LastSuccessAt: report.LastSuccessAt, ServedFrom: r.servedFrom}
	if served := r.served; served != nil {
		status.LastAppliedRevision = &api.AppliedRevision{
			Commit: served.Head.Commit, Digest: served.Head.Digest, Count: served.Head.Count,
			At: served.Head.At, Revision: served.Revision.String(),
		}
	}
	if r.own == nil && len(view.Health.Alarms) > 0 {
		// The leader, if any, may not be able to report.
		fresh = false
	}
	status.Status, reason, status.Message = syncState(r.served, view, drift, report, fresh)
	return status, reason
}

// syncState returns a state, the reason in one word, and a message. For Unknown
// the reason says what is missing, else it is the state.
func syncState(served *State, view *StoreView, drift api.Drift, report LeaderReport, fresh bool) (state api.SyncState, reason, message string) {
	outOfSync := func(message string) (api.SyncState, string, string) {
		return api.OutOfSync, string(api.OutOfSync), message
	}
	source, attempted, health := report.Source, report.Source.LastAttemptedRevision, view.Health
	switch {
	case !health.Healthy:
		return api.Unknown, "EtcdUnreachable", "etcd cannot be reached: " + health.Error
	case view.Forged != "":
		return outOfSync("a record in etcd does not verify, and is not used: " + view.Forged)
	case !fresh && len(health.Alarms) > 0:
		return api.Unknown, "EtcdAlarm", health.Error
	case !fresh && view.Leader == "":
		return api.Unknown, "NoLeader", "no replica leads, so nobody reads git"
	case !fresh:
		return api.Unknown, "NoReport", "the leader has not reported on git yet, or not for a long time"
	case source.Error != nil && !source.Reachable:
		return api.Unknown, source.Error.Reason, "git cannot be read: " + source.Error.Message
	case source.Error != nil:
		return outOfSync(source.Error.Message)
	case report.SyncError != nil:
		return outOfSync(report.SyncError.Message)
	case attempted == nil:
		return api.Unknown, "NotRead", "git has not been read yet"
	case served == nil || served.Head.Commit != attempted.Commit:
		return outOfSync(fmt.Sprintf("commit %s is being applied", short(attempted.Commit)))
	case drift.Status == api.DriftDetected:
		return outOfSync(fmt.Sprintf("etcd drifted from what was published: %d keys", drift.Total))
	}
	return api.Synced, string(api.Synced), ""
}

// deriveConditions derives the conditions from the rest of the status. The
// caller holds the lock.
func (r *Reconciler) deriveConditions(view *StoreView, status api.Status, syncReason string, report LeaderReport) []api.Condition {
	return []api.Condition{
		r.withTransitionTime(r.readyCondition(status, syncReason), report),
		r.withTransitionTime(r.reconcilingCondition(status, report), report),
		r.withTransitionTime(r.stalledCondition(view, report), report),
	}
}

func (r *Reconciler) readyCondition(status api.Status, syncReason string) api.Condition {
	ready := api.Condition{Type: api.Ready, Status: "True", Reason: syncReason, Message: "the served policies are those of git's head"}
	if status.Sync.Status != api.Synced {
		ready.Status, ready.Message = "False", status.Sync.Message
	}
	if status.Sync.Status == api.Unknown {
		ready.Status = "Unknown"
	}
	if r.diskError != "" && ready.Status == "True" {
		ready.Message = "the served policies are those of git's head, but could not be kept on disk: " + r.diskError
	}
	return ready
}

func (r *Reconciler) reconcilingCondition(status api.Status, report LeaderReport) api.Condition {
	reconciling := api.Condition{Type: api.Reconciling, Status: "True"}
	switch {
	case r.busy:
		reconciling.Reason, reconciling.Message = "Working", "reading git"
	case report.stalled() != nil:
		reconciling.Status, reconciling.Reason, reconciling.Message = "False", "Idle", "nothing to do"
	case report.failure() != nil:
		reconciling.Reason, reconciling.Message = "Retrying", report.failure().Message
	case status.Sync.Status == api.Unknown:
		// etcd is away, or no leader has reported: how much there is to do is not known.
		reconciling.Reason, reconciling.Message = "Waiting", status.Sync.Message
	case status.Sync.Status == api.OutOfSync && (status.Drift.Status != api.DriftDetected || r.DriftMode == HealDrift):
		// A commit is being applied, or drift waits for its repair.
		reconciling.Reason, reconciling.Message = "Working", status.Sync.Message
	default:
		reconciling.Status, reconciling.Reason, reconciling.Message = "False", "Idle", "nothing to do"
	}
	return reconciling
}

// stalledCondition says what requires manual action: the first reason, and
// besides it a disk that cannot be written. The caller holds the lock.
func (r *Reconciler) stalledCondition(view *StoreView, report LeaderReport) api.Condition {
	stalled := api.Condition{Type: api.Stalled, Status: "True"}
	health, failure := view.Health, report.stalled()
	switch {
	case len(health.Alarms) > 0:
		stalled.Reason, stalled.Message = "EtcdAlarm", health.Error
	case !health.Healthy && !view.AwaySince.IsZero() && r.Now().Sub(view.AwaySince) >= r.EtcdStalledAfter:
		stalled.Reason, stalled.Message = "EtcdUnreachable", "etcd cannot be reached: "+health.Error
	case view.Forged != "" && view.Drift.Since != nil && r.Now().Sub(*view.Drift.Since) >= r.EtcdStalledAfter:
		// A leader repairs what is forged at once: no leader does, or it has another key.
		stalled.Reason, stalled.Message = "Forged", "a record in etcd does not verify: "+view.Forged
	case failure != nil:
		stalled.Reason, stalled.Message = failure.Reason, failure.Message
	case r.diskError == "":
		stalled.Status, stalled.Reason, stalled.Message = "False", "Progressing", "no manual action is required"
	default:
		stalled.Reason, stalled.Message = "DataFolderUnwritable", r.diskMessage()
		return stalled
	}
	if r.diskError != "" && !strings.Contains(stalled.Message, r.diskError) {
		stalled.Message += "; and " + r.diskMessage()
	}
	return stalled
}

func (r *Reconciler) diskMessage() string {
	return "what is served cannot be kept on disk, for a restart while etcd is away: " + r.diskError
}

// withTransitionTime fills in when the condition's status last changed: the
// leader's time where this replica agrees with the leader's report, else the
// time at which this replica saw it change. The caller holds the lock.
func (r *Reconciler) withTransitionTime(condition api.Condition, report LeaderReport) api.Condition {
	before, known := r.conditions[condition.Type]
	changed := !known || before.Status != condition.Status
	condition.LastTransitionTime = r.Now()
	if !changed {
		condition.LastTransitionTime = before.LastTransitionTime
	}
	if r.own == nil || !known {
		for _, reported := range report.Conditions {
			if reported.Type == condition.Type && reported.Status == condition.Status {
				condition.LastTransitionTime = reported.LastTransitionTime
			}
		}
	}
	if r.own != nil && changed {
		// A request for the status may see the change first: the term then
		// stores its report, for the followers.
		signal(r.storeChanged)
	}
	r.conditions[condition.Type] = condition
	return condition
}
