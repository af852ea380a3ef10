package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Defaults of Store.
const (
	DefaultPrefix           = "/hfi"
	DefaultLeaseTTL         = 5 * time.Second
	DefaultRequestTimeout   = 5 * time.Second
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
	// Advertise is this replica's base URL as its peers reach it; empty if they cannot.
	Advertise string
	// DataDir is where the lease of a leadership is noted, so that a restart
	// need not wait for its own old lease. The caller has locked it. Empty: nowhere.
	DataDir string
	// Known is the newest revision that this daemon has served; nothing older is taken up.
	Known reconciler.Revision
	// LeaseTTL is how long a leader that has gone silent still leads; whole seconds, at least 1.
	LeaseTTL time.Duration
	// RequestTimeout bounds each request to etcd.
	RequestTimeout time.Duration
	// ProbeInterval and ProbeTimeout are of the look at etcd's health.
	ProbeInterval, ProbeTimeout time.Duration
	// PublishTries is how often Publish writes before it gives up on strangers' hands.
	PublishTries int
	// PublishGrace bounds how long a publication under way holds back new drift.
	PublishGrace time.Duration
	// The leader compacts the embedded server every CompactInterval, and
	// sooner when CompactRevisions have passed.
	CompactInterval  time.Duration
	CompactRevisions int64
	Clock            reconciler.Clock

	logger  *slog.Logger
	keys    keys
	changed chan struct{}
	// ctx ends when the store is closed. It is there before Open: a request to
	// a daemon that is starting asks a store that is not open yet.
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	// afterTransaction, if set by a test, is called after the n-th transaction of a publication.
	afterTransaction func(n int) error

	mu     sync.Mutex
	client *clientv3.Client
	// config is what client was made of; set before client.
	config clientv3.Config
	// connected is closed when client is set.
	connected chan struct{}
	// mirror is nil until etcd was first read.
	mirror *mirror
	state  *reconciler.State
	// epoch is the one in force: it only gives way to one with a higher
	// number. epochRevision is where it was first seen; an older head is not of it.
	epoch         reconciler.Epoch
	epochRevision int64
	// epochWanted says that the store's data are not of epoch, and the leader must begin another.
	epochWanted bool
	clusterID   uint64
	// seen is the highest revision of etcd seen in epoch.
	seen int64
	// progress is closed and replaced at every change of the mirror.
	progress chan struct{}
	// hint is the set being published: it is used in place of an equal one.
	hint *schema.Set
	// health lacks the mode and the endpoints, which Health fills in.
	health     api.EtcdStatus
	term       *Term
	driftSince *time.Time
	// driftSeen caches the last answer of Drift; driftFresh says that it is still true.
	driftSeen  api.Drift
	driftFresh bool
	// midSince is when the publication now under way was first seen.
	midSince time.Time
	// reload ends the watch, and has everything read again.
	reload chan struct{}
	// mustLoad says that the mirror cannot be continued by a watch.
	mustLoad bool
	// registered is the lease of this replica's key, or 0.
	registered clientv3.LeaseID
	// replicaLostAt is when another replica was last seen to go, or may have gone unseen.
	replicaLostAt time.Time
}

// New is a store with its defaults. Its fields are set before anything is
// asked of it, which may be before Open.
func New(prefix, id string, logger *slog.Logger) *Store {
	ctx, cancel := context.WithCancel(context.Background())
	return &Store{
		Prefix: prefix, ID: id, logger: logger,
		LeaseTTL: DefaultLeaseTTL, RequestTimeout: DefaultRequestTimeout,
		ProbeInterval: DefaultProbeInterval, ProbeTimeout: DefaultProbeTimeout,
		PublishTries: DefaultPublishTries, PublishGrace: DefaultPublishGrace,
		CompactInterval: DefaultCompactInterval, CompactRevisions: DefaultCompactRevisions,
		Clock: time.Now,
		ctx:   ctx, cancel: cancel,
		changed: make(chan struct{}, 1), connected: make(chan struct{}),
		progress: make(chan struct{}), reload: make(chan struct{}, 1),
		health:    api.EtcdStatus{Error: "etcd has not answered yet"},
		driftSeen: api.Drift{Status: api.DriftUnknown, Items: []api.DriftItem{}},
	}
}

// Open begins to follow etcd and returns at once: State is nil and Health
// not healthy until etcd has been read. An error means that the settings
// cannot be used.
func (s *Store) Open(context.Context) error {
	var config clientv3.Config
	if s.Embedded == nil {
		var err error
		if config, err = s.Access.config(); err != nil {
			return fmt.Errorf("etcd's settings: %w", err)
		}
	}
	s.mu.Lock()
	s.keys = newKeys(s.Prefix)
	s.epoch, s.seen = s.Known.Epoch, s.Known.Number
	s.mu.Unlock()
	s.work.Go(func() { s.run(config) })
	return nil
}

// Close gives up a leadership, stops following, and stops an embedded server.
func (s *Store) Close() error {
	s.mu.Lock()
	term := s.term
	s.mu.Unlock()
	if term != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if err := term.Resign(ctx); err != nil {
			s.logger.Warn("giving up the leadership", "error", err)
		}
		cancel()
	}
	s.deregister()
	s.cancel()
	s.work.Wait()
	var err error
	if s.client != nil {
		if closed := s.client.Close(); !errors.Is(closed, context.Canceled) {
			err = closed
		}
	}
	if s.Embedded != nil {
		err = errors.Join(err, s.Embedded.Close())
	}
	return err
}

// headVerified says whether State is what the store's head says. While it is
// not, though etcd is healthy, the leader should publish again whatever is
// done about drift otherwise: the store was wiped or restored, its history is
// gone, or its head is of another version.
func (s *Store) headVerified() bool {
	m := s.mirror
	return m != nil && s.state != nil && !s.wantsEpoch() && m.head.present && m.head.modRevision == s.state.Revision.Number &&
		s.state.Revision.Epoch == s.epoch
}

// Leader is the ID of the replica that leads, or empty.
func (s *Store) Leader() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mirror == nil {
		return ""
	}
	leader, _ := s.mirror.leader()
	return leader.id
}

// drift is what etcd holds now that State does not say. What a leader has
// written of a publication that it is still at is no drift.
func (s *Store) drift() api.Drift {
	unknown := api.Drift{Status: api.DriftUnknown, Items: []api.DriftItem{}}
	m := s.mirror
	if m == nil || !s.health.Healthy {
		return unknown
	}
	if m.midPublication() && !s.heldBack() {
		// It takes too long to be still under way.
		s.noteDrift()
	}
	if s.driftFresh {
		return s.driftSeen
	}
	if !s.comparable() {
		s.driftSeen, s.driftFresh = unknown, true
		return unknown
	}
	total, items := m.drift(s.state, s.epoch, s.renewed())
	seen := api.Drift{Status: api.DriftNone, Total: total, Items: items}
	if total > 0 {
		seen.Status, seen.Since = api.DriftDetected, s.driftSince
	} else {
		seen.Items = []api.DriftItem{}
	}
	s.driftSeen, s.driftFresh = seen, true
	return seen
}

// comparable says whether there is something to compare the mirror with.
func (s *Store) comparable() bool {
	m := s.mirror
	if s.state == nil {
		return !m.head.present
	}
	return !m.head.valid || comparableDigest(m.head.value.Digest)
}

// renewed says that etcd's data are of another life than the state. The caller holds mu.
func (s *Store) renewed() bool {
	return s.wantsEpoch() || s.state != nil && s.state.Revision.Epoch != s.epoch
}

func (s *Store) heldBack() bool {
	return s.mirror.midPublication() && time.Since(s.midSince) < s.PublishGrace
}

// View is the newest view of etcd.
func (s *Store) View() *reconciler.StoreView {
	s.mu.Lock()
	defer s.mu.Unlock()
	view := &reconciler.StoreView{State: s.state, HeadVerified: s.headVerified(), Drift: s.drift(), Health: s.etcdHealth()}
	if s.mirror != nil {
		view.History, view.LeaderReport = s.mirror.entries(), s.mirror.findings
	}
	return view
}

// etcdHealth is what was last seen of etcd itself.
func (s *Store) etcdHealth() api.EtcdStatus {
	health := s.health
	health.Mode, health.Endpoints = api.External, slices.Clone(s.Access.Endpoints)
	if s.Embedded != nil {
		// It has no address before the client was made of it.
		health.Mode, health.Endpoints = api.Embedded, append([]string{}, s.config.Endpoints...)
	}
	return health
}

// Changed receives a value when any of the above may have changed.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Trigger asks the leader to look at git now.
func (s *Store) Trigger(ctx context.Context) error {
	client, err := s.waitClient(ctx)
	if err != nil {
		return fmt.Errorf("asking the leader to look at git: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	if _, err := client.Put(ctx, s.keys.trigger(), s.ID); err != nil {
		return fmt.Errorf("asking the leader to look at git: %w", explain(err))
	}
	return nil
}

// waitClient waits for the client to be made.
func (s *Store) waitClient(ctx context.Context) (*clientv3.Client, error) {
	limit, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	select {
	case <-s.connected:
		return s.client, nil
	case <-s.ctx.Done():
		return nil, errors.New("the store is closed")
	case <-limit.Done():
		return nil, fmt.Errorf("etcd is away: %s", s.View().Health.Error)
	}
}

// signal tells the owner that something changed, and wakes who waits for the mirror.
func (s *Store) signal() {
	close(s.progress)
	s.progress = make(chan struct{})
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
