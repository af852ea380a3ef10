package reconciler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// Defaults of a Reconciler's tunables.
const (
	DefaultInterval    = 30 * time.Second
	DefaultEtcdGrace   = 3 * time.Second
	DefaultRetryMin    = 200 * time.Millisecond
	DefaultHealMin     = time.Second
	DefaultHealMax     = time.Minute
	DefaultStepTimeout = 2 * time.Minute
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

	// Interval is the time between two looks at git that nothing asked for.
	Interval time.Duration
	// EtcdGrace is how long a starting replica waits for etcd before it serves the last good set from its disk.
	EtcdGrace time.Duration
	// RetryMin is the first wait after a failure that may pass; the waits double, up to Interval.
	RetryMin time.Duration
	// HealMin is the first wait between two repairs of drift; the waits double, up to HealMax.
	HealMin, HealMax time.Duration
	// StepTimeout bounds each step of an attempt: reading git, validating, publishing.
	StepTimeout time.Duration

	Observer Observer
	Logger   *slog.Logger
	Now      Clock

	cancel context.CancelFunc
	tasks  sync.WaitGroup
	// poke asks this replica's own term to look at git; moved tells it that
	// what the store holds may have changed.
	poke, moved chan struct{}
	// kept is what the disk held when this replica started, or nil; set by Open.
	kept *State

	mu sync.Mutex
	// served is the state last given to Serve; servedFrom says where it came from.
	served     *State
	servedFrom string
	// own is this replica's findings while it leads, else nil.
	own *LeaderReport
	// busy says that an attempt is under way in this replica.
	busy bool
	// lastReport is the newest leader's report seen, and when it was seen here.
	lastReport, lastReportSeen time.Time
	// diskError is why the served state could not be kept on disk, or empty.
	diskError  string
	conditions map[api.ConditionType]api.Condition
}

// New makes a Reconciler with default tunables.
func New(source Source, validator Validator, store Store, lastGood LastGood, serve func(*State)) *Reconciler {
	return &Reconciler{
		Source: source, Validator: validator, Store: store, LastGood: lastGood, Serve: serve,
		DriftMode: ReportDrift,
		Interval:  DefaultInterval, EtcdGrace: DefaultEtcdGrace, RetryMin: DefaultRetryMin,
		HealMin: DefaultHealMin, HealMax: DefaultHealMax, StepTimeout: DefaultStepTimeout,
		Observer: silent{}, Logger: slog.Default(), Now: time.Now,
		poke: make(chan struct{}, 1), moved: make(chan struct{}, 1), conditions: map[api.ConditionType]api.Condition{},
	}
}

type silent struct{}

func (silent) Synced(string, time.Duration) {}
func (silent) Failed(string, string)        {}

// Open starts serving and, whenever this replica is elected, reconciling.
func (r *Reconciler) Open(context.Context) error {
	kept, err := r.LastGood.Load()
	if err != nil {
		// etcd has the set as well: a damaged copy on disk is no reason to stay down.
		r.Logger.Warn("the last good set on disk cannot be read; etcd's will be used", "error", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.kept = cancel, kept
	r.tasks.Go(func() { r.follow(ctx) })
	r.tasks.Go(func() { r.campaign(ctx) })
	return nil
}

// Close hands leadership over, stops, and waits for both.
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
	waited := false
	for {
		state := r.Store.State()
		switch {
		case state != nil:
			r.take(state)
		case waited && r.kept != nil && r.Served() == nil:
			r.Logger.Warn("etcd is away: serving the last good set from disk", "commit", r.kept.Head.Commit, "policies", r.kept.Set.Len())
			r.serve(r.kept, "disk")
		}
		select {
		case <-ctx.Done():
			return
		case <-r.Store.Changed():
			signal(r.moved)
		case <-grace.C:
			waited = true
		}
	}
}

// take serves a verified state if it is newer than the one served. It is
// kept on disk first, so that a restart never serves an older one.
func (r *Reconciler) take(state *State) {
	served := r.Served()
	if served != nil && (served.Revision == state.Revision || state.Revision.Before(served.Revision)) {
		if served.Revision == state.Revision {
			r.mark("etcd")
		}
		return
	}
	err := r.LastGood.Save(state)
	r.mu.Lock()
	r.diskError = ""
	if err != nil {
		r.diskError = err.Error()
	}
	r.mu.Unlock()
	if err != nil {
		// The set is verified, and traffic comes first: serve it all the same.
		r.Logger.Error("the served set cannot be kept on disk", "error", err)
	}
	r.serve(state, "etcd")
}

func (r *Reconciler) serve(state *State, from string) {
	r.Serve(state)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.served == nil || r.served.Head.Commit != state.Head.Commit {
		r.Logger.Info("serving", "commit", state.Head.Commit, "policies", state.Set.Len(), "digest", state.Head.Digest, "from", from)
	}
	r.served, r.servedFrom = state, from
}

func (r *Reconciler) mark(from string) {
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

// Trigger asks for a look at git, by this replica or by the one that leads.
func (r *Reconciler) Trigger(ctx context.Context) error {
	r.mu.Lock()
	leading := r.own != nil
	r.mu.Unlock()
	if leading {
		signal(r.poke)
		return nil
	}
	if err := r.Store.Trigger(ctx); err != nil {
		return fmt.Errorf("asking the leader to look at git: %w", err)
	}
	return nil
}

func signal(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// campaign leads whenever this replica is elected.
func (r *Reconciler) campaign(ctx context.Context) {
	wait := backoff{min: r.RetryMin, max: r.Interval}
	for ctx.Err() == nil {
		term, err := r.Store.Campaign(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.Observer.Failed("etcd", "Campaign")
				sleep(ctx, wait.next())
			}
			continue
		}
		wait.reset()
		r.Logger.Info("leading", "replica", r.ID)
		err = r.lead(ctx, term)
		r.mu.Lock()
		r.own, r.busy = nil, false
		r.mu.Unlock()
		if ctx.Err() == nil {
			r.Logger.Warn("leading no more: another may lead, or etcd is away", "replica", r.ID, "error", err)
		}
		resign, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		if err := term.Resign(resign); err != nil && ctx.Err() == nil {
			r.Logger.Warn("leadership could not be handed over; its lease will expire", "error", err)
		}
		cancel()
	}
}

// backoff doubles a wait from min to max.
type backoff struct {
	min, max, last time.Duration
}

func (b *backoff) next() time.Duration {
	b.last = min(max(b.min, 2*b.last), max(b.min, b.max))
	return b.last
}

func (b *backoff) reset() { b.last = 0 }

func sleep(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// stamp gives every entry of target the commit that it came from: that of
// the published entry where the meaning is the same, else commit. changes are
// those from a set whose stamped form is known, to target.
func stamp(stamped *schema.Set, changes []schema.Change, commit string) *schema.Set {
	var puts []*schema.Entry
	var deletes []string
	for _, change := range changes {
		if change.New == nil {
			deletes = append(deletes, change.Name)
			continue
		}
		origin := change.New.Origin
		origin.Commit = commit
		if before := stamped.Get(change.Name); before != nil && before.Hash == change.New.Hash {
			origin.Commit = before.Origin.Commit
			if origin == before.Origin {
				continue
			}
		}
		puts = append(puts, change.New.WithOrigin(origin))
	}
	if len(puts) == 0 && len(deletes) == 0 {
		return stamped
	}
	return stamped.With(puts, deletes)
}
