package reconciler

import (
	"reflect"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// LeaderReport is what the leader knows and its followers cannot see themselves.
type LeaderReport struct {
	// Leader is the leading replica's ID.
	Leader string           `json:"leader"`
	Source api.SourceStatus `json:"source"`
	// SyncError is why the last attempt to apply a commit failed, or why the
	// commit was rejected; nil after a success.
	SyncError *api.Failure `json:"sync_error,omitempty"`
	// KeysError is why the trusted keys for signatures cannot be used, or nil.
	KeysError *api.Failure `json:"keys_error,omitempty"`
	// LastSuccessAt is when git and etcd were last seen to agree.
	LastSuccessAt *time.Time      `json:"last_success_at"`
	Heal          *api.HealStatus `json:"heal,omitempty"`
	Conditions    []api.Condition `json:"conditions"`
	// At is when the leader wrote this, by its clock.
	At time.Time `json:"at"`
}

// sameReport compares reports without the times that move whenever git is read.
func sameReport(a, b LeaderReport) bool {
	a.At, b.At = time.Time{}, time.Time{}
	a.Source.LastSeenAt, b.Source.LastSeenAt = nil, nil
	a.Source.LastTriedAt, b.Source.LastTriedAt = nil, nil
	a.LastSuccessAt, b.LastSuccessAt = nil, nil
	return reflect.DeepEqual(a, b)
}

// failure returns the first failure of the report, or nil.
func (r *LeaderReport) failure() *api.Failure {
	if r.Source.Error != nil {
		return r.Source.Error
	}
	return r.SyncError
}

// stalled returns the first failure that is not retryable, or nil.
func (r *LeaderReport) stalled() *api.Failure {
	for _, failure := range []*api.Failure{r.Source.Error, r.SyncError, r.KeysError} {
		if failure != nil && !failure.Retryable {
			return failure
		}
	}
	return nil
}
