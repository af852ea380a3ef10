package reconciler

import (
	"github.com/boifi/hfi/internal/api"
	"time"
)

// Findings is what the leader knows and its followers cannot see themselves.
type LeaderReport struct {
	// Leader is the leading replica's ID.
	Leader string           `json:"leader"`
	Source api.SourceStatus `json:"source"`
	// SyncError is why the last attempt to apply a commit failed or stalled, or nil.
	SyncError *api.Failure `json:"sync_error,omitempty"`
	// LastSuccessAt is when git and etcd were last seen to agree.
	LastSuccessAt *time.Time      `json:"last_success_at"`
	Heal          *api.HealStatus `json:"heal,omitempty"`
	Conditions    []api.Condition `json:"conditions"`
	// At is when the leader wrote this.
	At time.Time `json:"at"`
}
