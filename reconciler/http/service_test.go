package http

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// GET /health is 200 while the process runs. GET /ready says whether it can
// serve policies, and has the state of etcd.
func TestHealthAndReady(t *testing.T) {
	d := start(t, nil)
	const etcd = `"etcd":{"mode":"embedded","endpoints":["http://127.0.0.1:1"],"healthy":true,"last_seen_at":null}}` + "\n"
	d.view.set(func(v *fakeView) { v.unready = "etcd was not read yet" })
	if got := d.ask("GET /health").expect(t, 200); got.body != "{\"status\":\"ok\"}\n" {
		t.Errorf("got %s", got.body)
	}
	if got := d.ask("GET /ready").expect(t, 503); got.body != `{"ready":false,"reason":"etcd was not read yet",`+etcd {
		t.Errorf("got %s", got.body)
	}
	// Without a state the service is not ready, whatever the view says.
	d.view.set(func(v *fakeView) { v.unready = "" })
	d.ask("GET /ready").expect(t, 503)
	d.serve(stateOf(1, schema.NewSet()))
	if got := d.ask("GET /ready").expect(t, 200); got.body != `{"ready":true,"reason":"",`+etcd {
		t.Errorf("got %s", got.body)
	}
	d.view.set(func(v *fakeView) { v.etcd = api.EtcdStatus{Mode: api.External, Error: "no route"} })
	if got := d.ask("GET /ready").expect(t, 200); !strings.Contains(got.body, `"endpoints":[],"healthy":false,"last_seen_at":null,"error":"no route"`) {
		t.Errorf("got %s", got.body)
	}
	d.ask("HEAD /health").expect(t, 200)
	d.ask("GET /health?from=balancer").expect(t, 200)
}

// GET /v1/status is the view's status, with [] for every empty list.
func TestStatusAndDrift(t *testing.T) {
	d := start(t, nil)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	got := d.ask("GET /v1/status").expect(t, 200)
	var fields map[string]any
	if err := json.Unmarshal([]byte(got.body), &fields); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"source.errors", "source.warnings", "etcd.endpoints", "drift.items", "filters.items", "history", "conditions"} {
		var value any = fields
		for part := range strings.SplitSeq(path, ".") {
			value = value.(map[string]any)[part]
		}
		if items, ok := value.([]any); !ok || len(items) != 0 {
			t.Errorf("%s is %v, want []", path, value)
		}
	}
	for _, part := range []string{"source", "etcd", "sync", "drift", "filters", "history", "conditions"} {
		if _, there := fields[part]; !there {
			t.Errorf("there is no %s", part)
		}
	}
	status := api.Status{
		Sync:  api.SyncStatus{Status: api.OutOfSync, Message: "a <b> & c", LastSuccessAt: &at},
		Drift: api.Drift{Status: api.DriftDetected, Total: 1, Items: []api.DriftItem{{Name: "x", Key: "/hfi/policies/x", Kind: api.Extra}}, Since: &at, Mode: "report"},
	}
	d.view.set(func(v *fakeView) { v.state = status })
	var back api.Status
	got = d.ask("GET /v1/status").expect(t, 200)
	if err := json.Unmarshal([]byte(got.body), &back); err != nil || back.Sync.Message != status.Sync.Message || !strings.Contains(got.body, "a <b> & c") {
		t.Errorf("got %v %s", err, got.body)
	}
	want := `{"status":"Detected","total":1,"items":[{"name":"x","key":"/hfi/policies/x","kind":"Extra"}],"since":"2026-03-01T12:00:00Z","mode":"report"}` + "\n"
	if got := d.ask("GET /v1/drift").expect(t, 200); got.body != want {
		t.Errorf("got %s", got.body)
	}
	d.ask("GET /v1/status?full=1").expectError(t, 400, "bad_request")
	d.ask("GET /v1/drift?full=1").expectError(t, 400, "bad_request")
}

// Every error has the body {"error": {"code", "message"}}.
func TestErrorsHaveOneForm(t *testing.T) {
	d := start(t, nil)
	for _, path := range []string{"/", "/v1", "/v1/", "/v2/policies", "/v1/statuses", "/health/", "/v1/policies/a/b", "//health", "/../health", "/v1/filter/", "/index.html"} {
		d.ask("GET "+path).expectError(t, 404, "not_found")
		d.ask("POST "+path).expectError(t, 404, "not_found")
	}
	for _, path := range []string{"/health", "/ready", "/metrics", "/v1/policies", "/v1/policies/status", "/v1/policies/a", "/v1/status", "/v1/drift", "/v1/filter.wasm"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "WHATEVER"} {
			if got := d.ask(method+" "+path).expectError(t, 405, "method_not_allowed"); got.header.Get("Allow") != "GET, HEAD" {
				t.Errorf("Allow is %q", got.header.Get("Allow"))
			}
		}
	}
	for _, path := range []string{"/v1/reconcile", "/v1/webhook"} {
		if got := d.ask("GET "+path).expectError(t, 405, "method_not_allowed"); got.header.Get("Allow") != "POST" {
			t.Errorf("Allow is %q", got.header.Get("Allow"))
		}
		if got := d.ask("HEAD " + path); got.code != 405 {
			t.Errorf("HEAD %s is %d", path, got.code)
		}
	}
	if d.view.triggers() != 0 {
		t.Error("a refused request was a trigger")
	}
}

// A panic is logged and answered with 500, and the process continues.
func TestPanicIsAnswered(t *testing.T) {
	d := start(t, func(s *Server) { s.Now = func() time.Time { panic("kaboom") } })
	d.serve(stateOf(1, exampleSet()))
	if got := d.ask("GET /v1/policies/status").expectError(t, 500, "internal"); strings.Contains(got.body, "kaboom") {
		t.Errorf("the answer has the value of the panic: %s", got.body)
	}
	if log := d.log.String(); !strings.Contains(log, "kaboom") || !strings.Contains(log, "statusOf") && !strings.Contains(log, "policiesStatus") {
		t.Errorf("the log has no panic with its stack: %s", log)
	}
	d.ask("GET /v1/policies").expect(t, 200)
}

// POST /v1/reconcile and /v1/webhook answer before the trigger is done, and
// concurrent requests share a trigger.
func TestTriggers(t *testing.T) {
	d := start(t, func(s *Server) { s.TriggerGap = time.Millisecond })
	release := make(chan struct{})
	d.view.set(func(v *fakeView) {
		v.onTrigger = func(ctx context.Context) error {
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil
		}
	})
	if got := d.ask("POST /v1/reconcile").expect(t, 202); got.body != "{\"status\":\"accepted\"}\n" {
		t.Errorf("got %s", got.body)
	}
	eventually(t, "the first trigger runs", func() bool { return d.view.triggers() == 1 })
	for range 50 {
		d.ask("POST /v1/webhook?token=whatever").expect(t, 202)
	}
	if got := d.view.triggers(); got != 1 {
		t.Errorf("%d triggers run at the same time", got)
	}
	close(release)
	eventually(t, "one more trigger runs", func() bool { return d.view.triggers() == 2 })
	d.shutdown()
	if got := d.view.triggers(); got != 2 {
		t.Errorf("51 requests made %d triggers, want 2", got)
	}
}

// A trigger that does not reach the leader times out, and the next one runs.
func TestTriggerFails(t *testing.T) {
	d := start(t, func(s *Server) { s.TriggerTimeout, s.TriggerGap = 50*time.Millisecond, time.Millisecond })
	d.view.set(func(v *fakeView) {
		v.onTrigger = func(ctx context.Context) error { <-ctx.Done(); return errors.New("etcd is away") }
	})
	d.ask("POST /v1/reconcile").expect(t, 202)
	eventually(t, "the failure is logged", func() bool { return strings.Contains(d.log.String(), "etcd is away") })
	d.ask("POST /v1/reconcile").expect(t, 202)
	eventually(t, "the next trigger runs", func() bool { return d.view.triggers() == 2 })
}

func (d *daemon) post(path, body string, headers ...string) answer {
	d.t.Helper()
	r, err := http.NewRequest("POST", d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	return d.do(r, headers...)
}

func sign(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func TestWebhookSecret(t *testing.T) {
	secret, failing := "s3cret", error(nil)
	d := start(t, func(s *Server) {
		s.WebhookSecret = func() (string, error) { return secret, failing }
		s.MaxWebhook = 1000
		s.TriggerGap = time.Millisecond
	})
	// The example of GitHub's documentation.
	if got := sign("It's a Secret to Everybody", "Hello, World!"); got != "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17" {
		t.Fatalf("the signature of the example is %s", got)
	}
	const body = `{"ref":"refs/heads/main"}`
	d.post("/v1/webhook", body, "X-Hub-Signature-256", sign(secret, body)).expect(t, 202)
	d.post("/v1/webhook", body, "X-Gitlab-Token", secret).expect(t, 202)
	d.post("/v1/webhook", body, "X-Hub-Signature", sign(secret, body)).expect(t, 202)
	d.post("/v1/webhook", body, "X-Hub-Signature", "sha1=0123", "X-Hub-Signature-256", sign(secret, body)).expect(t, 202)
	d.post("/v1/webhook", body, "X-Gogs-Signature", strings.TrimPrefix(sign(secret, body), "sha256=")).expect(t, 202)
	d.post("/v1/webhook", body, "Authorization", basic("azure", secret)).expect(t, 202)
	d.post("/v1/webhook", body, "Authorization", basic("", secret)).expect(t, 202)
	eventually(t, "a trigger runs", func() bool { return d.view.triggers() > 0 })
	eventually(t, "all triggers have ended", func() bool {
		d.triggers.mu.Lock()
		defer d.triggers.mu.Unlock()
		return !d.triggers.running
	})
	before := d.view.triggers()
	for _, headers := range [][]string{
		nil,
		{"X-Hub-Signature-256", sign("other", body)},
		{"X-Hub-Signature-256", sign(secret, body+" ")},
		{"X-Hub-Signature-256", sign(secret, body)[:40]},
		{"X-Hub-Signature-256", strings.TrimPrefix(sign(secret, body), "sha256=")},
		{"X-Hub-Signature-256", "sha256="},
		{"X-Hub-Signature-256", "sha256=zz"},
		{"X-Gitlab-Token", "s3cre"},
		{"X-Gitlab-Token", "other", "X-Hub-Signature-256", sign(secret, body)},
		{"X-Hub-Signature", sign("other", body)},
		{"X-Hub-Signature", strings.TrimPrefix(sign(secret, body), "sha256=")},
		{"X-Hub-Signature", "sha1=0123456789012345678901234567890123456789"},
		{"X-Hub-Signature", sign(secret, body), "X-Hub-Signature-256", sign("other", body)},
		{"X-Gogs-Signature", strings.TrimPrefix(sign("other", body), "sha256=")},
		{"X-Gogs-Signature", sign(secret, body)},
		{"Authorization", basic("azure", "other")},
		{"Authorization", basic(secret, "")},
		{"Authorization", "Basic s3cret"},
		{"Authorization", "Bearer s3cret"},
	} {
		d.post("/v1/webhook", body, headers...).expectError(t, 403, "forbidden")
	}
	long := strings.Repeat("x", 1001)
	d.post("/v1/webhook", long, "X-Hub-Signature-256", sign(secret, long)).expectError(t, 413, "too_large")
	// A secret that cannot be read, or is empty, refuses every webhook.
	secret = ""
	d.post("/v1/webhook", body, "X-Hub-Signature-256", sign("", body)).expectError(t, 503, "no_secret")
	secret, failing = "s3cret", errors.New("permission denied")
	d.post("/v1/webhook", body, "X-Gitlab-Token", secret).expectError(t, 503, "no_secret")
	if got := d.view.triggers(); got != before {
		t.Errorf("refused webhooks made %d triggers", got-before)
	}
	if strings.Contains(d.log.String(), "s3cret") {
		t.Error("the log has the secret")
	}
	// Without a secret the body is not read, however large.
	open := start(t, nil)
	open.post("/v1/webhook", strings.Repeat("x", 100_000)).expect(t, 202)
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// raw opens a connection and writes text to it.
func (d *daemon) raw(text string) (net.Conn, *bufio.Reader) {
	d.t.Helper()
	connection, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { connection.Close() })
	_ = connection.SetDeadline(time.Now().Add(waitLimit))
	if _, err := io.WriteString(connection, text); err != nil {
		d.t.Fatal(err)
	}
	return connection, bufio.NewReader(connection)
}

// A client that is slow, or sends too much, loses its own connection only.
func TestBadClients(t *testing.T) {
	const limit = 150 * time.Millisecond
	d := start(t, func(s *Server) {
		s.ReadHeaderTimeout, s.IdleTimeout, s.BodyTimeout, s.WriteTimeout = limit, limit, limit, limit
	})
	d.serve(stateOf(1, exampleSet()))
	cut := func(t *testing.T, reader *bufio.Reader) {
		t.Helper()
		if _, err := io.Copy(io.Discard, reader); err != nil && errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Errorf("the connection is still open: %v", err)
		}
	}
	t.Run("headers that do not end", func(t *testing.T) {
		_, reader := d.raw("GET /health HTTP/1.1\r\nHost: h\r\nX-Slow: ")
		cut(t, reader)
	})
	t.Run("an idle connection", func(t *testing.T) {
		_, reader := d.raw("GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
		cut(t, reader)
	})
	t.Run("a body that never ends", func(t *testing.T) {
		for _, length := range []string{"Content-Length: 1000", "Transfer-Encoding: chunked"} {
			_, reader := d.raw("POST /v1/reconcile HTTP/1.1\r\nHost: h\r\n" + length + "\r\n\r\n")
			cut(t, reader)
		}
	})
	t.Run("a body on GET", func(t *testing.T) {
		_, reader := d.raw("GET /v1/policies?wait=60s HTTP/1.1\r\nHost: h\r\nIf-None-Match: *\r\nContent-Length: 5\r\n\r\n")
		response, err := http.ReadResponse(reader, nil)
		if err != nil || response.StatusCode != 400 {
			t.Fatalf("got %v %v", response, err)
		}
	})
	t.Run("headers too large", func(t *testing.T) {
		_, reader := d.raw("GET /health HTTP/1.1\r\nHost: h\r\nX-Large: " + strings.Repeat("x", 30_000) + "\r\n\r\n")
		response, err := http.ReadResponse(reader, nil)
		if err != nil || response.StatusCode != 431 {
			t.Fatalf("got %v %v", response, err)
		}
		cut(t, reader)
	})
	t.Run("an answer that is not read", func(t *testing.T) {
		set := schema.NewSet()
		for i := range 40 {
			set = set.With([]*schema.Entry{entryFrom(fmt.Sprintf(`{"metadata":{"name":"p%d"},"spec":{"rules":[{"fault":{"abort":{"status":503,"body":%q}}}]}}`, i, strings.Repeat("x", 1<<20)))}, nil)
		}
		d.serve(stateOf(2, set))
		answered := d.Metrics.requests.WithLabelValues("/v1/policies", "200")
		before := testutil.ToFloat64(answered)
		d.raw("GET /v1/policies HTTP/1.1\r\nHost: h\r\n\r\n")
		// Forty megabytes are more than the buffers of the sockets.
		eventually(t, "the answer is aborted", func() bool { return testutil.ToFloat64(answered) > before })
	})
	t.Run("a long wait has no such limit", func(t *testing.T) {
		d.serve(stateOf(3, exampleSet()))
		got := d.begin(frontendWaits, "If-None-Match", "*")
		d.waiting(1)
		time.Sleep(3 * limit) // for longer than any limit, and nothing may end it
		d.serve(stateOf(4, schema.NewSet()))
		d.await(got).expect(t, 200)
	})
	d.ask("GET /health").expect(t, 200)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Shutdown ends though a client does not read its answer.
func TestShutdownClosesConnections(t *testing.T) {
	view := &fakeView{}
	server, _ := newServer(view)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	server.Filter = make([]byte, 64<<20)
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprint(connection, "GET /v1/filter.wasm HTTP/1.1\r\nHost: h\r\n\r\n")
	if _, err := bufio.NewReader(connection).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returned %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

func TestServeFailsOnAClosedListener(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	server, _ := newServer(&fakeView{})
	if err := server.Serve(listener); err == nil || !strings.Contains(err.Error(), listener.Addr().String()) {
		t.Errorf("got %v", err)
	}
}
