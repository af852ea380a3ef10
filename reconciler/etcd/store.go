package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/backoff"
	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/reconciler"
)

// Defaults of Store.
const (
	DefaultPrefix           = "/hfi"
	DefaultLeaseTTL         = 5 * time.Second
	DefaultRequestTimeout   = 5 * time.Second
	DefaultTryTimeout       = time.Second
	DefaultProofGrace       = 20 * time.Second
	DefaultProbeInterval    = time.Second
	DefaultProbeTimeout     = 2 * time.Second
	DefaultPublishTries     = 5
	DefaultPublishGrace     = 30 * time.Second
	DefaultCompactInterval  = 5 * time.Minute
	DefaultCompactRevisions = 5000
)

// Store is reconciler.Store on etcd.
type Store struct {
	// Prefix is what all keys begin with, before a slash.
	Prefix string
	// ID names this replica to the others.
	ID string
	// Embedded, if set, is started and stopped with the store, and Access is not used.
	Embedded *Embedded
	Access   Access
	// StateKeys sign and verify what only replicas may write. They are required:
	// statekey.None is for those who trust everyone who can write to etcd.
	StateKeys *statekey.Keys
	// Forged, if set, is called with the name under Prefix, and the number, of
	// records that were written and do not verify. It must return at once.
	Forged func(key string, count int)
	// Advertise is this replica's base URL as its peers reach it; empty if they cannot.
	Advertise string
	// DataDir is the folder for the file that notes the lease of a leadership,
	// so that a restart need not wait for the expiry of its own old lease. The
	// caller has locked it. If it is empty, no lease is noted.
	DataDir string
	// Known is the newest revision that this daemon has served; no older state is verified.
	Known reconciler.Revision
	// LeaseTTL is after how long a leader that does not answer loses the
	// leadership; whole seconds, at least 1.
	LeaseTTL time.Duration
	// RequestTimeout bounds each request to etcd.
	RequestTimeout time.Duration
	// TryTimeout is after how long a request that matters for a commit is tried
	// again, and the endpoints are checked: another member may answer. It
	// grows up to RequestTimeout for an etcd that takes longer.
	TryTimeout time.Duration
	// ProofGrace is how long a candidate may lead until it has shown that it is
	// a replica; the others then delete its key, unless it is registered.
	ProofGrace time.Duration
	// ProbeInterval is the time between two probes of etcd's health, and
	// ProbeTimeout bounds each.
	ProbeInterval, ProbeTimeout time.Duration
	// PublishTries is how often Publish writes before it gives up against
	// other writers.
	PublishTries int
	// PublishGrace bounds how long a publication under way hides new drift.
	PublishGrace time.Duration
	// The leader compacts the embedded server every CompactInterval, and
	// sooner when CompactRevisions have passed.
	CompactInterval  time.Duration
	CompactRevisions int64
	Clock            reconciler.Clock

	logger  *slog.Logger
	keys    keys
	changed chan struct{}
	// ctx ends when the store is closed. It exists before Open, because a
	// request to a starting daemon may use a store that is not open yet.
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	// afterPlan and afterTransaction, if set by a test, are called during a
	// publication: after it was planned, and after its n-th transaction.
	afterPlan        func()
	afterTransaction func(n int) error

	// requests go to the goroutine that owns the tracker. Whoever sends one
	// waits until it was handled, and then newest has its outcome.
	requests chan request
	// newest is nil before Open.
	newest atomic.Pointer[snapshot]
	// reload ends the watch.
	reload chan struct{}

	// connected is closed when connection is set, and whatever the process
	// before left in etcd is removed.
	connected  chan struct{}
	connection atomic.Pointer[connection]
	// suspected says that an endpoint may not answer; rewatch ends the watch,
	// and another one continues.
	suspected, rewatch chan struct{}
	// announcements has the number of a later epoch that is to be written.
	announcements chan int64

	timeouts timeouts
	tries    tries
	// saidForged is by key. Only the goroutine that owns the tracker uses it.
	saidForged map[string]saidForgery

	mu sync.Mutex
	// term is this replica's leadership, or nil.
	term *Term
	// registered is the lease of this replica's key, or 0.
	registered clientv3.LeaseID
}

// New is a store with its defaults. Its fields are set before any method is
// called. All methods but Close may be called before Open.
func New(prefix, id string, logger *slog.Logger) *Store {
	ctx, cancel := context.WithCancel(context.Background())
	return &Store{
		Prefix: prefix, ID: id, logger: logger,
		LeaseTTL: DefaultLeaseTTL, RequestTimeout: DefaultRequestTimeout, TryTimeout: DefaultTryTimeout, ProofGrace: DefaultProofGrace,
		ProbeInterval: DefaultProbeInterval, ProbeTimeout: DefaultProbeTimeout,
		PublishTries: DefaultPublishTries, PublishGrace: DefaultPublishGrace,
		CompactInterval: DefaultCompactInterval, CompactRevisions: DefaultCompactRevisions,
		Clock: time.Now,
		ctx:   ctx, cancel: cancel,
		changed: make(chan struct{}, 1), connected: make(chan struct{}), reload: make(chan struct{}, 1),
		suspected: make(chan struct{}, 1), rewatch: make(chan struct{}, 1), announcements: make(chan int64, 1),
		requests: make(chan request), saidForged: map[string]saidForgery{},
	}
}

// Open begins to follow etcd and returns at once: until etcd has been read, the
// view has no state and is not healthy. An error means that the settings
// cannot be used.
func (s *Store) Open(context.Context) error {
	if s.StateKeys == nil {
		return errors.New("etcd's settings: no state keys are given")
	}
	if s.Embedded == nil {
		if _, err := s.Access.config(); err != nil {
			return fmt.Errorf("etcd's settings: %w", err)
		}
	}
	s.keys = newKeys(s.Prefix)
	tracker := s.newTracker()
	s.show(tracker, effects{})
	s.work.Go(func() { s.own(tracker) })
	s.work.Go(func() { s.StateKeys.Watch(s.ctx, renewEvery, s.logger, func() { s.step(rekeyed{}) }) })
	s.work.Go(s.run)
	return nil
}

// newTracker is a tracker that has seen nothing of etcd.
func (s *Store) newTracker() *tracker {
	health := api.EtcdStatus{Mode: api.External, Endpoints: slices.Clone(s.Access.Endpoints), Error: "etcd has not answered yet"}
	if s.Embedded != nil {
		// It has no address before it has started.
		health.Mode, health.Endpoints = api.Embedded, []string{}
	}
	if s.StateKeys != nil && s.StateKeys.IsNone() {
		health.Warning = "what is in etcd is not authenticated (--state-key-file none): who can write there can change what is served"
	}
	return &tracker{
		trackerConfig: trackerConfig{known: s.Known, advertise: s.Advertise, publishGrace: s.PublishGrace, proofGrace: s.ProofGrace, suspectFor: s.ProbeTimeout},
		epoch:         newEpochTracker(s.Known), health: health,
	}
}

// request is an event for the tracker, or a function that reads it.
type request struct {
	event   any
	inspect func(*tracker)
	done    chan struct{}
}

// own owns the tracker: it hands it the events, shows what it concludes, and
// carries out its effects.
func (s *Store) own(tracker *tracker) {
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		r := request{event: timePassed{}}
		select {
		case <-s.ctx.Done():
			return
		case r = <-s.requests:
		case <-wake.C:
		}
		if r.inspect != nil {
			r.inspect(tracker)
			close(r.done)
			continue
		}
		out := tracker.step(s.Clock(), r.event)
		s.show(tracker, out)
		if r.done != nil {
			close(r.done)
		}
		wake.Stop()
		if out.wakeIn > 0 {
			wake.Reset(out.wakeIn)
		}
		s.perform(out)
	}
}

// show makes what the tracker concludes visible.
func (s *Store) show(tracker *tracker, out effects) {
	next, before := tracker.snapshot(), s.newest.Load()
	if before != nil && !out.notify {
		next.superseded = before.superseded
		s.newest.Store(next)
		return
	}
	next.superseded = make(chan struct{})
	s.newest.Store(next)
	if before == nil {
		return
	}
	close(before.superseded)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// perform carries out effects. It does not wait for anything.
func (s *Store) perform(out effects) {
	s.reportForgeries(out.forgeries)
	if out.reload {
		s.logger.Warn("etcd no longer holds the data that were followed; reading it again")
	}
	if out.reload || out.reread {
		select {
		case s.reload <- struct{}{}:
		default:
		}
	}
	if out.away {
		health := s.current().view.Health
		s.logger.Warn("etcd does not answer; the policies served last stay served", "endpoints", health.Endpoints, "error", health.Error)
	}
	if out.back {
		s.logger.Info("etcd answers again")
	}
	if len(out.alarms) > 0 {
		s.logger.Warn("etcd raises alarms; manual action is required", "alarms", out.alarms, "error", s.current().view.Health.Error)
	}
	if out.announceEpoch > 0 {
		select {
		case s.announcements <- out.announceEpoch:
		default: // One is waiting; if it does not suffice, the next event brings another.
		}
	}
	if out.endTerm == nil && !out.triggerTerm {
		return
	}
	s.mu.Lock()
	term := s.term
	s.mu.Unlock()
	switch {
	case term == nil:
	case out.triggerTerm:
		term.trigger()
	case term.leader == *out.endTerm: // Else the next term has begun, and the tracker gets an event for it.
		term.end()
	}
}

func (s *Store) signer() signer { return signer{prefix: string(s.keys), keys: s.StateKeys} }

var errClosed = errors.New("the store is closed")

// step hands an event to the tracker, and returns when its outcome is visible
// or the store is closed.
func (s *Store) step(event any) {
	_ = s.send(request{event: event, done: make(chan struct{})}) // A closed store concludes nothing more.
}

// inspect calls f with the tracker between two steps. f must be quick, must not
// change the tracker, and is done when inspect returns. It returns errClosed,
// without calling f, if the store is closed.
func (s *Store) inspect(f func(*tracker)) error {
	return s.send(request{inspect: f, done: make(chan struct{})})
}

func (s *Store) send(r request) error {
	select {
	case s.requests <- r:
		<-r.done
		return nil
	case <-s.ctx.Done():
		return errClosed
	}
}

// current is the newest snapshot. It is empty before Open.
func (s *Store) current() *snapshot {
	if taken := s.newest.Load(); taken != nil {
		return taken
	}
	return s.newTracker().snapshot()
}

// View is the newest view of etcd.
func (s *Store) View() *reconciler.StoreView { return &s.current().view }

// Changed receives a value when View may give another view than before. A
// mere answer of a healthy etcd gives none.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Leader is the ID of the replica that leads, or empty.
func (s *Store) Leader() string { return s.current().view.Leader }

// Close resigns a leadership, stops following, and stops an embedded server.
func (s *Store) Close() error {
	s.mu.Lock()
	term := s.term
	s.mu.Unlock()
	if term != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if err := term.Resign(ctx); err != nil {
			s.logger.Warn("resigning the leadership failed; its lease will expire", "error", err)
		}
		cancel()
	}
	s.deregister()
	s.cancel()
	s.work.Wait()
	var err error
	if opened := s.connection.Load(); opened != nil {
		if closed := opened.client.Close(); !errors.Is(closed, context.Canceled) {
			err = closed
		}
	}
	if s.Embedded != nil {
		err = errors.Join(err, s.Embedded.Close())
	}
	return err
}

// Trigger asks the leader to read git now.
func (s *Store) Trigger(ctx context.Context) error {
	client, err := s.waitClient(ctx)
	if err != nil {
		return fmt.Errorf("asking the leader to read git: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	if _, err := client.Put(ctx, s.keys.trigger(), s.ID); err != nil {
		return fmt.Errorf("asking the leader to read git: %w", explain(err))
	}
	return nil
}

// waitClient waits, at most RequestTimeout, until there is a client.
func (s *Store) waitClient(ctx context.Context) (*clientv3.Client, error) {
	limit, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	select {
	case <-s.connected:
		return s.etcd(), nil
	case <-s.ctx.Done():
		return nil, errClosed
	case <-limit.Done():
		return nil, fmt.Errorf("etcd is away: %s", s.View().Health.Error)
	}
}

// waitRevision waits until the cache is at a revision or after it, and
// returns what is known then.
func (s *Store) waitRevision(ctx context.Context, revision int64) (*snapshot, error) {
	for {
		newest := s.current()
		if newest.phase != cacheEmpty && newest.revision >= revision {
			return newest, nil
		}
		select {
		case <-newest.superseded:
		case <-s.ctx.Done():
			return nil, errClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the watch to reach revision %d of etcd: %w", revision, ctx.Err())
		}
	}
}

// waits are the waits between tries to reach etcd.
func (s *Store) waits() *backoff.Waits { return backoff.New(50*time.Millisecond, 2*time.Second) }
