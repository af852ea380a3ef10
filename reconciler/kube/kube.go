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
)

// Cluster is the daemon's view of its Kubernetes cluster. Its exported fields
// are set before Open, and not after.
type Cluster struct {
	Clients Clients
	// Leads says whether this replica is the one that acts.
	Leads func() bool
	// Filters is the whole fleet, as all replicas see it.
	Filters func(context.Context) (api.FiltersStatus, error)
	// Report, if set, receives what the other replicas are to show: what this one
	// found out by acting, or nil while it does not lead. It must return soon.
	Report func(*api.ClusterReport)
	// PodGone, if set, is told of every pod that is no more. It must return soon.
	PodGone func(namespace, pod string)
	// Replicas, if set, lists the daemons, for which filter each of them serves.
	Replicas func() fleet.Replicas

	// ControlPlane is the base URL at which sidecars reach the daemons.
	ControlPlane string
	// SHA256 is that of the filter's module that this daemon serves, in hex, or
	// empty if it has none: then no WasmPlugin is made.
	SHA256 string
	// Keep are the namespaces in which WasmPlugins are made, repaired and removed.
	Keep []string
	// RootNamespace is the mesh's: what is in it applies everywhere.
	RootNamespace string

	// Interval is the time between two looks that nothing asked for, and
	// Settle how long after a change others are waited for.
	Interval, Settle time.Duration
	// Idle is the time between two questions for the whole fleet, which cost by
	// its size, while all is well and nothing changes here.
	Idle time.Duration
	// Grace is how long a pod may take from its start, or from a change of its
	// WasmPlugin, until its filter is in contact.
	Grace time.Duration
	// CallTimeout limits each call that changes something, ListTimeout each
	// list, and RetryMin and RetryMax the waits between two tries to watch.
	CallTimeout, ListTimeout, RetryMin, RetryMax time.Duration
	// RepairMin is the first wait between two repairs of a WasmPlugin; the waits double, up to RepairMax.
	RepairMin, RepairMax time.Duration
	// RolloutLimit is for how long a WasmPlugin is not changed to a filter that
	// some replica does not serve yet.
	RolloutLimit time.Duration
	// CheckEvery is the time between two looks at a module's URL, and MaxModule
	// bounds what is read from it, in bytes.
	CheckEvery time.Duration
	MaxModule  int64

	// HTTP looks for modules and asks other replicas; its Transport must be set.
	HTTP   *http.Client
	Logger *slog.Logger
	Now    reconciler.Clock

	home     *url.URL
	problems *problems
	pods     *podStore
	plugins  *pluginStore
	keeper   *keeper
	// served is the state last given to Serve, or nil.
	served atomic.Pointer[reconciler.State]
	// moved asks for a look.
	moved  chan struct{}
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// New makes a Cluster with default tunables, which looks and does not act.
func New(clients Clients) *Cluster {
	c := &Cluster{
		Clients: clients,
		Leads:   func() bool { return false },
		Filters: func(context.Context) (api.FiltersStatus, error) {
			return api.FiltersStatus{}, errors.New("there is nobody to ask for filters")
		},
		ControlPlane: DefaultControlPlane, RootNamespace: DefaultRootNamespace,
		Interval: DefaultInterval, Idle: DefaultIdle, Settle: DefaultSettle, Grace: DefaultGrace,
		CallTimeout: DefaultCallTimeout, ListTimeout: DefaultListTimeout, RetryMin: DefaultRetryMin, RetryMax: DefaultRetryMax,
		RepairMin: DefaultRepairMin, RepairMax: DefaultRepairMax, RolloutLimit: DefaultRolloutLimit,
		CheckEvery: DefaultCheckEvery, MaxModule: DefaultMaxModule,
		HTTP:   &http.Client{Transport: &http.Transport{IdleConnTimeout: 10 * time.Second}},
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		problems: newProblems(), moved: make(chan struct{}, 1),
	}
	c.pods = newPodStore(c.notify, func(id podID) {
		if c.PodGone != nil {
			c.PodGone(id.Namespace, id.Name)
		}
	})
	c.plugins = newPluginStore(func() *url.URL { return c.home }, c.notify)
	c.keeper = newKeeper(c)
	return c
}

// CheckControlPlane says what is wrong with a base URL of the control plane.
func CheckControlPlane(base string) error {
	_, err := parseHome(base)
	return err
}

func parseHome(base string) (*url.URL, error) {
	home, err := url.Parse(base)
	if err != nil || home.Hostname() == "" || home.Scheme != "http" && home.Scheme != "https" || home.RawQuery != "" || home.User != nil {
		return nil, fmt.Errorf("it must be a base URL such as %s, not %q", DefaultControlPlane, base)
	}
	return home, nil
}

// Open starts to look, in the background: that the cluster cannot be reached
// shows in the status and is no error.
func (c *Cluster) Open(context.Context) error {
	home, err := parseHome(c.ControlPlane)
	if err != nil {
		return fmt.Errorf("the control plane's address: %w", err)
	}
	c.home = home
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.tasks.Go(func() { c.watchPods(ctx) })
	c.tasks.Go(func() { c.watchPlugins(ctx) })
	c.tasks.Go(func() { c.keeper.run(ctx) })
	return nil
}

// Close stops it, and waits until nothing of it runs any more.
func (c *Cluster) Close() error {
	if c.cancel != nil {
		c.cancel()
	}
	c.tasks.Wait()
	c.HTTP.CloseIdleConnections()
	return nil
}

// Serve notes which policies are served from now on. It returns at once.
func (c *Cluster) Serve(state *reconciler.State) {
	c.served.Store(state)
	c.notify()
}

func (c *Cluster) notify() {
	select {
	case c.moved <- struct{}{}:
	default:
	}
}
