package reconciler

import (
	"fmt"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// Ready says whether this replica can serve, the state of etcd, and why not.
func (r *Reconciler) Ready() (ready bool, etcd api.EtcdStatus, reason string) {
	etcd = r.Store.Health()
	if r.Served() == nil {
		return false, etcd, "no verified set of policies yet"
	}
	return true, etcd, ""
}

// Leads says whether this replica is the leader, as far as it knows.
func (r *Reconciler) Leads() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.own != nil
}

// Status says what this replica knows at this moment. What only the leader
// sees comes from the leader's last report.
func (r *Reconciler) Status() api.Status {
	findings, fresh := r.findings()
	health := r.Store.Health()
	drift := r.drift(health, findings)
	served := r.Served()

	r.mu.Lock()
	defer r.mu.Unlock()
	status := api.Status{
		Source: findings.Source, Etcd: health, Drift: drift,
		Filters: api.FiltersStatus{Items: []api.FilterStatus{}},
		History: r.Store.History(),
		Replica: api.ReplicaStatus{ID: r.ID, Role: "follower", Leader: findings.Leader},
	}
	switch {
	case r.own != nil:
		status.Replica.Role = "leader"
	case !fresh || findings.Leader == r.ID:
		// It reported once. Who leads now, if anyone does, is not known.
		status.Replica.Leader = ""
	}
	status.Sync = r.sync(served, findings, fresh, health, drift)
	status.Conditions = r.judgeConditions(status, findings)
	fill(&status, r)
	return status
}

// fill replaces what JSON would show as null in place of an empty list, and
// what a report does not say.
func fill(s *api.Status, r *Reconciler) {
	if s.Source.URL == "" {
		s.Source.URL, s.Source.Branch, s.Source.Path = r.URL, r.Branch, r.Path
	}
	if s.Source.Errors == nil {
		s.Source.Errors = []schema.Problem{}
	}
	if s.Source.Warnings == nil {
		s.Source.Warnings = []schema.Problem{}
	}
	// A leader of an earlier version counts nothing, and lists all.
	s.Source.ErrorsTotal = max(s.Source.ErrorsTotal, len(s.Source.Errors))
	s.Source.WarningsTotal = max(s.Source.WarningsTotal, len(s.Source.Warnings))
	if s.Etcd.Endpoints == nil {
		s.Etcd.Endpoints = []string{}
	}
	if s.History == nil {
		s.History = []api.HistoryEntry{}
	}
}

// findings are this replica's own while it leads, else the leader's last
// report; fresh says whether a leader still reports.
func (r *Reconciler) findings() (findings LeaderReport, fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.own != nil {
		return *r.own, true
	}
	last := r.Store.Findings()
	if last == nil {
		return LeaderReport{}, false
	}
	now := r.Now()
	if !last.At.Equal(r.lastReport) {
		// Seen by this replica's clock: the leader's may differ.
		r.lastReport, r.lastReportSeen = last.At, now
	}
	return *last, now.Sub(r.lastReportSeen) < 3*r.Interval
}

func (r *Reconciler) drift(health api.EtcdStatus, findings LeaderReport) api.Drift {
	drift := r.Store.Drift()
	drift.Mode, drift.Heal = r.DriftMode, findings.Heal
	if !health.Healthy {
		// What cannot be seen now may have changed: the items are of when it was seen last.
		drift.Status = api.DriftUnknown
	}
	if drift.Items == nil {
		drift.Items = []api.DriftItem{}
	}
	return drift
}

// sync says whether git and etcd agree; the caller holds the lock.
func (r *Reconciler) sync(served *State, findings LeaderReport, fresh bool, health api.EtcdStatus, drift api.Drift) api.SyncStatus {
	status := api.SyncStatus{LastSuccessAt: findings.LastSuccessAt, ServedFrom: r.servedFrom}
	if served != nil {
		status.LastAppliedRevision = &api.AppliedRevision{
			Commit: served.Head.Commit, Digest: served.Head.Digest, Count: served.Head.Count,
			At: served.Head.At, Revision: served.Revision.String(),
		}
	}
	status.Status, status.Message = word(served, findings, fresh, health, drift)
	return status
}

func word(served *State, findings LeaderReport, fresh bool, health api.EtcdStatus, drift api.Drift) (api.SyncWord, string) {
	source, attempted := findings.Source, findings.Source.LastAttemptedRevision
	switch {
	case !health.Healthy:
		return api.Unknown, "etcd cannot be seen: " + health.Error
	case !fresh:
		return api.Unknown, "no leader has reported on git yet, or not for a long time"
	case source.Error != nil && !source.Reachable:
		return api.Unknown, "git cannot be seen: " + source.Error.Message
	case source.Error != nil:
		return api.OutOfSync, source.Error.Message
	case findings.SyncError != nil:
		return api.OutOfSync, findings.SyncError.Message
	case attempted == nil:
		return api.Unknown, "git has not been read yet"
	case served == nil || served.Head.Commit != attempted.Commit:
		return api.OutOfSync, fmt.Sprintf("commit %s is being applied", short(attempted.Commit))
	case drift.Status == api.DriftDetected:
		return api.OutOfSync, fmt.Sprintf("etcd drifted from what was published: %d keys", drift.Total)
	}
	return api.Synced, ""
}

// stalled is the failure that no retry mends, or nil.
func stalled(findings LeaderReport) *api.Failure {
	for _, failure := range []*api.Failure{findings.Source.Error, findings.SyncError} {
		if failure != nil && !passing(failure.Reason) {
			return failure
		}
	}
	return nil
}

// passing says whether a failure may pass by itself.
func passing(reason string) bool {
	switch reason {
	case "PublishFailed", "ValidationFailed", "Unreachable", "TimedOut", "ObjectMissing", "Canceled":
		return true
	}
	return false
}

// judgeConditions derives the conditions; the caller holds the lock.
func (r *Reconciler) judgeConditions(status api.Status, findings LeaderReport) []api.Condition {
	ready := api.Condition{Type: api.Ready, Status: "True", Reason: "Synced", Message: "the served policies are those of git's head"}
	if status.Sync.Status != api.Synced {
		ready.Status, ready.Reason, ready.Message = "False", string(status.Sync.Status), status.Sync.Message
		if status.Sync.Status == api.Unknown {
			ready.Status = "Unknown"
		}
	}
	reconciling := api.Condition{Type: api.Reconciling, Status: "False", Reason: "Idle", Message: "nothing to do"}
	stall := api.Condition{Type: api.Stalled, Status: "False", Reason: "Progressing", Message: "nothing needs a person"}
	failure := stalled(findings)
	switch retrying := firstFailure(findings); {
	case failure != nil:
		stall.Status, stall.Reason, stall.Message = "True", failure.Reason, failure.Message
	case retrying != nil:
		reconciling.Status, reconciling.Reason, reconciling.Message = "True", "Retrying", retrying.Message
	case status.Sync.Status == api.Unknown:
		// Etcd is away, or no leader has reported: there is nothing to see, and maybe a lot to do.
		reconciling.Status, reconciling.Reason, reconciling.Message = "True", "Waiting", status.Sync.Message
	case status.Sync.Status == api.OutOfSync && (status.Drift.Status != api.DriftDetected || r.DriftMode == HealDrift):
		// A commit is being applied, or drift waits for its repair.
		reconciling.Status, reconciling.Reason, reconciling.Message = "True", "Working", status.Sync.Message
	}
	if r.busy {
		reconciling.Status, reconciling.Reason, reconciling.Message = "True", "Working", "looking at git"
	}
	if r.diskError != "" && ready.Status == "True" {
		ready.Message = "the served policies are those of git's head, but could not be kept on disk: " + r.diskError
	}
	return []api.Condition{r.since(ready, findings), r.since(reconciling, findings), r.since(stall, findings)}
}

func firstFailure(findings LeaderReport) *api.Failure {
	if findings.Source.Error != nil {
		return findings.Source.Error
	}
	return findings.SyncError
}

// since fills in when the condition's status last changed: the leader's time
// where this replica agrees with it, else the time at which this replica saw it change.
func (r *Reconciler) since(condition api.Condition, findings LeaderReport) api.Condition {
	before, known := r.conditions[condition.Type]
	condition.LastTransitionTime = r.Now()
	if known && before.Status == condition.Status {
		condition.LastTransitionTime = before.LastTransitionTime
	}
	if r.own == nil || !known {
		for _, reported := range findings.Conditions {
			if reported.Type == condition.Type && reported.Status == condition.Status {
				condition.LastTransitionTime = reported.LastTransitionTime
			}
		}
	}
	if r.own != nil && (!known || before.Status != condition.Status) {
		// Whoever asked saw it first: the followers are to be told as well.
		signal(r.moved)
	}
	r.conditions[condition.Type] = condition
	return condition
}
