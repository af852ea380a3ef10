//go:build !wasm

// The filter needs only the routes and header names.

package api

import (
	"time"

	"github.com/boifi/hfi/schema"
)

// Status is the answer of GET /v1/status.
type Status struct {
	Source     SourceStatus   `json:"source"`
	Etcd       EtcdStatus     `json:"etcd"`
	Sync       SyncStatus     `json:"sync"`
	Drift      Drift          `json:"drift"`
	Filters    FiltersStatus  `json:"filters"`
	History    []HistoryEntry `json:"history"`
	Conditions []Condition    `json:"conditions"`
	// Kubernetes is what is seen of the cluster around.
	Kubernetes KubernetesStatus `json:"kubernetes"`
	// Replica says which daemon answers.
	Replica ReplicaStatus `json:"replica"`
}

// SourceStatus is what the leader last saw of git.
type SourceStatus struct {
	// URL has no credentials in it.
	URL    string `json:"url"`
	Branch string `json:"branch"`
	Path   string `json:"path"`
	// Reachable says whether the repository answered the last look at the
	// branch, if only to say that it has no such branch.
	Reachable bool `json:"reachable"`
	// LastSeenAt is the last time that a look at the branch succeeded.
	LastSeenAt *time.Time `json:"last_seen_at"`
	// LastAttemptedRevision is the newest commit that was read, valid or not.
	LastAttemptedRevision *CommitRef `json:"last_attempted_revision"`
	// Error is why the branch or its commit could not be read, or nil.
	Error *Failure `json:"error"`
	// Errors are what makes LastAttemptedRevision invalid, by place. Of them
	// and of the warnings the first are listed, within MaxProblems and
	// MaxProblemBytes; the totals count all.
	Errors        []schema.Problem `json:"errors"`
	ErrorsTotal   int              `json:"errors_total"`
	Warnings      []schema.Problem `json:"warnings"`
	WarningsTotal int              `json:"warnings_total"`
}

// CommitRef names a commit and when it was attempted or applied.
type CommitRef struct {
	Commit  string    `json:"commit"`
	Author  string    `json:"author,omitempty"`
	Subject string    `json:"subject,omitempty"`
	At      time.Time `json:"at"`
}

// Failure is something that went wrong: a word for machines, a sentence, and when it began.
type Failure struct {
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
	// Retryable says that the daemon tries again by itself and may succeed.
	// If it is false, a person must act: push a commit, or mend what Message names.
	Retryable bool `json:"retryable"`
}

// EtcdMode says whose etcd it is.
type EtcdMode string

// The etcd modes.
const (
	Embedded EtcdMode = "embedded"
	External EtcdMode = "external"
)

// EtcdStatus is what this daemon last saw of etcd.
type EtcdStatus struct {
	Mode      EtcdMode `json:"mode"`
	Endpoints []string `json:"endpoints"`
	Healthy   bool     `json:"healthy"`
	// LastSeenAt is the last time that etcd answered.
	LastSeenAt *time.Time `json:"last_seen_at"`
	// Error is empty while etcd is healthy.
	Error string `json:"error,omitempty"`
}

// SyncWord says whether git and etcd agree.
type SyncWord string

// The values of sync.status.
const (
	Synced    SyncWord = "Synced"
	OutOfSync SyncWord = "OutOfSync"
	Unknown   SyncWord = "Unknown"
)

// SyncStatus compares git with what is published and served.
type SyncStatus struct {
	Status SyncWord `json:"status"`
	// Message says why, when Status is not Synced.
	Message string `json:"message,omitempty"`
	// LastAppliedRevision is the commit that is published and served.
	LastAppliedRevision *AppliedRevision `json:"last_applied_revision"`
	// LastSuccessAt is when git and etcd were last seen to agree.
	LastSuccessAt *time.Time `json:"last_success_at"`
	// ServedFrom is etcd, disk (the last good set, while etcd is away), or empty before anything is served.
	ServedFrom string `json:"served_from"`
}

// AppliedRevision is a published commit.
type AppliedRevision struct {
	Commit   string        `json:"commit"`
	Digest   schema.Digest `json:"digest"`
	Count    int           `json:"count"`
	At       time.Time     `json:"at"`
	Revision string        `json:"revision"`
}

// DriftWord says whether etcd holds what was published.
type DriftWord string

// The values of drift.status. DriftUnknown: etcd cannot be seen.
const (
	DriftNone     DriftWord = "None"
	DriftDetected DriftWord = "Detected"
	DriftUnknown  DriftWord = "Unknown"
)

// DriftKind says how one key differs.
type DriftKind string

// The kinds of drift.
const (
	Missing  DriftKind = "Missing"
	Modified DriftKind = "Modified"
	Extra    DriftKind = "Extra"
)

// Drift is what differs between the published set and etcd's keys.
type Drift struct {
	Status DriftWord `json:"status"`
	// Total counts all items; Items lists the first MaxDriftItems by key.
	Total int         `json:"total"`
	Items []DriftItem `json:"items"`
	// Since is when the drift was first seen, or nil.
	Since *time.Time `json:"since"`
	// Mode is report or heal. Heal describes the repairs made, if any.
	Mode string      `json:"mode"`
	Heal *HealStatus `json:"heal,omitempty"`
}

// MaxDriftItems bounds Drift.Items, and so what a stranger's keys can cost.
const MaxDriftItems = 1000

// DriftItem is a key that differs.
type DriftItem struct {
	// Name is the policy's, or empty for a key that is no policy's (the head).
	Name string    `json:"name"`
	Key  string    `json:"key"`
	Kind DriftKind `json:"kind"`
}

// HealStatus describes the repairs of drift.
type HealStatus struct {
	// Repairs counts them since the leader began; LastAt is when the last succeeded.
	Repairs int        `json:"repairs"`
	LastAt  *time.Time `json:"last_at"`
	// Message says so when something keeps changing it back, or why a repair failed.
	Message string `json:"message,omitempty"`
}

// Outcome is how an attempt to apply a commit ended.
type Outcome string

// The outcomes in the history.
const (
	Applied Outcome = "Applied"
	Invalid Outcome = "Invalid"
	// Refused by the guard against unintended pruning.
	Refused Outcome = "Refused"
)

// HistoryEntry is an attempt to apply a commit.
type HistoryEntry struct {
	Commit  string        `json:"commit"`
	Author  string        `json:"author"`
	Subject string        `json:"subject"`
	Digest  schema.Digest `json:"digest,omitempty"`
	Outcome Outcome       `json:"outcome"`
	At      time.Time     `json:"at"`
	// Message says why the outcome is not Applied.
	Message string `json:"message,omitempty"`
	// Restores is the earlier commit whose state this one brought back, if it did.
	Restores string `json:"restores,omitempty"`
}

// ConditionType is the type of a Condition.
type ConditionType string

// The conditions, in the sense of Kubernetes's kstatus.
const (
	// Ready: a verified set is served and agrees with git.
	Ready ConditionType = "Ready"
	// Reconciling: work is under way or will be tried again by itself.
	Reconciling ConditionType = "Reconciling"
	// Stalled: nothing will change until a person acts.
	Stalled ConditionType = "Stalled"
)

// Condition is one aspect of the daemon's state.
type Condition struct {
	Type ConditionType `json:"type"`
	// Status is True, False or Unknown.
	Status             string    `json:"status"`
	Reason             string    `json:"reason"`
	Message            string    `json:"message"`
	LastTransitionTime time.Time `json:"last_transition_time"`
}

// ReplicaStatus is the daemon that answers, and who leads.
type ReplicaStatus struct {
	ID   string `json:"id"`
	Role string `json:"role"`
	// Leader is the ID of the leader, or empty while none is known to report.
	Leader string `json:"leader"`
}
