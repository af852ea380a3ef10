package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"sigs.k8s.io/yaml"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

type daemonKey struct{}

// fakeDaemon speaks the daemon's HTTP contract. Whenever it is asked it looks,
// with stock git, at the bare repository that it follows, and applies what
// it finds as its mode says.
type fakeDaemon struct {
	mu     sync.Mutex
	repo   string
	server *httptest.Server
	// mode is ok, signed, invalid, refused, unverified, nokeys, stuck, slow, nofolder, unreadable, drifted, filters, behind,
	// silent, unable, partial, or a way to answer badly.
	mode string
	// secret: it needs a signature to trigger a read.
	secret bool
	// seen is when it last read the branch, and tried when it last did or failed to.
	seen, tried time.Time
	// asked counts status requests since the last new commit, for slow.
	asked     int
	applied   *api.AppliedRevision
	attempted *api.CommitRef
	policies  []json.RawMessage
	files     map[string]string
	history   []api.HistoryEntry
}

// cmdDaemon controls a script's daemon:
//
//	daemon start       follow $ORIGIN; sets HFI_SERVER
//	daemon mode MODE   from now on
//	daemon secret      require signed triggers
//	daemon stop        stop listening
func cmdDaemon(ts *testscript.TestScript, neg bool, args []string) {
	d := ts.Value(daemonKey{}).(*fakeDaemon)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case len(args) == 1 && args[0] == "start":
		d.repo, d.mode = ts.Getenv("ORIGIN"), "ok"
		d.server = httptest.NewServer(d)
		ts.Setenv("HFI_SERVER", d.server.URL)
		server := d.server
		ts.Defer(func() {
			server.CloseClientConnections()
			server.Close()
		})
	case len(args) == 1 && args[0] == "secret":
		d.secret = true
	case len(args) == 1 && args[0] == "stop":
		d.server.Close()
	case len(args) == 2 && args[0] == "mode":
		d.mode = args[1]
	default:
		ts.Fatalf("usage: daemon start|secret|stop|mode MODE")
	}
}

func (d *fakeDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	mode := d.mode
	d.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch mode {
	case "html":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html>Welcome to nginx!</html>")
		return
	case "truncated":
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, `{"sync": {"status": "Syn`)
		return
	case "garbage":
		fmt.Fprint(w, `{"sync": {"status": "Syn`)
		return
	case "other":
		fmt.Fprint(w, `{"hello": "I am another service"}`)
		return
	case "huge":
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range 200 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		return
	case "failing":
		fail(w, http.StatusServiceUnavailable, "not_ready", "no set of policies yet")
		return
	case "gateway":
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprint(w, "<html>502 Bad Gateway</html>")
		return
	case "hang":
		<-r.Context().Done()
		return
	}
	d.answer(w, r)
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	answer(w, map[string]any{"error": map[string]string{"code": code, "message": message}})
}

func answer(w http.ResponseWriter, value any) {
	// A client that is gone does not need it.
	_ = json.NewEncoder(w).Encode(value)
}

func (d *fakeDaemon) answer(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.look(r.URL.Path == "/v1/status")
	name, one := strings.CutPrefix(r.URL.Path, "/v1/policies/")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/v1/reconcile" && d.secret && r.Header.Get("X-Hub-Signature-256") == "":
		fail(w, http.StatusForbidden, "forbidden", "the request must be signed with the webhook's secret")
	case r.Method == http.MethodPost && r.URL.Path == "/v1/reconcile":
		w.WriteHeader(http.StatusAccepted)
		answer(w, map[string]string{})
	case r.URL.Path == "/v1/status":
		// Scripts look for this file to know that somebody has asked.
		_ = os.WriteFile(filepath.Join(filepath.Dir(d.repo), "asked"), nil, 0o644)
		answer(w, d.status())
	case r.URL.Path == "/v1/filters":
		answer(w, d.filters())
	case r.URL.Path == "/v1/policies":
		answer(w, map[string]any{"policies": selected(orEmpty(d.policies), r.URL.Query())})
	case one && d.files[name] != "":
		for _, raw := range d.policies {
			if nameOf(raw, json.Unmarshal) == name {
				origin, _ := json.Marshal(schema.Origin{File: d.files[name], Line: 1, Commit: d.applied.Commit})
				answer(w, json.RawMessage(fmt.Sprintf(`%s,"origin":%s}`, bytes.TrimSuffix(raw, []byte("}")), origin)))
			}
		}
	default:
		fail(w, http.StatusNotFound, "not_found", "there is no such policy")
	}
}

// selected returns the policies for the gateway or waypoint in a query, or all.
func selected(policies []json.RawMessage, query url.Values) []json.RawMessage {
	workload := selection.Workload{Namespace: query.Get("namespace"), Gateway: query.Get("gateway"), Waypoint: query.Has("waypoint")}
	if workload.Gateway == "" && !workload.Waypoint {
		return policies
	}
	return slices.DeleteFunc(slices.Clone(policies), func(raw json.RawMessage) bool {
		policy, err := schema.Parse(raw)
		return err != nil || !selection.Matches(policy.Spec.Selector, workload)
	})
}

// git runs stock git; what it cannot say is empty.
func (d *fakeDaemon) git(args ...string) string {
	text, err := exec.Command("git", append([]string{"-C", d.repo}, args...)...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

// look applies the branch's head, as the mode says.
func (d *fakeDaemon) look(isStatus bool) {
	if d.mode == "stuck" {
		return
	}
	now := time.Now()
	d.tried = now
	if d.mode == "unreadable" {
		return
	}
	head := d.git("rev-parse", "refs/heads/main")
	if head == "" || d.attempted != nil && d.attempted.Commit == head || d.mode == "nofolder" || d.mode == "nokeys" {
		d.seen = now
		return
	}
	if isStatus {
		d.asked++
	}
	if d.mode == "slow" && d.asked < 6 {
		return
	}
	d.asked, d.seen = 0, now
	d.attempted = &api.CommitRef{Commit: head, Subject: d.git("log", "-1", "--format=%s", head), At: now}
	entry := api.HistoryEntry{Commit: head, Author: d.git("log", "-1", "--format=%an <%ae>", head), Subject: d.attempted.Subject, At: now}
	switch d.mode {
	case "invalid":
		entry.Outcome, entry.Message = api.Invalid, "1 error"
	case "refused":
		entry.Outcome, entry.Message = api.Refused, "it takes out 9 of 10 policies"
	case "unverified":
		entry.Outcome, entry.Message = api.Unverified, "commit "+short(head)+" is not applied: unknown key SHA256:eve"
		entry.Signature = &api.Signature{Status: api.SignatureUnknownKey, Key: "SHA256:eve", Reason: "unknown key SHA256:eve"}
	default:
		if d.mode == "signed" {
			entry.Signature = &api.Signature{Status: api.SignatureVerified, Signer: "ada@example.org", Key: "SHA256:ada"}
		}
		entry.Outcome = api.Applied
		if strings.HasPrefix(entry.Subject, "Revert") {
			entry.Restores = d.git("rev-parse", head+"^^")
		}
		d.take(head)
		d.applied = &api.AppliedRevision{Commit: head, Digest: "v1:0", Count: len(d.policies), At: now, Revision: "1-a.1"}
	}
	d.history = append([]api.HistoryEntry{entry}, d.history...)
}

// take reads a commit's policies with stock git.
func (d *fakeDaemon) take(commit string) {
	d.policies, d.files = nil, map[string]string{}
	for file := range strings.SplitSeq(d.git("ls-tree", "-r", "--name-only", commit, "policies/"), "\n") {
		if !strings.HasPrefix(path.Ext(file), ".y") && path.Ext(file) != ".json" {
			continue
		}
		for text := range strings.SplitSeq(d.git("show", commit+":"+file), "\n---\n") {
			converted, err := yaml.YAMLToJSON([]byte(text))
			if err != nil {
				continue
			}
			if policy, err := schema.Parse(converted); err == nil {
				d.policies = append(d.policies, policy.Canonical())
				d.files[policy.Metadata.Name] = file
			}
		}
	}
}

// filters are none or, as the mode says, five: all current, or two behind, or
// one of those silent, or one unable, or seen by one of two replicas only.
func (d *fakeDaemon) filters() api.FiltersStatus {
	filters := api.FiltersStatus{Items: []api.FilterStatus{}, Complete: true, Replicas: []api.Replica{{ID: "one", URL: "http://one"}}}
	if d.mode != "filters" && d.mode != "behind" && d.mode != "silent" && d.mode != "unable" && d.mode != "partial" && d.mode != "ingress" {
		return filters
	}
	add := func(pod string, state api.FilterState, message string, vms api.VMCounts) {
		filters.Connected++
		filters.Items = append(filters.Items, api.FilterStatus{
			FilterID: api.FilterID{Node: "sidecar~" + pod, Pod: pod, Service: "frontend", Namespace: "demo"},
			Digest:   "v1:0123456789abcdef0123456789abcdef", State: state, Since: time.Now().Add(-time.Hour), Replicas: []string{"one"}, VMs: vms, Message: message, Envoy: "1.36", Directions: []string{"inbound", "outbound"},
		})
	}
	if d.mode == "silent" {
		filters.Silent = 1
		add("frontend-a", api.FilterSilent, "1 of 3 VMs stopped asking 12 s ago: it is not enforcing", api.VMCounts{Total: 3, Current: 2, Silent: 1})
	}
	if d.mode == "ingress" {
		add("ingress-a", api.FilterCurrent, "", api.VMCounts{Total: 3, Current: 3})
		id := &filters.Items[0].FilterID
		id.Service, id.Namespace, id.Gateway = "", "mesh", "ingress"
		add("way-a", api.FilterCurrent, "", api.VMCounts{Total: 3, Current: 3})
		id = &filters.Items[1].FilterID
		id.Service, id.Waypoint = "", "way"
	}
	if d.mode == "unable" {
		filters.Unable = 1
		add("frontend-a", api.FilterUnable, "3 of 3 VMs cannot inject faults: Envoy 1.31 is not supported", api.VMCounts{Total: 3, Unable: 3})
	}
	if d.mode == "silent" || d.mode == "behind" {
		filters.Behind = 1
		add("frontend-b", api.FilterBehind, "2 of 3 VMs with other policies in force than the present ones", api.VMCounts{Total: 3, Current: 1, Behind: 2})
	}
	filters.Current = 3
	for _, pod := range []string{"frontend-c", "frontend-d", "frontend-e"} {
		add(pod, api.FilterCurrent, "", api.VMCounts{Total: 3, Current: 3})
	}
	if d.mode == "partial" {
		filters.Complete = false
		filters.Replicas = append(filters.Replicas, api.Replica{ID: "two", URL: "http://two", Error: "it did not answer within 1s"})
	}
	return filters
}

func (d *fakeDaemon) status() *api.Status {
	now := time.Now()
	status := &api.Status{
		Source: api.SourceStatus{URL: d.repo, Branch: "main", Path: "policies", Reachable: true, LastSeenAt: &d.seen, LastTriedAt: &d.tried,
			LastAttemptedRevision: d.attempted},
		Etcd:    api.EtcdStatus{Mode: api.Embedded, Endpoints: []string{"http://127.0.0.1:2379"}, Healthy: true, LastSeenAt: &now},
		Sync:    api.SyncStatus{Status: api.Synced, LastAppliedRevision: d.applied, LastSuccessAt: &now, ServedFrom: "etcd"},
		Drift:   api.Drift{Status: api.DriftNone, Mode: "report"},
		Filters: d.filters(),
		History: d.history,
		Conditions: []api.Condition{
			{Type: api.Ready, Status: "True", Reason: "Synced", Message: "git and etcd agree", LastTransitionTime: now},
			{Type: api.Reconciling, Status: "False", Reason: "Idle", Message: "nothing to do", LastTransitionTime: now},
		},
	}
	if d.mode == "unreadable" {
		status.Source.Reachable = false
		status.Source.Error = &api.Failure{Reason: "PermissionDenied", Message: "the user that hfid runs as lacks a permission", Since: now}
		status.Sync.Status = api.Unknown
	}
	if d.mode == "nokeys" {
		status.Sync.Status, status.Sync.Message = api.OutOfSync, "the keys cannot be read"
		status.Conditions = append(status.Conditions, api.Condition{Type: api.Stalled, Status: "True", Reason: api.TrustedKeysUnusable, Message: status.Sync.Message, LastTransitionTime: now})
	}
	if d.mode == "nofolder" {
		status.Source.Error = &api.Failure{Reason: "PathMissing", Message: "the newest commit has no folder \"policies\"", Since: now}
		status.Sync.Status = api.OutOfSync
	}
	if d.mode == "drifted" {
		status.Drift.Status, status.Drift.Total = api.DriftDetected, 1
		status.Drift.Items = []api.DriftItem{{Name: "stray", Key: "/hfi/policies/stray", Kind: api.Extra}}
	}
	if d.applied == nil || d.attempted.Commit != d.applied.Commit || d.mode == "stuck" {
		status.Sync.Status, status.Sync.Message = api.OutOfSync, "the newest commit is not applied"
	}
	if len(d.history) > 0 && d.history[0].Outcome == api.Invalid {
		status.Source.Errors = []schema.Problem{{File: "policies/bad.yaml", Line: 7, Column: 19,
			Field: "spec.rules[0].fault.percentage", Message: "percentage must be between 0 and 100, not 150"}}
		// As the daemon does where there is one error.
		status.Sync.Message += ": " + status.Source.Errors[0].String()
		status.Conditions = append(status.Conditions, api.Condition{Type: api.Stalled, Status: "True", Reason: "InvalidCommit",
			Message: status.Sync.Message, LastTransitionTime: now})
	}
	return status
}
