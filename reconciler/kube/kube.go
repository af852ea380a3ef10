package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/fleet"
)

// Defaults of a Cluster's tunable fields.
const (
	DefaultControlPlane  = "http://hfi-control-plane.boifi:8080"
	DefaultRootNamespace = "istio-system"
	DefaultInterval      = 2 * time.Second
	DefaultIdle          = 10 * time.Second
	DefaultSettle        = 150 * time.Millisecond
	DefaultGrace         = 30 * time.Second
	DefaultCallTimeout   = 10 * time.Second
	DefaultListTimeout   = time.Minute
	DefaultRetryMin      = 500 * time.Millisecond
	DefaultRetryMax      = 10 * time.Second
	DefaultRepairMin     = time.Second
	DefaultRepairMax     = time.Minute
	DefaultRolloutLimit  = 5 * time.Minute
	DefaultCheckEvery    = time.Minute
	DefaultMaxModule     = 64 << 20
	DefaultLinger        = 10 * time.Minute
	DefaultMaxChanges    = 100
)

// Cluster is the daemon's view of its Kubernetes cluster. Its exported fields
// may be set before Open only.
type Cluster struct {
	Clients Clients
	// Leads says whether this replica leads, and so makes changes.
	Leads func() bool
	// Filters returns the filters in contact with any replica.
	Filters func(context.Context) (api.FiltersStatus, error)
	// Report, if set, receives what the other replicas are to show: what this
	// replica found out as the leader, or nil while it does not lead. It must not block.
	Report func(*api.ClusterReport)
	// PodGone, if set, is called with every deleted pod. It must not block.
	PodGone func(namespace, pod string)
	// Replicas, if set, lists the daemons, which are asked whether they serve the filter.
	Replicas func() fleet.Replicas

	// ControlPlane is the base URL at which sidecars reach the daemons.
	ControlPlane string
	// SHA256 is the digest, in hex, of the filter module that this daemon
	// serves, or empty if it serves none: then it creates no plugin.
	SHA256 string
	// Keep are the namespaces in which plugins are created, repaired and deleted.
	Keep []string
	// Delivery is one of Deliveries.
	Delivery string
	// Linger is how long a plugin stays after the last policy that needs it, so
	// that a policy that comes back is in force at once.
	Linger time.Duration
	// MaxChanges bounds the changes of one pass, and the statuses that it writes, so
	// that neither waits long for the other.
	MaxChanges int
	// RootNamespace is the mesh's root namespace: a plugin in it applies to all namespaces.
	RootNamespace string

	// Interval is the time between two passes without a change, and Settle the
	// wait for further changes after one.
	Interval, Settle time.Duration
	// Idle is the time between two calls of Filters, whose cost grows with the
	// fleet, while all conditions are True and nothing changes.
	Idle time.Duration
	// Grace is the time that a pod has from its start, or from a change of its
	// plugin, until its filter must be in contact.
	Grace time.Duration
	// CallTimeout bounds each request other than lists and watches, and the
	// start of a watch; ListTimeout bounds each list. RetryMin and RetryMax are
	// the first and the longest wait between two attempts to watch; failed
	// changes are retried after at most RetryMax.
	CallTimeout, ListTimeout, RetryMin, RetryMax time.Duration
	// RepairMin is the wait after the first change of a plugin; the waits double
	// up to RepairMax.
	RepairMin, RepairMax time.Duration
	// RolloutLimit is how long a plugin waits for every replica to serve the
	// filter that it is to name.
	RolloutLimit time.Duration
	// CheckEvery is the time between two checks of a module's URL, and MaxModule
	// the most bytes read from it.
	CheckEvery time.Duration
	MaxModule  int64

	// HTTP downloads modules and asks other replicas; its Transport must be set.
	HTTP   *http.Client
	Logger *slog.Logger
	Now    reconciler.Clock

	baseURL  *url.URL
	problems *problems
	pods     *podStore
	plugins  *pluginStore
	bindings *bindings
	// ambient is closed once the cluster has a waypoint.
	ambient chan struct{}
	keeper  *keeper
	// by is how sidecars get the filter: the first of deliveries that the cluster has.
	by atomic.Pointer[delivery]
	// served is the state last given to Serve, or nil.
	served atomic.Pointer[reconciler.State]
	// wake starts a pass of the keeper.
	wake   chan struct{}
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// New returns a Cluster with default tunables that watches and never leads.
func New(clients Clients) *Cluster {
	c := &Cluster{
		Clients: clients,
		Leads:   func() bool { return false },
		Filters: func(context.Context) (api.FiltersStatus, error) {
			return api.FiltersStatus{}, errors.New("no source of filters is set")
		},
		ControlPlane: DefaultControlPlane, RootNamespace: DefaultRootNamespace,
		Delivery: DeliverByWasmPlugin, Linger: DefaultLinger, MaxChanges: DefaultMaxChanges,
		Interval: DefaultInterval, Idle: DefaultIdle, Settle: DefaultSettle, Grace: DefaultGrace,
		CallTimeout: DefaultCallTimeout, ListTimeout: DefaultListTimeout, RetryMin: DefaultRetryMin, RetryMax: DefaultRetryMax,
		RepairMin: DefaultRepairMin, RepairMax: DefaultRepairMax, RolloutLimit: DefaultRolloutLimit,
		CheckEvery: DefaultCheckEvery, MaxModule: DefaultMaxModule,
		HTTP:   &http.Client{Transport: &http.Transport{IdleConnTimeout: 10 * time.Second, DialContext: fleet.NewDialer().DialContext}},
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		problems: newProblems(), wake: make(chan struct{}, 1), ambient: make(chan struct{}),
	}
	c.bindings = newBindings(c.notify)
	c.pods = newPodStore(c.notify, sync.OnceFunc(func() { close(c.ambient) }), func(id podID) {
		if c.PodGone != nil {
			c.PodGone(id.Namespace, id.Name)
		}
	})
	c.plugins = newPluginStore(func() *url.URL { return c.baseURL }, c.delivery, c.notify)
	c.keeper = newKeeper(c)
	return c
}

// CheckControlPlane returns an error if base is not a valid ControlPlane.
func CheckControlPlane(base string) error {
	_, err := parseControlPlane(base)
	return err
}

func parseControlPlane(base string) (*url.URL, error) {
	home, err := url.Parse(base)
	if err != nil || home.Hostname() == "" || home.Scheme != "http" && home.Scheme != "https" || home.RawQuery != "" || home.User != nil {
		return nil, fmt.Errorf("it must be a base URL such as %s, not %q", DefaultControlPlane, base)
	}
	return home, nil
}

// Open starts watching in the background. An unreachable cluster is reported
// in the status and is not an error.
func (c *Cluster) Open(context.Context) error {
	home, err := parseControlPlane(c.ControlPlane)
	if err != nil {
		return fmt.Errorf("the control plane's address: %w", err)
	}
	c.baseURL = home
	c.by.Store(deliveries(c.Delivery)[0])
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.tasks.Go(func() { c.watchPods(ctx) })
	c.tasks.Go(func() { c.watchPlugins(ctx) })
	c.tasks.Go(func() { c.watchServices(ctx) })
	c.tasks.Go(func() { c.keeper.run(ctx) })
	return nil
}

// Close stops everything that Open started, and waits for it to end.
func (c *Cluster) Close() error {
	if c.cancel != nil {
		c.cancel()
	}
	c.tasks.Wait()
	c.HTTP.CloseIdleConnections()
	return nil
}

// delivery is the kind of the plugins.
func (c *Cluster) delivery() *delivery {
	if by := c.by.Load(); by != nil {
		return by
	}
	return deliveries(c.Delivery)[0]
}

// Serve sets the policies that are served from now on. It does not block.
func (c *Cluster) Serve(state *reconciler.State) {
	c.served.Store(state)
	c.notify()
}

func (c *Cluster) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
