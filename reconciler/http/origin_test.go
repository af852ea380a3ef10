package http

import (
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/api"
)

// Where webhooks have a secret, nobody triggers anything without it.
func TestReconcileNeedsTheWebhooksSecret(t *testing.T) {
	d := start(t, func(s *Server) { s.WebhookSecret = func() (string, error) { return "s3cret", nil } })
	for _, headers := range [][]string{nil, {"X-Gitlab-Token", "other"}, {"X-Hub-Signature-256", sign("other", "")}} {
		d.post("/v1/reconcile", "", headers...).expectError(t, 403, "forbidden")
	}
	if got := d.view.triggers(); got != 0 {
		t.Errorf("refused requests made %d triggers", got)
	}
	d.post("/v1/reconcile", "", "X-Gitlab-Token", "s3cret").expect(t, 202)
	d.post("/v1/reconcile", "", "X-Hub-Signature-256", sign("s3cret", "")).expect(t, 202)
}

// Where triggers have a secret, that decides and not the name by which they
// came: a tunnel or proxy passes on its own.
func TestTriggersUnderAForeignHost(t *testing.T) {
	d := start(t, func(s *Server) { s.WebhookSecret = func() (string, error) { return "s3cret", nil } })
	const host = "abcd.ngrok.example"
	for _, path := range []string{"/v1/webhook", "/v1/reconcile"} {
		d.askAs(host, "POST", path).expectError(t, 403, "forbidden")
		d.askAs(host, "POST", path, "X-Gitlab-Token", "other").expectError(t, 403, "forbidden")
		d.askAs(host, "POST", path, "X-Hub-Signature-256", sign("s3cret", "")).expect(t, 202)
		d.askAs(host, "POST", path, "X-Gitlab-Token", "s3cret", "Origin", "https://evil.example").expectError(t, 403, "cross_origin")
	}
	d.askAs(host, "GET", "/v1/status").expectError(t, 403, "foreign_host")
	start(t, nil).askAs(host, "POST", "/v1/webhook").expectError(t, 403, "foreign_host")
}

// askAs makes a request without a body that names the host.
func (d *daemon) askAs(host, method, path string, headers ...string) answer {
	d.t.Helper()
	r, err := http.NewRequest(method, d.url+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	r.Host = host
	return d.do(r, headers...)
}

// A page of another site cannot make a browser trigger anything; a git host,
// curl and a page of this one can.
func TestCrossSitePosts(t *testing.T) {
	d := start(t, nil)
	own := strings.TrimPrefix(d.url, "http://")
	for _, path := range []string{"/v1/reconcile", "/v1/webhook"} {
		for _, headers := range [][]string{
			{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
		} {
			d.post(path, "", headers...).expectError(t, 403, "cross_origin")
		}
		for _, headers := range [][]string{nil, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Origin", "http://" + own}} {
			d.post(path, "", headers...).expect(t, 202)
		}
	}
}

// A daemon on the loopback answers to names that are this machine's, or that
// nobody can register: else a page whose name is pointed at 127.0.0.1 reads all.
func TestForeignHosts(t *testing.T) {
	d := start(t, func(s *Server) { s.Hosts = []string{"hfi.example.com"} })
	ask := func(d *daemon, host string) answer { return d.askAs(host, "GET", "/v1/status") }
	foreign := []string{"evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "evil.svc.example", "127.0.0.1.nip.io:80", "local.example"}
	for _, host := range foreign {
		ask(d, host).expectError(t, 403, "foreign_host")
	}
	// People find it in the log, once.
	if log := d.log.String(); strings.Count(log, "--allowed-hosts") != 1 || !strings.Contains(log, "level=WARN") || !strings.Contains(log, "evil.example") {
		t.Errorf("the log has %s", log)
	}
	for _, host := range []string{
		"127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "localhost:8080", "LOCALHOST", "hfid.localhost:1", "daemon", "hfi-control-plane:8080",
		"hfi-control-plane.boifi.svc", "hfi-control-plane.boifi.svc.cluster.local:8080", "hfi-control-plane.boifi.svc.cluster.local.", "host.docker.internal",
		"hfi.example.com", "HFI.example.com:8080", "laptop.local:8080", "laptop.localdomain",
	} {
		ask(d, host).expect(t, 200)
	}
	// Elsewhere than on the loopback it is known by names that it cannot know.
	reachable := start(t, nil)
	reachable.ask("GET /health").expect(t, 200) // it serves by now
	reachable.onLoopback.Store(false)
	ask(reachable, "hfi.example.org").expect(t, 200)
	if !isLoopback(&net.TCPAddr{IP: net.IPv6loopback}) || isLoopback(&net.TCPAddr{IP: net.IPv4zero}) || isLoopback(&net.UnixAddr{}) {
		t.Error("the loopback is not told from other addresses")
	}
	any := start(t, func(s *Server) { s.Hosts = []string{AnyHost} })
	ask(any, "hfi.example.org").expect(t, 200)
}

// Every response has X-Content-Type-Options: nosniff, also errors, and those to
// requests that have no path.
func TestAnswersAreNotSniffed(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(1, exampleSet()))
	for _, request := range []string{
		"GET /health", "GET /metrics", "GET /v1/policies", "GET /v1/status", "GET /nowhere", "POST /health", "GET /v1/policies?x=1", "POST /v1/reconcile",
	} {
		if got := d.ask(request).header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options is %q", request, got)
		}
	}
	for _, line := range []string{"GET *", "HEAD *", "POST *", "CONNECT localhost:443"} {
		connection, reader := d.raw(line + " HTTP/1.1\r\nHost: localhost\r\n\r\n")
		response, err := http.ReadResponse(reader, &http.Request{Method: strings.Fields(line)[0]})
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		connection.Close()
		if response.StatusCode != 404 || response.Header.Get("Content-Type") != "application/json" || response.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %s %v", line, response.Status, response.Header)
		}
	}
}

// What a terminal would obey is escaped in every answer, with the same meaning.
func TestControlCharactersAreEscaped(t *testing.T) {
	const text = "a\u009b31m\u007f\u0085\u202eb é 中 \U0001f600"
	d := start(t, nil)
	d.serve(stateOf(1, exampleSet()))
	d.view.set(func(v *fakeView) { v.state.History = []api.HistoryEntry{{Author: text, Subject: "\x1b[2J" + text}} })
	body := d.ask("GET /v1/status").expect(t, 200).body
	for _, raw := range []string{"\u009b", "\u007f", "\u0085", "\u202e", "\x1b"} {
		if strings.Contains(body, raw) {
			t.Errorf("%q is not escaped", raw)
		}
	}
	if !strings.Contains(body, `a\u009b31m\u007f\u0085\u202eb é 中 `+"\U0001f600") {
		t.Errorf("got %s", body)
	}
	var status api.Status
	if err := json.Unmarshal([]byte(body), &status); err != nil || status.History[0].Author != text {
		t.Errorf("it means %q: %v", status.History[0].Author, err)
	}
}
