package http

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/reconciler/served"
	"github.com/boifi/hfi/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitLimit bounds the wait for what happens soon on an idle machine.
const waitLimit = 30 * time.Second

// fakeView is a View whose results a test sets.
type fakeView struct {
	mu        sync.Mutex
	state     api.Status
	unready   string
	etcd      api.EtcdStatus
	triggered int
	// onTrigger, if set, runs in each Trigger, without holding mu.
	onTrigger func(context.Context) error
}

func (v *fakeView) Status() api.Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state
}

func (v *fakeView) Ready() (bool, api.EtcdStatus, string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unready == "", v.etcd, v.unready
}

func (v *fakeView) Trigger(ctx context.Context) error {
	v.mu.Lock()
	v.triggered++
	do := v.onTrigger
	v.mu.Unlock()
	if do != nil {
		return do(ctx)
	}
	return nil
}

func (v *fakeView) triggers() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.triggered
}

func (v *fakeView) set(change func(*fakeView)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(v)
}

// entry is a policy that delays a service's requests.
func entry(name, service, namespace string, delay int64) *schema.Entry {
	return entryFrom(fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"selector":{"service":%q,"namespace":%q},"rules":[{"fault":{"delay_ms":%d}}]}}`,
		name, service, namespace, delay))
}

func entryFrom(text string) *schema.Entry {
	policy, err := schema.Parse([]byte(text))
	if err != nil {
		panic(err)
	}
	return schema.NewEntry(policy, schema.Origin{File: "policies/" + policy.Metadata.Name + ".yaml", Line: 3, Commit: strings.Repeat("c", 40)})
}

// stateOf is a verified state with a revision of the first epoch.
func stateOf(number int64, set *schema.Set) *reconciler.State {
	return &reconciler.State{
		Head:     reconciler.Head{Commit: fmt.Sprintf("%040x", number), Digest: set.Digest(), Count: set.Len()},
		Set:      set,
		Revision: revision(1, "one", number),
	}
}

func revision(epoch int64, id string, number int64) reconciler.Revision {
	return reconciler.Revision{Epoch: reconciler.Epoch{Number: epoch, ID: id}, Number: number}
}

// daemon is a Server that listens on a port.
type daemon struct {
	*Server
	policies *served.Policies
	t        testing.TB
	view     *fakeView
	url      string
	client   *http.Client
	log      *logBuffer
	// shutdown stops it once; the end of the test calls it too.
	shutdown func()
}

func start(t testing.TB, tune func(*Server)) *daemon {
	t.Helper()
	view := &fakeView{etcd: api.EtcdStatus{Mode: api.Embedded, Healthy: true, Endpoints: []string{"http://127.0.0.1:1"}}}
	log := &logBuffer{}
	server, policies := newServer(view)
	server.Logger = slog.New(slog.NewTextHandler(log, nil))
	policies.Logger = server.Logger
	if tune != nil {
		tune(server)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	d := &daemon{
		Server: server, policies: policies, t: t, view: view, url: "http://" + listener.Addr().String(),
		client: &http.Client{Transport: transport, Timeout: 2 * waitLimit, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}, log: log,
	}
	d.shutdown = sync.OnceFunc(func() {
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("shutting down: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
		if err := server.fleet.Close(); err != nil {
			t.Errorf("closing the fleet: %v", err)
		}
	})
	t.Cleanup(d.shutdown)
	return d
}

// newServer is a service with policies and a fleet of its own.
func newServer(view View) (*Server, *served.Policies) {
	policies := served.New()
	return New(view, policies, fleet.New("", policies)), policies
}

// serve makes a state the current one, as the reconciler does.
func (d *daemon) serve(state *reconciler.State) { d.policies.Serve(state) }

// logBuffer collects log messages.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// answer is a whole response.
type answer struct {
	code   int
	header http.Header
	body   string
}

// ask sends a request such as "GET /path", with headers as name, value pairs.
func (d *daemon) ask(request string, headers ...string) answer {
	d.t.Helper()
	got, err := d.tryAsk(context.Background(), request, headers...)
	if err != nil {
		d.t.Fatalf("%s: %v", request, err)
	}
	return got
}

func (d *daemon) tryAsk(ctx context.Context, request string, headers ...string) (answer, error) {
	method, path, _ := strings.Cut(request, " ")
	r, err := http.NewRequestWithContext(ctx, method, d.url+path, nil)
	if err != nil {
		return answer{}, err
	}
	return d.try(r, headers...)
}

// do sends a request with these headers, as name, value pairs.
func (d *daemon) do(r *http.Request, headers ...string) answer {
	d.t.Helper()
	got, err := d.try(r, headers...)
	if err != nil {
		d.t.Fatal(err)
	}
	return got
}

func (d *daemon) try(r *http.Request, headers ...string) (answer, error) {
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	response, err := d.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	if response.Close {
		// net/http's client removes this header.
		response.Header.Set("Connection", "close")
	}
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body)}, err
}

// begin sends a request in the background.
func (d *daemon) begin(request string, headers ...string) <-chan answer {
	got := make(chan answer, 1)
	go func() {
		a, err := d.tryAsk(context.Background(), request, headers...)
		if err != nil {
			a = answer{body: err.Error()}
		}
		got <- a
	}()
	return got
}

func (d *daemon) await(got <-chan answer) answer {
	d.t.Helper()
	select {
	case a := <-got:
		return a
	case <-time.After(waitLimit):
		d.t.Fatal("timed out waiting for an answer")
		return answer{}
	}
}

func (d *daemon) noAnswer(got <-chan answer) {
	d.t.Helper()
	select {
	case a := <-got:
		d.t.Fatalf("unexpected answer: %+v", a)
	case <-time.After(200 * time.Millisecond): // an answer after that makes a later step of the test fail
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	testtool.Eventually(t, what, is)
}

// waiting waits until so many clients wait.
func (d *daemon) waiting(count int64) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("%d clients wait", count), func() bool { return d.Metrics.waiting.Load() == count })
}

func (a answer) expect(t testing.TB, code int) answer {
	t.Helper()
	if a.code != code {
		t.Fatalf("got %d, want %d: %s", a.code, code, a.body)
	}
	return a
}

// expectError checks the status and the body of an error.
func (a answer) expectError(t testing.TB, status int, code string) answer {
	t.Helper()
	a.expect(t, status)
	var body struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatalf("the error is not JSON: %v: %s", err, a.body)
	}
	if body.Error.Code != code || body.Error.Message == "" || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("got %s of type %q, want an error %q with a message", a.body, a.header.Get("Content-Type"), code)
	}
	return a
}

func (a answer) names(t testing.TB) []string {
	t.Helper()
	var body struct {
		Policies []schema.Policy `json:"policies"`
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Policies == nil {
		t.Fatalf("not a list of policies: %v: %s", err, a.body)
	}
	names := []string{}
	for _, policy := range body.Policies {
		names = append(names, policy.Metadata.Name)
	}
	return names
}
