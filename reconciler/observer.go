package reconciler

import "time"

// Observer receives what the reconciler does, for metrics. Its methods return
// at once and may be called by several goroutines.
type Observer interface {
	// Synced reports an attempt to make etcd agree with git: its outcome (an
	// Outcome, or "Failed" when no verdict was reached or nothing could be
	// published) and how long it took.
	Synced(outcome string, took time.Duration)
	// Failed reports an error of one part, "git" or "etcd", with the reason
	// that the status shows (SourceError.Reason).
	Failed(part, reason string)
}

// noObserver is the Observer of a Reconciler that is given none.
type noObserver struct{}

func (noObserver) Synced(string, time.Duration) {}
func (noObserver) Failed(string, string)        {}
