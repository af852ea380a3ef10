package http

import (
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/version"
	"github.com/boifi/hfi/reconciler"
)

// Metrics counts what GET /metrics shows. It is the reconciler's Observer. The
// metrics of the status are read from memory at each scrape.
type Metrics struct {
	registry *prometheus.Registry

	syncs        *prometheus.CounterVec
	syncDuration prometheus.Histogram
	gitErrors    *prometheus.CounterVec
	etcdErrors   *prometheus.CounterVec
	forged       *prometheus.CounterVec
	requests     *prometheus.CounterVec
	triggers     *prometheus.CounterVec
	wakeups      prometheus.Counter
	waiting      atomic.Int64

	mu sync.Mutex
	// values are the label values used so far, by label, at most maxValues each.
	values map[string]map[string]bool
}

var _ reconciler.Observer = (*Metrics)(nil)

// maxValues bounds the number of values of a label that the reconciler
// chooses, and validValue their form. All others are replaced by otherValue.
const (
	maxValues  = 50
	otherValue = "Other"
)

var validValue = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,39}$`)

// newMetrics returns metrics at zero.
func newMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		values:   map[string]map[string]bool{},
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_syncs_total", Help: "Attempts to apply a commit to etcd, by outcome.",
		}, []string{"outcome"}),
		syncDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hfi_sync_duration_seconds", Help: "Duration of the attempts to apply a commit to etcd.",
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}),
		gitErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_git_errors_total", Help: "Failed git operations, by reason.",
		}, []string{"reason"}),
		etcdErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_etcd_errors_total", Help: "Failed etcd operations, by reason.",
		}, []string{"reason"}),
		forged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_forged_total", Help: "Records seen that were not written by a replica with the same state key, by key in etcd, or last-good on disk.",
		}, []string{"key"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_http_requests_total", Help: "Requests answered, by route and status code; 499: the client closed the request.",
		}, []string{"route", "code"}),
		triggers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_triggers_total", Help: "Triggers sent to the leader, by outcome; concurrent requests share a trigger.",
		}, []string{"outcome"}),
		wakeups: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hfi_http_wakeups_total", Help: "Waiting clients woken by a change of their policies.",
		}),
	}
	m.registry.MustRegister(m.syncs, m.syncDuration, m.gitErrors, m.etcdErrors, m.forged, m.requests, m.triggers, m.wakeups,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "hfi_http_waiting_clients", Help: "Clients that wait for a change, or for this replica to catch up.",
		}, func() float64 { return float64(m.waiting.Load()) }),
		buildInfo(version.Get()),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// Counters that alerts use exist from the start.
	for _, outcome := range []string{string(api.Applied), string(api.Invalid), string(api.Refused), string(api.Unverified), "Failed"} {
		m.syncs.WithLabelValues(m.bounded("outcome", outcome))
	}
	for _, key := range []string{"head", "epoch", "epoch-floor", "history", "last-good"} {
		m.forged.WithLabelValues(key)
	}
	for _, outcome := range []string{"ok", "failed"} {
		m.triggers.WithLabelValues(outcome)
	}
	return m
}

// buildInfo is 1, with the build as labels: the convention for what other series are joined with.
func buildInfo(build version.Info) prometheus.Collector {
	system, architecture, _ := strings.Cut(build.Platform, "/")
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "hfi_build_info", Help: "The build of this daemon: 1, with its version, commit, Go release and platform.",
		ConstLabels: prometheus.Labels{
			"version": build.Version, "revision": build.Commit, "goversion": build.Go, "goos": system, "goarch": architecture,
		},
	})
	info.Set(1)
	return info
}

// Synced implements reconciler.Observer.
func (m *Metrics) Synced(outcome string, took time.Duration) {
	m.syncs.WithLabelValues(m.bounded("outcome", outcome)).Inc()
	m.syncDuration.Observe(took.Seconds())
}

// Failed implements reconciler.Observer. It counts failures of git and etcd only.
func (m *Metrics) Failed(part, reason string) {
	switch part {
	case "git":
		m.gitErrors.WithLabelValues(m.bounded(part, reason)).Inc()
	case "etcd":
		m.etcdErrors.WithLabelValues(m.bounded(part, reason)).Inc()
	}
}

// Forged counts records that do not verify. The caller chooses among few keys.
func (m *Metrics) Forged(key string, count int) { m.forged.WithLabelValues(key).Add(float64(count)) }

// bounded returns the value, or otherValue where the label would get too many.
func (m *Metrics) bounded(label, value string) string {
	if !validValue.MatchString(value) {
		return otherValue
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.values[label]
	if known == nil {
		known = map[string]bool{}
		m.values[label] = known
	}
	if !known[value] && len(known) >= maxValues {
		return otherValue
	}
	known[value] = true
	return value
}

// enterWait counts a client that begins to wait, unless most wait already.
func (m *Metrics) enterWait(most int) bool {
	if m.waiting.Add(1) > int64(most) {
		m.waiting.Add(-1)
		return false
	}
	return true
}

func (m *Metrics) leaveWait() { m.waiting.Add(-1) }

var (
	servedInfo = prometheus.NewDesc("hfi_served_info",
		"1, with the commit and the digest of the policies served.", []string{"commit", "digest"}, nil)
	servedPolicies = prometheus.NewDesc("hfi_served_policies", "Policies served.", nil, nil)
	lastSuccess    = prometheus.NewDesc("hfi_last_sync_success_timestamp_seconds",
		"When git and etcd last agreed; absent before the first time.", nil, nil)
	driftItems = prometheus.NewDesc("hfi_drift_items",
		"Keys in etcd that differ from what was published; absent while etcd is unreachable.", nil, nil)
	filters = prometheus.NewDesc("hfi_filters",
		"Filters connected to any replica, by state, from the last merged status: each replica merges one for every status request, "+
			"and in the background every 10 seconds, or less often if that takes long. All replicas report the same filters: take the maximum, not the sum.", []string{"state"}, nil)
	connectionsOpen  = prometheus.NewDesc("hfi_http_connections", "Connections of clients that are open.", nil, nil)
	connectionsLimit = prometheus.NewDesc("hfi_http_connections_limit",
		"The most connections of clients that this daemon allows, by its limit of open files.", nil, nil)
	connectionsRefused = prometheus.NewDesc("hfi_http_connections_refused_total", "Connections refused because of the limit.", nil, nil)
	filtersComplete    = prometheus.NewDesc("hfi_filters_complete",
		"1 if every replica reported its filters to the last merged status, else 0: then hfi_filters may lack some.", nil, nil)
)

// stateCollector collects the metrics of the current state, all from memory.
type stateCollector struct{ *Server }

func (s stateCollector) Describe(into chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{servedInfo, servedPolicies, lastSuccess, driftItems, connectionsOpen, connectionsLimit, connectionsRefused, filters, filtersComplete} {
		into <- desc
	}
}

func (s stateCollector) Collect(into chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		into <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	if snapshot := s.hub.current.Load(); snapshot != nil {
		gauge(servedInfo, 1, snapshot.State.Head.Commit, string(snapshot.State.Set.Digest()))
		gauge(servedPolicies, float64(snapshot.State.Set.Len()))
	}
	status := s.view.Status()
	if at := status.Sync.LastSuccessAt; at != nil {
		gauge(lastSuccess, float64(at.UnixMilli())/1000)
	}
	if status.Drift.Status == api.DriftNone || status.Drift.Status == api.DriftDetected {
		gauge(driftItems, float64(status.Drift.Total))
	}
	connections := s.connectionsStatus()
	gauge(connectionsOpen, float64(connections.Open))
	gauge(connectionsLimit, float64(connections.Limit))
	into <- prometheus.MustNewConstMetric(connectionsRefused, prometheus.CounterValue, float64(connections.Refused))
	// This replica's own filters would be wrong: a VM that was answered here may
	// wait on another replica.
	fleet, known := s.fleet.Last()
	if !known {
		return
	}
	gauge(filters, float64(fleet.Current), "current")
	gauge(filters, float64(fleet.Behind), "behind")
	gauge(filters, float64(fleet.Unable), "unable")
	gauge(filters, float64(fleet.Silent), "silent")
	gauge(filtersComplete, map[bool]float64{true: 1}[fleet.Complete])
}

func (s *Server) metricsHandler() http.Handler {
	own := prometheus.NewRegistry()
	own.MustRegister(stateCollector{s})
	return promhttp.HandlerFor(prometheus.Gatherers{s.Metrics.registry, own}, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(s.Logger.Handler(), slog.LevelError),
		MaxRequestsInFlight: 10,
	})
}
