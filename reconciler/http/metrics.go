package http

import (
	"context"
	"log/slog"
	nethttp "net/http"
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

// Metrics is what GET /metrics shows. It is the reconciler's Observer; what
// the status knows is taken from there at each scrape, and so agrees with it.
type Metrics struct {
	registry *prometheus.Registry

	syncs        *prometheus.CounterVec
	syncDuration prometheus.Histogram
	gitErrors    *prometheus.CounterVec
	etcdErrors   *prometheus.CounterVec
	requests     *prometheus.CounterVec
	triggers     *prometheus.CounterVec
	wakeups      prometheus.Counter
	waiting      atomic.Int64

	mu sync.Mutex
	// words are the label values given out so far, by metric, at most maxWords each.
	words map[string]map[string]bool
}

var _ reconciler.Observer = (*Metrics)(nil)

// maxWords bounds the values of a label that the reconciler chooses; word is
// what they look like. What is beyond either counts as otherWord.
const (
	maxWords  = 50
	otherWord = "Other"
)

var word = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,39}$`)

// NewMetrics makes metrics that count from zero.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		words:    map[string]map[string]bool{},
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_syncs_total", Help: "Attempts to make etcd agree with git, by how they ended.",
		}, []string{"outcome"}),
		syncDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hfi_sync_duration_seconds", Help: "How long attempts to make etcd agree with git took.",
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}),
		gitErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_git_errors_total", Help: "Failed looks at git, by reason.",
		}, []string{"reason"}),
		etcdErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_etcd_errors_total", Help: "Failed dealings with etcd, by reason.",
		}, []string{"reason"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_http_requests_total", Help: "Requests answered, by route and status code; 499: the client left before its answer.",
		}, []string{"route", "code"}),
		triggers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hfi_triggers_total", Help: "Triggers passed on to the leader, many requests making one, by outcome.",
		}, []string{"outcome"}),
		wakeups: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hfi_http_wakeups_total", Help: "Waiting clients woken by a change that concerns them.",
		}),
	}
	m.registry.MustRegister(m.syncs, m.syncDuration, m.gitErrors, m.etcdErrors, m.requests, m.triggers, m.wakeups,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "hfi_http_waiting_clients", Help: "Clients that wait for a change, or for this replica to catch up.",
		}, func() float64 { return float64(m.waiting.Load()) }),
		buildInfo(version.Get()),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// What may be alerted on is there, at zero, before it first happens.
	for _, outcome := range []string{string(api.Applied), string(api.Invalid), string(api.Refused), "Failed"} {
		m.syncs.WithLabelValues(m.bounded("outcome", outcome))
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

// Failed implements reconciler.Observer. Of a part that is neither git nor
// etcd nothing is counted.
func (m *Metrics) Failed(part, reason string) {
	switch part {
	case "git":
		m.gitErrors.WithLabelValues(m.bounded(part, reason)).Inc()
	case "etcd":
		m.etcdErrors.WithLabelValues(m.bounded(part, reason)).Inc()
	}
}

// bounded keeps a label from growing without end.
func (m *Metrics) bounded(label, value string) string {
	if !word.MatchString(value) {
		return otherWord
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.words[label]
	if known == nil {
		known = map[string]bool{}
		m.words[label] = known
	}
	if !known[value] && len(known) >= maxWords {
		return otherWord
	}
	known[value] = true
	return value
}

// enterWait counts a client that begins to wait, unless there are most already.
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
		"The set of policies served: 1, with its commit and digest.", []string{"commit", "digest"}, nil)
	servedPolicies = prometheus.NewDesc("hfi_served_policies", "Policies served.", nil, nil)
	lastSuccess    = prometheus.NewDesc("hfi_last_sync_success_timestamp_seconds",
		"When git and etcd were last seen to agree; not there before the first time.", nil, nil)
	driftItems = prometheus.NewDesc("hfi_drift_items",
		"Keys in etcd that differ from what was published; not there while etcd cannot be seen.", nil, nil)
	filters = prometheus.NewDesc("hfi_filters",
		"Filters connected to any replica, by state. Each replica tells of all: take the maximum, and no sum.", []string{"state"}, nil)
	filtersComplete = prometheus.NewDesc("hfi_filters_complete",
		"1 if every replica said which filters wait on it, else 0: then hfi_filters may lack some.", nil, nil)
)

// present collects what is so at the moment of the scrape.
type present struct{ *Server }

func (p present) Describe(into chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{servedInfo, servedPolicies, lastSuccess, driftItems, filters, filtersComplete} {
		into <- desc
	}
}

func (p present) Collect(into chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		into <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	if snapshot := p.hub.current.Load(); snapshot != nil {
		gauge(servedInfo, 1, snapshot.state.Head.Commit, string(snapshot.state.Set.Digest()))
		gauge(servedPolicies, float64(snapshot.state.Set.Len()))
	}
	status := p.view.Status()
	if at := status.Sync.LastSuccessAt; at != nil {
		gauge(lastSuccess, float64(at.UnixMilli())/1000)
	}
	if status.Drift.Status == api.DriftNone || status.Drift.Status == api.DriftDetected {
		gauge(driftItems, float64(status.Drift.Total))
	}
	// What this replica alone knows would be wrong: a VM that was answered here
	// may wait at another replica. Asking takes PeerTimeout at most.
	fleet, err := p.FleetStatus(context.Background())
	if err != nil {
		return
	}
	gauge(filters, float64(fleet.Current), "current")
	gauge(filters, float64(fleet.Behind), "behind")
	gauge(filters, float64(fleet.Silent), "silent")
	gauge(filtersComplete, map[bool]float64{true: 1}[fleet.Complete])
}

func (s *Server) metricsHandler() nethttp.Handler {
	mine := prometheus.NewRegistry()
	mine.MustRegister(present{s})
	return promhttp.HandlerFor(prometheus.Gatherers{s.Metrics.registry, mine}, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(s.Logger.Handler(), slog.LevelError),
		MaxRequestsInFlight: 10,
	})
}
