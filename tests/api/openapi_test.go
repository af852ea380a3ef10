// Package api compares docs/openapi.yaml with the responses of a real daemon.
package api

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

func TestMain(m *testing.M) { os.Exit(hfidtest.Main(m)) }

// document is docs/openapi.yaml, and the set of its responses that were seen.
type document struct {
	validator validator.Validator
	// declared has "GET /v1/policies 200" for every response in the document.
	declared map[string]bool

	mu   sync.Mutex
	seen map[string]bool
	// codes has the error codes seen.
	codes map[string]bool
}

func open(t *testing.T) *document {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testtool.Root(), "docs", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatalf("reading docs/openapi.yaml: %v", err)
	}
	v, problems := validator.NewValidator(parsed, config.WithFormatAssertions())
	if len(problems) > 0 {
		t.Fatalf("docs/openapi.yaml: %v", problems)
	}
	t.Cleanup(v.Release)
	if ok, problems := v.ValidateDocument(); !ok {
		for _, problem := range problems {
			t.Errorf("docs/openapi.yaml is no OpenAPI 3.1: %s: %s %v", problem.Message, problem.Reason, problem.SchemaValidationErrors)
		}
	}
	model, err := parsed.BuildV3Model()
	if err != nil {
		t.Fatalf("docs/openapi.yaml: %v", err)
	}
	d := &document{validator: v, declared: map[string]bool{}, seen: map[string]bool{}, codes: map[string]bool{}}
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for method, operation := range item.GetOperations().FromOldest() {
			for code := range operation.Responses.Codes.FromOldest() {
				d.declared[fmt.Sprintf("%s %s %s", strings.ToUpper(method), path, code)] = true
			}
		}
	}
	return d
}

// template returns the path in the document that matches a request's path.
func template(path string) string {
	switch {
	case path == "/v1/policies/status" || path == "/v1/filter.wasm":
		return path
	case strings.HasPrefix(path, "/v1/policies/"):
		return "/v1/policies/{name}"
	case strings.HasPrefix(path, "/v1/filter/"):
		return "/v1/filter/{file}"
	}
	return path
}

// request is a request to the daemon.
type request struct {
	method, path string
	header       map[string]string
	body         []byte
}

// ask sends a request and validates the response with the document.
func (d *document) ask(t *testing.T, daemon *hfidtest.Daemon, q request, want int) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hfidtest.WaitLimit)
	defer cancel()
	sent, err := http.NewRequestWithContext(ctx, q.method, daemon.URL()+q.path, bytes.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range q.header {
		sent.Header.Set(name, value)
	}
	answer, err := http.DefaultClient.Do(sent)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	what := fmt.Sprintf("%s %s", q.method, q.path)
	if answer.StatusCode != want {
		t.Fatalf("%s: %s, want %d: %.300s", what, answer.Status, want, body)
	}
	key := fmt.Sprintf("%s %s %d", q.method, template(sent.URL.Path), answer.StatusCode)
	if answer.StatusCode == http.StatusMethodNotAllowed {
		// The document lists it with the methods of the path.
		other := map[string]string{http.MethodGet: http.MethodPost, http.MethodPost: http.MethodGet}[q.method]
		key = fmt.Sprintf("%s %s %d", other, template(sent.URL.Path), answer.StatusCode)
		sent.Method = other
	}
	if !d.declared[key] {
		t.Errorf("%s: the document does not have the response %s", what, key)
		return body
	}
	answer.Body = io.NopCloser(bytes.NewReader(body))
	if ok, problems := d.validator.ValidateHttpResponse(sent, answer); !ok {
		for _, problem := range problems {
			t.Errorf("%s: %s: %s", what, problem.Message, problem.Reason)
			for _, failure := range problem.SchemaValidationErrors {
				t.Errorf("  at %s: %s", failure.FieldPath, failure.Reason)
			}
		}
		t.Logf("the answer: %.3000s", body)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[key] = true
	if answer.StatusCode >= 400 && answer.Header.Get("Content-Type") == "application/json" {
		var failure struct{ Error struct{ Code string } }
		if err := json.Unmarshal(body, &failure); err == nil && failure.Error.Code != "" {
			d.codes[failure.Error.Code] = true
		}
	}
	return body
}

// get is ask with GET.
func (d *document) get(t *testing.T, daemon *hfidtest.Daemon, path string, want int, header ...string) []byte {
	t.Helper()
	q := request{method: http.MethodGet, path: path, header: map[string]string{}}
	for i := 0; i < len(header); i += 2 {
		q.header[header[i]] = header[i+1]
	}
	return d.ask(t, daemon, q, want)
}

// state requests everything that reports the daemon's state.
func (d *document) state(t *testing.T, daemon *hfidtest.Daemon) {
	t.Helper()
	for _, path := range []string{"/health", "/v1/status", "/v1/drift", "/v1/filters", "/v1/filters?local=true", "/metrics"} {
		d.get(t, daemon, path, http.StatusOK)
	}
}

// policy is a file with all fields of a policy.
const policy = `
metadata: {name: everything}
spec:
  selector: {service: frontend, namespace: demo}
  expires_at: 2999-01-01T00:00:00Z
  dry_run: true
  direction: outbound
  rules:
    - match:
        to: {service: cart, namespace: demo}
        methods: [GET]
        path: {prefix: /api}
        headers: [{name: X-User, regex: "a|b"}, {name: x-debug, present: false}]
      fault: {delay_ms: 10, percentage: 12.5, abort: {status: 503, body: no, headers: {x-reason: test}}}
    - fault: {abort: {grpc_status: 14}}
`

// Responses that this test does not cause, with the tests that do.
var elsewhere = map[string]string{
	"GET /v1/policies 500":    "a selection of over 4 MiB: tests of reconciler/http and tests/envoy",
	"GET /v1/status 503":      "a daemon that shuts down: tests of reconciler/http",
	"GET /v1/filters 503":     "a daemon that shuts down: tests of reconciler/http",
	"POST /v1/webhook 400":    "a signed body that breaks off: tests of reconciler/http",
	"POST /v1/reconcile 400":  "a signed body that breaks off: tests of reconciler/http",
	"GET /v1/filter.wasm 404": "a build without the filter: tests of reconciler/http",
}

// Every route, parameter and response of the document is seen in a real daemon in
// its different states, and nothing in the daemon's responses is missing from the
// document: its objects have no further fields.
func TestDocumentDescribesTheServer(t *testing.T) {
	d := open(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	repo := gittest.New(t)
	daemon := hfidtest.New(t, repo.Bare(), "--interval", "1s", "--filter", hfidtest.Module(t), "--webhook-secret-file", secret)
	daemon.Start()
	daemon.WaitStatus("the branch is missing", func(s *api.Status) bool { return s.Source.Error != nil })
	d.state(t, daemon)
	for _, path := range []string{"/ready", "/v1/policies", "/v1/policies/status", "/v1/policies/everything"} {
		d.get(t, daemon, path, http.StatusServiceUnavailable)
	}

	first := repo.Commit("Begin", map[string]string{
		"policies/everything.yaml": policy,
		"policies/gateway.yaml":    "metadata: {name: gateway}\nspec: {selector: {gateway: ingress}, rules: [{fault: {delay_ms: 5}}]}\n",
		"policies/wide.yaml":       "metadata: {name: wide}\nspec: {rules: [{fault: {delay_ms: 5}}]}\n",
	})
	repo.Push()
	daemon.WaitSynced(first)
	d.state(t, daemon)
	d.policies(t, daemon)
	d.filterModule(t, daemon)
	d.triggers(t, daemon, secret)
	d.mistakes(t, daemon)
	d.fleet(t, daemon)

	repo.Commit("Break it", map[string]string{"policies/wide.yaml": "metadata: {name: wide}\nspec: {rules: [{fault: {delay_ms: -5}}]}\n"})
	repo.Push()
	daemon.WaitStatus("the commit is invalid", func(s *api.Status) bool { return len(s.Source.Errors) > 0 && s.History[0].Outcome == api.Invalid })
	d.state(t, daemon)
	restored := repo.Revert("HEAD")
	repo.Push()
	daemon.WaitSynced(restored)
	d.state(t, daemon)

	daemon.Etcdctl("put", "/hfi/policies/extra", "{}")
	daemon.WaitStatus("drift", func(s *api.Status) bool { return s.Drift.Status == api.DriftDetected })
	d.state(t, daemon)
	daemon.Stop()
	daemon.Start("--drift", "heal")
	daemon.WaitStatus("the drift is repaired", func(s *api.Status) bool { return s.Drift.Heal != nil && s.Drift.Heal.Repairs > 0 })
	d.state(t, daemon)

	for answer := range d.declared {
		if _, shown := elsewhere[answer]; !shown && !d.seen[answer] {
			t.Errorf("the document has a response that was not seen: %s", answer)
		}
	}
	for _, code := range []string{"bad_request", "forbidden", "cross_origin", "not_found", "method_not_allowed", "too_large", "not_ready", "behind", "no_secret"} {
		if !d.codes[code] {
			t.Errorf("the error code %s was not seen", code)
		}
	}
}

func (d *document) policies(t *testing.T, daemon *hfidtest.Daemon) {
	for _, path := range []string{
		"/ready", "/v1/policies", "/v1/policies?service=frontend&namespace=demo", "/v1/policies?service=&namespace=",
		"/v1/policies?service=cart", "/v1/policies?gateway=ingress&namespace=mesh", "/v1/policies?waypoint=way&namespace=demo", "/v1/policies/status", "/v1/policies/everything",
	} {
		d.get(t, daemon, path, http.StatusOK)
	}
	served := daemon.Policies("?service=frontend&namespace=demo")
	d.get(t, daemon, "/v1/policies?service=frontend&namespace=demo", http.StatusNotModified, "If-None-Match", served.ETag)
	d.get(t, daemon, "/v1/policies?service=frontend&namespace=demo&wait=1", http.StatusNotModified, "If-None-Match", served.ETag, "X-Hfi-Revision", served.Revision)
	epoch, _, _ := strings.Cut(served.Revision, ".")
	d.get(t, daemon, "/v1/policies?wait=100ms", http.StatusServiceUnavailable, "X-Hfi-Revision", epoch+".999999999")
	d.get(t, daemon, "/v1/policies/nothing", http.StatusNotFound)
}

func (d *document) filterModule(t *testing.T, daemon *hfidtest.Daemon) {
	module := d.get(t, daemon, "/v1/filter.wasm", http.StatusOK)
	sum := fmt.Sprintf("%x", sha256.Sum256(module))
	d.get(t, daemon, "/v1/filter.wasm", http.StatusNotModified, "If-None-Match", `"`+sum+`"`)
	d.get(t, daemon, "/v1/filter/"+sum+".wasm", http.StatusOK)
	d.get(t, daemon, "/v1/filter/"+sum+".wasm", http.StatusNotModified, "If-None-Match", `"`+sum+`"`)
	d.get(t, daemon, "/v1/filter/"+strings.Repeat("0", 64)+".wasm", http.StatusNotFound)
	for _, path := range []string{"/v1/filter.wasm", "/v1/filter/" + sum + ".wasm"} {
		d.get(t, daemon, path+"?x=1", http.StatusBadRequest)
	}
}

func (d *document) triggers(t *testing.T, daemon *hfidtest.Daemon, secret string) {
	post := func(want int, body []byte, header ...string) {
		t.Helper()
		for _, path := range []string{"/v1/webhook", "/v1/reconcile"} {
			q := request{method: http.MethodPost, path: path, body: body, header: map[string]string{"Content-Type": "application/json"}}
			for i := 0; i < len(header); i += 2 {
				q.header[header[i]] = header[i+1]
			}
			d.ask(t, daemon, q, want)
		}
	}
	signed := func(body []byte) string {
		mac := hmac.New(sha256.New, []byte("s3cret"))
		mac.Write(body)
		return "sha256=" + hex.EncodeToString(mac.Sum(nil))
	}
	post(http.StatusForbidden, []byte("{}"), "X-Gitlab-Token", "s3cret", "Origin", "https://another.example")
	post(http.StatusAccepted, []byte("{}"), "X-Gitlab-Token", "s3cret")
	post(http.StatusAccepted, []byte("{}"), "X-Hub-Signature-256", signed([]byte("{}")))
	post(http.StatusForbidden, []byte("{}"), "X-Hub-Signature-256", signed([]byte("{ }")))
	post(http.StatusRequestEntityTooLarge, make([]byte, 26<<20), "X-Hub-Signature-256", signed(nil))
	if err := os.Rename(secret, secret+"-away"); err != nil {
		t.Fatal(err)
	}
	post(http.StatusServiceUnavailable, []byte("{}"), "X-Gitlab-Token", "s3cret")
	if err := os.Rename(secret+"-away", secret); err != nil {
		t.Fatal(err)
	}
}

// mistakes are invalid requests.
func (d *document) mistakes(t *testing.T, daemon *hfidtest.Daemon) {
	for _, path := range []string{
		"/v1/policies?servce=x", "/v1/policies?wait=soon", "/v1/policies?service=a&service=b", "/v1/policies?service=a&gateway=b", "/v1/policies/status?x=1",
		"/v1/policies/everything?x=1", "/v1/status?x=1", "/v1/drift?x=1", "/v1/filters?local=maybe",
	} {
		d.get(t, daemon, path, http.StatusBadRequest)
	}
	d.get(t, daemon, "/v1/policies", http.StatusBadRequest, "X-Hfi-Revision", "nonsense")
	d.get(t, daemon, "/v1/policies?service=a", http.StatusBadRequest, "X-Hfi-Vm", "")
	var paths []string
	for answer := range d.declared {
		if method, rest, _ := strings.Cut(answer, " "); method == http.MethodGet {
			path, _, _ := strings.Cut(rest, " ")
			paths = append(paths, strings.NewReplacer("{name}", "everything", "{file}", strings.Repeat("0", 64)+".wasm").Replace(path))
		}
	}
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		d.ask(t, daemon, request{method: http.MethodPost, path: path}, http.StatusMethodNotAllowed)
	}
	for _, path := range []string{"/v1/reconcile", "/v1/webhook"} {
		d.get(t, daemon, path, http.StatusMethodNotAllowed)
	}
}

// fleet runs a function while a filter waits for policies.
func (d *document) fleet(t *testing.T, daemon *hfidtest.Daemon) {
	served := daemon.Policies("?service=frontend&namespace=demo")
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	waiting.Go(func() {
		for ctx.Err() == nil {
			// The test ends the last one; how does not matter.
			_, _ = daemon.Ask(ctx, http.MethodGet, "/v1/policies?service=frontend&namespace=demo&wait=20s", http.Header{
				"X-Hfi-Node": {"sidecar~1"}, "X-Hfi-Pod": {"frontend-1"}, "X-Hfi-Vm": {"1"}, "If-None-Match": {served.ETag},
			})
		}
	})
	daemon.WaitStatus("the filter is current", func(s *api.Status) bool { return s.Filters.Current == 1 })
	d.state(t, daemon)
}

// TestDocumentIsChecked removes, adds and renames a field of a response: each is found.
func TestDocumentIsChecked(t *testing.T) {
	d := open(t)
	sent, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:8080/v1/drift", nil)
	if err != nil {
		t.Fatal(err)
	}
	valid := `{"status":"None","total":0,"items":[],"since":null,"mode":"report"}`
	for body, want := range map[string]bool{
		valid: true,
		strings.Replace(valid, `"total":0,`, "", 1):                    false,
		strings.Replace(valid, `"total"`, `"count":0,"total"`, 1):      false,
		strings.Replace(valid, `"None"`, `"Nothing"`, 1):               false,
		strings.Replace(valid, `"items":[]`, `"items":null`, 1):        false,
		strings.Replace(valid, `"since":null`, `"since":"always"`, 1):  false,
		strings.Replace(valid, `[]`, `[{"name":"","key":"a"}]`, 1):     false,
		strings.Replace(valid, `[]`, `[{"kind":"Extra","key":1}]`, 1):  false,
		strings.Replace(valid, `"mode":"report"`, `"mode":"other"`, 1): false,
	} {
		answer := &http.Response{
			StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}},
			Body: io.NopCloser(strings.NewReader(body)),
		}
		if ok, problems := d.validator.ValidateHttpResponse(sent, answer); ok != want {
			t.Errorf("%s: valid is %t, want %t: %v", body, ok, want, problems)
		}
	}
}
