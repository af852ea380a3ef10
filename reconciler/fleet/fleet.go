// Package fleet knows which filter enforces which policies. It remembers the
// requests that filters send to this replica, asks the other replicas for
// theirs, merges both, and says which filters are current, behind or silent.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler/served"
)

// Defaults of a Fleet's tunable fields.
const (
	DefaultGrace           = 8 * time.Second
	DefaultForget          = 10 * time.Minute
	DefaultRemember        = 24 * time.Hour
	DefaultMaxVMs          = 100_000
	DefaultMaxBytes        = 64 << 20
	DefaultSettleTime      = 40 * time.Second
	DefaultPeerTimeout     = time.Second
	DefaultMaxPeerAnswer   = DefaultMaxBytes + maxUnconfirmedBytes
	DefaultRefreshInterval = 10 * time.Second
)

// briefAnswers bounds, per second, the requests that are answered early because
// they are a VM's first on a connection: behind a proxy that connects again for
// each request, all are.
const briefAnswers = 2000

// ErrClosed says that the fleet was closed.
var ErrClosed = errors.New("the fleet is closed")

// Replicas are the daemons that share a store, as far as this one knows.
type Replicas struct {
	// List is sorted by ID. It includes this daemon once the store has registered it.
	List []api.Replica
	// LostAt is when another replica was last seen to leave or to restart, or
	// may have done so unseen; zero if never. Filters that waited on it may
	// still be connected to it, or on their way to another replica.
	LostAt time.Time
	// IncompleteReason says why List may be incomplete. It is empty if List is complete.
	IncompleteReason string
}

// Fleet is the set of filters. Its exported fields are set before its first
// use. It writes nothing to the store.
type Fleet struct {
	// ID is this replica's among its peers, and Replicas, if set, lists all of them.
	ID       string
	Replicas func() Replicas
	// Leads, if set, says whether this replica leads: only then its report on
	// the Kubernetes cluster is one.
	Leads func() bool
	// Policies are what the filters are expected to enforce.
	Policies *served.Policies
	// Pods, if set, returns the function that looks pods of the cluster up; known
	// is false while they are not known. Filters of pods that do not exist are
	// marked, and not counted before they have asked for SettleTime: they may run
	// in another cluster, or in none.
	Pods func() (exist func(namespace, name string) bool, known bool)

	// Now must be monotonic: ages are computed from it.
	Now func() time.Time
	// Grace is how long a VM may take from the answer to a request until its
	// next request and still count as alive.
	Grace time.Duration
	// Forget is how long after its last request a VM is reported, unless a VM
	// of its filter that connected before then still asks on that connection:
	// then the sidecar is running with a VM that enforces nothing, and that VM is
	// reported for as long as Remember.
	Forget, Remember time.Duration
	// MaxVMs and MaxBytes bound the VMs remembered: clients can invent names.
	MaxVMs   int
	MaxBytes int64
	// SettleTime is how long after the loss of a replica its VMs may take to
	// find another: until then no VM is called silent. A VM that has asked for
	// this long counts as proven, though it was given no policies.
	SettleTime time.Duration
	// PeerTimeout bounds one request to a peer, and MaxPeerAnswer its answer in
	// bytes; all answers together may be twice as large.
	PeerTimeout   time.Duration
	MaxPeerAnswer int64
	// RefreshInterval bounds the age of Last between Open and Close, unless a
	// merge takes more than a twentieth of it.
	RefreshInterval time.Duration

	tracker
	// brief limits the requests whose wait is cut short.
	brief  *rate.Limiter
	client *http.Client
	// rounds makes concurrent callers share one request to each peer.
	rounds singleflight.Group
	// merges makes concurrent callers share one merged status.
	merges singleflight.Group
	// cluster is this replica's own report, or nil.
	cluster atomic.Pointer[api.ClusterReport]
	last    atomic.Pointer[last]

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// last is the newest merged status, without its lists.
type last struct {
	status api.FiltersStatus
	at     time.Time
}

// New returns a fleet without filters, with default tunables. Status works
// before Open.
func New(id string, policies *served.Policies) *Fleet {
	f := &Fleet{
		ID: id, Policies: policies, Now: time.Now,
		Grace: DefaultGrace, Forget: DefaultForget, Remember: DefaultRemember, MaxVMs: DefaultMaxVMs, MaxBytes: DefaultMaxBytes, SettleTime: DefaultSettleTime,
		PeerTimeout: DefaultPeerTimeout, MaxPeerAnswer: DefaultMaxPeerAnswer, RefreshInterval: DefaultRefreshInterval,
		tracker: tracker{seed: maphash.MakeSeed()}, brief: rate.NewLimiter(briefAnswers, 2*briefAnswers), client: newPeerClient(),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// Open keeps Last recent, in the background, until Close.
func (f *Fleet) Open() { f.tasks.Go(f.refresh) }

// Close ends all work in the background, and requests to peers, and waits for
// them. Calls of Status from then on fail with ErrClosed if there are peers.
func (f *Fleet) Close() error {
	f.cancel()
	f.tasks.Wait()
	f.waitForRound()
	f.client.CloseIdleConnections()
	return nil
}

// refreshPause is how many times longer the pause between two refreshes is than
// one takes: a very large fleet is refreshed less often.
const refreshPause = 20

// refresh merges a status whenever there was none for RefreshInterval.
func (f *Fleet) refresh() {
	for wait := time.Duration(0); ; {
		select {
		case <-f.ctx.Done():
			return
		case <-time.After(wait):
		}
		if last := f.last.Load(); last != nil && f.Now().Sub(last.at) < f.RefreshInterval {
			wait = max(f.RefreshInterval-f.Now().Sub(last.at), time.Millisecond)
			continue
		}
		began := time.Now()
		// It fails only if the fleet is closed.
		_, _ = f.Status(f.ctx)
		wait = max(f.RefreshInterval, min(refreshPause*time.Since(began), refreshPause*f.PeerTimeout))
	}
}

// SetClusterReport makes a report on the Kubernetes cluster known to the other
// replicas. It is nil while this replica does not lead.
func (f *Fleet) SetClusterReport(report *api.ClusterReport) { f.cluster.Store(report) }

// FirstWait bounds the wait of a Request that is First. It is a small part of
// Grace, so that a VM that has changed its connection has asked twice on the
// new one before it is missed on the old one.
func (f *Fleet) FirstWait() time.Duration { return f.Grace / 8 }

// Last is the newest status that Status merged, without Items and Replicas. It
// costs no request to a peer. It is false before the first one.
func (f *Fleet) Last() (api.FiltersStatus, bool) {
	last := f.last.Load()
	if last == nil {
		return api.FiltersStatus{}, false
	}
	return last.status, true
}

// state is what this replica's report says beside the filters.
func (f *Fleet) state() reportState { return reportState{f.full(), f.lostAgo(), f.clusterReport()} }

// clusterReport is this replica's own report on the Kubernetes cluster, or nil
// if it does not lead: the report's source may notice that later.
func (f *Fleet) clusterReport() *api.ClusterReport {
	if f.Leads != nil && !f.Leads() {
		return nil
	}
	return f.cluster.Load()
}

// replicas are those of the store, if there is one.
func (f *Fleet) replicas() Replicas {
	if f.Replicas == nil {
		return Replicas{}
	}
	return f.Replicas()
}

// lostAgo is how long ago this replica saw another one leave; zero if never.
func (f *Fleet) lostAgo() time.Duration {
	lost := f.replicas().LostAt
	if lost.IsZero() {
		return 0
	}
	return max(f.Now().Sub(lost), 1)
}

// Status is the state of all filters, however many, as all replicas see them.
type Status struct {
	api.FiltersStatus
	// ClusterReport is that of a peer, or nil: if this replica leads, or no
	// peer that answered does.
	ClusterReport *api.ClusterReport
}

// Status asks the peers and merges their reports with that of this replica. It
// takes PeerTimeout at most. A peer that does not answer is named in the
// status; the only errors are those of the context and ErrClosed.
//
// Callers that come while a status is merged get that one, if it compares the
// filters with what is served when they come: a merge costs memory and time in
// proportion to the filters. Its Items, which are shared, are the first
// MaxFilterItems in order and, where the cluster's pods are known, all others of those.
func (f *Fleet) Status(ctx context.Context) (Status, error) {
	result := f.merges.DoChan(fmt.Sprintf("%p", f.Policies.Current()), func() (any, error) {
		// Not the context of a caller: others share the result.
		return f.mergeStatus(f.ctx)
	})
	select {
	case merged := <-result:
		return merged.Val.(Status), merged.Err
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

func (f *Fleet) mergeStatus(ctx context.Context) (Status, error) {
	replicas := f.replicas()
	answers, err := f.askPeers(ctx, replicas.List)
	if f.ctx.Err() != nil && err != nil {
		err = ErrClosed
	}
	if err != nil {
		return Status{}, err
	}
	var status Status
	var reports []ReplicaReport
	state := f.state()
	full, lost := state.Full, state.LostAgo
	self := api.Replica{ID: f.ID}
	list := []api.Replica{}
	for _, answer := range answers {
		if answer.ID == f.ID {
			self = answer.Replica
			continue
		}
		list = append(list, answer.Replica)
		report := answer.report
		if report == nil {
			continue
		}
		aged := *report
		aged.Age = time.Since(answer.at)
		reports = append(reports, aged)
		full = full || report.Full
		if report.Kubernetes != nil {
			status.ClusterReport = report.Kubernetes
		}
		// A replica that has started since did not see the loss itself.
		if report.LostAgo > 0 && (lost == 0 || report.LostAgo < lost) {
			lost = report.LostAgo
		}
	}
	list = append(list, self)
	sortReplicas(list)

	message := replicas.IncompleteReason
	if full {
		message = join(message, fmt.Sprintf("more VMs asked than a replica remembers (%d here): some are missing", f.MaxVMs))
	}
	incomplete := f.incompleteReason(list, message, lost)
	status.FiltersStatus = f.merge(f.known(), reports, incomplete, f.selections())
	status.Replicas, status.Message = list, message
	status.Complete = message == "" && !hasErrors(list)
	f.keepLast(status.FiltersStatus)
	return status, nil
}

func (f *Fleet) keepLast(status api.FiltersStatus) {
	status.Items, status.Replicas = nil, nil
	f.last.Store(&last{status, f.Now()})
}

// incompleteReason is why a VM that no replica hears from may still wait on one, or empty.
func (f *Fleet) incompleteReason(list []api.Replica, message string, lost time.Duration) string {
	var reasons []string
	for _, replica := range list {
		if replica.Error != "" {
			reasons = append(reasons, fmt.Sprintf("replica %s: %s", replica.ID, replica.Error))
		}
	}
	reason := join(append(reasons, message)...)
	if reason == "" && lost > 0 && lost <= f.SettleTime {
		reason = fmt.Sprintf("a replica left %d s ago", int(lost.Seconds()))
	}
	return reason
}

func hasErrors(list []api.Replica) bool {
	for _, replica := range list {
		if replica.Error != "" {
			return true
		}
	}
	return false
}

// selections returns the current selection of each workload, all from one
// state, or nil if nothing is served yet.
func (f *Fleet) selections() func(selection.Workload) expected {
	snapshot := f.Policies.Current()
	if snapshot == nil {
		return nil
	}
	return func(workload selection.Workload) expected {
		subject := served.Subject{Workload: workload}
		return expected{digest: string(snapshot.Selection(subject).Digest), problem: snapshot.Refusal(subject)}
	}
}

// join joins those parts that are not empty.
func join(parts ...string) string {
	var some []string
	for _, part := range parts {
		if part != "" {
			some = append(some, part)
		}
	}
	return strings.Join(some, "; ")
}
