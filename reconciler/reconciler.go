package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/backoff"
)

// Defaults of a Reconciler's tunables; that of Jitter is backoff.Jitter.
const (
	DefaultInterval  = 30 * time.Second
	DefaultEtcdGrace = 3 * time.Second
	// DefaultEtcdStalledAfter is longer than an election in etcd takes.
	DefaultEtcdStalledAfter = 5 * time.Second
	DefaultDiskInterval     = 5 * time.Second
	DefaultRetryMin         = 200 * time.Millisecond
	DefaultHealMin          = time.Second
	DefaultHealMax          = time.Minute
	DefaultForgedMin        = 200 * time.Millisecond
	DefaultStepTimeout      = 2 * time.Minute
)

// The drift modes.
const (
	ReportDrift = "report"
	HealDrift   = "heal"
)

// Reconciler is one replica of the daemon. Every replica serves what the
// store has verified; the one that leads makes the store agree with git.
type Reconciler struct {
	Source    Source
	Validator Validator
	Store     Store
	LastGood  LastGood
	// Serve is called with every state to serve, each newer than the one
	// before, by one goroutine. It must return soon.
	Serve func(*State)

	// ID names this replica among its peers.
	ID string
	// URL, Branch and Path describe the source in the status; URL has no credentials in it.
	URL, Branch, Path string
	// DriftMode is ReportDrift or HealDrift.
	DriftMode string
	// Verify says which commits must be signed, if the source verifies signatures.
	Verify VerifyMode

	// Interval is the time between two reads of git without a trigger.
	Interval time.Duration
	// EtcdGrace is how long a starting replica waits for etcd before it serves the last good set from its disk.
	EtcdGrace time.Duration
	// EtcdStalledAfter is how long etcd does not answer until the status says that manual action is required.
	EtcdStalledAfter time.Duration
	// DiskInterval is the time between two checks of the disk, and between two
	// attempts to keep a state that could not be kept.
	DiskInterval time.Duration
	// RetryMin is the first wait after a retryable failure; the waits double, up to Interval.
	RetryMin time.Duration
	// HealMin is the first wait between two repairs of drift; the waits double, up to HealMax.
	HealMin, HealMax time.Duration
	// ForgedMin is the wait between two repairs of something forged: a flood of
	// forgeries costs no more writes.
	ForgedMin time.Duration
	// Jitter is the part, from 0 to 1, by which those waits are longer or shorter at random.
	Jitter float64
	// StepTimeout bounds each step of an attempt: reading git, validating, publishing.
	StepTimeout time.Duration
	// ValidateEarly makes Open read and validate git's head at once, while the
	// store still starts. It is for a replica that will certainly lead.
	ValidateEarly bool

	Observer Observer
	Logger   *slog.Logger
	Now      Clock

	cancel context.CancelFunc
	tasks  sync.WaitGroup
	// early is closed when validateEarly has ended; nil if it never began.
	early chan struct{}
	// trigger makes this replica's own term read git; storeChanged tells it
	// that the store's view, or a condition, may have changed.
	trigger, storeChanged chan struct{}
	// kept is what the disk held when this replica started, or nil; set by Open.
	kept *State
	// unkept is the served state that could not be kept on disk, or nil. Only
	// the goroutine that serves uses it.
	unkept *State

	mu sync.Mutex
	// served is the state last given to Serve: its revision only grows.
	// servedFrom is "etcd" or "disk", and empty exactly while served is nil.
	served     *State
	servedFrom string
	// own is this replica's report while it leads, else nil.
	own *LeaderReport
	// busy says that this replica reads git or applies a commit; only while own is not nil.
	busy bool
	// lastReport is the time in the newest leader's report seen, and
	// lastReportSeen the time at which this replica first saw it.
	lastReport, lastReportSeen time.Time
	// diskError is why a state could not be kept on disk, or empty.
	diskError string
	// keptError is why the state on disk cannot be used, or nil; set by Open.
	keptError error
	// conditions are those of the last status.
	conditions map[api.ConditionType]api.Condition
}

// New makes a Reconciler with default tunables.
func New(source Source, validator Validator, store Store, lastGood LastGood, serve func(*State)) *Reconciler {
	return &Reconciler{
		Source: source, Validator: validator, Store: store, LastGood: lastGood, Serve: serve,
		DriftMode: ReportDrift, Verify: VerifyHead,
		Interval: DefaultInterval, EtcdGrace: DefaultEtcdGrace, EtcdStalledAfter: DefaultEtcdStalledAfter, DiskInterval: DefaultDiskInterval, RetryMin: DefaultRetryMin,
		HealMin: DefaultHealMin, HealMax: DefaultHealMax, ForgedMin: DefaultForgedMin, Jitter: backoff.Jitter, StepTimeout: DefaultStepTimeout,
		Observer: noObserver{}, Logger: slog.Default(), Now: time.Now,
		trigger: make(chan struct{}, 1), storeChanged: make(chan struct{}, 1), conditions: map[api.ConditionType]api.Condition{},
	}
}

// Open starts serving and, whenever this replica is elected, reconciling.
func (r *Reconciler) Open(context.Context) error {
	kept, err := r.LastGood.Load()
	if err != nil {
		// etcd has the set as well: a damaged copy on disk does not prevent the start.
		r.Logger.Warn("reading the last good set from disk failed; etcd's is used", "error", err)
		r.mu.Lock()
		r.keptError = err
		r.mu.Unlock()
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.kept = cancel, kept
	if r.ValidateEarly {
		r.early = make(chan struct{})
	}
	r.tasks.Go(func() { r.follow(ctx) })
	r.tasks.Go(func() { r.campaign(ctx) })
	if r.ValidateEarly {
		r.tasks.Go(func() {
			defer close(r.early)
			r.validateEarly(ctx)
		})
	}
	return nil
}

// Close resigns a leadership, stops, and returns when all has stopped.
func (r *Reconciler) Close() error {
	if r.cancel != nil {
		r.cancel()
	}
	r.tasks.Wait()
	return nil
}

// follow serves each state that the store verifies, and the one kept on disk
// when etcd stays away at the start.
func (r *Reconciler) follow(ctx context.Context) {
	grace := time.NewTimer(r.EtcdGrace)
	defer grace.Stop()
	disk := time.NewTicker(r.DiskInterval)
	defer disk.Stop()
	r.checkDisk()
	graceOver := false
	for {
		state := r.Store.View().State
		switch {
		case state != nil:
			r.apply(state)
		case graceOver && r.kept != nil && r.Served() == nil:
			r.Logger.Warn("etcd is away; serving the last good set from disk", "commit", r.kept.Head.Commit, "policies", r.kept.Set.Len())
			r.serve(r.kept, "disk")
		}
		select {
		case <-ctx.Done():
			return
		case <-r.Store.Changed():
			signal(r.storeChanged)
		case <-grace.C:
			graceOver = true
		case <-disk.C:
			r.checkDisk()
		}
	}
}

// apply serves a verified state if it is newer than the one served. It is
// kept on disk first, so that a restart never serves an older one.
func (r *Reconciler) apply(state *State) {
	served := r.Served()
	if served != nil && served.Revision == state.Revision {
		r.setServedFrom("etcd")
		return
	}
	if served != nil && state.Revision.Before(served.Revision) {
		return
	}
	// The set is verified, and traffic comes first: it is served though it could not be kept.
	r.keep(state)
	r.serve(state, "etcd")
}

// keep keeps a served state on disk. If that fails, checkDisk tries it again.
func (r *Reconciler) keep(state *State) {
	err := r.LastGood.Save(state)
	r.unkept = nil
	if err != nil {
		r.unkept = state
	}
	r.setDiskError(err)
}

// checkDisk keeps the served state if it could not be kept or is gone from the
// disk, and else sees whether another could be.
func (r *Reconciler) checkDisk() {
	if r.unkept != nil {
		r.keep(r.unkept)
		return
	}
	err := r.LastGood.Check()
	if served := r.Served(); served != nil && errors.Is(err, ErrNotOnDisk) {
		r.Logger.Warn("the last good set is not on disk; it is saved again", "error", err)
		r.keep(served)
		return
	}
	r.setDiskError(err)
}

func (r *Reconciler) setDiskError(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	r.mu.Lock()
	before := r.diskError
	r.diskError = text
	r.mu.Unlock()
	if text == before {
		return
	}
	if err != nil {
		r.Logger.Error("what is served cannot be kept on disk", "error", err)
	} else {
		r.Logger.Info("what is served can be kept on disk again")
	}
	signal(r.storeChanged)
}

func (r *Reconciler) serve(state *State, from string) {
	r.Serve(state)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.served == nil || r.served.Head.Commit != state.Head.Commit {
		r.Logger.Info("serving a commit", "commit", state.Head.Commit, "policies", state.Set.Len(), "digest", state.Head.Digest, "from", from)
	}
	r.served, r.servedFrom = state, from
}

func (r *Reconciler) setServedFrom(from string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servedFrom = from
}

// Served is the state that is served, or nil before there was one.
func (r *Reconciler) Served() *State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served
}

// Trigger makes this replica, or the one that leads, read git now.
func (r *Reconciler) Trigger(ctx context.Context) error {
	if r.Leads() {
		signal(r.trigger)
		return nil
	}
	if err := r.Store.Trigger(ctx); err != nil {
		return fmt.Errorf("asking the leader to read git: %w", err)
	}
	return nil
}

// signal sends a value unless one is waiting to be received.
func signal(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// validateEarly makes the validator know git's head before the first term begins,
// which then validates only what has changed since. The term reads git itself and
// reports on it, so nothing depends on the outcome, and errors are ignored.
func (r *Reconciler) validateEarly(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.StepTimeout)
	defer cancel()
	head, err := r.Source.Head(ctx)
	if err != nil {
		return
	}
	delta, err := r.Source.Delta(ctx, "", head)
	if err != nil {
		return
	}
	signature := delta.Commit.Signature
	if delta.Missing == nil && (signature == nil || signature.Status == api.SignatureVerified) {
		_, _ = r.Validator.Apply(ctx, delta)
	}
	_ = delta.Close()
}

// earlyValidated waits until validateEarly has ended: the validator does one thing at a
// time, and calls of it wait for each other whatever their context.
func (r *Reconciler) earlyValidated(ctx context.Context) (struct{}, error) {
	if r.early == nil {
		return struct{}{}, nil
	}
	select {
	case <-r.early:
		return struct{}{}, nil
	case <-ctx.Done():
		return struct{}{}, ctx.Err()
	}
}

// campaign leads whenever this replica is elected.
func (r *Reconciler) campaign(ctx context.Context) {
	waits := r.waits(r.RetryMin, r.Interval)
	for ctx.Err() == nil {
		term, err := r.Store.Campaign(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.Observer.Failed("etcd", "Campaign")
				_ = backoff.Sleep(ctx, waits.NextBackOff()) // The loop ends with ctx.
			}
			continue
		}
		waits.Reset()
		r.Logger.Info("became the leader", "replica", r.ID)
		err = r.lead(ctx, term)
		r.mu.Lock()
		r.own, r.busy = nil, false
		r.mu.Unlock()
		if ctx.Err() == nil {
			r.Logger.Warn("leadership ended; another replica may lead, or etcd is away", "replica", r.ID, "error", err)
		}
		resign, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		if err := term.Resign(resign); err != nil && ctx.Err() == nil {
			r.Logger.Warn("resigning the leadership failed; its lease will expire", "replica", r.ID, "error", err)
		}
		cancel()
	}
}

// waits returns waits from first to limit with this Reconciler's jitter.
func (r *Reconciler) waits(first, limit time.Duration) *backoff.Waits {
	waits := backoff.New(first, limit)
	waits.RandomizationFactor = r.Jitter
	return waits
}
