// Package http is the daemon's HTTP service: policies, the status, triggers,
// the filter module, and metrics.
//
// A filter waits for its next policies with a request that is answered when
// they change. A waiting request takes a goroutine and a timer, and no
// processor time; the cost of a change depends only on the clients that it
// concerns (see hub). Every answer comes from one verified state.
package http

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/reconciler/served"
	"github.com/boifi/hfi/schema"
)

// View is the part of the reconciler that the service uses. Status and Ready
// answer from memory.
type View interface {
	Status() api.Status
	// Ready reports whether this daemon can serve policies, and if not, why.
	Ready() (ok bool, etcd api.EtcdStatus, reason string)
	// Trigger makes the leader, on any replica, fetch from git now.
	Trigger(ctx context.Context) error
}

// Cluster is the part of a Kubernetes cluster that the service shows. It
// answers from memory.
type Cluster interface {
	// Status compares the policies served with the cluster and all filters. The
	// set is nil if none is served yet; report is that of the leader, or nil if
	// this replica leads or the leader is not known.
	Status(set *schema.Set, filters api.FiltersStatus, report *api.ClusterReport) api.KubernetesStatus
	// Pods counts the pods that a selector targets; known is false while they are not known.
	Pods(selector schema.Selector) (count int, known bool)
}

// Defaults of a Server's tunable fields.
const (
	DefaultMaxWait           = 10 * time.Minute
	DefaultMaxFilterWait     = 20 * time.Second
	DefaultCatchUp           = 5 * time.Second
	DefaultMaxWaiting        = 100_000
	DefaultReadHeaderTimeout = 10 * time.Second
	DefaultIdleTimeout       = 2 * time.Minute
	DefaultBodyTimeout       = 10 * time.Second
	DefaultWriteTimeout      = 30 * time.Second
	DefaultMaxHeaderBytes    = 16 << 10
	DefaultMaxWebhook        = 25 << 20
	DefaultTriggerTimeout    = 10 * time.Second
	DefaultTriggerGap        = 200 * time.Millisecond
)

// Server is the service. Its exported fields are set before Handler or Serve
// is called.
type Server struct {
	Logger  *slog.Logger
	Metrics *Metrics
	Now     reconciler.Clock
	// Filter is the filter's Wasm module, or nil in a build without it.
	Filter []byte
	// Cluster is the Kubernetes cluster that this daemon runs in, or nil.
	Cluster Cluster
	// WebhookSecret, if set, returns the secret with which triggers must be
	// authenticated. An error or an empty secret refuses every one.
	WebhookSecret func() (string, error)
	// Hosts are further names that requests may give as their Host while the
	// service listens on a loopback address. AnyHost allows all.
	Hosts []string

	// MaxWait bounds the wait that a client may ask for.
	MaxWait time.Duration
	// MaxFilterWait bounds it for a filter's VM: a VM that has stopped counts as
	// alive until its request is answered, and for the fleet's Grace after that.
	MaxFilterWait time.Duration
	// CatchUp is how long a client without a wait of its own waits for this
	// replica to reach the revision that the client has seen.
	CatchUp time.Duration
	// MaxWaiting bounds the number of clients that wait at the same time.
	MaxWaiting int
	// MaxConnections bounds the connections. Fewer clients than that may wait
	// with a connection for each, so that others can still connect.
	MaxConnections int
	// ReadHeaderTimeout, IdleTimeout and BodyTimeout bound the time that a client
	// takes to send its headers, its next request, and a body.
	ReadHeaderTimeout, IdleTimeout, BodyTimeout time.Duration
	// WriteTimeout bounds the time that a client takes to read an answer, from
	// the beginning of the answer.
	WriteTimeout time.Duration
	// MaxHeaderBytes bounds a request's line and headers; net/http adds 4 KiB.
	MaxHeaderBytes int
	// MaxWebhook bounds the body of a signed webhook in bytes. It is not kept in memory.
	MaxWebhook int64
	// TriggerTimeout bounds one trigger, and TriggerGap is the least time between two.
	TriggerTimeout, TriggerGap time.Duration

	view  View
	fleet *fleet.Fleet
	hub   *hub
	// draining is closed when the service shuts down: then no client waits.
	draining chan struct{}
	drain    func()
	requests inFlight
	// onLoopback: the service listens on a loopback address.
	onLoopback  atomic.Bool
	crossOrigin http.CrossOriginProtection
	// foreignHost logs the first refusal of a host name.
	foreignHost sync.Once
	// limited is the listener, once there is one. waitingAlone counts the clients
	// that wait with a connection for each, and refused the connections refused.
	limited      atomic.Pointer[limitedListener]
	waitingAlone atomic.Int64
	refused      atomic.Int64
	triggers     triggers
	module       module

	handler func() http.Handler
	server  func() *http.Server
	// stopped is closed when Shutdown has finished.
	stopped chan struct{}
	stop    func()
	// began is when the server was made.
	began       time.Time
	enforcement enforcement
}

// New returns a service of policies and of the filters that ask for them, with
// default tunables.
func New(view View, policies *served.Policies, fleet *fleet.Fleet) *Server {
	s := &Server{
		Logger:            slog.New(slog.DiscardHandler),
		Metrics:           newMetrics(),
		Now:               time.Now,
		MaxWait:           DefaultMaxWait,
		MaxFilterWait:     DefaultMaxFilterWait,
		CatchUp:           DefaultCatchUp,
		MaxWaiting:        DefaultMaxWaiting,
		MaxConnections:    DefaultMaxConnections(),
		ReadHeaderTimeout: DefaultReadHeaderTimeout,
		IdleTimeout:       DefaultIdleTimeout,
		BodyTimeout:       DefaultBodyTimeout,
		WriteTimeout:      DefaultWriteTimeout,
		MaxHeaderBytes:    DefaultMaxHeaderBytes,
		MaxWebhook:        DefaultMaxWebhook,
		TriggerTimeout:    DefaultTriggerTimeout,
		TriggerGap:        DefaultTriggerGap,
		view:              view,
		fleet:             fleet,
		hub:               newHub(),
		draining:          make(chan struct{}),
		stopped:           make(chan struct{}),
		began:             time.Now(),
	}
	policies.Observe(s.hub.update)
	s.drain = sync.OnceFunc(func() { close(s.draining) })
	s.stop = sync.OnceFunc(func() { close(s.stopped) })
	s.handler = sync.OnceValue(s.buildHandler)
	s.server = sync.OnceValue(s.buildServer)
	return s
}

// Handler returns the handler of all routes.
func (s *Server) Handler() http.Handler { return s.handler() }

func (s *Server) buildServer() *http.Server {
	// An Envoy may be configured to use HTTP/2 to the daemon: there is no TLS in
	// which the two could agree on a protocol.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Protocols:   &protocols,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: mostStreams},
		ConnContext: new(connections).add,
		ConnState: func(connection net.Conn, state http.ConnState) {
			if limited := s.limited.Load(); limited != nil {
				limited.state(connection, state)
			}
		},
		Handler:           s.Handler(),
		ReadHeaderTimeout: s.ReadHeaderTimeout,
		IdleTimeout:       s.IdleTimeout,
		MaxHeaderBytes:    s.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug),
		// No ReadTimeout and no WriteTimeout: they would end the long waits.
		// Bodies and answers have deadlines of their own.
	}
	// From here on net/http closes connections after their answers, so that a
	// client's next request reaches another replica.
	server.RegisterOnShutdown(s.drain)
	return server
}

// Serve answers on a listener until Shutdown, and returns when Shutdown has
// finished. An error means that it stopped by itself.
func (s *Server) Serve(listener net.Listener) error {
	s.onLoopback.Store(isLoopback(listener.Addr()))
	limited := newLimitedListener(listener, s.MaxConnections, func() {
		if s.refused.Add(1)%1000 == 1 {
			s.Logger.Warn("refusing connections: this replica has as many as its limit of open files allows", "limit", s.MaxConnections)
		}
	})
	s.limited.Store(limited)
	if err := s.server().Serve(limited); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving HTTP on %s: %w", listener.Addr(), err)
	}
	<-s.stopped
	return nil
}

// Shutdown stops listening, answers every waiting client at once as if its
// wait were over, so that it asks another replica, and waits until all requests
// are answered and all triggers done. If ctx ends first, it closes the
// connections that are left.
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
	return err
}

// inFlight counts running work. A sync.WaitGroup cannot do it: its count must
// not leave zero while its owner waits.
type inFlight struct {
	mu     sync.Mutex
	count  int
	closed bool
	// idle is closed when count reaches zero after closeAndWait; nil if nothing waits.
	idle chan struct{}
}

// enter is false after closeAndWait: then no work may begin.
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
