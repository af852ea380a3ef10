package envoy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// outageControl is a fake control plane, which works or fails as a test wants. When
// it works, it holds a request until there is something new, as the daemon does.
type outageControl struct {
	// address is HOST:PORT. It stays the same over all outages.
	address string

	server *http.Server
	served chan error

	mu sync.Mutex
	// version is the version of the policies, and part of the ETag.
	version int
	// policies returns the list of policies of a version.
	policies func(version int) string
	// bad handles requests while the control plane fails; nil means that it works.
	bad func(w http.ResponseWriter, r *http.Request)
	// turned is closed when version or bad changes, to wake the waiting requests.
	turned chan struct{}
	// asked counts the requests.
	asked int
}

// outageStart starts a control plane that works.
func outageStart(t testing.TB) *outageControl {
	t.Helper()
	c := &outageControl{address: testtool.FreeAddress(t), version: 1, policies: outagePolicies, turned: make(chan struct{})}
	c.listen(t)
	t.Cleanup(func() { c.refuse(t) })
	return c
}

// listen starts to accept connections. The kernel may take a moment to release the
// port.
func (c *outageControl) listen(t testing.TB) {
	t.Helper()
	var listener net.Listener
	testtool.Within(t, testtool.WaitLimit, "the control plane listens", func() (err error) {
		listener, err = net.Listen("tcp", c.address)
		return err
	})
	c.address = listener.Addr().String()
	c.server = &http.Server{Handler: http.HandlerFunc(c.serve), ReadHeaderTimeout: envoytest.WaitLimit}
	c.served = make(chan error, 1)
	server, served := c.server, c.served
	go func() { served <- server.Serve(listener) }()
}

// refuse closes all connections and accepts no more.
func (c *outageControl) refuse(t testing.TB) {
	if c.server == nil {
		return
	}
	_ = c.server.Close()
	if err := <-c.served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("the control plane ended unexpectedly: %v", err)
	}
	c.server = nil
}

// behave sets how requests are handled from now on, including waiting ones, and
// returns the number of requests so far.
func (c *outageControl) behave(bad func(http.ResponseWriter, *http.Request)) (asked int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bad = bad
	c.turn()
	return c.asked
}

// renew changes the policies, ends a failure, and returns the new ETag.
func (c *outageControl) renew() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	c.bad = nil
	c.turn()
	return c.tag()
}

// serving replaces the lists of policies, with a new version.
func (c *outageControl) serving(policies func(version int) string) (tag string) {
	c.mu.Lock()
	c.policies = policies
	c.mu.Unlock()
	return c.renew()
}

// turn wakes the waiting requests. The caller holds the lock.
func (c *outageControl) turn() {
	close(c.turned)
	c.turned = make(chan struct{})
}

// tag returns the current policies' ETag. The caller holds the lock.
func (c *outageControl) tag() string { return fmt.Sprintf(`"v1:%d"`, c.version) }

func (c *outageControl) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

func (c *outageControl) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.asked++
	c.mu.Unlock()
	wait, err := time.ParseDuration(r.FormValue("wait"))
	if err != nil {
		http.Error(w, "wait: "+err.Error(), http.StatusBadRequest)
		return
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		c.mu.Lock()
		bad, tag, version, policies, turned := c.bad, c.tag(), c.version, c.policies, c.turned
		c.mu.Unlock()
		if bad != nil {
			misbehave(w, r, turned, bad)
			return
		}
		if r.Header.Get("If-None-Match") != tag {
			w.Header().Set("ETag", tag)
			w.Header().Set("X-Hfi-Commit", fmt.Sprintf("c%d", version))
			w.Header().Set("Content-Type", program.MediaType)
			text := envoytest.MustProgram(policies(version))
			w.Header().Set("Content-Length", strconv.Itoa(len(text)))
			_, _ = w.Write([]byte(text))
			return
		}
		select {
		case <-turned:
		case <-over.C:
			w.Header().Set("ETag", tag)
			w.WriteHeader(http.StatusNotModified)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// misbehave responds with a failure. A response that is incomplete when the
// behaviour changes is cut off, as by a restart of the process.
func misbehave(w http.ResponseWriter, r *http.Request, turned <-chan struct{}, bad func(http.ResponseWriter, *http.Request)) {
	ctx, cancel := context.WithCancel(r.Context())
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-turned:
			cancel()
		case <-ctx.Done():
		}
	})
	bad(w, r.WithContext(ctx))
	cutShort := ctx.Err() != nil
	cancel()
	watch.Wait()
	if cutShort {
		panic(http.ErrAbortHandler)
	}
}

// outageDelay is the delay of /late.
const outageDelay = 60 * time.Millisecond

// outagePolicies returns the list of policies of a version: in each, requests for
// /kept are aborted and those for /late delayed; in version N, those for /version-N
// are aborted.
func outagePolicies(version int) string {
	return fmt.Sprintf(`{"policies":[
{"metadata":{"name":"kept"},"spec":{"rules":[{"match":{"path":{"exact":"/kept"}},"fault":{"abort":{"status":418}}}]}},
{"metadata":{"name":"late"},"spec":{"rules":[{"match":{"path":{"exact":"/late"}},"fault":{"delay_ms":%d}}]}},
{"metadata":{"name":"version"},"spec":{"rules":[{"match":{"path":{"exact":"/version-%d"}},"fault":{"abort":{"status":410}}}]}}]}`,
		outageDelay.Milliseconds(), version)
}

// outageLoad sends requests to an Envoy: some without a fault, some for policy
// "kept" and some for policy "late".
type outageLoad struct {
	t       testing.TB
	cancel  context.CancelFunc
	reports map[string]*envoytest.Report
	work    sync.WaitGroup
	mu      sync.Mutex
}

// outageRate is the number of requests of each kind per second.
const outageRate = 200

// outageBusy starts a load. Its responses are checked by end.
func outageBusy(t testing.TB, url string) *outageLoad {
	ctx, cancel := context.WithCancel(context.Background())
	l := &outageLoad{t: t, cancel: cancel, reports: map[string]*envoytest.Report{}}
	for path, check := range map[string]func(int, http.Header, []byte, time.Duration) error{
		"/ok": func(status int, header http.Header, body []byte, _ time.Duration) error {
			if status != 200 || string(body) != "ok" || header.Get("X-Hfi-Fault") != "" {
				return fmt.Errorf("no policy applies to it: %d %v %q", status, header, body)
			}
			return nil
		},
		"/kept": func(status int, header http.Header, _ []byte, _ time.Duration) error {
			if status != 418 || header.Get("X-Hfi-Fault") != "kept" {
				return fmt.Errorf("policy kept is not in force: %d %v", status, header)
			}
			return nil
		},
		"/late": func(status int, _ http.Header, _ []byte, elapsed time.Duration) error {
			// The filter's clock and this one may differ slightly.
			if status != 200 || elapsed < outageDelay-5*time.Millisecond {
				return fmt.Errorf("policy late is not in force: %d after %s", status, elapsed)
			}
			return nil
		},
	} {
		load := envoytest.Load{Request: envoytest.Request{URL: url + path}, Connections: 16, Duration: time.Hour, Rate: outageRate, Check: check}
		l.work.Go(func() {
			report, err := load.Run(ctx)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the load on %s ended unexpectedly: %v", path, err)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.reports[path] = report
		})
	}
	t.Cleanup(func() {
		cancel()
		l.work.Wait()
	})
	return l
}

// end ends the load and fails the test for each wrong response.
func (l *outageLoad) end() {
	l.t.Helper()
	l.cancel()
	l.work.Wait()
	for path, report := range l.reports {
		if report.Errors > 0 {
			l.t.Errorf("%s: %s", path, report)
		}
		// A tenth of the configured rate: less would be no load.
		if least := report.Elapsed.Seconds() * outageRate / 10; float64(report.Answers()) < least {
			l.t.Errorf("%s: only %d responses in %s: too few", path, report.Answers(), report.Elapsed)
		}
		l.t.Logf("%s: %d responses, %d errors", path, report.Answers(), report.Errors)
	}
}
