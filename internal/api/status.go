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
	// Kubernetes is the state of the cluster that the daemon runs in.
	Kubernetes KubernetesStatus `json:"kubernetes"`
	// Replica is the daemon that answers.
	Replica ReplicaStatus `json:"replica"`
}

// SourceStatus is the state of git as the leader last saw it.
type SourceStatus struct {
	// URL is without credentials.
	URL    string `json:"url"`
	Branch string `json:"branch"`
	Path   string `json:"path"`
	// Reachable: the repository answered the last fetch, even if it said that
	// it has no such branch.
	Reachable bool `json:"reachable"`
	// LastSeenAt is when the branch was last fetched successfully.
	LastSeenAt *time.Time `json:"last_seen_at"`
	// LastTriedAt is when it was last fetched, successfully or not.
	LastTriedAt *time.Time `json:"last_tried_at"`
	// LastAttemptedRevision is the newest commit that was read, valid or not.
	LastAttemptedRevision *CommitRef `json:"last_attempted_revision"`
	// Error is why the branch or its commit could not be read, or nil.
	Error *Failure `json:"error"`
	// Errors make LastAttemptedRevision invalid. They are sorted by file and
	// line. Errors and Warnings are each cut to a bound; the totals count all.
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
	// Signature is nil if signatures are not verified.
	Signature *Signature `json:"signature,omitempty"`
}

// SignatureStatus says what a check of a commit's signature found.
type SignatureStatus string

// The values of Signature.Status.
const (
	SignatureVerified SignatureStatus = "Verified"
	SignatureUnsigned SignatureStatus = "Unsigned"
	// SignatureUnknownKey: the key is not among those that are trusted for commits.
	SignatureUnknownKey SignatureStatus = "UnknownKey"
	// SignatureExpired and SignatureNotYetValid: the key, its certificate or the
	// signature was not valid any more, or not yet.
	SignatureExpired     SignatureStatus = "Expired"
	SignatureNotYetValid SignatureStatus = "NotYetValid"
	SignatureRevoked     SignatureStatus = "Revoked"
	// SignatureInvalid: the signature is not one of this commit, or is malformed.
	SignatureInvalid SignatureStatus = "Invalid"
)

// Signature is who signed a commit, or why that is not known.
type Signature struct {
	Status SignatureStatus `json:"status"`
	// Signer is a principal of the allowed signers or, of OpenPGP, a key's user ID.
	// It is who signed only if Status is Verified.
	Signer string `json:"signer,omitempty"`
	// Key is the fingerprint of the key: SHA256:… of an SSH key, in hexadecimal of an OpenPGP key.
	Key string `json:"key,omitempty"`
	// Reason says why Status is not Verified.
	Reason string `json:"reason,omitempty"`
}

// TrustedKeysUnusable is the reason of a failure to read the keys that verify
// signatures: no new commit is applied then.
const TrustedKeysUnusable = "TrustedKeysUnusable"

// Failure is an error: a reason for programs, a message for people, and when it began.
type Failure struct {
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
	// Retryable says that the daemon tries again by itself and may succeed.
	// If it is false, manual action is required: push a commit, or fix what Message names.
	Retryable bool `json:"retryable"`
}

// EtcdMode says whether etcd runs in the daemon or elsewhere.
type EtcdMode string

// The etcd modes.
const (
	Embedded EtcdMode = "embedded"
	External EtcdMode = "external"
)

// EtcdStatus is the state of etcd as this daemon last saw it.
type EtcdStatus struct {
	Mode      EtcdMode `json:"mode"`
	Endpoints []string `json:"endpoints"`
	// Healthy says that etcd answers and raises no alarm.
	Healthy bool `json:"healthy"`
	// Alarms are those that etcd raises: NOSPACE, CORRUPT.
	Alarms []string `json:"alarms,omitempty"`
	// LastSeenAt is when etcd last answered.
	LastSeenAt *time.Time `json:"last_seen_at"`
	// Error is empty while etcd is healthy.
	Error string `json:"error,omitempty"`
	// Warning says what is unsafe in the settings, or is empty.
	Warning string `json:"warning,omitempty"`
}

// SyncState says whether git and etcd agree.
type SyncState string

// The values of SyncStatus.Status. Unknown: git or etcd is not reachable, or no leader reports.
const (
	Synced    SyncState = "Synced"
	OutOfSync SyncState = "OutOfSync"
	Unknown   SyncState = "Unknown"
)

// SyncStatus compares git with the policies published and served.
type SyncStatus struct {
	Status SyncState `json:"status"`
	// Message says why, when Status is not Synced.
	Message string `json:"message,omitempty"`
	// LastAppliedRevision is the commit that is published and served.
	LastAppliedRevision *AppliedRevision `json:"last_applied_revision"`
	// LastSuccessAt is when git and etcd last agreed.
	LastSuccessAt *time.Time `json:"last_success_at"`
	// ServedFrom is etcd, disk (the last good set, while etcd is unreachable), or empty while nothing is served.
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

// DriftState says whether etcd holds what was published.
type DriftState string

// The values of Drift.Status. DriftUnknown: etcd is unreachable.
const (
	DriftNone     DriftState = "None"
	DriftDetected DriftState = "Detected"
	DriftUnknown  DriftState = "Unknown"
)

// DriftKind says how a key differs.
type DriftKind string

// The kinds of drift.
const (
	Missing  DriftKind = "Missing"
	Modified DriftKind = "Modified"
	Extra    DriftKind = "Extra"
	// Forged: the key holds a record that no replica with this replica's state
	// key has signed, or one that was put back.
	Forged DriftKind = "Forged"
)

// Drift is the difference between the published policies and the keys in etcd.
type Drift struct {
	Status DriftState `json:"status"`
	// Total counts all items; Items lists the first MaxDriftItems by key.
	Total int         `json:"total"`
	Items []DriftItem `json:"items"`
	// Since is when the drift was first seen, or nil if there is none.
	Since *time.Time `json:"since"`
	// Mode is report or heal. Heal describes the repairs, if there were any.
	Mode string      `json:"mode"`
	Heal *HealStatus `json:"heal,omitempty"`
}

// MaxDriftItems bounds Drift.Items: anyone with access to etcd can create keys.
const MaxDriftItems = 1000

// DriftItem is a key that differs.
type DriftItem struct {
	// Name is the policy's, or empty if the key is not a policy's but the head, say.
	Name string    `json:"name"`
	Key  string    `json:"key"`
	Kind DriftKind `json:"kind"`
}

// HealStatus describes the repairs of drift.
type HealStatus struct {
	// Repairs counts the repairs since the leader was elected; LastAt is when the last one succeeded.
	Repairs int        `json:"repairs"`
	LastAt  *time.Time `json:"last_at"`
	// Message says that something keeps reverting repairs, or why one failed, or is empty.
	Message string `json:"message,omitempty"`
}

// Outcome is the result of an attempt to apply a commit.
type Outcome string

// The outcomes in the history.
const (
	Applied Outcome = "Applied"
	Invalid Outcome = "Invalid"
	// Refused: the guard against accidental deletion stopped it.
	Refused Outcome = "Refused"
	// Unverified: it, or a commit before it that had to be, is not signed by a trusted key.
	Unverified Outcome = "Unverified"
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
	// Restores is the earlier commit with the same policies, if this one went back to them.
	Restores string `json:"restores,omitempty"`
	// Signature is nil if signatures were not verified.
	Signature *Signature `json:"signature,omitempty"`
}

// ConditionType is the type of a Condition.
type ConditionType string

// The condition types, as kstatus of Kubernetes defines them.
const (
	// Ready: a verified set is served and agrees with git, and filters enforce it.
	Ready ConditionType = "Ready"
	// Reconciling: work is in progress, or will be retried.
	Reconciling ConditionType = "Reconciling"
	// Stalled: manual action is required.
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

// ReplicaStatus identifies the daemon that answers, and the leader.
type ReplicaStatus struct {
	ID   string `json:"id"`
	Role string `json:"role"`
	// Leader is the ID of the leader, or empty while no leader reports.
	Leader string `json:"leader"`
	// Connections are those of clients to this daemon.
	Connections ConnectionsStatus `json:"connections"`
}

// ConnectionsStatus counts the connections of clients to a daemon.
type ConnectionsStatus struct {
	// Open are at most Limit, which follows from the daemon's limit of open files.
	Open  int `json:"open"`
	Limit int `json:"limit"`
	// Waiting counts the clients that wait for a change.
	Waiting int `json:"waiting"`
	// Refused counts the connections refused since the daemon's start.
	Refused int64 `json:"refused"`
}

// WithLists is the status with empty lists in place of nil ones, which JSON
// would show as null. It changes no list: they may be shared.
func (s Status) WithLists() Status {
	s.Source.Errors, s.Source.Warnings = list(s.Source.Errors), list(s.Source.Warnings)
	s.Etcd = s.Etcd.WithLists()
	s.Drift.Items = list(s.Drift.Items)
	s.History, s.Conditions = list(s.History), list(s.Conditions)
	return s
}

// WithLists is the same for etcd's part.
func (s EtcdStatus) WithLists() EtcdStatus {
	s.Endpoints = list(s.Endpoints)
	return s
}

func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
