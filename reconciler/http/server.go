// Package http is the daemon's HTTP service: what is served, to curl and to
// waiting filters, the status, triggers, the filter module, and metrics.
//
// A filter waits for its next set with a request that is answered when that
// set changes. Such a request costs a goroutine and a timer, and nothing
// while it waits; a change costs what the clients that it concerns cost (see
// hub). Every answer to it comes from one verified state.
package http

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	nethttp "net/http"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/schema"
)

// View is the part of the reconciler that the service shows and triggers.
// Status and Ready answer from memory.
type View interface {
	Status() api.Status
	// Ready says whether this daemon can serve, else the reason, for a person.
	Ready() (ok bool, etcd api.EtcdStatus, reason string)
	// Trigger asks the leader, whoever it is, to look at git now.
	Trigger(ctx context.Context) error
}

// Cluster is what the service shows of a Kubernetes cluster. It answers from memory.
type Cluster interface {
	// Status says how the policies stand there, by all filters. The set is nil if none is served yet.
	Status(set *schema.Set, filters api.FiltersStatus) api.KubernetesStatus
	// Told is what other replicas are to show, if this one leads, else nil.
	Told() *api.ClusterReport
	// Pods counts the pods that a selector targets; known is false while they cannot be told.
	Pods(selector schema.Selector) (count int, known bool)
}

// Defaults of a Server's tunable fields.
const (
	DefaultMaxWait           = 10 * time.Minute
	DefaultMaxFilterWait     = 20 * time.Second
	DefaultSettleTime        = 40 * time.Second
	DefaultPeerTimeout       = time.Second
	DefaultMaxPeerAnswer     = 64 << 20
	DefaultCatchUp           = 5 * time.Second
	DefaultMaxWaiting        = 100_000
	DefaultMaxSelection      = 4 << 20
	DefaultReadHeaderTimeout = 10 * time.Second
	DefaultIdleTimeout       = 2 * time.Minute
	DefaultBodyTimeout       = 10 * time.Second
	DefaultWriteTimeout      = 30 * time.Second
	DefaultMaxHeaderBytes    = 16 << 10
	DefaultMaxWebhook        = 25 << 20
	DefaultTriggerTimeout    = 10 * time.Second
	DefaultTriggerGap        = 200 * time.Millisecond
)

// Server is the service. Its fields are set before Handler or Serve is
// called, and not after.
type Server struct {
	Logger  *slog.Logger
	Metrics *Metrics
	Now     reconciler.Clock
	// Filter is the filter's Wasm module, or nil in a build without it.
	Filter []byte
	// Cluster is that of Kubernetes around this daemon, or nil.
	Cluster Cluster
	// WebhookSecret, if set, gives the secret that senders of webhooks must
	// know. An error or an empty secret refuses every webhook.
	WebhookSecret func() (string, error)

	// MaxWait caps what a client may ask to wait.
	MaxWait time.Duration
	// MaxFilterWait caps it for the VM of a filter: a VM that has stopped counts
	// as waiting until its request's answer, and for Fleet.Grace after it.
	MaxFilterWait time.Duration
	// Fleet remembers the filters that ask.
	Fleet *fleet.Fleet
	// ID is this replica's among its peers, and Replicas, if set, lists them.
	ID       string
	Replicas func() fleet.Replicas
	// SettleTime is how long after the loss of a replica its VMs may need to
	// find another: until then none is called silent.
	SettleTime time.Duration
	// PeerTimeout limits how long a peer may take to say which filters wait on
	// it, and MaxPeerAnswer, in bytes, how much it may say.
	PeerTimeout   time.Duration
	MaxPeerAnswer int64
	// CatchUp is how long a client that has seen a newer revision waits for
	// this replica to catch up, if it does not say itself.
	CatchUp time.Duration
	// MaxWaiting bounds the clients that wait at one time.
	MaxWaiting int
	// MaxSelection bounds, in bytes, what a client that names its workload is
	// sent: a filter takes no more.
	MaxSelection int
	// ReadHeaderTimeout, IdleTimeout and BodyTimeout limit how long a client
	// may take to send its headers, its next request, and a body.
	ReadHeaderTimeout, IdleTimeout, BodyTimeout time.Duration
	// WriteTimeout is how long a client may take to read its answer, counted
	// from the answer's beginning and so not from the request's.
	WriteTimeout time.Duration
	// MaxHeaderBytes bounds a request's line and headers; net/http adds 4 KiB.
	MaxHeaderBytes int
	// MaxWebhook bounds the body of a signed webhook in bytes. It is never kept in memory.
	MaxWebhook int64
	// TriggerTimeout limits one trigger, and TriggerGap is the least time between two.
	TriggerTimeout, TriggerGap time.Duration

	view View
	hub  *hub
	// draining is closed when the service shuts down: nobody waits any more.
	draining chan struct{}
	drain    func()
	requests inFlight
	triggers triggers
	module   module
	peers    peers

	handler func() nethttp.Handler
	server  func() *nethttp.Server
	// stopped is closed when Shutdown is done.
	stopped chan struct{}
	stop    func()
}

// New makes a service of a view. It serves no policies before SetState.
func New(view View) *Server {
	s := &Server{
		Logger:            slog.New(slog.DiscardHandler),
		Metrics:           NewMetrics(),
		Now:               time.Now,
		MaxWait:           DefaultMaxWait,
		MaxFilterWait:     DefaultMaxFilterWait,
		Fleet:             fleet.NewFleet(),
		SettleTime:        DefaultSettleTime,
		PeerTimeout:       DefaultPeerTimeout,
		MaxPeerAnswer:     DefaultMaxPeerAnswer,
		CatchUp:           DefaultCatchUp,
		MaxWaiting:        DefaultMaxWaiting,
		MaxSelection:      DefaultMaxSelection,
		ReadHeaderTimeout: DefaultReadHeaderTimeout,
		IdleTimeout:       DefaultIdleTimeout,
		BodyTimeout:       DefaultBodyTimeout,
		WriteTimeout:      DefaultWriteTimeout,
		MaxHeaderBytes:    DefaultMaxHeaderBytes,
		MaxWebhook:        DefaultMaxWebhook,
		TriggerTimeout:    DefaultTriggerTimeout,
		TriggerGap:        DefaultTriggerGap,
		view:              view,
		peers:             newPeers(),
		hub:               newHub(),
		draining:          make(chan struct{}),
		stopped:           make(chan struct{}),
	}
	s.drain = sync.OnceFunc(func() { close(s.draining) })
	s.stop = sync.OnceFunc(func() { close(s.stopped) })
	s.handler = sync.OnceValue(s.buildHandler)
	s.server = sync.OnceValue(s.buildServer)
	return s
}

// SetState serves a verified state from now on, and wakes the clients that it
// concerns. A state older than the one served is an error of the caller's: it
// is logged and not served, for what clients have seen never goes back.
func (s *Server) SetState(state *reconciler.State) {
	if state == nil {
		return
	}
	if before, ok := s.hub.update(state); !ok {
		s.Logger.Error("refusing to serve an older state than before", "served", before.String(), "refused", state.Revision.String())
	}
}

// Handler answers every route.
func (s *Server) Handler() nethttp.Handler { return s.handler() }

func (s *Server) buildServer() *nethttp.Server {
	server := &nethttp.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: s.ReadHeaderTimeout,
		IdleTimeout:       s.IdleTimeout,
		MaxHeaderBytes:    s.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug),
		// No ReadTimeout and no WriteTimeout: they would end the long waits.
		// Bodies and answers have deadlines of their own.
	}
	// By then net/http closes connections after their answers, so that a
	// client that asks again reaches another replica.
	server.RegisterOnShutdown(s.drain)
	return server
}

// Serve answers on a listener until Shutdown, and returns when Shutdown has
// let go of everything; an error means that it stopped by itself.
func (s *Server) Serve(listener net.Listener) error {
	if err := s.server().Serve(listener); !errors.Is(err, nethttp.ErrServerClosed) {
		return fmt.Errorf("serving HTTP on %s: %w", listener.Addr(), err)
	}
	<-s.stopped
	return nil
}

// Shutdown stops listening, answers every waiting client at once (with what a
// client gets whose wait is over, so that it simply asks again, and meets
// another replica), and waits until all requests are answered and all
// triggers done. When ctx ends first, it cuts off the connections left.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.stop()
	defer s.drain()
	err := s.server().Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("waiting for clients to read their answers: %w", err), s.server().Close())
	}
	s.drain()
	s.requests.closeAndWait()
	s.triggers.closeAndWait()
	s.peers.close()
	return err
}

// inFlight counts what runs, so that its owner can wait for it: unlike a
// WaitGroup it may grow while the owner waits.
type inFlight struct {
	mu     sync.Mutex
	count  int
	closed bool
	// idle is closed when count is zero and closed is true; nil before somebody waits.
	idle chan struct{}
}

// enter is false when nothing may begin any more.
func (f *inFlight) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.count++
	return true
}

func (f *inFlight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count--
	if f.count == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

func (f *inFlight) closeAndWait() {
	f.mu.Lock()
	f.closed = true
	if f.count == 0 {
		f.mu.Unlock()
		return
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	idle := f.idle
	f.mu.Unlock()
	<-idle
}
